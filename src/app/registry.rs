//! The configuration together with Feast's registry: read when Weir starts, and again whenever the registry changes.
//!
//! ```text
//!            changed, and fits            changed, and does not fit │ cannot be fetched
//!   serving A ───────────────► serving B        serving A ──────────────────────► serving A, the reason kept
//! ```
//!
//! The whole file is validated again with the new registry, so that no snapshot exists whose models and views disagree. Requests in
//! flight end on the snapshot they began with. A registry that has come to be another project's does not fit: leases, hot keys, key copies,
//! the DR's counts, predictions and the spool are a project's, and gateways that were at two at once would not hear each other.

use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use bytes::Bytes;

use super::{Tasks, build};
use crate::{
    config::{self, Config, Draft, Loaded, Problems, Supplied},
    features::registry::Source,
    ingress::service::Gateway,
    telemetry::handles::registry::{Outcome, Registry as Handles},
};

/// A file that was read, with the registry that it names.
#[derive(Debug)]
pub struct Configured {
    pub(crate) config: Config,
    /// A line a key: value, default or set, reload class.
    pub(crate) explained: String,
    /// How the registry is followed, where there is one.
    pub(crate) registry: Option<Followed>,
}

/// What it takes to make a configuration of what the registry becomes.
#[derive(Debug)]
pub(crate) struct Followed {
    draft: Arc<Draft>,
    source: Source,
}

impl Configured {
    /// Reads the file at `path`, and the registry.
    ///
    /// # Errors
    /// Everything that is wrong with them. A registry that cannot be fetched is: without it nobody knows what to serve.
    pub async fn load(path: &Path) -> anyhow::Result<Self> {
        let draft = Arc::new(Draft::load(path)?);
        let Some(url) = draft.registry() else {
            let Loaded { config, explained } = draft.finish(Supplied::Nothing("none is named"))?;
            return Ok(Self { config, explained, registry: None });
        };
        let mut source = match Source::open(url) {
            Ok(source) => source,
            Err(error) => return Err(refused(&draft, &error.told())),
        };
        let bytes = match source.fetch_settled().await {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(error) => return Err(refused(&draft, &error.told())),
        };
        let Loaded { config, explained } = finish(&draft, bytes).await??;
        tell(&config.features, "the registry was read");
        Ok(Self { config, explained, registry: Some(Followed { draft, source }) })
    }
}

/// Everything that is wrong with the file, the registry's absence included.
fn refused(draft: &Draft, why: &str) -> anyhow::Error {
    draft
        .finish(Supplied::Nothing(why))
        .map_or_else(anyhow::Error::new, |_| anyhow::anyhow!("features.registry: {why}"))
}

/// Validates on a thread where it may take its time: a large registry is a second's work.
async fn finish(draft: &Arc<Draft>, bytes: Bytes) -> anyhow::Result<Result<Loaded, Problems>> {
    let draft = Arc::clone(draft);
    let finished = tokio::task::spawn_blocking(move || draft.finish(Supplied::Bytes(&bytes))).await;
    finished.context("reading the registry panicked")
}

/// What the last look at the registry came to.
#[derive(Clone)]
pub(super) struct Verdict(Arc<ArcSwap<Seen>>);

struct Seen {
    url: String,
    outcome: Outcome,
    /// Why what is served is not what the registry has.
    reason: Option<String>,
    /// When it came to that.
    since: SystemTime,
}

impl Verdict {
    /// For the admin port.
    pub(super) fn shown(&self) -> serde_json::Value {
        let seen = self.0.load_full();
        let since = seen.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        serde_json::json!({ "url": seen.url, "last": seen.outcome.name(), "reason": seen.reason, "since_unix_seconds": since })
    }

    /// Keeps what a look came to; whether that is news.
    fn note(&self, outcome: Outcome, reason: Option<&str>) -> bool {
        let before = self.0.load_full();
        let news = outcome == Outcome::Changed || before.reason.as_deref() != reason;
        let since = if news { SystemTime::now() } else { before.since };
        self.0.store(Arc::new(Seen { url: before.url.clone(), outcome, reason: reason.map(Into::into), since }));
        news
    }
}

/// What a look at the registry came to.
enum Look {
    Unchanged,
    Changed(Box<Config>),
    Refused(String),
    Unreachable(String),
}

impl Followed {
    /// Looks at the registry every `features.registry_refresh`, and puts a new snapshot in the gateway's place when it changed.
    pub(super) fn follow(self, tasks: &Tasks, gateway: Arc<ArcSwap<Gateway>>) -> Verdict {
        let verdict = Verdict(Arc::new(ArcSwap::from_pointee(Seen {
            url: config::without_password(self.draft.registry().unwrap_or_default()),
            outcome: Outcome::Changed,
            reason: None,
            since: SystemTime::now(),
        })));
        tasks.background(self.watch(gateway, verdict.clone()));
        verdict
    }

    async fn watch(mut self, gateway: Arc<ArcSwap<Gateway>>, verdict: Verdict) {
        let Some(registry) = gateway.load_full().pipeline.config.features.registry.clone() else { return };
        let handles = Handles::new();
        // Why the state seen last is not served; asked about once, it is not read again.
        let mut refused: Option<String> = None;
        loop {
            tokio::time::sleep(registry.refresh).await;
            let project = Arc::clone(&gateway.load_full().pipeline.config.features.project);
            let look = match (self.look(&project).await, &refused) {
                (Look::Unchanged, Some(why)) => Look::Refused(why.clone()),
                (look, _) => look,
            };
            let (outcome, reason) = match look {
                Look::Unchanged => (Outcome::Unchanged, None),
                Look::Changed(config) => {
                    refused = None;
                    swap(&gateway, *config).await;
                    (Outcome::Changed, None)
                }
                Look::Refused(why) => {
                    refused = Some(why.clone());
                    (Outcome::Refused, Some(why))
                }
                Look::Unreachable(why) => (Outcome::Unreachable, Some(why)),
            };
            handles.looked(outcome);
            if verdict.note(outcome, reason.as_deref())
                && let Some(reason) = reason
            {
                tracing::warn!(url = %config::without_password(&registry.url), outcome = outcome.name(), %reason,
                    "the registry serves on as it was before");
            }
        }
    }

    async fn look(&mut self, project: &str) -> Look {
        let bytes = match self.source.fetch_settled().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Look::Unchanged,
            Err(error) => return Look::Unreachable(error.told()),
        };
        match finish(&self.draft, bytes).await {
            Ok(Ok(Loaded { config, .. })) if *config.features.project != *project => Look::Refused(format!(
                "features.registry: of another project than is served; allowed: {project:?} until Weir is restarted, given: {:?}",
                config.features.project
            )),
            Ok(Ok(loaded)) => Look::Changed(Box::new(loaded.config)),
            Ok(Err(problems)) => Look::Refused(problems.to_string()),
            Err(error) => Look::Refused(error.to_string()),
        }
    }
}

/// New requests begin on the new snapshot; those in flight end on theirs.
async fn swap(gateway: &ArcSwap<Gateway>, config: Config) {
    tell(&config.features, "the registry changed");
    let next = build::next(&gateway.load_full(), Arc::new(config)).await;
    gateway.store(Arc::new(next));
}

/// A line for the log.
fn tell(features: &config::Features, what: &'static str) {
    let unserved: Vec<_> = features.unserved.iter().map(|(name, _)| &**name).collect();
    let (views, services) = (features.views.len(), features.services.len());
    tracing::info!(project = %features.project, views, services, unserved = unserved.join(", "), "{what}");
}
