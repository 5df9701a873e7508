//! `consistency: write_through`: who pushes a row, through whatever gateway, is told so when no gateway serves what was there before.
//!
//! ```text
//!  pusher's gateway                          Redis                        every other gateway
//!   1 holds the rows itself
//!   2 ── hold(rows) ──────────────► noted, told, who has a lease? ──────► holds them: L1 lets go of them, reads go to the primary
//!   3 ◄───────────────────────────────────────────────────────────────── heard      (silent: revoked, its lease waited out)
//!   4 ── the rows ────────────────► their primaries
//!   5 ── release(rows) ───────────► still noted? told ──────────────────► keeps them again
//!   6 acknowledges
//! ```
//!
//! A gateway keeps `write_through` rows while it holds a lease: from when the server said so to when its own clock says that it is over.
//! It has taken the lease, and renews it, on the connection on which it hears holds; when that breaks, the term is over at once. A row
//! that was asked for outside of the term is served from nowhere.
//!
//! **Why a read never sees what was there before an acknowledged push.** A row in L1 was asked for in the gateway's term, when it was not
//! held. The pusher writes once every gateway of the list has let go of the row and joins no fetch that began before, or its lease is out.
//! A gateway that is not in the list has entered since: entering tells it of what is held (`holds`), before it keeps anything. Step 5 finds the
//! hold noted, so nobody entered without hearing of it. From 2 to 5 nobody keeps the row; what was asked for before 5 is kept by nobody.
//!
//! **Why reads never go back.** Rows are let go of *before* they are written, not after: from the moment of the write on, every
//! gateway reads that row from its primary, which has one value at a time, or has read it since.
//!
//! **A gateway stops** (a pause, a partition): it does not hear, so it is revoked and its lease waited out. When it goes on, its clock says
//! that its lease is over, or its renewal is refused; a new term begins with nothing. **A pusher stops** between 3 and 4: its holds last
//! [`LONGEST`] everywhere, and it does not acknowledge what took longer. **The table is lost** (a restart, a flush, a failover): its era
//! says so, and a lease's length is waited for in place of the list. **The connection breaks** in a round: nothing was written, or it is
//! not acknowledged; to push again is safe.
//!
//! What it rests on: clocks *run* alike to a twentieth (they need not agree), and Redis's clock does not jump ahead. What it does not cover:
//! rows that a failover of their own master loses, who writes past the gateways (Feast's jobs), and gateways of versions without this.

mod bus;
mod fences;
mod message;
mod outbox;
mod rounds;
mod session;
mod shown;
mod table;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use self::{
    bus::Bus,
    fences::{Fences, RoundId, RowId},
    message::Rows,
};
pub(crate) use self::{
    message::Change,
    rounds::{Error, Held},
    shown::{Holder, Holders, Shown},
};
use super::redis::Owner;
use crate::{
    app::Tasks,
    infer::EntityKey,
    resilience::lease::{Lease, Term},
    telemetry::handles::lease::{Fence, Lease as Handles, LetGo},
};

/// How long a row is held at most: longer than a write that was sent may take to be carried out.
const LONGEST: Duration = Duration::from_secs(30);

/// What this process keeps of rows, in whatever snapshot.
pub(crate) trait Caches: Send + Sync {
    /// Lets go of a row, and lets nobody join a fetch of it that is under way.
    fn forget(&self, view: &str, key: &EntityKey);

    /// Rows have changed, and nobody waits for who lets go of them; `written`: when, where that is known.
    fn change(&self, change: Change, written: Option<SystemTime>);

    /// Some of what other gateways tell was not heard; how much is let go of for it.
    fn missed(&self, missed: Missed) -> LetGo;
}

/// What was not heard, perhaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// That rows were written.
    Rows,
    /// That, and what operators said.
    Words,
}

/// How rows that gateways share are changed and kept, as far as it concerns others.
pub(crate) struct Leases {
    lease: Arc<Lease>,
    fences: Fences,
    caches: Box<dyn Caches>,
    /// `None`: there are no other gateways.
    bus: Option<Bus>,
    keeps: Keeps,
    /// Of rounds.
    next: AtomicU64,
    metrics: Handles,
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// Where gateways find each other.
#[derive(Debug)]
pub(crate) struct Meeting<'a> {
    pub(crate) owner: Owner,
    pub(crate) project: &'a str,
    /// Of a lease.
    pub(crate) length: Duration,
    /// Whether this gateway keeps rows under one.
    pub(crate) keeps: Keeps,
}

/// Whether a gateway keeps `write_through` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    UnderLease,
    /// Without a lease: nobody else changes them.
    Alone,
    Nothing,
    /// Nor has it such views: nobody pushes any here.
    Unconcerned,
}

impl Leases {
    /// Of a process that shares its rows with nobody: nobody else changes them.
    pub(crate) fn of_one(caches: Box<dyn Caches>) -> Self {
        Self::new(Lease::of_one(), caches, (None, Keeps::Alone))
    }

