//! Sockets: one acceptor a listener hands each connection to the worker with the fewest; each worker serves its connections
//! on a current-thread runtime of its own.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    body::ResponseBody,
    linger::{Lingering, Wanted},
    service::{Answering, Gateway, serve},
    stall::Answers,
};
use crate::{
    app::Tasks,
    config::Listen,
    infer::{Error, WorkerId},
    telemetry::handles::ingress::{ListenerHandles, OpenConnection, StallHandles},
};

/// How a worker serves a connection.
#[derive(Clone)]
pub(crate) struct Limits {
    /// A connection without a request for this long is closed, be it idle or slow to send a head.
    idle_timeout: Duration,
    /// A connection is asked to end after this.
    max_connection_age: Duration,
    /// A streamed answer of which nothing is taken for this long is broken off, and counted.
    send_timeout: Duration,
    stalls: StallHandles,
}

impl Limits {
    pub(crate) fn new(listen: &Listen) -> Self {
        let &Listen { idle_timeout, max_connection_age, send_timeout, .. } = listen;
        Self { idle_timeout, max_connection_age, send_timeout, stalls: StallHandles::new() }
    }
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
                tasks: tasks.clone(),
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
    tasks: Tasks,
}

/// Flow-control windows large enough for tensors.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// A connection with nothing in flight that was told to go has this long to do so.
const FAREWELL: Duration = Duration::from_secs(1);

impl Connection {
    /// Serves HTTP/1.1 or HTTP/2, whichever the first bytes say, until the caller closes, the connection is idle or too old, or
    /// the process drains: then what is in flight is finished and the caller told to go (`connection: close`, GOAWAY).
    async fn serve(self, stream: std::net::TcpStream) -> Result<(), String> {
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let stream = TcpStream::from_std(stream).map_err(|error| error.to_string())?;
        let activity = Arc::new(Activity::new(&self.limits, &self.tasks));
        let (worker, gateway) = (self.worker, self.gateway);
        let busy = activity.clone();
        let linger = Wanted::default();
        let wanted = linger.clone();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let (busy, wanted) = (Some(busy.begin()), wanted.clone());
            let has_body = !request.body().is_end_stream();
            Exchange { answering: serve(gateway.load_full(), worker, request), has_body, busy, wanted }
        });
        let patience = self.limits.max_connection_age;
        let wire = tokio::select! {
            wire = tokio::time::timeout(self.limits.idle_timeout, sniff(&stream)) => wire,
            () = self.drain.cancelled() => return Ok(()),
        };
        let Ok(wire) = wire else { return Ok(()) };
        let wire = wire.map_err(|error| error.to_string())?;
        let told = watched(activity, wire, (self.limits, self.drain), &self.tasks);
        let io = TokioIo::new(Lingering::new(stream, linger));
        match wire {
            Wire::Http1 => {
                // Not `pipeline_flush`: with it an answer given while the request's body is still coming is never sent, and
                // one that is passed through to a slow reader has no bound on its buffer.
                let connection = http1::Builder::new().serve_connection(io, service);
                until_told(std::pin::pin!(connection), http1::Connection::graceful_shutdown, told, patience).await
            }
            Wire::Http2 => {
                let connection = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .keep_alive_interval(Duration::from_secs(20))
                    .serve_connection(io, service);
                until_told(std::pin::pin!(connection), http2::Connection::graceful_shutdown, told, patience).await
            }
        }
    }
}

/// What a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Http1,
    Http2,
}

