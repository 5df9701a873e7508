//! What the feature server reads and writes: rows by key, and what is known of each.
//!
//! A read walks the same layers as `fetch`, but nothing stands in for what is missing: the caller tells it. A push writes to
//! L2, the newer event wins there, and from then on this process serves nothing older from L1 and joins no fetch that began
//! before.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, timeout_at};

use super::{
    Store,
    joins::{self, Rows},
    lookup::{How, JoinLookup, Lookup, State, Want, via},
    settle::{is_outside_max_age, nanos},
};
use crate::{
    config::View,
    features::{
        feast::decode_value,
        invalidate::Origin,
        l2,
        l2::{Ask, Order, Purpose, Put, Written},
        lease,
        memory::Fetch,
    },
    infer::{
        CacheEvent, Deadline, Degradation, EntityColumn, EntityKey, Level, Optional, Reason, Value, ViewId, WorkerId,
        plan::Stale, request::Caching,
    },
    telemetry::{
        ages::Ages,
        handles::{
            features::{Features as Handles, WriteBack},
            invalidation::Extent,
        },
    },
};

/// What a row is, for those who read them.
pub(crate) use crate::features::Row;

/// Rows that are sent to L2 at once: no more than it stores within its timeout, or holds waiting.
pub(super) const BATCH: usize = 128;

/// Rows of one view that are asked for.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) view: ViewId,
    /// One for each of the view's join keys, in their order, each with a value a row.
    pub(crate) columns: &'a [&'a EntityColumn],
}

/// On whose behalf, and until when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) worker: WorkerId,
    pub(crate) caching: Caching,
    pub(crate) by: Deadline,
}

/// What a read came to.
#[derive(Debug)]
pub(crate) struct Reading {
    /// In the order of the wishes.
    pub(crate) views: Vec<ViewRows>,
    pub(crate) caches: Vec<CacheEvent>,
    /// Stale rows that had to do, and rows that could not be read.
    pub(crate) degraded: Vec<Degradation>,
    pub(crate) level: Level,
}

/// The rows of one view.
#[derive(Debug)]
pub(crate) struct ViewRows {
    pub(crate) view: Arc<View>,
    /// One a distinct key.
    pub(crate) found: Vec<Found>,
    rows: Rows,
}

/// What there is under one key.
#[derive(Debug)]
pub(crate) enum Found {
    /// A row, and whether its event is further from now than the view's `max_age`.
    Row(Arc<Row>, Age),
    /// The store has none.
    Absent,
    /// No layer could say, or not in time. Until when, where breakers alone kept them from being asked.
    Unavailable(Option<Instant>),
    /// What is stored is no row.
    Unreadable,
}

/// Whether a row's event is young enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    Within,
    Outside,
}

/// A row that is pushed.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) key: EntityKey,
    /// Nanoseconds since the epoch.
    pub(crate) event_time: i64,
    /// In the order of the view's features; `None`: not given, and left as it is.
    pub(crate) values: Box<[Option<Value>]>,
}

/// What became of pushed rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pushed {
    pub(crate) written: u64,
    /// The store, or the same push, has one as new.
    pub(crate) older: u64,
    /// Written over one whose event time could not be read.
    pub(crate) mended: u64,
}

