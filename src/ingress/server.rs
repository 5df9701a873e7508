//! Sockets: one acceptor a listener hands each connection to the worker with the fewest; each worker serves its connections
//! on a current-thread runtime of its own.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::service::{Gateway, serve};
use crate::{
    app::Tasks,
    infer::WorkerId,
    telemetry::handles::ingress::{ListenerHandles, OpenConnection},
};

/// How a worker serves a connection.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// A request's head must be there within this.
    pub(crate) header_timeout: Duration,
    /// A connection is asked to end after this.
    pub(crate) max_connection_age: Duration,
}

/// Where connections go.
#[derive(Clone)]
pub(crate) struct Workers(Arc<[Seat]>);

struct Seat {
    connections: Arc<AtomicUsize>,
    sender: mpsc::UnboundedSender<Accepted>,
}

/// A connection on its way to a worker, counted as open at its listener.
struct Accepted {
    stream: std::net::TcpStream,
    open: OpenConnection,
}

/// A worker's end of the hand-over.
pub(crate) struct Inbox {
    worker: WorkerId,
    connections: Arc<AtomicUsize>,
    receiver: mpsc::UnboundedReceiver<Accepted>,
}

impl Workers {
    /// Seats for `count` workers, and an inbox for each.
    pub(crate) fn new(count: usize) -> (Self, Vec<Inbox>) {
        let (seats, inboxes): (Vec<_>, Vec<_>) = (0..count)
            .map(|index| {
                let (sender, receiver) = mpsc::unbounded_channel();
                let connections = Arc::new(AtomicUsize::new(0));
                let worker = WorkerId(u32::try_from(index).unwrap_or(u32::MAX));
                (Seat { connections: connections.clone(), sender }, Inbox { worker, connections, receiver })
            })
            .unzip();
        (Self(seats.into()), inboxes)
    }

    fn hand_over(&self, stream: TcpStream, open: OpenConnection) -> io::Result<()> {
        let stream = stream.into_std()?;
        let seat = self.0.iter().min_by_key(|seat| seat.connections.load(Ordering::Relaxed));
        if let Some(seat) = seat {
            // Counted here, not when it is served: a burst must not go to one worker.
            seat.connections.fetch_add(1, Ordering::Relaxed);
            // A worker that is gone is shutting down, and the connection with it.
            let _ = seat.sender.send(Accepted { stream, open });
        }
        Ok(())
    }
}

/// Accepts until `stop`, then closes the listener.
pub(crate) async fn accept(name: &'static str, listener: TcpListener, workers: Workers, stop: CancellationToken) {
    /// Out of descriptors or memory: trying again at once would spin.
    const PAUSE: Duration = Duration::from_millis(50);
    let handles = ListenerHandles::new(name);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        if let Err(error) = accepted.and_then(|(stream, _)| workers.hand_over(stream, handles.connection())) {
            tracing::warn!(%error, "could not accept a connection");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Inbox {
    /// The worker this inbox belongs to.
    pub(crate) const fn worker(&self) -> WorkerId {
        self.worker
    }

    /// Serves connections as they are handed over, until every acceptor is gone.
    pub(crate) async fn serve(
        mut self,
        gateway: Arc<ArcSwap<Gateway>>,
        limits: Limits,
        tasks: Tasks,
        drain: CancellationToken,
    ) {
        while let Some(Accepted { stream, open }) = self.receiver.recv().await {
            let guards = (Counted(self.connections.clone()), open);
            let connection = Connection {
                worker: self.worker,
                gateway: gateway.clone(),
                limits: limits.clone(),
                drain: drain.clone(),
            };
            tasks.spawn(async move {
                let _guards = guards;
                if let Err(error) = connection.serve(stream).await {
                    tracing::debug!(error, "connection ended");
                }
            });
        }
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Connection {
    worker: WorkerId,
    gateway: Arc<ArcSwap<Gateway>>,
    limits: Limits,
    drain: CancellationToken,
}

/// Flow-control windows large enough for tensors.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

impl Connection {
    /// Serves HTTP/1.1 or HTTP/2, whichever the first bytes say, until the caller closes, the connection is too old, or the
    /// process drains: then what is in flight is finished and the caller told to go (`connection: close`, GOAWAY).
    async fn serve(self, stream: std::net::TcpStream) -> Result<(), String> {
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let stream = TcpStream::from_std(stream).map_err(|error| error.to_string())?;
        let (worker, gateway) = (self.worker, self.gateway);
        let service = service_fn(move |request| serve(gateway.load_full(), worker, request));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.limits.header_timeout).pipeline_flush(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(Duration::from_secs(20));
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = self.drain.cancelled() => None,
            () = tokio::time::sleep(self.limits.max_connection_age) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        ended.map_err(|error| error.to_string())
    }
}

/// Binds `address`.
///
/// # Errors
///
/// The address is taken or not this machine's.
pub(crate) async fn bind(name: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    use anyhow::Context as _;
    TcpListener::bind(address).await.with_context(|| format!("listen.{name}: cannot listen on {address}"))
}
