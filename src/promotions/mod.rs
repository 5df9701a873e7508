//! Promotions in MLflow's model registry, which end what is kept of a model's predictions.
//!
//! ```text
//!   MLflow ── webhook ──► deliver: signature ─► time ─► seen before? ─► event ──┐
//!      ▲                                                                        ├─► predictions of that model dropped
//!      └── every `reconcile_every`: aliases ─► not as they were last heard of ──┘
//! ```
//!
//! A delivery may be lost (MLflow gives up after a few seconds, and tells only one gateway), so the registry is looked at too. What one
//! gateway drops, others that share predictions drop with it (`predictions::eras`); who finds the same promotion by looking begins the
//! same era, so a promotion costs hits once and not once a gateway. The first look only learns: what a restart missed of a promotion,
//! `ttl` ends.
//!
//! Not done here: knowing when the pool serves the new version. The registry says what is to be served; what the old version answers
//! until the rollout is over is kept under the new era.

mod event;
mod seen;
mod server;
mod signature;
#[cfg(test)]
mod tests;
mod versions;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::{Instant, sleep};

use self::{
    event::{Alias, Event},
    seen::Seen,
    server::{Error, Server},
    signature::Signer,
    versions::{Aliases, Versions, cause},
};
use crate::{
    config::{Config, Mlflow},
    infer::ModelId,
    predictions::Predictions,
    telemetry::handles::promotions::{Delivered, Looked, PromotionsHandles},
};

/// The longest id of a delivery: MLflow's are UUIDs.
const LONGEST_ID: usize = 128;

/// What hears of promotions. Lives as long as the process.
pub struct Promotions {
    mlflow: Option<Mlflow>,
    /// By registered name, the models that are it.
    models: BTreeMap<Arc<str>, Vec<Model>>,
    signer: Option<Signer>,
    seen: Mutex<Seen>,
    known: Mutex<Known>,
    predictions: Arc<Predictions>,
    handles: PromotionsHandles,
}

struct Model {
    id: ModelId,
    name: Arc<str>,
}

/// What looks found, and in which era a model's predictions were then.
#[derive(Default)]
struct Known {
    versions: Versions,
    eras: BTreeMap<u32, u64>,
}

/// A request to the webhook.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery<'a> {
    pub(crate) id: &'a str,
    /// Seconds since the epoch.
    pub(crate) timestamp: &'a str,
    pub(crate) signature: &'a str,
    pub(crate) body: &'a [u8],
}

/// What was done about a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The predictions of `dropped` answer nobody any more; nothing was kept of `not_kept`.
    Promoted { registered: String, dropped: Vec<Arc<str>>, not_kept: Vec<Arc<str>> },
    /// Nothing, for this reason.
    Ignored(String),
    /// Nothing: it came before.
    Duplicate,
}

/// Why a delivery is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Nobody can sign one.
    #[error("no webhook is configured; set mlflow.secret to the webhook's secret")]
    Unconfigured,
    /// Somebody else sent it, or it was changed on the way.
    #[error(
        "not signed with mlflow.secret: x-mlflow-signature is no HMAC of x-mlflow-delivery-id, x-mlflow-timestamp and the body"
    )]
    Unsigned,
    /// It may be a replay.
    #[error("x-mlflow-timestamp is more than mlflow.tolerance ({} s) from this machine's clock", .0.as_secs())]
    Late(Duration),
    /// It is signed all the same.
    #[error("not a delivery of MLflow's: {0}")]
    Malformed(String),
}

impl Promotions {
    /// Heard of nothing yet.
    pub fn new(config: &Config, predictions: Arc<Predictions>) -> Self {
        let mlflow = config.mlflow.clone();
        let mut models = BTreeMap::<_, Vec<_>>::new();
        // An ensemble is nothing that is registered: its members are.
        for (id, model) in (0..).map(ModelId).zip(&config.models).filter(|(_, model)| model.ensemble.is_none()) {
            models.entry(Arc::clone(&model.registered)).or_default().push(Model { id, name: Arc::clone(&model.name) });
        }
        let secret = mlflow.as_ref().and_then(|mlflow| mlflow.secret.as_ref());
        let tolerance = mlflow.as_ref().map_or(Duration::ZERO, |mlflow| mlflow.tolerance);
        Self {
            signer: secret.map(|secret| Signer::new(&secret.0)),
            // A timestamp may be ahead by as much as behind.
            seen: Mutex::new(Seen::new(2 * tolerance)),
            known: Mutex::default(),
            mlflow,
            models,
            predictions,
            handles: PromotionsHandles::new(),
        }
    }

