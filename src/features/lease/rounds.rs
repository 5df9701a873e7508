//! A push's part: the rows are held everywhere, written, and released.
//!
//! ```text
//! hold ─► held ─► writing ─► release ─► acknowledged
//!   │       │         ├─ is not answered ─► the holds stay until they expire: what was sent may be carried out yet
//!   │       │         └─ fails, each row written or refused ─┐
//!   └───────┴─ given up ─────────────────────────────────────┴─► released, not acknowledged
//! ```

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::redis::RedisError;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    LONGEST, Leases,
    bus::Bus,
    fences::{RoundId, RowId},
    message::{Message, Rows, Said},
    table::{Listed, Server},
};
use crate::{
    config::View,
    infer::{Deadline, EntityKey},
    resilience::round::{Round, Step},
    telemetry::handles::lease::Wait,
};

/// How long a gateway may take to say that it let go of rows, before it is revoked.
const PATIENCE: Duration = Duration::from_millis(250);

/// A write that was begun, or ended, later than this after its rows were held comes too late: their holds may be about to expire.
const LATEST: Duration = Duration::from_secs(20);

/// Why a push of such rows does not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no connection to the other gateways. Nothing of the batch was written.
    #[error("there is no connection to the other gateways, which must be told first")]
    Disconnected,
    /// So many pushes failed of late that it is not known what else may be written yet. Nothing of the batch was.
    #[error("too many pushes were not answered of late")]
    Crowded,
    /// The server that has the leases did not do what it was asked to. Nothing of the batch was written.
    #[error("the other gateways could not be told first")]
    Untold(#[source] RedisError),
    /// Not all of them were heard in time. Nothing of the batch was written.
    #[error("the other gateways did not let go of the rows before the deadline")]
    Late,
    /// Written, and perhaps some gateway does not know.
    #[error("it cannot be shown that every gateway knows of the rows")]
    Unconfirmed(#[source] Option<RedisError>),
}

impl Error {
    /// Whether nothing of the batch was written.
    pub(crate) const fn is_unwritten(&self) -> bool {
        !matches!(self, Self::Unconfirmed(_))
    }
}

/// Who acknowledged a round so far.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    heard: Mutex<Vec<u64>>,
    bell: Notify,
}

impl Waiting {
    pub(super) fn acknowledge(&self, gateway: u64) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(gateway);
        self.bell.notify_one();
    }

    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How far a round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is being written.
    Held,
    /// It may be carried out at any time.
    Writing,
    Released,
}

/// Rows that are held. Dropped while nothing of them is being written, they are released.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    leases: &'a Leases,
    round: RoundId,
    rows: Vec<RowId>,
    began: Instant,
    stage: Stage,
}

impl Leases {
    /// Holds rows of a view here and at every other gateway, by `by`.
    ///
    /// # Errors
    ///
    /// Nothing may be written.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the rows are released.
    pub(crate) async fn hold_rows(
        &self,
        view: &View,
        keys: impl Iterator<Item = &EntityKey>,
        by: Deadline,
    ) -> Result<Held<'_>, Error> {
        let began = Instant::now();
        let keys: Vec<_> = keys.cloned().collect();
        let by_gateway = self.bus.as_ref().map_or(0, Bus::gateway);
        let round = RoundId { by: by_gateway, number: self.number() };
        let rows: Rows = vec![((&*view.stored).into(), keys)];
        self.hold(round, &rows);
        let ids = rows[0].1.iter().map(|key| RowId::of(&view.stored, key)).collect();
        let held = Held { leases: self, round, rows: ids, began, stage: Stage::Held };
        let Some(bus) = &self.bus else { return Ok(held) };
        let told = timeout_at(by.instant(), bus.hold_elsewhere(round.number, rows)).await;
        let told = told.unwrap_or(Err(Error::Late));
        let wait = told.as_ref().map_or(Wait::Failed, |wait| *wait);
        self.metrics.waited(wait, began.elapsed());
        told.map(|_| held)
    }
}

