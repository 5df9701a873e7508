//! What is kept of a request once it is answered: its counts, and its line in the access log.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::StatusCode;
use tokio::time::Instant;

use super::{encode, status};
use crate::{
    config::Config,
    infer::{Answer, Error, Kind, Level, ModelId, Protocol, RequestId, TierId},
    resilience::seldom::Seldom,
    telemetry::{
        access,
        handles::path::{ModelHandles, OTHER, PathHandles},
    },
};

/// Where requests are recorded.
pub(crate) struct Records {
    config: Arc<Config>,
    handles: Arc<PathHandles>,
    /// Shared by all snapshots.
    log: Arc<access::Log>,
    /// When it was last said, by model, that requests get no answer. Shared as well.
    incidents: Arc<[Seldom]>,
}

/// A request being answered. Dropped without an end, the caller went away.
pub(super) struct Call<'a> {
    records: &'a Records,
    model: Option<ModelId>,
    tier: Option<TierId>,
    protocol: Protocol,
    began: Instant,
    ended: bool,
}

impl Records {
    pub(crate) fn new(config: &Arc<Config>, handles: Arc<PathHandles>, log: access::Log) -> Self {
        let now = Instant::now();
        let incidents = config.models.iter().map(|_| Seldom::new(now)).collect();
        Self { config: config.clone(), handles, log: Arc::new(log), incidents }
    }

    /// The same log and counts, for what the config has become; its models and tiers are the same.
    pub(crate) fn next(&self, config: &Arc<Config>) -> Self {
        let (handles, log) = (Arc::clone(&self.handles), Arc::clone(&self.log));
        Self { config: config.clone(), handles, log, incidents: Arc::clone(&self.incidents) }
    }

    /// The access log, where it is on.
    pub(super) fn log(&self) -> Option<&access::Log> {
        Some(&*self.log).filter(|log| log.enabled())
    }

    /// Begins a request that arrived at `began`; `None`: for a model that is not configured.
    pub(super) const fn begin(&self, model: Option<ModelId>, protocol: Protocol, began: Instant) -> Call<'_> {
        Call { records: self, model, tier: None, protocol, began, ended: false }
    }
}

impl Call<'_> {
    /// Learns the tier, which the caller may have lowered.
    pub(super) const fn runs_under(&mut self, tier: TierId) {
        self.tier = Some(tier);
    }

    /// Counts how it ended, once the answer is ready to be sent.
    pub(super) fn end(mut self, id: &RequestId, outcome: Result<&Answer, &Error>) {
        self.ended = true;
        let took = self.began.elapsed();
        let (status, level) = match outcome {
            Ok(answer) if is_receipt(answer) => (StatusCode::ACCEPTED, answer.level),
            Ok(answer) => (encode::status_of(answer, self.protocol), answer.level),
            Err(error) => {
                let row = status::of(error.kind());
                (row.http, row.level)
            }
        };
        self.count(status, took);
        match outcome {
            // Neither an answer nor an error: there is a status for it, and `weir_spool_requests_total`.
            Ok(answer) if is_receipt(answer) => {}
            Ok(answer) => self.count_answer(level, took, answer.timings.model),
            Err(error) => {
                if level == Level::Reject {
                    self.handles().answered(level);
                }
                self.tell(error);
            }
        }
        if self.records.log.enabled() {
            self.write(id, (status, level, took), outcome.map(Some));
        }
    }

    /// Counts one that is told what the same bytes were told before.
    pub(super) fn end_as_before(mut self, id: &RequestId) {
        self.ended = true;
        let (took, status, level) = (self.began.elapsed(), StatusCode::OK, Level::Full);
        self.count(status, took);
        self.count_answer(level, took, Duration::ZERO);
        if self.records.log.enabled() {
            self.write(id, (status, level, took), Ok(None));
        }
    }

    fn handles(&self) -> &ModelHandles {
        self.records.handles.model(self.model)
    }

    fn count(&self, status: StatusCode, took: Duration) {
        self.handles().request(self.protocol, status);
        self.handles().took(took);
    }

    fn count_answer(&self, level: Level, took: Duration, at_the_model: Duration) {
        self.handles().answered(level);
        self.handles().added(took, at_the_model);
    }

    /// Says that nothing could answer a request: a model whose requests get no answer is an incident. One that its tier refused
    /// got what the tier's limits are for.
    fn tell(&self, error: &Error) {
        let row = status::of(error.kind());
        let Some(model) = self.model.filter(|_| row.level == Level::Reject && error.kind() != Kind::Shed) else {
            return;
        };
        if self.records.incidents[model.index()].is_due(Instant::now()) {
            let (model, status) = (&self.records.config.model(model).name, row.http.as_u16());
            tracing::error!(%model, status, reason = %error, "a request got no answer (level 4); further ones are counted only");
        }
    }

    fn write(
        &self,
        id: &RequestId,
        (status, level, took): (StatusCode, Level, Duration),
        outcome: Result<Option<&Answer>, &Error>,
    ) {
        let config = &self.records.config;
        let model = self.model.map(|model| config.model(model));
        let tier = self.tier.or(model.map(|model| model.tier));
        let answer = outcome.ok().flatten();
        let timings = answer.map(|answer| answer.timings).unwrap_or_default();
        let degraded = answer.filter(|answer| !answer.degraded.is_empty());
        let degraded = degraded.map(|answer| encode::degraded_text(&answer.degraded));
        let error = outcome.err().map(ToString::to_string);
        self.records.log.write(&access::Record {
            time_ms: now_ms(),
            request_id: &id.to_string(),
            protocol: self.protocol.name(),
            endpoint: None,
            model: Some(model.map_or(OTHER, |model| &*model.name)),
            tier: Some(tier.map_or("", |tier| &*config.tiers[tier.index()].name)),
            status: status.as_u16(),
            level: level as u8,
            degraded: degraded.as_deref(),
            duration_us: micros(took),
            queue_us: Some(micros(timings.queue)),
            features_us: Some(micros(timings.features)),
            model_us: Some(micros(timings.model)),
            error: error.as_deref(),
        });
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.count(status::of(Kind::Cancelled).http, self.began.elapsed());
        }
    }
}

/// Whether it only says that the request is kept for later (`later`): nothing else comes as an answer at level 4. Over gRPC, which has no
/// 202, it reads as an error, and is none.
fn is_receipt(answer: &Answer) -> bool {
    answer.level == Level::Reject
}

/// Milliseconds since the epoch.
pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