    /// Hears a delivery of the webhook; from its return on, nothing that was kept before answers.
    ///
    /// # Errors
    ///
    /// It is not MLflow's, or not of now.
    pub(crate) fn deliver(&self, delivery: Delivery<'_>, wall: SystemTime) -> Result<Heard, Refused> {
        let heard = self.hear(delivery, wall);
        let outcome = match &heard {
            Ok(Heard::Promoted { registered, dropped, .. }) => {
                let models = dropped.join(", ");
                tracing::info!(
                    registered,
                    models,
                    delivery = delivery.id,
                    "MLflow tells of a promotion: predictions dropped"
                );
                if dropped.is_empty() { Delivered::Ignored } else { Delivered::Dropped }
            }
            Ok(Heard::Ignored(_)) => Delivered::Ignored,
            Ok(Heard::Duplicate) => Delivered::Duplicate,
            Err(Refused::Unconfigured) => return heard,
            Err(Refused::Unsigned) => Delivered::Unsigned,
            Err(Refused::Late(_)) => Delivered::Late,
            Err(Refused::Malformed(_)) => Delivered::Malformed,
        };
        self.handles.delivered(outcome);
        heard
    }

    fn hear(&self, delivery: Delivery<'_>, wall: SystemTime) -> Result<Heard, Refused> {
        let (Some(signer), Some(mlflow)) = (&self.signer, &self.mlflow) else { return Err(Refused::Unconfigured) };
        if delivery.id.len() > LONGEST_ID || !signer.made(&delivery) {
            return Err(Refused::Unsigned);
        }
        if !is_near(delivery.timestamp, wall, mlflow.tolerance) {
            return Err(Refused::Late(mlflow.tolerance));
        }
        let event = Event::read(delivery.body).map_err(|error| Refused::Malformed(error.to_string()))?;
        if !lock(&self.seen).is_new(delivery.id, Instant::now()) {
            return Ok(Heard::Duplicate);
        }
        Ok(match event {
            Event::Alias(alias) => self.promoted(mlflow, alias),
            Event::Test => Heard::Ignored("a test: nothing is dropped".to_owned()),
            Event::Other => Heard::Ignored("only what is done to an alias is a promotion".to_owned()),
        })
    }

    fn promoted(&self, mlflow: &Mlflow, alias: Alias) -> Heard {
        let Alias { name, alias, version } = alias;
        if !mlflow.counts(&alias) {
            return Heard::Ignored(format!("alias {alias:?} is not one of mlflow.aliases"));
        }
        let Some(models) = self.models.get(name.as_str()) else {
            return Heard::Ignored(format!(
                "no model here is registered as {name:?}; models.*.registered_model says which is"
            ));
        };
        let cause = cause(&name, &alias, version.as_deref());
        // Before predictions are dropped: a look in between finds it once more, rather than not at all.
        lock(&self.known).versions.told(&name, &alias, version.as_deref());
        let (kept, not_kept): (Vec<_>, Vec<_>) = models.iter().partition(|model| self.predictions.are_kept(model.id));
        kept.iter().for_each(|model| self.predictions.drop_because(model.id, &cause));
        let names = |models: Vec<&Model>| models.into_iter().map(|model| Arc::clone(&model.name)).collect();
        Heard::Promoted { registered: name, dropped: names(kept), not_kept: names(not_kept) }
    }

