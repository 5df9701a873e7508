//! Dropping what is out of date: from L1, and from what is being fetched.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, timeout};

use super::{Shared, Store};
use crate::{
    features::{
        invalidate::{Dropped, Origin, Scope},
        l2::L2,
        memory::{Memory, Swept},
        redis::{Hearer, SlotSet, Tracking},
    },
    infer::{EntityKey, ViewId},
    telemetry::handles::invalidation::Extent,
};

/// Drops what Redis says was changed, of whichever snapshot is current.
struct Current<F>(F);

impl<F: Fn() -> Arc<Store> + Sync> Hearer for Current<F> {
    fn prefixes(&self) -> Vec<Box<[u8]>> {
        self.0().shared.keys.prefixes()
    }

    async fn changed(&self, keys: &[Box<[u8]>]) {
        let store = self.0();
        let rows: Vec<_> = keys.iter().flat_map(|key| store.shared.keys.rows(key)).collect();
        if !rows.is_empty() {
            store.invalidate(&Scope::Rows(rows), Origin::Tracking, None).await;
        }
    }

    async fn missed(&self, slots: Option<Arc<SlotSet>>) {
        let store = self.0();
        match slots {
            Some(slots) => store.shared.drop_slots(slots, Origin::Tracking).await,
            None => store.invalidate(&Scope::All, Origin::Tracking, None).await,
        };
    }

    async fn flushed(&self) {
        self.0().invalidate(&Scope::All, Origin::Tracking, None).await;
    }
}

impl Store {
    /// Listens to Redis and drops what is changed there, where the config says so, and all of L1 where another Redis comes to have
    /// the rows; `current`: the store of the snapshot in force.
    /// Never returns then.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing is heard any more.
    pub(crate) async fn listen(current: impl Fn() -> Arc<Self> + Sync) {
        let (listener, moves) = match &current().shared.l2 {
            L2::Redis(redis) => (redis.listener(), redis.moves()),
            L2::Served(_) | L2::Embedded(_) => (None, None),
        };
        let hearing = async {
            if let Some(listener) = listener {
                listener.run(&Current(&current)).await;
            }
        };
        let following = async {
            let Some(mut moves) = moves else { return };
            while moves.changed().await.is_ok() {
                current().invalidate(&Scope::All, Origin::Dr, None).await;
            }
        };
        tokio::join!(hearing, following);
    }

    /// How listening to Redis stands, where the config wants it.
    pub(crate) fn tracking(&self) -> Option<&Tracking> {
        match &self.shared.l2 {
            L2::Redis(redis) => redis.tracking().map(|tracking| &**tracking),
            L2::Served(_) | L2::Embedded(_) => None,
        }
    }

    /// Returns once Redis is listened to, where it is to be, or `patience` is over: rows that are read before are read again.
    pub(crate) async fn heard(&self, patience: Duration) {
        if let Some(tracking) = self.tracking() {
            // One that cannot be listened to is no reason to wait.
            let _ = timeout(patience, tracking.up()).await;
        }
    }
}

