//! `weir serve`: not in this build.

use std::path::Path;

/// Runs the gateway.
pub(crate) fn run(_path: &Path) -> anyhow::Result<()> {
    anyhow::bail!("this build cannot serve")
}
