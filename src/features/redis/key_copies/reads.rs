//! Reading rows, some of them from copies.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Copies, spread::Spread};
use crate::{
    features::{
        Row,
        l2::{Answers, Ask, Error},
        redis::Redis,
    },
    infer::WorkerId,
    telemetry::handles::hot_keys::CopyRead,
};

/// A row that is to be read from a copy.
#[derive(Debug)]
pub(in crate::features::redis) struct Pick {
    /// Its place among those asked for.
    ask: usize,
    spread: Arc<Spread>,
    place: usize,
    /// When the copy was made, as a mark.
    made: u64,
}

impl Pick {
    fn name(&self) -> &[u8] {
        &self.spread.places[self.place].name
    }
}

impl Copies {
    /// Which rows are read from copies, by `lives` of their views; `None`: the view's never are.
    pub(in crate::features::redis) fn pick(&self, asks: &[Ask], lives: &[Option<Duration>], now: Instant) -> Vec<Pick> {
        let Some(hot) = self.hot() else { return Vec::new() };
        let now = self.mark(now);
        let pick = |(ask, wanted): (usize, &Ask)| {
            let (spread, life) = (hot.get(&wanted.key)?, lives[wanted.view.id.index()]?);
            let (place, made) = spread.choose(now, life, rand::random())?;
            Some(Pick { ask, spread: Arc::clone(spread), place, made })
        };
        asks.iter().enumerate().filter_map(pick).collect()
    }

    /// Counts what a copy said; whether it had the row.
    fn judge(&self, answer: &Result<Option<Row>, Error>) -> bool {
        let outcome = match answer {
            Ok(Some(_)) => CopyRead::Hit,
            Ok(None) => CopyRead::Miss,
            Err(_) => CopyRead::Error,
        };
        self.metrics.read(outcome);
        outcome == CopyRead::Hit
    }

    /// A copy is not there, or does not answer.
    fn lost(&self, pick: &Pick) {
        pick.spread.lost(pick.place, pick.made);
        self.wake.notify_one();
    }
}

impl Redis {
    /// The rows asked for, those picked from their copies; where a copy has none, from the key after all.
    pub(in crate::features::redis) async fn read_picked(
        &self,
        (worker, copies): (WorkerId, &Copies),
        asks: &[Ask],
        picks: Vec<Pick>,
    ) -> Answers {
        let mut picked = picks.iter().peekable();
        let names: Vec<Option<&[u8]>> =
            (0..asks.len()).map(|at| picked.next_if(|pick| pick.ask == at).map(Pick::name)).collect();
        let mut rows = self.read_from(worker, asks, &names).await;
        let (hits, misses): (Vec<&Pick>, _) = picks.iter().partition(|pick| copies.judge(&rows[pick.ask]));
        let copied = hits.into_iter().map(|pick| (pick.ask, copies.instant(pick.made))).collect();
        if !misses.is_empty() {
            let asks: Vec<Ask> = misses.iter().map(|pick| asks[pick.ask].clone()).collect();
            let answers = self.read(worker, &asks).await;
            for (pick, answer) in misses.into_iter().zip(answers) {
                // Where the key has no such row either, the copy told the truth.
                if rows[pick.ask].is_err() || matches!(answer, Ok(Some(_))) {
                    copies.lost(pick);
                }
                rows[pick.ask] = answer;
            }
        }
        Answers { rows, copied }
    }
}