/// Why a push was not acknowledged. Some of its rows may be stored: sent again, they change nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    /// The store refused or did not answer.
    #[error("the online store did not take the rows")]
    Store(#[source] l2::Error),
    /// The Redis that took over is a replica still: nothing was written.
    #[error("the first Redis is lost, and the DR that has its rows takes none before it is promoted")]
    NotPromoted(#[source] l2::Error),
    /// The Redis that took over is a replica, and the first is about to have the rows: nothing was written.
    #[error("the first Redis answers and is about to have the rows again; the DR that has them until then takes none")]
    Returning(#[source] l2::Error),
    /// The Redis that took over acknowledges nothing any more.
    #[error("other gateways have gone back from the DR Redis to the first one, which this one does not reach")]
    Closed(#[source] l2::Error),
    /// Another Redis has the rows than the one in which gateways meet.
    #[error(
        "the first Redis is lost or not known to have all rows: until it is back, no row of a write_through view is acknowledged"
    )]
    Elsewhere,
    /// The store takes no rows from here: nothing was written.
    #[error("rows are read through feature servers (features.l2.feature_server); push to one of those")]
    ReadOnly,
    /// The other gateways could not be told, or not be shown to know.
    #[error(transparent)]
    Lease(#[from] lease::Error),
    /// The deadline passed.
    #[error("the online store did not take all rows before the deadline")]
    Late,
}

impl From<l2::Error> for PushError {
    fn from(error: l2::Error) -> Self {
        match error {
            l2::Error::NotPromoted { .. } => Self::NotPromoted(error),
            l2::Error::Returning { .. } => Self::Returning(error),
            l2::Error::Closed { .. } => Self::Closed(error),
            _ => Self::Store(error),
        }
    }
}

impl PushError {
    /// Whether it was the deadline that passed.
    pub(crate) const fn is_late(&self) -> bool {
        matches!(self, Self::Late | Self::Lease(lease::Error::Late))
    }

    /// Whether nothing of the batch was written.
    pub(crate) const fn is_unwritten(&self) -> bool {
        match self {
            Self::Lease(error) => error.is_unwritten(),
            Self::NotPromoted(_) | Self::Returning(_) | Self::ReadOnly => true,
            Self::Store(_) | Self::Closed(_) | Self::Elsewhere | Self::Late => false,
        }
    }

    /// When to push again, where a breaker says so.
    pub(crate) const fn until(&self) -> Option<Instant> {
        match self {
            Self::Store(error) => error.until(),
            Self::NotPromoted(_)
            | Self::Returning(_)
            | Self::Closed(_)
            | Self::Elsewhere
            | Self::ReadOnly
            | Self::Late
            | Self::Lease(_) => None,
        }
    }
}

impl Pushed {
    const fn count(&mut self, written: Written) {
        match written {
            Written::Written => self.written += 1,
            Written::Mended => self.mended += 1,
            Written::Older => self.older += 1,
        }
    }
}

/// A push under way. What is not acknowledged when it is dropped, late, failed or given up, counts as an error.
struct Pushing<'a> {
    metrics: &'a Handles,
    rows: u64,
    pushed: Pushed,
}

impl Drop for Pushing<'_> {
    fn drop(&mut self) {
        let Pushed { written, older, mended } = self.pushed;
        self.metrics.pushed(WriteBack::Written, written);
        self.metrics.pushed(WriteBack::Older, older);
        self.metrics.pushed(WriteBack::Mended, mended);
        self.metrics.pushed(WriteBack::Error, self.rows - written - older - mended);
    }
}

impl ViewRows {
    /// Where in `found` a row's key is.
    pub(crate) fn at(&self, row: usize) -> usize {
        match &self.rows {
            Rows::Same(_) => 0,
            Rows::Each(each) => each[row],
        }
    }

    /// Other rows, one in place of each, of another view.
    pub(crate) fn others(&self, view: &Arc<View>, found: Vec<Found>) -> Self {
        let rows = match &self.rows {
            Rows::Same(count) => Rows::Same(*count),
            Rows::Each(each) => Rows::Each(each.clone()),
        };
        Self { view: Arc::clone(view), found, rows }
    }

    /// Whether anything asked for could not be read.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.found.iter().any(|found| matches!(found, Found::Unavailable(_)))
    }
}

