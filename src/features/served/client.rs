//! HTTP/1.1 to feature servers: a pool of connections that belongs to one worker, so that an answer wakes no other core.
//!
//! The pool is hyper's own; it sends a request again that an idle connection's end kept from going out, and nothing else. How long an
//! answer may take is the caller's to say: dropped, a request under way closes its connection.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use crate::{features::chain, infer::headers::WEIR_TIMEOUT};

/// Shorter than servers keep an idle connection: Feast's 30 s, Weir's 60 s.
const IDLE: Duration = Duration::from_secs(20);

/// Idle connections that a worker keeps to one server.
const MOST_IDLE: usize = 64;

/// After this long without traffic the kernel asks whether the peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// The longest answer: some hundred keys of a wide view with long values.
const LONGEST: usize = 64 << 20;

/// A worker's connections.
#[derive(Debug)]
pub(super) struct Client(Pool<HttpConnector, Full<Bytes>>);

impl Client {
    /// Connections are made on the runtime that asks.
    pub(super) fn new(connect_timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_connect_timeout(Some(connect_timeout));
        let mut pool = Pool::builder(TokioExecutor::new());
        pool.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).pool_max_idle_per_host(MOST_IDLE);
        Self(pool.build(connector))
    }

    /// Sends JSON. `wait`: how long the answer is of use, for a server that heeds it.
    ///
    /// # Errors
    ///
    /// In words: no connection, one that broke, an answer that is too long.
    pub(super) async fn post(&self, uri: &Uri, json: Bytes, wait: Duration) -> Result<Response<Bytes>, String> {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        let request = Request::post(uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(WEIR_TIMEOUT, millis)
            .body(Full::new(json))
            .expect("its parts are checked");
        let (head, body) = self.0.request(request).await.map_err(|error| chain(&error))?.into_parts();
        Ok(Response::from_parts(head, whole(body).await?))
    }

    /// Asks for nothing but a status.
    ///
    /// # Errors
    ///
    /// As [`Client::post`].
    pub(super) async fn get(&self, uri: &Uri) -> Result<StatusCode, String> {
        let request = Request::get(uri.clone()).body(Full::default()).expect("its parts are checked");
        let answer = self.0.request(request).await.map_err(|error| chain(&error))?;
        let status = answer.status();
        // A connection whose answer was not read to its end is not used again.
        whole(answer.into_body()).await?;
        Ok(status)
    }
}

/// A body, if it is not too long.
async fn whole(mut body: Incoming) -> Result<Bytes, String> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| chain(&error))?.into_data() else { continue };
        if whole.len() + data.len() > LONGEST {
            return Err(format!("the answer is longer than {} MiB", LONGEST >> 20));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}
