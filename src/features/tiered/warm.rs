//! Warm start: L1's hottest keys, saved and read back, and their rows read before the first request asks for them.
//!
//! Rows take the same way as those that a request misses: L2 in one batch, then L3, coalesced with whatever else is fetched,
//! never older than what is there. So nothing stale is served, and nothing that happens here fails a start.

use std::{io, sync::Arc};

use tokio::time::{Instant, sleep};

use super::{
    Store,
    again::may_help,
    fly::Flight,
    joins::Rows,
    lookup::{How, JoinLookup, Lookup, State, Want, via},
    online::BATCH,
};
use crate::{
    config::{SaveTo, WarmStart},
    features::warm::{self, Error, Keys, file},
    infer::{Deadline, EntityKey, Optional, ViewId, WorkerId, plan::Stale, request::Caching},
};

/// What the list is called in L2. With its layout's version: during an upgrade each has its own.
const NAME: &str = "hot-keys-v1";
/// Between two questions for the list.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// What became of the keys so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Warmed {
    /// Their rows are in L1.
    pub(crate) read: u64,
    /// No layer has a row any more.
    pub(crate) absent: u64,
    /// No layer could say, or not in time.
    pub(crate) failed: u64,
}

impl Warmed {
    /// Keys that were asked for.
    pub(crate) const fn asked(&self) -> u64 {
        self.read + self.absent + self.failed
    }

    fn count(&mut self, lookup: &Lookup) {
        for want in lookup.joins.iter().flat_map(|join| &join.wants) {
            match want.state {
                State::Row(_) | State::Early(_) | State::Stale(..) => self.read += 1,
                State::Absent => self.absent += 1,
                State::Open(_) | State::Unavailable(_) | State::Unreadable => self.failed += 1,
            }
        }
    }
}

impl Store {
    /// The keys that were saved, as far as this snapshot has their views. A store that does not answer is asked again until `by`.
    ///
    /// # Errors
    ///
    /// There are none, or they cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub(crate) async fn saved_keys(&self, config: &WarmStart, by: Deadline) -> Result<Keys, Error> {
        let list = match &config.save_to {
            SaveTo::L2 => self.own_list(by).await?,
            SaveTo::File(path) => {
                let path = path.clone();
                apart(move || file::read(&path)).await??
            }
        };
        warm::decode(&list, &self.shared.views, config.max_keys)
    }

    async fn own_list(&self, by: Deadline) -> Result<Vec<u8>, Error> {
        loop {
            match self.shared.l2.read_own(NAME).await {
                Err(error) if may_help(&error) && by.remaining(Instant::now()) > PAUSE => sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
                Ok(list) => return list.ok_or(Error::Missing),
            }
        }
    }

    /// Saves L1's hottest keys in place of those saved before; how many. Where L1 holds nothing, what was saved stays.
    ///
    /// # Errors
    ///
    /// They could not be stored; what was saved before stays.
    ///
    /// # Cancel safety
    ///
    /// Dropped, they are saved or not.
    pub(crate) async fn save_keys(&self, config: &WarmStart) -> Result<usize, Error> {
        let (shared, most) = (Arc::clone(&self.shared), config.max_keys);
        let (list, count) = apart(move || {
            let keys = shared.l1.hottest(most, Instant::now());
            (warm::encode(&shared.views, &keys), keys.len())
        })
        .await?;
        if count == 0 {
            return Ok(0);
        }
        match &config.save_to {
            SaveTo::L2 => self.shared.l2.write_own(NAME, &list).await?,
            SaveTo::File(path) => {
                let path = path.clone();
                apart(move || file::replace(&path, &list)).await??;
            }
        }
        Ok(count)
    }

    /// Reads the rows of keys into L1, by `by`; tells how far it is after each batch.
    ///
    /// # Cancel safety
    ///
    /// As [`Store::fetch`].
    pub(crate) async fn warm(
        &self,
        worker: WorkerId,
        keys: &[(ViewId, EntityKey)],
        by: Deadline,
        told: impl Fn(Warmed),
    ) -> Warmed {
        let (caching, optional, stale) = (Caching::Allowed, Optional::Joined, Stale::Refused);
        let how = How { worker, caching, optional, stale, by, via: via(caching) };
        let mut warmed = Warmed::default();
        for batch in keys.chunks(BATCH) {
            if by.remaining(Instant::now()).is_zero() {
                break;
            }
            let mut lookup = self.lookup_of(batch.iter().map(|(view, key)| (*view, Want::of(key.clone()))));
            Flight::board(&self.shared, &mut lookup, &how).await;
            warmed.count(&lookup);
            // What was hot before counts as asked for once.
            batch.iter().for_each(|(view, key)| self.shared.l1.notice_one(*view, key));
            told(warmed);
        }
        warmed
    }

    pub(super) fn lookup_of(&self, wants: impl Iterator<Item = (ViewId, Want)>) -> Lookup {
        let mut joins: Vec<JoinLookup> = Vec::new();
        for (id, want) in wants {
            match joins.iter_mut().find(|join| join.view.id == id) {
                Some(join) => join.wants.push(want),
                None => joins.push(JoinLookup {
                    view: Arc::clone(&self.shared.views[id.index()]),
                    select: [].into(),
                    optional: false,
                    wants: vec![want],
                    rows: Rows::Same(0),
                }),
            }
        }
        Lookup::over(joins)
    }
}

/// Runs on a thread where it may take its time.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|panicked| Error::File(io::Error::other(panicked)))
}
