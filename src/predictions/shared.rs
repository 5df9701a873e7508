//! L2: predictions that gateways share, in the Redis of the features.
//!
//! ```text
//!   weir:prediction:PROJECT:HASH    a prediction, for `keep_for`, the newest that was written; on a cluster they spread over all masters
//!   weir:prediction:PROJECT:eras    a hash: for each model whose predictions were dropped, the era's token
//! ```
//!
//! The path asks over the connection that stands, with a short timeout, behind a breaker and with so many requests at once; it never waits
//! for a connection. Writes follow in the background. One task connects, and looks once a second whether another gateway has begun an
//! era. A Redis that is away costs hits, never answers.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::redis::{RedisError, cmd};
use tokio::{sync::Notify, time::Instant};

use super::{
    eras::Eras,
    kept::Kept,
    key::Key,
    stored::{self, Clocks},
};
use crate::{
    config::{self, Config},
    infer::{ModelId, Protocol},
    redis_link::{Connection, Link},
    resilience::{
        breaker::{Breaker, Outcome, Permit, Policy},
        quota::Quota,
    },
    telemetry::handles::breaker::BreakerHandles,
};

/// How often eras are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How long what is no request's may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Writes that may be under way; what comes then is kept here only.
const WRITES: u64 = 256;
/// What the breaker is called.
const TARGET: &str = "l2-predictions";

/// The predictions in Redis.
pub(super) struct Shared {
    link: Link,
    /// Of all keys.
    prefix: String,
    timeout: Duration,
    breaker: Arc<Breaker>,
    handles: Arc<BreakerHandles>,
    reads: Quota,
    writes: Quota,
    /// By model; `None`: nothing is kept of it.
    models: Box<[Option<Told>]>,
    /// Rung when an era began here.
    bell: Notify,
    /// Whether the eras were heard of at the last look: until then, what lies there may be of an era that is over.
    knows_eras: AtomicBool,
}

/// A model, and whether the others were told of its last era.
struct Told {
    name: Arc<str>,
    is_news: AtomicBool,
}

/// Why there is no word of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoWord;

impl Shared {
    /// Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// A URL that is none, or authorities that cannot be read.
    pub(super) fn new(config: &config::SharedPredictions, whole: &Config) -> Result<Self, RedisError> {
        let handles = Arc::new(BreakerHandles::new(TARGET));
        let told = Arc::clone(&handles);
        let breaker = Breaker::new(Policy::from(&config.breaker), move |transition| told.tell(transition));
        let told = |model: &config::Model| {
            model.cache.is_some().then(|| Told { name: model.name.clone(), is_news: AtomicBool::new(false) })
        };
        Ok(Self {
            link: Link::new(&config.redis, PATIENCE)?,
            prefix: format!("weir:prediction:{}", config.project),
            timeout: config.redis.timeout,
            breaker,
            handles,
            reads: Quota::new(u64::from(config.redis.max_in_flight)),
            writes: Quota::new(WRITES),
            models: whole.models.iter().map(told).collect(),
            bell: Notify::new(),
            knows_eras: AtomicBool::new(false),
        })
    }

    /// Writes what is only known at the moment it is asked for: how long the breaker stays open.
    pub(super) fn show(&self, now: Instant) {
        self.handles.time_left(self.breaker.time_left(now));
    }

