//! One look at an exporter's page. Plain HTTP, over a connection that is kept; the caller sets the time.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header, uri::PathAndQuery};

use super::{PATIENCE, page::fullest};
use crate::{
    config,
    predict::{
        body::{self, AnswerStream, Held, RequestBody},
        health::describe,
        http1::{self, Idle},
    },
};

/// Longest page that is read.
const LONGEST_PAGE: usize = 1 << 20;

/// How full the page's fullest GPU is.
///
/// # Errors
///
/// Why that is not known, for people.
pub(super) async fn scrape(source: &config::Gpu, idle: &Arc<Idle>) -> Result<f64, String> {
    let lease = http1::lease(idle, &source.server, PATIENCE).await.map_err(|error| error.to_string())?;
    let page = page(source, lease).await?;
    fullest(&page).ok_or_else(|| {
        format!("{} tells of no GPU memory in the terms of DCGM's exporter, Triton or vLLM", source.path)
    })
}

async fn page(source: &config::Gpu, mut lease: http1::Lease) -> Result<bytes::Bytes, String> {
    let path = PathAndQuery::try_from(&*source.path).map_err(|error| error.to_string())?;
    let host = HeaderValue::try_from(&*source.server.authority).map_err(|error| error.to_string())?;
    let headers = HeaderMap::from_iter([
        (header::USER_AGENT, HeaderValue::from_static("weir")),
        (header::ACCEPT, HeaderValue::from_static("text/plain;version=0.0.4")),
    ]);
    let request =
        http1::Request { verb: &Method::GET, path: &path, host: &host, headers: &headers, own: &[], numbers: &[] };
    let (status, _) = lease.send(&request, RequestBody::Whole(None)).await.map_err(describe)?;
    if status != StatusCode::OK {
        return Err(format!("{} answered {status}", source.path));
    }
    let source = body::Source::Http1(Some(lease));
    let stream = AnswerStream { head: Default::default(), source, guards: (None, None), limit: None };
    match stream.hold(LONGEST_PAGE).await.map_err(describe)? {
        Held::Whole(page, _) => Ok(page),
        Held::Longer(_) => Err(format!("the page is longer than {LONGEST_PAGE} bytes")),
    }
}
