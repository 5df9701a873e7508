//! The configuration together with Feast's registry: read when Weir starts, and again whenever the registry changes.
//!
//! ```text
//!            changed, and fits            changed, and does not fit │ cannot be fetched
//!   serving A ───────────────► serving B        serving A ──────────────────────► serving A, the reason kept
//! ```
//!
//! The whole file is validated again with the new registry, so that no snapshot exists whose models and views disagree. Requests in
//! flight end on the snapshot they began with.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use bytes::Bytes;

use crate::{
    config::{Config, Draft, Loaded, Problems, Supplied},
    features::registry::Source,
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
        let bytes = match source.fetch().await {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(error) => return Err(refused(&draft, &error.told())),
        };
        let Loaded { config, explained } = finish(&draft, bytes).await??;
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