impl Store {
    /// From when it returns on, nobody who begins to look gets a row of the scope that was fetched before. `written`: when what
    /// is to be read instead was stored, where that is known.
    ///
    /// Rows and whole views are out of date at its first poll, which takes no longer the more of them are cached; what it waits
    /// for then, for all but rows, is that L1 was gone through, on another thread.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it goes on.
    pub(crate) async fn invalidate(&self, scope: &Scope, origin: Origin, written: Option<SystemTime>) -> Dropped {
        let shared = &self.shared;
        let delay = written.map(|written| written.elapsed().unwrap_or_default());
        shared.metrics.invalidations.came(origin, scope.extent(), delay);
        // First: who fetches again from `at` on is not to be told by a replica what was just dropped.
        match scope {
            Scope::Rows(rows) => rows.iter().for_each(|(_, key)| shared.l2.changed(key)),
            Scope::View(_) | Scope::Prefix(..) | Scope::All => shared.l2.all_changed(),
        }
        let at = Instant::now();
        // Before L1 is: else it would be filled from a copy again.
        let owed = shared.l2.redis().map(|redis| (redis, redis.doubt_copies(scope, origin)));
        let dropped = match scope {
            Scope::Rows(rows) => shared.drop_rows(rows, origin, at),
            Scope::View(view) => {
                let view = *view;
                shared.l1.drop_view(view, at);
                shared.flights.forget_all(|(of, _)| *of == view);
                shared.strong.last().forget_all(|(of, _)| *of == view);
                shared.sweep((origin, at), move |l1| l1.sweep_out(Swept::Of(view), at)).await
            }
            Scope::Prefix(view, prefix) => shared.drop_prefix(*view, prefix, origin, at).await,
            Scope::All => {
                shared.l1.drop_all(at);
                shared.flights.forget_all(|_| true);
                shared.strong.last().forget_all(|_| true);
                shared.sweep((origin, at), move |l1| l1.sweep_out(Swept::All, at)).await
            }
        };
        match owed {
            Some((redis, owed)) => Dropped { copies: redis.remove_owed(owed).await, ..dropped },
            None => dropped,
        }
    }
}

impl Shared {
    fn drop_rows(&self, rows: &[(ViewId, EntityKey)], origin: Origin, at: Instant) -> Dropped {
        let mut dropped = 0;
        for row in rows {
            dropped += u64::from(self.l1.drop_row(row.0, &row.1, at));
            self.flights.forget(row);
            self.strong.last().forget(row);
        }
        self.metrics.invalidations.dropped(origin, dropped);
        Dropped::of(dropped)
    }

    /// Of a cluster's rows, those in some slots.
    pub(super) async fn drop_slots(self: &Arc<Self>, slots: Arc<SlotSet>, origin: Origin) -> Dropped {
        // As in `Store::invalidate`.
        self.l2.all_changed();
        let at = Instant::now();
        self.metrics.invalidations.came(origin, Extent::Slots, None);
        if let Some(redis) = self.l2.redis() {
            // Copies are few: all are made anew.
            let _ = redis.doubt_copies(&Scope::All, origin);
        }
        for flights in [&self.flights, &self.strong.last()] {
            flights.forget_all(|(_, entity)| slots.has_key(entity.as_bytes(), &self.project));
        }
        let project = Arc::clone(&self.project);
        self.sweep((origin, at), move |l1| l1.sweep_out(Swept::Any(&|entity| slots.has_key(entity, &project)), at))
            .await
    }

    async fn drop_prefix(self: &Arc<Self>, view: ViewId, prefix: &[u8], origin: Origin, at: Instant) -> Dropped {
        let begins = |entity: &[u8], prefix: &[u8]| {
            EntityKey::first_value(entity).is_some_and(|value| value.starts_with(prefix))
        };
        for flights in [&self.flights, &self.strong.last()] {
            flights.forget_all(|(of, entity)| *of == view && begins(entity.as_bytes(), prefix));
        }
        let prefix = prefix.to_vec();
        self.sweep((origin, at), move |l1| l1.sweep_out(Swept::Some(view, &|entity| begins(entity, &prefix)), at)).await
    }

    /// Goes through L1 on a thread that serves nobody.
    async fn sweep(
        self: &Arc<Self>,
        (origin, at): (Origin, Instant),
        drops: impl FnOnce(&Memory) -> u64 + Send + 'static,
    ) -> Dropped {
        let shared = Arc::clone(self);
        let swept = tokio::task::spawn_blocking(move || {
            let rows = drops(&shared.l1);
            shared.metrics.invalidations.dropped(origin, rows);
            Dropped::of(rows)
        });
        swept.await.unwrap_or_else(|failed| {
            tracing::error!(%failed, "L1 was not gone through for an invalidation: all of it is read anew");
            self.l1.drop_all(at);
            Dropped::default()
        })
    }
}
