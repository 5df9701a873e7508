//! Removing copies, before whoever wrote their keys is told so.
//!
//! ```text
//! after the write   listed ─────────────────────────► removed: all 31 names
//!                   not listed, looked lately ──────► none to remove
//!                   not known: is the key marked? ──► marked: removed; not: none to remove; nobody says: not acknowledged
//! ```
//!
//! A push whose key has a copy that could not be removed is not acknowledged: a server that hangs has it again when it goes on.

use std::time::Duration;

use ::redis::Value;
use tokio::time::Instant;

use super::{Copies, Suspicion, fill::AT_ONCE, lock, name, script};
use crate::{
    config::Consistency,
    features::{
        feast::redis_key,
        l2::{Error, Put, Written},
        redis::Redis,
    },
    infer::{EntityKey, WorkerId},
    telemetry::handles::hot_keys::Removal,
};

impl Redis {
    /// Removes every copy that keys may have. Each key's error is that of a copy that may still be there.
    pub(in crate::features::redis) async fn remove_copies(
        &self,
        worker: WorkerId,
        keys: &[EntityKey],
    ) -> Vec<Result<(), Error>> {
        let mut removed = Vec::with_capacity(keys.len());
        for keys in keys.chunks(AT_ONCE) {
            let names = keys.iter().flat_map(|key| {
                let key = redis_key(key, &self.project);
                name::numbers().map(move |number| (script::remove(&name::name(&key, number)), 1))
            });
            let mut answers = self.run_all(worker, names).await.into_iter();
            for _ in keys {
                let of_key: Vec<_> = answers.by_ref().take(name::numbers().count()).collect();
                removed.push(of_key.into_iter().find_map(Result::err).map_or(Ok(()), Err));
            }
        }
        if let Some(copies) = &self.copies {
            let outcome = |removed: &Result<(), _>| if removed.is_ok() { Removal::Removed } else { Removal::Error };
            removed.iter().for_each(|removed| copies.metrics.removed(outcome(removed)));
        }
        removed
    }

    /// After rows were written: removes their copies, and takes back the word that a row was written where one may still be there.
    pub(in crate::features::redis) async fn remove_written(
        &self,
        (worker, copies): (WorkerId, &Copies),
        puts: &[Put],
        answers: &mut [Result<Written, Error>],
    ) {
        let key = |at: usize| &puts[at].ask.key;
        let (mut suspects, unknown) = copies.suspects(puts);
        // Whose write failed is promised nothing: its master is not asked once more.
        let (unknown, failed): (Vec<usize>, _) = unknown.into_iter().partition(|&at| answers[at].is_ok());
        failed.into_iter().for_each(|at| copies.doubt_known(key(at)));
        let mut refuse = |at: usize, error: Error| {
            copies.doubt_known(key(at));
            answers[at] = answers[at].clone().and(Err(error));
        };
        for (at, mark) in unknown.iter().copied().zip(self.marks(worker, unknown.iter().map(|&at| key(at))).await) {
            match mark {
                Ok(None) => {}
                Ok(Some(left)) => {
                    copies.learn(key(at), Instant::now() + left);
                    suspects.push(at);
                }
                Err(error) => refuse(at, error),
            }
        }
        let keys: Vec<EntityKey> = suspects.iter().map(|&at| key(at).clone()).collect();
        keys.iter().for_each(|key| copies.fence(key));
        for (at, removed) in suspects.iter().zip(self.remove_copies(worker, &keys).await) {
            if let Err(error) = removed {
                refuse(*at, error);
            }
        }
        if !(suspects.is_empty() && unknown.is_empty()) {
            copies.wake.notify_one();
        }
    }

    /// For how long keys are marked yet as ones that may have copies; `None`: what copies they have, or get, were read just now or later.
    async fn marks(
        &self,
        worker: WorkerId,
        keys: impl Iterator<Item = &EntityKey>,
    ) -> Vec<Result<Option<Duration>, Error>> {
        let asks = keys.map(|key| (script::marked(&name::mark(&redis_key(key, &self.project))), 1));
        let left = |answer: Value| match answer {
            Value::Int(left @ 0..) => Some(Duration::from_millis(left.unsigned_abs())),
            _ => None,
        };
        self.run_all(worker, asks).await.into_iter().map(|answer| answer.map(left)).collect()
    }

    /// Removes every copy of those keys in doubt that there may be; they stay in doubt where that fails.
    pub(super) async fn remove_doubtful(&self, copies: &Copies) {
        let doubtful: Vec<EntityKey> = lock(&copies.doubtful).drain().collect();
        let removed = self.remove_copies(self.control, &doubtful).await;
        let failed = doubtful.iter().zip(removed).filter(|(_, removed)| removed.is_err());
        failed.for_each(|(key, _)| copies.doubt(key));
    }
}

impl Copies {
    /// Which of the rows that were written by now may have copies, and of which that is not known. What is never copied is neither.
    fn suspects(&self, puts: &[Put]) -> (Vec<usize>, Vec<usize>) {
        let suspicions: Vec<_> = self.suspicions(puts.iter().map(|put| &put.ask.key), Instant::now()).collect();
        let of = |suspicion: Suspicion| {
            let is_copied = |at: &usize| puts[*at].ask.view.consistency != Consistency::WriteThrough;
            (0..puts.len()).filter(|&at| suspicions[at] == suspicion).filter(is_copied).collect()
        };
        (of(Suspicion::Listed), of(Suspicion::Unknown))
    }
}
