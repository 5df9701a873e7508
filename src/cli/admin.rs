//! One request to the admin port of a running gateway.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// How long a gateway has for an answer: it only looks into its memory, or into the spool.
const PATIENCE: Duration = Duration::from_secs(5);
/// No answer that is read is longer.
const LONGEST_ANSWER: usize = 256 << 20;

/// Where the admin port is, and what lets one in from elsewhere.
pub(super) struct Gateway<'a> {
    /// `host:port`
    pub(super) authority: &'a str,
    pub(super) token: Option<&'a str>,
}

impl Gateway<'_> {
    /// Asks it, with a body where there is one.
    ///
    /// # Errors
    ///
    /// Nobody answers there, or not in HTTP, or not in time.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
        let late = || format!("no gateway answered at {} (its listen.admin) within {PATIENCE:?}", self.authority);
        timeout(PATIENCE, self.exchange(method, path, body)).await.with_context(late)?
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
        let unreachable = || format!("no gateway answers at {} (its listen.admin)", self.authority);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().context("the path")?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, HeaderValue::from_str(self.authority).context("the admin address")?);
        if let Some(token) = self.token {
            let bearer = HeaderValue::from_str(&format!("Bearer {token}")).context("the token")?;
            headers.insert(header::AUTHORIZATION, bearer);
        }
        let stream = TcpStream::connect(self.authority).await.with_context(unreachable)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            #[expect(clippy::disallowed_methods, reason = "within a limit")]
            let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
            anyhow::Ok((status, body.map_err(|error| anyhow!(error))?.to_bytes()))
        };
        tokio::select! {
            answer = exchange => answer.with_context(unreachable),
            ended = connection => bail!("{}: {ended:?}", unreachable()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_says_nothing_is_not_waited_for_forever() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = silent.local_addr().unwrap().to_string();
        let gateway = Gateway { authority: &authority, token: None };
        let error = gateway.ask(Method::GET, "/admin/v1/levels", Bytes::new()).await.unwrap_err();
        assert!(error.to_string().ends_with("(its listen.admin) within 5s"), "{error:#}");
    }
}