    /// Looks at the registry again and again, for as long as it is polled. What fails costs a line in the log, once until it is well again.
    pub async fn reconcile(&self) {
        let Some(config) = self.mlflow.as_ref().and_then(|mlflow| mlflow.server.as_ref()) else { return };
        let server = match Server::new(config) {
            Ok(server) => server,
            Err(error) => return tracing::error!(%error, "MLflow cannot be asked: promotions are not looked for"),
        };
        let mut told = Told::default();
        loop {
            let mut failed = None;
            for name in self.watched() {
                if let Err(error) = self.look(&server, name, &mut told).await {
                    failed = Some(error);
                }
            }
            told.round(failed.as_ref(), &config.url);
            // Gateways that were started together do not ask together.
            sleep(config.every.mul_f64(rand::random_range(0.9..1.1))).await;
        }
    }

    /// The registered models whose predictions are kept.
    fn watched(&self) -> impl Iterator<Item = &str> {
        let kept = |models: &Vec<Model>| models.iter().any(|model| self.predictions.are_kept(model.id));
        self.models.iter().filter(move |(_, models)| kept(models)).map(|(name, _)| &**name)
    }

    async fn look(&self, server: &Server, name: &str, told: &mut Told) -> Result<(), Error> {
        let found = server.aliases(name).await.inspect_err(|_| self.handles.looked(Looked::Failed))?;
        told.model(name, found.is_some());
        let changed = self.looked(name, found.unwrap_or_default());
        self.handles.looked(if changed { Looked::Changed } else { Looked::Unchanged });
        Ok(())
    }

    /// Takes what a look found; whether anything was promoted.
    fn looked(&self, name: &str, mut found: Aliases) -> bool {
        if let Some(mlflow) = &self.mlflow {
            found.retain(|alias, _| mlflow.counts(alias));
        }
        let mut known = lock(&self.known);
        let causes = known.versions.looked(name, found);
        for model in self.models.get(name).into_iter().flatten().filter(|model| self.predictions.are_kept(model.id)) {
            let since = known.eras.get(&model.id.0).copied();
            self.follow(model, &causes, since);
            known.eras.insert(model.id.0, self.predictions.era(model.id));
        }
        !causes.is_empty()
    }

    /// Drops what is kept of a model because of promotions, unless another gateway did so since the last look.
    fn follow(&self, model: &Model, causes: &[String], since: Option<u64>) {
        let is_done =
            since.is_some_and(|era| self.predictions.follows(model.id, era, causes.iter().map(String::as_str)));
        if causes.is_empty() || is_done {
            return;
        }
        causes.iter().for_each(|cause| self.predictions.drop_because(model.id, cause));
        let promotions = causes.join(", ");
        tracing::info!(model = &*model.name, promotions, "MLflow's registry has changed: predictions dropped");
    }
}

/// What was said of looks that failed.
#[derive(Default)]
struct Told {
    is_failing: bool,
    missing: Vec<String>,
}

impl Told {
    fn round(&mut self, failed: Option<&Error>, url: &str) {
        match (failed, self.is_failing) {
            (Some(error), false) => {
                let reason = std::error::Error::source(error).map(ToString::to_string);
                tracing::warn!(url, %error, reason, "MLflow cannot be asked: promotions that its webhook does not tell are not noticed");
            }
            (None, true) => tracing::info!(url, "MLflow answers again"),
            _ => {}
        }
        self.is_failing = failed.is_some();
    }

    fn model(&mut self, name: &str, is_there: bool) {
        let told = self.missing.iter().position(|missing| missing == name);
        match (is_there, told) {
            (false, None) => {
                tracing::warn!(
                    registered_model = name,
                    "MLflow has no such registered model; models.*.registered_model says what a model is called there"
                );
                self.missing.push(name.to_owned());
            }
            (true, Some(at)) => drop(self.missing.swap_remove(at)),
            _ => {}
        }
    }
}

/// Reads any bytes as a webhook's body; for fuzzing. Whether they are one.
#[doc(hidden)]
#[must_use]
pub fn read_any(bytes: &[u8]) -> bool {
    Event::read(bytes).is_ok()
}

/// Whether a timestamp, in seconds since the epoch, is no further from now than that.
fn is_near(timestamp: &str, wall: SystemTime, tolerance: Duration) -> bool {
    let now = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    timestamp.parse::<u64>().is_ok_and(|at| now.abs_diff(at) <= tolerance.as_secs())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
