//! `weir schema`: the configuration's JSON Schema on standard output.

use anyhow::Context;

use crate::config;

/// Prints the schema.
pub(super) fn run() -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(&config::json_schema()).context("the schema cannot be written")?;
    super::print(&format!("{text}\n"))
}
