//! `write_through` rows: how they are fetched, kept and pushed, as `lease` has it.
//!
//! A fetch of such a row is shared only within one term of the lease, and while nobody changes the row; what it finds is kept only then.
//! Without a lease each request fetches its own.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::SystemTime,
};

use tokio::time::{Instant, timeout_at};

use super::{
    Shared, Store,
    fly::{Id, Progress},
    online::PushError,
};
use crate::{
    config::View,
    features::{
        invalidate::{Origin, Scope},
        l2::{self, Ask, Purpose, Put, Written},
        lease::{Caches, Change, Held, Missed},
        memory::Fetch,
    },
    infer::{Deadline, EntityKey, WorkerId},
    resilience::{
        flight::{Batch, Flights, Joined, Lead},
        lease::Term,
    },
    telemetry::handles::lease::LetGo,
};

/// The fetches of one term.
#[derive(Debug, Default)]
pub(super) struct TermFlights(Mutex<(Option<Term>, Fetches)>);

/// Fetches that may be joined.
type Fetches = Arc<Flights<Id, Progress>>;

impl TermFlights {
    /// Those of a term; nobody joins those of another any more.
    fn of(&self, term: Term) -> Fetches {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if flights.0 != Some(term) {
            *flights = (Some(term), Arc::default());
        }
        Arc::clone(&flights.1)
    }

    /// Those of the last term.
    pub(super) fn last(&self) -> Fetches {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner).1)
    }
}

/// All snapshots that are in use: what is dropped is dropped from each.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshots(Arc<Mutex<Vec<Weak<Shared>>>>);

impl Snapshots {
    pub(super) fn add(&self, shared: &Arc<Shared>) {
        let mut snapshots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        snapshots.retain(|snapshot| snapshot.strong_count() > 0);
        snapshots.push(Arc::downgrade(shared));
    }

    fn all(&self) -> Vec<Arc<Shared>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }
}

/// A snapshot's view that is stored under a name.
fn stored<'a>(shared: &'a Shared, name: &str) -> Option<&'a Arc<View>> {
    shared.views.iter().find(|view| *view.stored == *name)
}

impl Caches for Snapshots {
    fn forget(&self, view: &str, key: &EntityKey) {
        let now = Instant::now();
        for shared in self.all() {
            let Some(view) = stored(&shared, view) else { continue };
            shared.l1.drop_row(view.id, key, now);
            shared.strong.last().forget(&(view.id, key.clone()));
        }
    }

    fn change(&self, change: Change, written: Option<SystemTime>) {
        for shared in self.all() {
            if let Some(scope) = scope(&shared, &change) {
                shared.drop_in_background(scope, written);
            }
        }
    }

    fn missed(&self, missed: Missed) -> LetGo {
        let snapshots = self.all();
        // One that is not heard tells nothing, and once it is, its rows are dropped.
        let is_told = |shared: &&Arc<Shared>| {
            let tracking = shared.l2.redis().and_then(|redis| redis.tracking());
            missed == Missed::Rows && tracking.is_some_and(|tracking| tracking.is_up())
        };
        let untold: Vec<_> = snapshots.iter().filter(|shared| !is_told(shared)).collect();
        untold.iter().for_each(|shared| shared.drop_in_background(Scope::All, None));
        if untold.is_empty() { LetGo::Nothing } else { LetGo::All }
    }
}

/// What of a snapshot has changed; `None`: nothing of it.
fn scope(shared: &Shared, change: &Change) -> Option<Scope> {
    let id = |name: &str| stored(shared, name).map(|view| view.id);
    match change {
        Change::Rows(views) => {
            let views = views.iter().filter_map(|(view, keys)| Some((id(view)?, keys)));
            let rows: Vec<_> = views.flat_map(|(id, keys)| keys.iter().map(move |key| (id, key.clone()))).collect();
            (!rows.is_empty()).then_some(Scope::Rows(rows))
        }
        Change::View(view) => id(view).map(Scope::View),
        Change::Prefix(view, prefix) => id(view).map(|view| Scope::Prefix(view, prefix.clone())),
        Change::All => Some(Scope::All),
    }
}

/// Whether some of it failed, and nothing of it can be carried out any more.
fn has_failed_for_good(written: &[Result<Written, l2::Error>]) -> bool {
    let mut errors = written.iter().filter_map(|written| written.as_ref().err()).peekable();
    errors.peek().is_some() && errors.all(l2::Error::is_over)
}

