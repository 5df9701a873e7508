//! The floor: the least a proxy on hyper can do. Every microsecond above it is a feature's.
//!
//! One current-thread runtime, a pool of HTTP/1 connections, each polled in the task of the request that holds it, so that a
//! request costs no wake-up between tasks. A pooled connection is polled before reuse. There is no routing, no deadline, no
//! retry, no header rewriting, no metric and no limit.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1::{self as client, Connection, SendRequest},
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// Forwards everything to `upstream` until the process is stopped.
pub(crate) async fn serve(address: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let pool = Pool { upstream, idle: Arc::default() };
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pool = pool.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| forward(request, pool.clone()));
            // A client that goes away takes its own request with it and nothing else.
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[derive(Clone)]
struct Pool {
    upstream: SocketAddr,
    idle: Arc<Mutex<Vec<Upstream>>>,
}

struct Upstream {
    sender: SendRequest<Incoming>,
    connection: Connection<TokioIo<TcpStream>, Incoming>,
}

impl Pool {
    async fn checkout(&self) -> Result<Upstream> {
        while let Some(mut pooled) = self.pop() {
            let closed = poll_fn(|cx| Poll::Ready(Pin::new(&mut pooled.connection).poll(cx).is_ready())).await;
            if !closed && pooled.sender.is_ready() {
                return Ok(pooled);
            }
        }
        let stream = TcpStream::connect(self.upstream).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = client::handshake(TokioIo::new(stream)).await?;
        Ok(Upstream { sender, connection })
    }

    fn pop(&self) -> Option<Upstream> {
        self.idle.lock().expect("nothing panics while holding it").pop()
    }

    fn push(&self, upstream: Upstream) {
        self.idle.lock().expect("nothing panics while holding it").push(upstream);
    }
}

async fn forward(request: Request<Incoming>, pool: Pool) -> Result<Response<Relayed>> {
    let mut upstream = pool.checkout().await?;
    let mut answer = pin!(upstream.sender.send_request(request));
    let connection = &mut upstream.connection;
    let response = poll_fn(|cx| {
        // The result is the answer's too: a connection that ends fails the request it held.
        let _ = Pin::new(&mut *connection).poll(cx);
        answer.as_mut().poll(cx)
    })
    .await?;
    Ok(response.map(|body| Relayed { body, held: Some((upstream, pool)) }))
}

/// The answer's body, which drives the connection it comes from and gives it back at its end.
struct Relayed {
    body: Incoming,
    held: Option<(Upstream, Pool)>,
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let ready = Pin::new(&mut this.body).poll_frame(cx);
        if ready.is_ready() {
            return ready;
        }
        let Some((upstream, _)) = &mut this.held else { return Poll::Pending };
        if Pin::new(&mut upstream.connection).poll(cx).is_ready() {
            this.held = None;
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // A body cut short leaves its rest on the wire: that connection is closed instead.
        if let Some((upstream, pool)) = self.held.take()
            && self.body.is_end_stream()
        {
            pool.push(upstream);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;
    use crate::{
        backend,
        load::{Load, Protocol},
        pace::Pace,
        process::free_address,
        verify,
    };

    /// Runs `serve` for the rest of the test.
    fn in_background(serve: impl Future<Output = Result<()>> + Send + 'static) {
        let (ready, started) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
            runtime.block_on(async {
                let mut serve = pin!(serve);
                // The first poll binds.
                let _ = poll_fn(|cx| Poll::Ready(serve.as_mut().poll(cx).is_ready())).await;
                ready.send(()).unwrap();
                serve.await.unwrap();
            });
        });
        started.recv().unwrap();
    }

    #[test]
    fn every_request_of_many_connections_is_answered_as_the_model_does() {
        let (model, proxy) = (free_address().unwrap(), free_address().unwrap());
        in_background(backend::serve(model));
        in_background(serve(proxy, model));
        verify::passes_through(proxy, model).unwrap();
        let requests = [verify::inference(&verify::plain_body()), verify::inference("{}")];
        let mut load = Load::connect(Protocol::Http, proxy, 8, &requests).unwrap();
        for pace in [Pace::Closed, Pace::Open(2000.0), Pace::Closed] {
            let outcome = load.run(pace, std::time::Duration::from_millis(50)).unwrap();
            assert_eq!(outcome.latency.len(), outcome.answered);
            assert!(outcome.answered > 0);
        }
        verify::passes_through(proxy, model).unwrap();
    }
}
