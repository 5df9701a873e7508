//! What tests of lookup files need: views, rows, and an object store that counts, fails, waits and damages on demand.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, aws::AmazonS3Builder, memory::InMemory, path::Path,
};

use super::{Location, Patience, Target, location};
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
        stored: name.into(),
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
    Row::new(Some(1_700_000_000_000_000_000 + version), values.into())
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

    fn check(&self) -> Result<()> {
        let down = || object_store::Error::Generic { store: "watched", source: "is down".into() };
        if self.down.load(SeqCst) { Err(down()) } else { Ok(()) }
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
        self.check()?;
        self.store.put_opts(to, payload, options).await
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.check()?;
        self.store.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        let range = match &options.range {
            Some(GetRange::Bounded(range)) => Some(range.clone()),
            _ => None,
        };
        let is_ranged = range.is_some();
        self.gets.lock().unwrap().entry(from.to_string()).or_default().push(range);
        self.check()?;
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

/// A server on a port of its own that answers S3's GET, whole and ranged, from a folder.
#[derive(Debug)]
pub(crate) struct S3 {
    port: u16,
    served: Arc<Served>,
}

/// What a server has seen, and whether it is to hang up.
#[derive(Debug, Default)]
struct Served {
    folder: PathBuf,
    connections: AtomicUsize,
    requests: AtomicUsize,
    hang_up: AtomicBool,
}

impl S3 {
    /// Serves `folder` as bucket `b` until the test ends.
    pub(crate) fn serve(folder: &std::path::Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = Arc::new(Served { folder: folder.into(), ..Served::default() });
        let seen = served.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, seen) = (connection.unwrap(), seen.clone());
                seen.connections.fetch_add(1, SeqCst);
                std::thread::spawn(move || seen.answer(&connection));
            }
        });
        Self { port, served }
    }

    /// The bucket's root, through the client that requests use.
    pub(crate) fn location(&self) -> Location {
        let builder = AmazonS3Builder::new()
            .with_endpoint(format!("http://127.0.0.1:{}", self.port))
            .with_bucket_name("b")
            .with_access_key_id("id")
            .with_secret_access_key("key");
        let store = location::s3(builder, Patience::REQUEST).unwrap();
        Location { store, path: Path::default(), url: "s3://b".into() }
    }

    /// Connections accepted and requests read so far.
    pub(crate) fn seen(&self) -> (usize, usize) {
        (self.served.connections.load(SeqCst), self.served.requests.load(SeqCst))
    }

    /// From now on every request is answered by closing its connection, or not.
    pub(crate) fn hang_up(&self, on: bool) {
        self.served.hang_up.store(on, SeqCst);
    }
}

impl Served {
    fn answer(&self, mut connection: &TcpStream) {
        connection.set_nodelay(true).unwrap();
        let mut lines = BufReader::new(connection).lines();
        while let Some(Ok(first)) = lines.next() {
            let headers: Vec<_> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            self.requests.fetch_add(1, SeqCst);
            if self.hang_up.load(SeqCst) {
                return;
            }
            let range =
                headers.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(String::from));
            let path = first.split(' ').nth(1).unwrap().strip_prefix("/b/").unwrap();
            let Ok(whole) = std::fs::read(self.folder.join(path)) else {
                let body = "<Error><Code>NoSuchKey</Code></Error>";
                write!(connection, "HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
                continue;
            };
            let (status, sent) = match &range {
                None => ("200 OK".into(), &whole[..]),
                Some(range) => {
                    let (from, to) = range.split_once('-').unwrap();
                    let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
                    let status = format!("206 Partial Content\r\ncontent-range: bytes {from}-{to}/{}", whole.len());
                    (status, &whole[from..=to])
                }
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: \"1\"\r\nlast-modified: Mon, 23 Nov 2026 10:00:00 GMT\r\n\r\n",
                sent.len()
            );
            if connection.write_all(&[head.as_bytes(), sent].concat()).is_err() {
                return;
            }
        }
    }
}