impl Store {
    /// The rows that are wished for, for `rows` rows, by `terms.by`. Where L2 fails, a stale row within `stale_for` has to do.
    ///
    /// # Cancel safety
    ///
    /// As [`Store::fetch`].
    pub(crate) async fn read(&self, rows: usize, wishes: &[Wish<'_>], terms: Terms) -> Reading {
        let Terms { worker, caching, by } = terms;
        let (optional, stale) = (Optional::Joined, Stale::Refused);
        let how = How { worker, caching, optional, stale, by, via: via(caching) };
        let join = |wish: &Wish<'_>| {
            let view = Arc::clone(&self.shared.views[wish.view.index()]);
            let joins::Keys { distinct: wants, rows } = joins::keys(&view, rows, wish.columns);
            JoinLookup { view, select: [].into(), optional: false, wants, rows }
        };
        let mut lookup = Lookup::over(wishes.iter().map(join).collect());
        self.shared.walk(&mut lookup, &how, Instant::now()).await;
        lookup.tell(&self.shared.metrics, SystemTime::now())
    }

    /// Whether rows can be pushed here at all.
    ///
    /// # Errors
    ///
    /// [`PushError::ReadOnly`].
    pub(crate) fn accepts_pushes(&self) -> Result<(), PushError> {
        if self.shared.l2.is_writable() { Ok(()) } else { Err(PushError::ReadOnly) }
    }

    /// Stores rows of a view, by `by`; only the features that a row has are set. Returns once they are stored and this process
    /// serves nothing older.
    ///
    /// # Errors
    ///
    /// What was not acknowledged may be stored or not.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves the rows sent so far stored, and L1 with what it had for their `ttl` at most.
    pub(crate) async fn push(
        &self,
        worker: WorkerId,
        view: ViewId,
        rows: Vec<Offer>,
        by: Deadline,
    ) -> Result<Pushed, PushError> {
        let mut push = Pushing { metrics: &self.shared.metrics, rows: rows.len() as u64, pushed: Pushed::default() };
        self.shared.tell_ahead(view, &rows);
        let puts = newest(&self.shared.views[view.index()], rows, self.shared.order);
        self.accepts_pushes()?;
        push.pushed.older = push.rows - puts.len() as u64;
        if self.shared.views[view.index()].reads_primary_only() {
            for batch in puts.chunks(BATCH) {
                let written = self.push_everywhere(worker, batch, by).await?;
                written.into_iter().for_each(|written| push.pushed.count(written));
            }
            return Ok(push.pushed);
        }
        for batch in puts.chunks(BATCH) {
            let (began, written_at) = (Instant::now(), SystemTime::now());
            let writing = self.shared.l2.write(worker, batch, Purpose::Push(self.shared.order));
            let written = timeout_at(by.instant(), writing).await.map_err(|_| PushError::Late)?;
            let stored = Fetch { began, took: began.elapsed() };
            let mut failed = None;
            for (put, written) in batch.iter().zip(written) {
                match written {
                    Ok(written) => {
                        push.pushed.count(written);
                        self.renew(put, written.is_stored(), stored);
                    }
                    // Nothing is promised: L1 keeps what it has.
                    Err(error) => failed = Some(error),
                }
            }
            self.shared.metrics.invalidations.came(Origin::Push, Extent::Rows, Some(began.elapsed()));
            self.shared.tell_others(batch, written_at);
            if let Some(error) = failed {
                return Err(error.into());
            }
        }
        if push.pushed.mended > 0 {
            let view = &self.shared.views[view.index()].name;
            tracing::debug!(%view, rows = push.pushed.mended, "stored event times could not be read: replaced");
        }
        Ok(push.pushed)
    }

    /// What L1 has of a row that was pushed: the row where it is whole and stored, else nothing.
    fn renew(&self, Put { ask, row }: &Put, written: bool, stored: Fetch) {
        let whole = written && row.values.iter().all(Option::is_some);
        let kept = whole.then(|| Arc::clone(row));
        self.shared.l1.renew(ask.view.id, &ask.key, (kept, row.event_time), stored);
        self.shared.flights.forget(&(ask.view.id, ask.key.clone()));
    }
}

/// A row of values that were stored within another.
pub(crate) fn row(event_time: i64, values: Vec<Option<Value>>) -> Row {
    Row::new(Some(event_time), values.into())
}

