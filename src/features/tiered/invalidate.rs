//! Dropping what is out of date: from L1, and from what is being fetched.

use std::{sync::Arc, time::SystemTime};

use tokio::time::Instant;

use super::{Shared, Store};
use crate::{
    features::{
        invalidate::{Dropped, Origin, Scope},
        memory::{Memory, Swept},
    },
    infer::{EntityKey, ViewId},
};

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
        let (shared, at) = (&self.shared, Instant::now());
        let delay = written.map(|written| written.elapsed().unwrap_or_default());
        shared.metrics.invalidations.came(origin, scope.extent(), delay);
        match scope {
            Scope::Rows(rows) => shared.drop_rows(rows, origin, at),
            Scope::View(view) => {
                let view = *view;
                shared.l1.drop_view(view, at);
                shared.flights.forget_all(|(of, _)| *of == view);
                shared.sweep((origin, at), move |l1| l1.sweep_out(Swept::Of(view), at)).await
            }
            Scope::Prefix(view, prefix) => shared.drop_prefix(*view, prefix, origin, at).await,
            Scope::All => {
                shared.l1.drop_all(at);
                shared.flights.forget_all(|_| true);
                shared.sweep((origin, at), move |l1| l1.sweep_out(Swept::All, at)).await
            }
        }
    }
}

impl Shared {
    fn drop_rows(&self, rows: &[(ViewId, EntityKey)], origin: Origin, at: Instant) -> Dropped {
        let mut dropped = 0;
        for row in rows {
            dropped += u64::from(self.l1.drop_row(row.0, &row.1, at));
            self.flights.forget(row);
        }
        self.metrics.invalidations.dropped(origin, dropped);
        Dropped { rows: dropped }
    }

    async fn drop_prefix(self: &Arc<Self>, view: ViewId, prefix: &[u8], origin: Origin, at: Instant) -> Dropped {
        let begins = |entity: &[u8], prefix: &[u8]| {
            EntityKey::first_value(entity).is_some_and(|value| value.starts_with(prefix))
        };
        self.flights.forget_all(|(of, entity)| *of == view && begins(entity.as_bytes(), prefix));
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
            Dropped { rows }
        });
        swept.await.unwrap_or_else(|failed| {
            tracing::error!(%failed, "L1 was not gone through for an invalidation: all of it is read anew");
            self.l1.drop_all(at);
            Dropped::default()
        })
    }
}