impl Held<'_> {
    /// From now on the rows may be written.
    ///
    /// # Errors
    ///
    /// It is too late for that.
    pub(crate) fn writing(&mut self) -> Result<(), Error> {
        if self.began.elapsed() > LATEST {
            return Err(Error::Late);
        }
        self.stage = Stage::Writing;
        Ok(())
    }

    /// Writing failed, and nothing more can come of it: dropped, the rows are released.
    pub(crate) const fn give_up(&mut self) {
        self.stage = Stage::Held;
    }

    /// The rows are written; once that is confirmed, `keep` may keep each, by its place, as of when that write began.
    ///
    /// # Errors
    ///
    /// They are, but must not be acknowledged.
    ///
    /// # Cancel safety
    ///
    /// Dropped, they are as if that had failed.
    pub(crate) async fn release(mut self, by: Deadline, keep: impl Fn(usize)) -> Result<(), Error> {
        let confirmed = self.confirm(by).await;
        if let Err(error) = confirmed {
            self.leases.metrics.unconfirmed();
            return Err(error);
        }
        self.stage = Stage::Released;
        let now = Instant::now();
        for (at, row) in self.rows.iter().enumerate() {
            self.leases.fences.release(*row, self.round, now, || keep(at));
        }
        Ok(())
    }

    async fn confirm(&self, by: Deadline) -> Result<(), Error> {
        if let Some(bus) = &self.leases.bus {
            let released = bus.release_elsewhere(self.round.number, self.numbers());
            let released = timeout_at(by.instant(), released).await.unwrap_or(Err(Error::Unconfirmed(None)));
            released?;
        }
        if self.began.elapsed() > LATEST { Err(Error::Unconfirmed(None)) } else { Ok(()) }
    }

    fn numbers(&self) -> Vec<u128> {
        self.rows.iter().map(|row| row.0).collect()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.stage == Stage::Held {
            self.leases.release(self.round, &self.numbers());
        }
        match (&self.leases.bus, self.stage) {
            (Some(bus), Stage::Held) => bus.release_later(self.round.number, self.numbers()),
            (Some(bus), Stage::Writing) => bus.abandon(self.round.number, self.began),
            (None, _) | (_, Stage::Released) => {}
        }
    }
}

/// A round is forgotten when nobody waits for it any more.
struct Registered<'a> {
    bus: &'a Bus,
    round: u64,
    waiting: Arc<Waiting>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.bus.forget_round(self.round);
    }
}

impl Bus {
    /// Tells of rows that are about to change, and waits until nobody else has them.
    async fn hold_elsewhere(&self, round: u64, rows: Rows) -> Result<Wait, Error> {
        let mut server = self.server().ok_or(Error::Disconnected)?;
        if self.is_crowded() {
            return Err(Error::Crowded);
        }
        let registered = Registered { bus: self, round, waiting: self.await_round(round) };
        let message = Message { from: self.gateway(), said: Said::Hold { round, rows } }.encode();
        let listed = self.table.hold(&mut server, (round, &message), (LONGEST, self.length)).await;
        let listed = listed.map_err(|error| self.untold(error))?;
        let is_whole = listed.lacks.is_zero();
        let ran_out = self.wait_for(&registered.waiting, listed, &mut server).await?;
        Ok(match (is_whole, ran_out) {
            (false, _) => Wait::Unknown,
            (true, true) => Wait::RanOut,
            (true, false) => Wait::Acknowledged,
        })
    }

    /// Waits for all that are listed; whether somebody's lease had to run out.
    async fn wait_for(&self, waiting: &Waiting, listed: Listed, server: &mut Server) -> Result<bool, Error> {
        let Listed { lacks, holders, at } = listed;
        let others = holders.into_iter().filter(|(gateway, ..)| *gateway != self.gateway());
        let mut round = Round::new(others, at, PATIENCE);
        if !lacks.is_zero() {
            round.not_before(at + lacks);
        }
        loop {
            waiting.take().into_iter().for_each(|gateway| round.acknowledged(gateway));
            match round.step(Instant::now()) {
                Step::Done => return Ok(round.ran_out()),
                Step::Wait(until) => {
                    tokio::select! {
                        () = waiting.bell.notified() => {}
                        () = sleep_until(until) => {}
                    }
                }
                Step::Revoke(gateways) => {
                    let left = self.table.revoke(server, &gateways).await.map_err(|error| self.untold(error))?;
                    let now = Instant::now();
                    for (gateway, left) in gateways.iter().zip(left) {
                        // A gateway is revoked once a term.
                        let name = super::table::name(*gateway);
                        tracing::warn!(gateway = name, waits = ?left, "a gateway does not answer: a push waits until its lease is over");
                        round.revoked(*gateway, left, now);
                    }
                }
            }
        }
    }

    async fn release_elsewhere(&self, round: u64, rows: Vec<u128>) -> Result<(), Error> {
        let mut server = self.server().ok_or(Error::Unconfirmed(None))?;
        let message = Message { from: self.gateway(), said: Said::Release { round, rows } }.encode();
        match self.table.release(&mut server, round, &message).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Unconfirmed(None)),
            Err(error) => {
                self.broke();
                Err(Error::Unconfirmed(Some(error)))
            }
        }
    }

    fn untold(&self, error: RedisError) -> Error {
        self.broke();
        Error::Untold(error)
    }
}
