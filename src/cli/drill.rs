//! `weir drill`: holds a model of a running gateway at a level for a while.

use anyhow::bail;
use http::Method;

use super::{admin::Gateway, args::Drill};

pub(super) fn run(drill: &Drill) -> anyhow::Result<()> {
    super::print(&super::serve::block_on(ask(drill))?)
}

/// What the gateway says of it, a line.
async fn ask(drill: &Drill) -> anyhow::Result<String> {
    let Drill { model, level, time, admin, token } = drill;
    let authority = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
    let encoded = percent_encoding::utf8_percent_encode(model, percent_encoding::NON_ALPHANUMERIC);
    let body = serde_json::json!({"level": level, "for": time}).to_string();
    let gateway = Gateway { authority, token: token.as_deref() };
    let (status, said) = gateway.ask(Method::POST, &format!("/admin/v1/levels/{encoded}"), body.into()).await?;
    let said = String::from_utf8_lossy(&said);
    if !status.is_success() {
        bail!("refused ({status}): {}", reason(&said));
    }
    Ok(format!("{model}: {said}\n"))
}

/// The text under `error`, where there is one.
fn reason(said: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(said).unwrap_or_default();
    value["error"].as_str().unwrap_or(said).to_owned()
}
