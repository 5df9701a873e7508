//! `weir drill`: holds a model of a running gateway at a level for a while.

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::args::Drill;

/// No answer of the admin API is longer.
const LONGEST_ANSWER: usize = 1 << 20;

pub(super) fn run(drill: &Drill) -> anyhow::Result<()> {
    super::print(&super::serve::block_on(ask(drill))?)
}

/// What the gateway says of it, a line.
async fn ask(drill: &Drill) -> anyhow::Result<String> {
    let Drill { model, level, time, admin, token } = drill;
    let authority = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
    let encoded = percent_encoding::utf8_percent_encode(model, percent_encoding::NON_ALPHANUMERIC);
    let body = serde_json::json!({"level": level, "for": time}).to_string();
    let mut request = http::Request::post(format!("/admin/v1/levels/{encoded}")).header("host", authority);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Full::new(bytes::Bytes::from(body))).context("--admin or --token")?;
    let unreachable = || format!("no gateway answers at {authority} (its listen.admin)");
    let stream = TcpStream::connect(authority).await.with_context(unreachable)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let (status, said) = tokio::select! {
        answer = exchange => answer.with_context(unreachable)?,
        ended = connection => bail!("{}: {ended:?}", unreachable()),
    };
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