/// Reads off the first bytes, without taking them, what is spoken.
///
/// **Source:** RFC 9113 §3.4.
async fn sniff(stream: &TcpStream) -> io::Result<Wire> {
    const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// A preface that came in parts is looked at again after this: a socket with bytes in it is always ready.
    const PAUSE: Duration = Duration::from_millis(1);
    let mut seen = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut seen).await?;
        if length == 0 || seen[..length] != PREFACE[..length] {
            return Ok(Wire::Http1);
        }
        if length == PREFACE.len() {
            return Ok(Wire::Http2);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Serves until the connection ends or is told to; then what is in flight is finished.
async fn until_told<C>(
    mut connection: Pin<&mut C>,
    wind_down: fn(Pin<&mut C>),
    told: oneshot::Receiver<End>,
    patience: Duration,
) -> Result<(), String>
where
    C: Future<Output = hyper::Result<()>>,
{
    let end = tokio::select! {
        biased;
        ended = connection.as_mut() => return ended.map_err(|error| error.to_string()),
        end = told => end.unwrap_or(End::Drained),
    };
    wind_down(connection.as_mut());
    let last = match end {
        // The drain has a deadline of its own.
        End::Drained => return connection.await.map_err(|error| error.to_string()),
        End::Old => patience,
        // Half a request may have been read: it is not waited for again.
        End::Idle => FAREWELL,
        // The caller takes nothing: nor would it take a farewell.
        End::Stalled => return Ok(()),
    };
    match tokio::time::timeout(last, connection).await {
        Ok(ended) => ended.map_err(|error| error.to_string()),
        Err(_) => Ok(()),
    }
}

/// Watches a connection from a task of its own, so that polling the connection, which happens several times a request, polls
/// no timers and takes no locks. The task ends with the receiver.
fn watched(
    activity: Arc<Activity>,
    wire: Wire,
    (limits, drain): (Limits, CancellationToken),
    tasks: &Tasks,
) -> oneshot::Receiver<End> {
    let (mut tell, told) = oneshot::channel();
    tasks.spawn(async move {
        let end = tokio::select! {
            () = tell.closed() => return,
            () = drain.cancelled() => End::Drained,
            end = activity.watch(&limits) => end,
            // Over HTTP/2 others share the connection.
            () = activity.answers.stalled(), if wire == Wire::Http1 => End::Stalled,
        };
        // Its connection may have ended just now.
        let _ = tell.send(end);
    });
    told
}

/// Why a connection is ended from here.
enum End {
    Drained,
    Old,
    Idle,
    /// An answer was broken off that its caller did not take.
    Stalled,
}

/// What happens on a connection. One timer looks at it now and then, which costs a request two atomic additions where a timer
/// of its own would have to be set and cleared.
struct Activity {
    begun: AtomicUsize,
    ended: AtomicUsize,
    answers: Arc<Answers>,
}

impl Activity {
    fn new(limits: &Limits, tasks: &Tasks) -> Self {
        let answers = Answers::new(limits.send_timeout, limits.stalls.clone(), tasks.clone());
        Self { begun: AtomicUsize::new(0), ended: AtomicUsize::new(0), answers }
    }

    fn begin(self: &Arc<Self>) -> Busy {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Ends when the connection was idle for `idle_timeout` (at most twice that), or is old.
    async fn watch(&self, limits: &Limits) -> End {
        let old = tokio::time::Instant::now() + limits.max_connection_age;
        let mut seen = 0;
        loop {
            let look = tokio::time::Instant::now() + limits.idle_timeout;
            tokio::time::sleep_until(look.min(old)).await;
            if look >= old {
                return End::Old;
            }
            let (ended, begun) = (self.ended.load(Ordering::Relaxed), self.begun.load(Ordering::Relaxed));
            if begun == seen && ended == begun {
                return End::Idle;
            }
            seen = begun;
        }
    }
}

/// A request in flight, until its answer's last byte was taken.
struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A request, until its answer's head is sent.
struct Exchange {
    answering: Answering,
    has_body: bool,
    busy: Option<Busy>,
    /// Whether the connection lingers once it is closed.
    wanted: Wanted,
}

impl Future for Exchange {
    type Output = Result<Response<Guarded>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { answering, has_body, busy, wanted } = self.get_mut();
        let response = ready!(Pin::new(answering).poll(context));
        let status = response.status();
        // The body may not have been read to its end.
        wanted.set(*has_body && (status.is_client_error() || status.is_server_error()));
        let guard = busy.take().expect("a future that has ended is not polled");
        guard.0.answers.watch(response.body());
        Poll::Ready(Ok(response.map(|body| Guarded { body, _guard: guard })))
    }
}

/// An answer's body that keeps its connection from looking idle.
struct Guarded {
    body: ResponseBody,
    _guard: Busy,
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Binds `address`.
///
/// # Errors
///
/// The address is taken or not this machine's.
pub(crate) fn bind(name: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    use anyhow::Context as _;
    listen(address).with_context(|| format!("listen.{name}: cannot listen on {address}"))
}

/// Connections that may wait to be accepted, as far as the system allows (`net.core.somaxconn`). One that finds no place is tried
/// again by its caller's system after a second: a burst must find one, however busy the cores are.
const BACKLOG: u32 = 4096;

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart finds its port free though connections of before are not all gone.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_of_connections_waits_to_be_accepted() {
        let listener = bind("http", ([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        // Twice what the standard library lets wait. Nobody accepts: those without a place would try on in vain.
        let patience = Duration::from_secs(20);
        let connect = |_| std::net::TcpStream::connect_timeout(&address, patience);
        assert!((0..256).map(connect).collect::<Result<Vec<_>, _>>().is_ok());
    }
}
