//! `weir offline`: not in this build.

use crate::config::Config;

/// Builds a view's lookup files.
pub(crate) fn build(_config: Config, _view: &str, _from: &str, _to: &str) -> anyhow::Result<()> {
    anyhow::bail!("this build makes no lookup files")
}
