//! An L1 full of sample rows, looked up as requests do it: for the bench and for the tests that count allocations. Not part of a
//! release.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{
    joins,
    lookup::{How, JoinLookup, Lookup},
    online::Found,
};
use crate::{
    config::{Consistency, Feature, L1, L1Mode, View},
    features::{
        Row,
        hot_keys::Counts,
        l2::Via,
        memory::{Cached, Memory},
    },
    infer::{
        Deadline, EntityColumn, EntityKeys, EntityType, EntityValue, FeatureType, Optional, Value, ViewId, WorkerId,
        plan::Stale, request::Caching,
    },
    telemetry::handles::features::Features as Handles,
};

/// Rows of ten features, under the keys from 0.
#[derive(Debug)]
pub struct Filled {
    memory: Memory,
    view: Arc<View>,
    keys: EntityKeys,
    metrics: Handles,
    how: How,
    counts: Option<Counts>,
}

impl Filled {
    /// So many rows.
    #[must_use]
    pub fn with(rows: i64) -> Self {
        let hour = Duration::from_secs(3600);
        let l1 = L1 {
            mode: L1Mode::Serve,
            capacity: 1 << 30,
            ttl: hour,
            stale_for: hour,
            negative_ttl: hour,
            warm_start: None,
        };
        let views = [view(hour)];
        let now = Instant::now();
        let filled = Self {
            memory: Memory::new(&l1, &views),
            keys: EntityKeys::of(["user_id"].into_iter()),
            metrics: Handles::new(&views),
            how: How {
                worker: WorkerId(0),
                caching: Caching::Allowed,
                optional: Optional::Joined,
                stale: Stale::Refused,
                by: Deadline::after(now, hour),
                via: Via::Copies,
            },
            counts: None,
            view: views.into_iter().next().expect("one"),
        };
        for id in 0..rows {
            let key = filled.keys.key([&EntityValue::Int64(id)].into_iter());
            filled.memory.put(ViewId(0), &key, Some(Arc::new(row(id))), now);
        }
        filled
    }

    /// The same, counting which keys are hot.
    #[must_use]
    pub fn counting(self) -> Self {
        Self { counts: Some(Counts::new(0.01, 1, Instant::now())), ..self }
    }

    /// One row, as a request gets it: its key is built, it is found, and judged fresh at `now`. What is in it, in short.
    #[must_use]
    pub fn hit(&self, id: i64, now: Instant) -> i64 {
        let key = self.keys.key([&EntityValue::Int64(id)].into_iter());
        match self.memory.get(self.view.id, &key, now) {
            Cached::Fresh(Some(row)) => told(&row),
            _ => -1,
        }
    }

    /// A request's whole lookup: the distinct keys of a column, what L1 has of each, judged, counted and told.
    #[must_use]
    pub fn look_up(&self, ids: &EntityColumn, rows: usize) -> i64 {
        let joins::Keys { distinct: wants, rows } = joins::keys(&self.view, rows, &[ids]);
        let join = JoinLookup { view: Arc::clone(&self.view), select: [].into(), optional: false, wants, rows };
        let mut lookup = Lookup::over(vec![join]);
        if let Some(counts) = &self.counts {
            lookup.count_keys(counts, &self.how);
        }
        lookup.ask_l1(&self.memory, &self.how, Instant::now());
        lookup.count(&self.metrics);
        let reading = lookup.tell(&self.metrics, SystemTime::now());
        let found = reading.views.iter().flat_map(|view| &view.found);
        found.map(|found| if let Found::Row(row, _) = found { told(row) } else { -1 }).sum()
    }
}

/// The entities of a request.
#[must_use]
pub fn entities(ids: impl IntoIterator<Item = i64>) -> EntityColumn {
    EntityColumn::Rows(ids.into_iter().map(EntityValue::Int64).collect())
}

fn told(row: &Row) -> i64 {
    match row.values.first() {
        Some(Some(Value::Int64(first))) => *first,
        _ => -1,
    }
}

fn view(ttl: Duration) -> Arc<View> {
    let feature = |at: usize| Feature {
        name: format!("f{at}").into(),
        kind: if at < 5 { FeatureType::Int64 } else { FeatureType::Double },
        default: Value::Null,
        length: None,
    };
    Arc::new(View {
        id: ViewId(0),
        name: "user_stats".into(),
        stored: "user_stats".into(),
        entities: vec![("user_id".into(), EntityType::Int64)],
        features: (0..10).map(feature).collect(),
        ttl,
        max_age: None,
        consistency: Consistency::Ttl,
    })
}

fn row(id: i64) -> Row {
    let value = |at: i64| Some(if at < 5 { Value::Int64(id + at) } else { Value::Double((id + at) as f64 / 16.0) });
    Row::new(Some(1_700_000_000_000_000_000 + id), (0..10).map(value).collect())
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use allocation_counter::measure;

    use super::*;

    #[test]
    fn a_hit_allocates_nothing() {
        let filled = Filled::with(1000);
        let now = Instant::now();
        let mut sum = 0;
        let counted = measure(|| sum = (0..1000).map(|id| filled.hit(black_box(id), now)).sum::<i64>());
        assert_eq!(sum, (0..1000).sum::<i64>(), "all are hits");
        assert_eq!((counted.count_total, counted.bytes_total), (0, 0));
        assert_eq!(measure(|| drop(black_box(Box::new(7_u64)))).count_total, 1, "it counts");
    }

    #[test]
    fn a_lookup_of_a_thousand_rows_allocates_as_often_as_one_of_twenty() {
        allocates_the_same(&Filled::with(1000));
        allocates_the_same(&Filled::with(1000).counting());
    }

    fn allocates_the_same(filled: &Filled) {
        let counted = |rows: i64| {
            let ids = entities(0..rows);
            let mut sum = 0;
            let counted = measure(|| sum = filled.look_up(&ids, rows as usize));
            assert_eq!(sum, (0..rows).sum::<i64>());
            counted.count_total
        };
        let few = counted(20);
        assert_eq!((few, counted(1000)), (few, few));
        assert!(few < 20, "{few}");
    }
}