/// A serialized `feast.types.Value`.
pub(crate) fn value(stored: &[u8]) -> Option<Value> {
    decode_value(stored).ok()
}

/// One row a key: what is left when each row in turn replaces what the order lets it replace.
fn newest(view: &Arc<View>, rows: Vec<Offer>, order: Order) -> Vec<Put> {
    let mut places = std::collections::HashMap::with_capacity(rows.len());
    let mut puts = Vec::<Put>::with_capacity(rows.len());
    for Offer { key, event_time, values } in rows {
        let row = Row::new(Some(event_time), values);
        let next = puts.len();
        let at = *places.entry(key.clone()).or_insert(next);
        let put = Put { ask: Ask { view: Arc::clone(view), key }, row: Arc::new(row) };
        if at == next {
            puts.push(put);
        } else if puts[at].row.event_time.is_none_or(|held| order.replaces(put.row.event_time, held)) {
            puts[at] = put;
        }
    }
    puts
}

impl Reading {
    /// When what could not be read may be asked for again, where breakers alone are the reason: as soon as one lets a probe by.
    pub(crate) fn until(&self) -> Option<Instant> {
        let untils = self.views.iter().flat_map(|view| &view.found).filter_map(|found| match found {
            Found::Unavailable(until) => Some(*until),
            _ => None,
        });
        // `None` is the least: what failed for another reason may be asked for at once.
        untils.min().flatten()
    }

    /// Rows that cannot be read cost no other row anything: they are told, as what could not be had.
    fn skipped(&mut self, view: &View, found: &[Found], metrics: &Handles) {
        let rows = found.iter().filter(|found| matches!(found, Found::Unreadable)).count();
        if rows > 0 {
            metrics.defaulted(view.id, Reason::Unavailable, rows as u64);
            let told = Degradation::Default { view: Arc::clone(&view.name), reason: Reason::Unavailable };
            if !self.degraded.contains(&told) {
                self.degraded.push(told);
            }
            self.level = self.level.max(Level::SimplifiedModel);
        }
    }
}

impl Lookup {
    /// What was found, judged at `now`.
    pub(super) fn tell(self, metrics: &Handles, now: SystemTime) -> Reading {
        let now = nanos(now);
        let caches = self.asked.events();
        let mut reading = Reading { views: Vec::new(), caches, degraded: Vec::new(), level: Level::Full };
        for JoinLookup { view, wants, rows, .. } in self.joins {
            let (mut oldest, mut ages) = (None, Ages::default());
            let found: Vec<_> =
                wants.into_iter().map(|want| judge(&view, want, &mut oldest, (&mut ages, now))).collect();
            metrics.served_all(view.id, &ages);
            if let Some(age) = oldest {
                let told = Degradation::Stale { view: Arc::clone(&view.name), age };
                if !reading.degraded.contains(&told) {
                    reading.degraded.push(told);
                }
                reading.level = reading.level.max(Level::ReducedFeatures);
            }
            reading.skipped(&view, &found, metrics);
            reading.views.push(ViewRows { view, found, rows });
        }
        reading
    }
}

fn judge(view: &View, want: Want, oldest: &mut Option<Duration>, (ages, now): (&mut Ages, i64)) -> Found {
    let row = match want.state {
        State::Row(row) | State::Early(row) => row,
        State::Stale(row, age) => {
            *oldest = (*oldest).max(Some(age));
            row
        }
        State::Absent => return Found::Absent,
        State::Open(_) => return Found::Unavailable(None),
        State::Unavailable(until) => return Found::Unavailable(until),
        State::Unreadable => return Found::Unreadable,
    };
    if let Some(time) = row.event_time {
        ages.add(now.saturating_sub(time) as f64 / 1e9);
    }
    let age = if is_outside_max_age(view, &row, now) { Age::Outside } else { Age::Within };
    Found::Row(row, age)
}
