//! The process log: what an operator reads when something changed or broke.
//!
//! Not the access log, and nothing per request above `debug`.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts logging to stderr. `RUST_LOG` filters (default `info`), `WEIR_LOG=json` writes a JSON object a line.
/// A second call changes nothing.
pub fn init() {
    let format = Format::from_env(std::env::var("WEIR_LOG").ok().as_deref());
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr);
    let started = match format {
        Format::Json => registry.with(layer.json()).try_init(),
        Format::Text => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init(),
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was already started");
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

impl Format {
    fn from_env(value: Option<&str>) -> Self {
        if value.is_some_and(|value| value.eq_ignore_ascii_case("json")) { Self::Json } else { Self::Text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_asks_for_json() {
        for (value, format) in [
            (None, Format::Text),
            (Some("json"), Format::Json),
            (Some("JSON"), Format::Json),
            (Some("text"), Format::Text),
        ] {
            assert_eq!(Format::from_env(value), format, "{value:?}");
        }
    }
}
