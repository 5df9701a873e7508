//! What `benches/lookup.rs` measures: a build of one fixed view, and point reads of it through the store that requests use.
//!
//! Public for the bench alone; no command calls it.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{BuildArgs, build_view};
use crate::{
    config::{Consistency, Feature, L3, View},
    features::object::Store,
    infer::{EntityKey, EntityType, EntityValue, FeatureType, Value, ViewId},
    resilience::breaker::Policy,
};

const PROJECT: &str = "bench";

/// The columns of the view, besides `user_id` and `event_timestamp`.
pub const FEATURES: [&str; 2] = ["txn_count", "avg_amount"];

fn view() -> View {
    let kinds = [FeatureType::Int64, FeatureType::Double];
    let features = FEATURES.iter().zip(kinds);
    View {
        id: ViewId(0),
        name: "users".into(),
        stored: "users".into(),
        entities: vec![("user_id".into(), EntityType::Int64)],
        features: features
            .map(|(name, kind)| Feature { name: (*name).into(), kind, default: Value::Null, length: None })
            .collect(),
        ttl: Duration::from_secs(60),
        max_age: None,
        consistency: Consistency::Ttl,
    }
}

/// Builds the view from parquet with columns `user_id`, [`FEATURES`] and `event_timestamp`; the summary that the command prints.
///
/// # Errors
/// As the command's.
pub async fn build(from: &str, to: &str) -> anyhow::Result<String> {
    let args = BuildArgs {
        view: "users".into(),
        from: from.into(),
        to: to.into(),
        timestamp_field: "event_timestamp".into(),
        created_field: None,
    };
    Ok(build_view(&view(), PROJECT, &args).await?.to_string())
}

/// What some point reads cost.
#[derive(Debug)]
pub struct Cost {
    /// Users whose rows were found.
    pub found: usize,
    /// Most ranged reads that one lookup made.
    pub most: u64,
    /// Directory pages read by all of them.
    pub pages: u64,
    /// Buckets read by all of them.
    pub buckets: u64,
    /// Time of each lookup, sorted.
    times: Vec<Duration>,
}

/// Opens the files at `to` and reads one user after the other.
///
/// # Errors
/// A lookup fails.
pub async fn point_reads(to: &str, users: impl IntoIterator<Item = i64>) -> anyhow::Result<Cost> {
    let view = Arc::new(view());
    let config = L3 { url: to.into(), timeout: Duration::from_secs(10) };
    let store = Store::open(&config, Policy::default(), PROJECT, std::slice::from_ref(&view)).await?;
    let mut cost = Cost { found: 0, most: 0, pages: 0, buckets: 0, times: Vec::new() };
    for user in users {
        let key = EntityKey::new([("user_id", &EntityValue::Int64(user))].into_iter());
        let started = Instant::now();
        cost.found += usize::from(store.get(&view, &key).await?.is_some());
        cost.times.push(started.elapsed());
        let reads = store.reads(&view.name);
        cost.most = cost.most.max(reads.directory + reads.bucket - cost.pages - cost.buckets);
        (cost.pages, cost.buckets) = (reads.directory, reads.bucket);
    }
    cost.times.sort_unstable();
    Ok(cost)
}

impl Cost {
    fn quantile(&self, share: f64) -> Duration {
        let at = (self.times.len() as f64 * share) as usize;
        self.times.get(at.min(self.times.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lookups, {} found, {} pages + {} buckets read, at most {} ranged reads a lookup, p50 {:?}, p99 {:?}",
            self.times.len(),
            self.found,
            self.pages,
            self.buckets,
            self.most,
            self.quantile(0.5),
            self.quantile(0.99),
        )
    }
}