    /// Of one that cannot tell others, nor hears of them: it keeps nothing.
    pub(crate) fn none(caches: Box<dyn Caches>) -> Self {
        Self::new(Lease::none(), caches, (None, Keeps::Nothing))
    }

    /// Of one of several gateways. Connects to nothing yet.
    pub(crate) fn shared(meeting: Meeting<'_>, caches: Box<dyn Caches>) -> Self {
        let keeps = meeting.keeps;
        Self::new(Lease::none(), caches, (Some(Bus::new(meeting)), keeps))
    }

    fn new(lease: Lease, caches: Box<dyn Caches>, (bus, keeps): (Option<Bus>, Keeps)) -> Self {
        let (fences, next) = (Fences::new(LONGEST), AtomicU64::new(1));
        let metrics = match (&bus, keeps) {
            (None, _) => Handles::new(),
            (Some(_), Keeps::UnderLease) => Handles::new().hearing().keeping(),
            (Some(_), Keeps::Alone | Keeps::Nothing | Keeps::Unconcerned) => Handles::new().hearing(),
        };
        Self { lease: Arc::new(lease), fences, caches, bus, keeps, next, metrics }
    }

    /// What vouches for the rows that L1 keeps.
    pub(crate) fn lease(&self) -> Arc<Lease> {
        Arc::clone(&self.lease)
    }

    /// Keeps the connection to the others, where there are any. It is there to the end: requests that a drain waits for may push.
    pub(crate) fn tend(self: &Arc<Self>, tasks: &Tasks) {
        if self.bus.is_some() {
            let leases = Arc::clone(self);
            tasks.attend(async move { leases.tend_bus().await });
        }
    }

    /// Joins a fetch of a row, in the lease's present term; `None`: whoever wants it has to fetch it alone.
    pub(crate) fn join<T>(&self, (view, key): (&str, &EntityKey), join: impl FnOnce(Term) -> T) -> Option<T> {
        let now = Instant::now();
        let term = self.lease.term(now)?;
        self.fences.join(RowId::of(view, key), now, || join(term))
    }

    /// Keeps what was asked for at `asked`, unless the row was being changed since.
    pub(crate) fn keep(&self, (view, key): (&str, &EntityKey), asked: Instant, put: impl FnOnce()) {
        self.fences.keep(RowId::of(view, key), (asked, Instant::now()), put);
    }

    /// Tells the other gateways of rows that have changed at `written`, some time soon.
    pub(crate) fn tell<'a>(&self, view: &Arc<str>, keys: impl Iterator<Item = &'a EntityKey>, written: SystemTime) {
        if let Some(bus) = &self.bus {
            self.metrics.untold(bus.tell(view, keys, written));
        }
    }

    /// Tells them of whatever has changed; whether there is anybody to be told.
    pub(crate) fn tell_change(&self, change: Change) -> bool {
        self.bus.as_ref().is_some_and(|bus| bus.tell_change(change))
    }

    /// Gives the lease back, so that no push waits for a gateway that is gone.
    pub(crate) async fn leave(&self) {
        self.lease.give_up();
        self.metrics.held.set(0.0);
        if let Some(bus) = &self.bus {
            bus.leave().await;
        }
    }

    /// Sets the gauges; to be called now and then.
    pub(crate) fn show(&self) {
        self.metrics.rows_held.set(self.fences.count(Instant::now()) as f64);
        if self.bus.is_some() && self.lease.term(Instant::now()).is_none() {
            self.metrics.held.set(0.0);
        }
    }

    /// Others change rows.
    fn hold(&self, round: RoundId, rows: &Rows) {
        let now = Instant::now();
        for (view, keys) in rows {
            for key in keys {
                self.fences.hold(RowId::of(view, key), round, now, || self.caches.forget(view, key));
            }
        }
    }

    /// They have.
    fn release(&self, round: RoundId, rows: &[u128]) {
        let now = Instant::now();
        // Nobody here knows what they wrote.
        rows.iter().for_each(|row| self.fences.release(RowId(*row), round, now, || ()));
    }

    /// Other gateways are heard again, after they were not.
    fn missed(&self, missed: Missed) {
        let let_go = self.caches.missed(missed);
        self.metrics.missed(let_go);
        if let_go == LetGo::All {
            tracing::warn!("other gateways were not heard for a while: cached rows are read anew");
        }
    }

    /// All rows are of no use any more.
    fn fence(&self, why: Fence) {
        if self.lease.left(Instant::now()) > Duration::ZERO {
            self.lease.end();
        }
        self.metrics.fenced(why);
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// Reads any bytes as a message of another gateway; what was read, as text. For fuzzing: whatever the bytes, it does not panic, and what
/// it takes for a message is one.
#[must_use]
pub fn read_any(bytes: &[u8]) -> Option<String> {
    let message = message::Message::decode(bytes)?;
    assert_eq!(message.encode(), bytes, "one message is written in one way");
    Some(format!("{message:?}"))
}

#[cfg(test)]
mod tests;
