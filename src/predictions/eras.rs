//! When a model's predictions began anew: what was kept before is never found again, and leaves as its time comes.
//!
//! An era has two names. The number is this process's and part of L1's keys; the token is shared by all gateways (kept in L2) and part of
//! the hash, so that a gateway that was not there at the time agrees with the others. Whatever changes the token begins an era here.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::key::Era;
use crate::infer::ModelId;

/// All models'.
#[derive(Debug)]
pub(super) struct Eras(Box<[Cell]>);

#[derive(Debug, Default)]
struct Cell {
    number: AtomicU32,
    token: AtomicU64,
}

impl Eras {
    pub(super) fn new(models: usize) -> Self {
        Self((0..models).map(|_| Cell::default()).collect())
    }

    pub(super) fn now(&self, model: ModelId) -> Era {
        let cell = &self.0[model.index()];
        // In this order: a new number never goes with an old token.
        let number = cell.number.load(Ordering::Acquire);
        Era { number, token: cell.token.load(Ordering::Acquire) }
    }

    /// Begins one with that token; what follows from a cause is [`following`].
    pub(super) fn begin(&self, model: ModelId, token: u64) {
        let cell = &self.0[model.index()];
        cell.token.store(token, Ordering::Release);
        cell.number.fetch_add(1, Ordering::Release);
    }

    /// Whether a number is still that of one of the models' eras. Numbers of different models may be the same: then a dead entry stays
    /// a little longer.
    pub(super) fn has(&self, number: u32) -> bool {
        self.0.iter().any(|cell| cell.number.load(Ordering::Relaxed) == number)
    }
}

/// The token of the era that follows the one with `token` because of `cause`: gateways that come to it on their own come to the same.
/// Never 0, which is no era's but the first.
pub(super) fn following(token: u64, cause: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&token.to_le_bytes()).update(cause.as_bytes());
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_the_same_for_all_who_see_the_same() {
        let next = following(7, "champion=2");
        assert_eq!(next, following(7, "champion=2"));
        assert!(next != following(7, "champion=3") && next != following(next, "champion=2"), "no era comes again");
    }

    #[test]
    fn an_era_is_a_models_own() {
        let eras = Eras::new(2);
        let before = [0, 1].map(|model| eras.now(ModelId(model)));
        eras.begin(ModelId(1), 7);
        assert_eq!(eras.now(ModelId(0)), before[0]);
        assert_eq!(eras.now(ModelId(1)), Era { number: 1, token: 7 });
        eras.begin(ModelId(1), 0);
        assert_ne!(eras.now(ModelId(1)), before[1], "also where the token comes again");
        assert!(eras.has(0) && eras.has(2) && !eras.has(1));
    }
}
