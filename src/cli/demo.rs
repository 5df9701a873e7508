//! `weir demo`: not in this build.

use super::DemoArgs;

/// Runs the demo.
pub(crate) fn run(_args: DemoArgs) -> anyhow::Result<()> {
    anyhow::bail!("this build has no demo")
}