impl Shared {
    /// Joins the fetch of a row that is under way, or leads one.
    pub(super) fn join(&self, batch: &Arc<Batch<Progress>>, ask: &Ask) -> Joined<Id, Progress> {
        let id = (ask.view.id, ask.key.clone());
        if !ask.view.reads_primary_only() {
            return self.flights.join(batch, id, Progress::AtL2);
        }
        let row = (&*ask.view.stored, &ask.key);
        let joined = self.leases.join(row, |term| self.strong.of(term).join(batch, id, Progress::AtL2));
        joined.unwrap_or_else(|| Joined::Leader(Lead::alone(batch, Progress::AtL2)))
    }

    /// Puts into L1 what was asked for at `asked`.
    pub(super) fn keep_fenced(&self, ask: &Ask, asked: Instant, put: impl FnOnce()) {
        if ask.view.reads_primary_only() {
            self.leases.keep((&ask.view.stored, &ask.key), asked, put);
        } else {
            put();
        }
    }

    /// Tells the other gateways of rows that have changed at `written`; nobody waits for them.
    pub(super) fn tell_others(&self, batch: &[Put], written: SystemTime) {
        if let Some(first) = batch.first() {
            self.leases.tell(&first.ask.view.stored, batch.iter().map(|put| &put.ask.key), written);
        }
    }

    /// Drops what other gateways say, or may have said.
    fn drop_in_background(self: &Arc<Self>, scope: Scope, written: Option<SystemTime>) {
        let store = Store { shared: Arc::clone(self) };
        self.tasks.background(async move { _ = store.invalidate(&scope, Origin::PubSub, written).await });
    }
}

impl Store {
    /// Pushes a batch of one view's rows so that no gateway serves what was there before; what became of each.
    pub(super) async fn push_everywhere(
        &self,
        worker: WorkerId,
        batch: &[Put],
        by: Deadline,
    ) -> Result<Vec<Written>, PushError> {
        let Some(view) = batch.first().map(|put| &put.ask.view) else { return Ok(Vec::new()) };
        self.at_home()?;
        let mut held = self.shared.leases.hold_rows(view, batch.iter().map(|put| &put.ask.key), by).await?;
        self.at_home()?;
        held.writing()?;
        let began = Instant::now();
        let writing = self.shared.l2.write(worker, batch, Purpose::Push(self.shared.order));
        let written = timeout_at(by.instant(), writing).await.map_err(|_| PushError::Late)?;
        if has_failed_for_good(&written) {
            held.give_up();
        }
        let written = written.into_iter().collect::<Result<Vec<_>, _>>()?;
        self.at_home()?;
        self.release(held, (batch, &written, began), by).await?;
        Ok(written)
    }

    /// Fails where the rows are elsewhere than in the Redis in which gateways meet.
    fn at_home(&self) -> Result<(), PushError> {
        let is_over = self.shared.l2.redis().is_some_and(|redis| redis.is_over());
        if is_over { Err(PushError::Elsewhere) } else { Ok(()) }
    }

    async fn release(
        &self,
        held: Held<'_>,
        (batch, written, began): (&[Put], &[Written], Instant),
        by: Deadline,
    ) -> Result<(), PushError> {
        let keep = |at: usize| {
            let Put { ask, row } = &batch[at];
            if written[at].is_stored() && row.values.iter().all(Option::is_some) {
                let fetch = Fetch { began, took: began.elapsed() };
                self.shared.l1.put(ask.view.id, &ask.key, Some(Arc::clone(row)), fetch);
            }
        };
        Ok(held.release(by, keep).await?)
    }

    /// Gives the lease back: no row is kept under it any more, and no push waits for this gateway.
    pub(crate) async fn leave(&self) {
        self.shared.leases.leave().await;
    }

    /// Where this gateway stands with the others.
    pub(crate) fn lease(&self) -> crate::features::lease::Shown {
        self.shared.leases.shown()
    }

    /// Who else holds a lease, where there may be others.
    pub(crate) async fn lease_holders(&self) -> Option<crate::features::lease::Holders> {
        self.shared.leases.holders().await
    }

    /// Tells the other gateways that rows are out of date, some time soon; whether that is possible now.
    pub(crate) fn tell_of(&self, scope: &Scope) -> bool {
        let name = |id: &crate::infer::ViewId| Box::<str>::from(&*self.shared.views[id.index()].stored);
        let change = match scope {
            Scope::Rows(rows) => Change::Rows(rows.iter().map(|(view, key)| (name(view), vec![key.clone()])).collect()),
            Scope::View(view) => Change::View(name(view)),
            Scope::Prefix(view, prefix) => Change::Prefix(name(view), prefix.clone()),
            Scope::All => Change::All,
        };
        self.shared.leases.tell_change(change)
    }
}