    /// Reads a prediction, by `until` and within the store's timeout.
    ///
    /// # Errors
    ///
    /// Nothing is known: no connection, no answer in time, no place, an open breaker.
    pub(super) async fn get(&self, key: &Key, protocol: Protocol, until: Instant) -> Result<Option<Kept>, NoWord> {
        let connection = self.connection().ok_or(NoWord)?;
        let pass = Pass::new(&self.reads, &self.breaker)?;
        let asked = self.read(&connection, key);
        let answer = tokio::time::timeout_at(until.min(Instant::now() + self.timeout), asked).await;
        let bytes = match answer {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                self.link.heed(&connection, &error);
                pass.record(Outcome::Failure);
                return Err(NoWord);
            }
            Err(_) => {
                pass.record(Outcome::Failure);
                return Err(NoWord);
            }
        };
        pass.record(Outcome::Success);
        let Some(bytes) = bytes else { return Ok(None) };
        stored::decode(bytes, protocol, Clocks::now()).map(Some).ok_or(NoWord)
    }

    fn connection(&self) -> Option<Arc<Connection>> {
        self.link.standing().filter(|_| self.knows_eras.load(Ordering::Acquire))
    }

    async fn read(&self, connection: &Connection, key: &Key) -> Result<Option<Vec<u8>>, RedisError> {
        cmd("GET").arg(self.key(key)).query_async(&mut connection.clone()).await
    }

    fn key(&self, key: &Key) -> String {
        format!("{}:{}", self.prefix, key.hex())
    }

    /// Writes a prediction under its keys, for as long as it may stand in, where none that was asked for later is; not where too much is
    /// being written, or nobody is there.
    pub(super) async fn set(&self, keys: Vec<Key>, kept: Arc<Kept>, keep_for: Duration) {
        let Ok(pass) = Pass::new(&self.writes, &self.breaker) else { return };
        let Some(connection) = self.connection() else { return };
        let clocks = Clocks::now();
        let left = u64::try_from(keep_for.saturating_sub(kept.age(clocks.now)).as_millis()).unwrap_or(u64::MAX);
        if left == 0 {
            return;
        }
        let bytes = stored::encode(&kept, clocks);
        let mut outcome = Outcome::Success;
        for key in keys {
            let set = stored::set(&self.key(&key), &bytes, (clocks, left));
            let done = tokio::time::timeout(PATIENCE, set.exec_async(&mut Connection::clone(&connection))).await;
            if let Ok(Err(error)) = &done {
                self.link.heed(&connection, error);
            }
            if !matches!(done, Ok(Ok(()))) {
                outcome = Outcome::Failure;
            }
        }
        pass.record(outcome);
    }

    /// Whether Redis answered at the last look.
    pub(super) fn knows_eras(&self) -> bool {
        self.knows_eras.load(Ordering::Acquire)
    }

    /// The model's era began here: the others are to be told.
    pub(super) fn tell(&self, model: ModelId) {
        if let Some(told) = &self.models[model.index()] {
            told.is_news.store(true, Ordering::Release);
            self.bell.notify_one();
        }
    }

    /// Connects, tells of eras and hears of others'; for as long as it is polled.
    pub(super) async fn tend(&self, eras: &Eras, heard: impl Fn(ModelId)) {
        loop {
            let looked = self.look(eras, &heard).await;
            self.knows_eras.store(looked.is_ok(), Ordering::Release);
            if let Err(error) = looked {
                tracing::debug!(%error, "predictions in Redis cannot be looked at");
            }
            // Who has news does not wait.
            let _ = tokio::time::timeout(EVERY, self.bell.notified()).await;
        }
    }

    async fn look(&self, eras: &Eras, heard: &impl Fn(ModelId)) -> Result<(), RedisError> {
        let connection = self.link.connection().await?;
        let looked = self.look_over(&mut Connection::clone(&connection), eras, heard).await;
        looked.inspect_err(|error| self.link.heed(&connection, error))
    }

    async fn look_over(
        &self,
        connection: &mut Connection,
        eras: &Eras,
        heard: &impl Fn(ModelId),
    ) -> Result<(), RedisError> {
        let key = format!("{}:eras", self.prefix);
        for (model, told) in self.kept() {
            if told.is_news.swap(false, Ordering::AcqRel) {
                let mut tell = cmd("HSET");
                tell.arg(&key).arg(&*told.name).arg(eras.now(model).token);
                let done = tell.exec_async(connection).await;
                done.inspect_err(|_| told.is_news.store(true, Ordering::Release))?;
            }
        }
        let found: HashMap<String, u64> = cmd("HGETALL").arg(&key).query_async(connection).await?;
        for (model, told) in self.kept() {
            let known = eras.now(model).token;
            match found.get(&*told.name) {
                // Meanwhile it began another here.
                _ if told.is_news.load(Ordering::Acquire) => {}
                Some(token) if *token != known => {
                    eras.begin(model, *token);
                    heard(model);
                }
                // Redis lost it, but perhaps not the predictions from before.
                None if known != 0 => self.tell(model),
                _ => {}
            }
        }
        Ok(())
    }

    fn kept(&self) -> impl Iterator<Item = (ModelId, &Told)> {
        let models = (0..).map(ModelId).zip(&self.models);
        models.filter_map(|(id, told)| Some((id, told.as_ref()?)))
    }
}

/// Leave to make a request. Dropped without an outcome, it says nothing of Redis.
struct Pass<'a> {
    permit: Permit,
    _place: Place<'a>,
}

struct Place<'a>(&'a Quota);

impl<'a> Pass<'a> {
    fn new(places: &'a Quota, breaker: &Arc<Breaker>) -> Result<Self, NoWord> {
        let place = places.enter().then(|| Place(places)).ok_or(NoWord)?;
        let permit = breaker.admit(Instant::now()).map_err(|_| NoWord)?;
        Ok(Self { permit, _place: place })
    }

    fn record(self, outcome: Outcome) {
        self.permit.record(outcome, Instant::now());
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, telemetry::scratch};

    #[tokio::test]
    async fn an_open_breaker_says_how_long_it_is_at_the_moment_it_is_asked() {
        let whole = fixture::config();
        let redis = fixture::redis(vec![config::Secret("redis://127.0.0.1:1".into())]);
        let config = config::SharedPredictions { redis, breaker: whole.features.breaker.clone(), project: "p".into() };
        let (shared, scrape) = scratch(|| Shared::new(&config, &whole).unwrap());
        let now = Instant::now();
        for _ in 0..config.breaker.failure_threshold {
            shared.breaker.admit(now).ok().unwrap().record(Outcome::Failure, now);
        }
        for (later, left) in [(0, 30), (10, 20), (40, 0)] {
            shared.show(now + Duration::from_secs(later));
            let line = format!("weir_breaker_open_seconds{{target=\"l2-predictions\"}} {left}\n");
            assert!(scrape.render().contains(&line), "{line}{}", scrape.render());
        }
    }
}
