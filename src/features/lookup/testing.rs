//! What tests of lookup files need: views, rows, and an object store that counts, fails, waits and damages on demand.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

use super::{Location, Target};
use crate::{
    config::{Consistency, Feature, View},
    features::Row,
    infer::{EntityKey, EntityType, EntityValue, FeatureType, Value, ViewId},
};

/// A view.
pub(crate) fn view(name: &str, entities: &[(&str, EntityType)], features: &[(&str, FeatureType)]) -> View {
    View {
        id: ViewId(0),
        name: name.into(),
        entities: entities.iter().map(|(name, kind)| ((*name).into(), *kind)).collect(),
        features: features
            .iter()
            .map(|(name, kind)| Feature { name: (*name).into(), kind: *kind, default: Value::Null, length: None })
            .collect(),
        ttl: Duration::from_secs(60),
        max_age: None,
        consistency: Consistency::Ttl,
    }
}

/// A view keyed by `user_id`, INT64, with an INT64 and a STRING feature.
pub(crate) fn users() -> View {
    view(
        "user_stats",
        &[("user_id", EntityType::Int64)],
        &[("count", FeatureType::Int64), ("city", FeatureType::String)],
    )
}

/// The key of user `id`.
pub(crate) fn user(id: i64) -> EntityKey {
    EntityKey::new([("user_id", &EntityValue::Int64(id))].into_iter())
}

/// User `id`'s row in build `version`.
pub(crate) fn user_row(id: i64, version: i64) -> Row {
    let values = [Some(Value::Int64(id * 10 + version)), Some(Value::String(format!("city-{id}").into()))];
    Row { event_time: Some(1_700_000_000_000_000_000 + version), values: values.into() }
}

/// Writes users `ids` of build `version`.
pub(crate) async fn write_users(to: &Location, ids: Range<i64>, version: i64) -> super::manifest::Manifest {
    let target = Target { to, project: "shop", view: &users(), source: "a test" };
    super::write(target, ids.map(|id| (user(id), user_row(id, version)))).await.unwrap()
}

/// An object store that can be watched and made to misbehave.
#[derive(Debug)]
pub(crate) struct Watched {
    store: Arc<dyn ObjectStore>,
    /// Gets by object name, with their range.
    gets: Mutex<HashMap<String, Vec<Option<Range<u64>>>>>,
    pub(crate) down: AtomicBool,
    /// Ranged reads never answer.
    pub(crate) stuck: AtomicBool,
}

impl Watched {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self { store, gets: Mutex::default(), down: AtomicBool::new(false), stuck: AtomicBool::new(false) })
    }

    pub(crate) fn in_memory() -> Arc<Self> {
        Self::new(Arc::new(InMemory::new()))
    }

    /// The root, as a location.
    pub(crate) fn location(self: &Arc<Self>) -> Location {
        Location { store: self.clone(), path: Path::from("lookup"), url: "test:///lookup".into() }
    }

    /// Ranged gets made so far, of all objects.
    pub(crate) fn ranged(&self) -> usize {
        self.gets.lock().unwrap().values().flatten().flatten().count()
    }
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("watched")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Watched {
    async fn put_opts(&self, to: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.store.put_opts(to, payload, options).await
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        let range = match &options.range {
            Some(GetRange::Bounded(range)) => Some(range.clone()),
            _ => None,
        };
        let is_ranged = range.is_some();
        self.gets.lock().unwrap().entry(from.to_string()).or_default().push(range);
        if self.down.load(SeqCst) {
            return Err(object_store::Error::Generic { store: "watched", source: "is down".into() });
        }
        if is_ranged && self.stuck.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        self.store.get_opts(from, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
