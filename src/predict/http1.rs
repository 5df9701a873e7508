//! HTTP/1 connections to one endpoint.
//!
//! A connection has no task of its own: whoever uses it polls it, so a request costs no wake-up of another task. An idle one
//! is polled before reuse, which finds those that the server closed meanwhile.
//!
//! Driving a connection and waiting for what it brings happen in one poll, so what one does to the other needs no wake-up
//! either: a [`Relay`] keeps those from the task, which would else be scheduled once more for each answer.

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU8,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{SWEEP_EVERY, body::RequestBody, classify::Failure};
use crate::config::Upstream;

type Driver = http1::Connection<TokioIo<TcpStream>, RequestBody>;

/// An open connection.
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    /// `None`: it finished, polling it again would panic.
    driver: Option<Box<Driver>>,
    /// Whether the last request's body was streamed: then its answer may have come before all of it was sent.
    streamed: bool,
    /// Requests it was given.
    sent: u64,
    /// Sweeps that found it idle.
    idle_sweeps: u32,
    relay: Arc<Relay>,
    /// Wakes `relay`.
    waker: Waker,
}

/// Stands between a connection and the task that polls it: passes on what comes from outside, and only notes what the task
/// does to itself while it polls. No wake-up is lost (`no_wake_up_between_threads_is_lost` looks for one).
#[derive(Default)]
struct Relay {
    task: AtomicWaker,
    /// [`POLLING`] and [`WOKEN`]. One word, so that a wake-up from elsewhere either meets a poll, whose end finds it, or wakes
    /// the task.
    state: AtomicU8,
}

/// The connection is being polled.
const POLLING: u8 = 1;
/// It was woken since that poll began.
const WOKEN: u8 = 2;

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.fetch_or(WOKEN, AcqRel) & POLLING == 0 {
            self.task.wake();
        }
    }
}

impl Relay {
    /// Polls for the task of `cx`, whose wake-ups come through `waker`. What stays pending although polling it woke it is
    /// polled once more; if that wakes it again (it yields, or more came in), the task is scheduled.
    fn poll<T>(&self, cx: &Context<'_>, waker: &Waker, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let inner = &mut Context::from_waker(waker);
        self.task.register(cx.waker());
        for last in [false, true] {
            self.state.swap(POLLING, AcqRel);
            // In one place: what is polled is compiled into it, and an answer is not copied on its way out.
            let polled = poll(inner);
            if polled.is_ready() {
                self.state.store(0, Release);
                return polled;
            }
            if last || self.state.load(Acquire) & WOKEN == 0 {
                break;
            }
        }
        if self.state.swap(0, AcqRel) & WOKEN != 0 {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Connection {
    /// Connects and shakes hands.
    pub(super) async fn open(upstream: &Upstream, timeout: Duration) -> io::Result<Self> {
        let stream = super::endpoint::connect(upstream, timeout).await?;
        // Not `max_headers`: once set, hyper allocates room for them on the heap for every answer.
        let (sender, driver) = http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let relay = Arc::<Relay>::default();
        let waker = Waker::from(Arc::clone(&relay));
        Ok(Self { sender, driver: Some(Box::new(driver)), streamed: false, sent: 0, idle_sweeps: 0, relay, waker })
    }

    /// Whether an idle connection can take a request.
    fn poll_usable(&mut self, cx: &Context<'_>) -> bool {
        let Self { driver, relay, waker, .. } = self;
        let _ = relay.poll(cx, waker, |cx| {
            drive(driver, cx);
            Poll::Ready(())
        });
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Queues the request at once; the future waits for the answer's head.
    fn send(&mut self, request: Request<RequestBody>) -> impl Future<Output = Result<Response<Incoming>, Failure>> {
        self.sent += 1;
        self.streamed = matches!(request.body(), RequestBody::Stream { .. });
        let response = self.sender.try_send_request(request);
        let Self { driver, relay, waker, .. } = self;
        async move {
            let mut response = pin!(response);
            let answered = std::future::poll_fn(|cx| {
                relay.poll(cx, waker, |cx| {
                    drive(driver, cx);
                    response.as_mut().poll(cx)
                })
            });
            answered.await.map_err(Failure::of_sending)
        }
    }
}

/// Lets a connection read and write. An error reaches the request through its own future; here it only means closed.
fn drive(driver: &mut Option<Box<Driver>>, cx: &mut Context<'_>) {
    if driver.as_mut().is_some_and(|driver| Pin::new(&mut **driver).poll(cx).is_ready()) {
        *driver = None;
    }
}

/// One worker's idle connections to one endpoint.
#[derive(Default)]
pub(super) struct Idle(Mutex<Vec<Connection>>);

/// Idle connections a worker keeps an endpoint; more are closed.
const MAX_IDLE: usize = 256;
/// A connection that more sweeps than this found idle is closed: after about a minute.
const MOST_IDLE_SWEEPS: u32 = (60 / SWEEP_EVERY.as_secs()) as u32;

impl Idle {
    /// Takes the most recently used connection that still works, with the slot to give it back to.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is awaited.
    pub(super) fn take(self: &Arc<Self>, cx: &Context<'_>) -> Option<Lease> {
        loop {
            let mut connection = self.lock().pop()?;
            if connection.poll_usable(cx) {
                return Some(Lease { connection, idle: self.clone() });
            }
        }
    }

    /// A lease on a connection just opened.
    pub(super) fn adopt(self: &Arc<Self>, connection: Connection) -> Lease {
        Lease { connection, idle: self.clone() }
    }

    /// Closes what the server closed and what was idle too long. Idle time is counted in sweeps: a request looks at no clock
    /// to give its connection back.
    pub(super) fn sweep(&self) {
        let cx = Context::from_waker(Waker::noop());
        self.lock().retain_mut(|connection| {
            connection.idle_sweeps += 1;
            connection.idle_sweeps <= MOST_IDLE_SWEEPS && connection.poll_usable(&cx)
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // A panic while a Vec is pushed or popped leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use. Dropped, it closes the connection; released, it goes back to the pool.
pub(super) struct Lease {
    connection: Connection,
    idle: Arc<Idle>,
}

impl Lease {
    /// Whether the connection was opened for this request, which took time.
    pub(super) const fn is_new(&self) -> bool {
        self.connection.sent == 0
    }

    /// Sends one request and waits for the answer's head.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropped, the connection closes, which tells the server that nobody waits.
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>> {
        self.connection.send(request)
    }

    /// Polls the answer's body beside the connection that brings it.
    pub(super) fn poll_body<T>(
        &mut self,
        cx: &Context<'_>,
        mut body: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Connection { relay, waker, driver, .. } = &mut self.connection;
        relay.poll(cx, waker, |cx| {
            // Asked first: that tells the connection that the body is wanted, and it hands over what it has read.
            let polled = body(cx);
            if polled.is_ready() {
                return polled;
            }
            drive(driver, cx);
            body(cx)
        })
    }

    /// Gives the connection back. Whether it can be used again is found when it is taken; but one that still sends a body
    /// whose answer has come is closed at once, and the caller's upload with it.
    pub(super) fn release(self, cx: &Context<'_>) {
        let Self { mut connection, idle } = self;
        if connection.driver.is_none() || (connection.streamed && !connection.poll_usable(cx)) {
            return;
        }
        connection.idle_sweeps = 0;
        let mut connections = idle.lock();
        if connections.len() < MAX_IDLE {
            connections.push(connection);
        }
    }
}

/// Takes an idle connection or opens one.
pub(super) async fn lease(idle: &Arc<Idle>, upstream: &Upstream, timeout: Duration) -> io::Result<Lease> {
    if let Some(lease) = std::future::poll_fn(|cx| Poll::Ready(idle.take(cx))).await {
        return Ok(lease);
    }
    // Boxed: a request that finds a connection does not carry the room for making one.
    Box::pin(Connection::open(upstream, timeout)).await.map(|connection| idle.adopt(connection))
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, thread};

    use super::*;

    /// Counts wake-ups of a task.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, AcqRel);
        }
    }

    /// Polls once for `task` something that wakes itself in its first `wakes` polls and is never ready; how often it was polled.
    fn polls(task: &Arc<Task>, wakes: usize) -> usize {
        let (relay, waker, mut polls) = (Arc::<Relay>::default(), Waker::from(Arc::clone(task)), 0);
        let inner = Waker::from(Arc::clone(&relay));
        let polled = relay.poll(&Context::from_waker(&waker), &inner, |cx| {
            polls += 1;
            if polls <= wakes {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        assert!(polled.is_pending());
        polls
    }

    #[test]
    fn what_wakes_itself_is_polled_once_more_and_then_scheduled() {
        for (wakes, polled, scheduled) in [(0, 1, 0), (1, 2, 0), (2, 2, 1), (9, 2, 1)] {
            let task = Arc::<Task>::default();
            assert_eq!((polls(&task, wakes), task.0.load(Acquire)), (polled, scheduled), "woken in {wakes} polls");
        }
    }

    #[test]
    fn no_wake_up_between_threads_is_lost() {
        const ROUNDS: usize = 20_000;
        struct Thread(thread::Thread);
        impl Wake for Thread {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let (relay, round) = (Arc::<Relay>::default(), Arc::<AtomicUsize>::default());
        let (outside, begun) = (Waker::from(Arc::clone(&relay)), Arc::clone(&round));
        let other = thread::spawn(move || {
            for _ in 0..ROUNDS {
                begun.fetch_add(1, Release);
                outside.wake_by_ref();
            }
        });
        let waker = Waker::from(Arc::new(Thread(thread::current())));
        let (cx, inner) = (Context::from_waker(&waker), Waker::from(Arc::clone(&relay)));
        for seen in 1..=ROUNDS {
            let poll = || {
                relay.poll(&cx, &inner, |_| if round.load(Acquire) >= seen { Poll::Ready(()) } else { Poll::Pending })
            };
            while poll().is_pending() {
                let parked = tokio::time::Instant::now();
                thread::park_timeout(std::time::Duration::from_secs(30));
                assert!(parked.elapsed().as_secs() < 30, "round {seen}: nobody woke the task");
            }
        }
        other.join().unwrap();
    }
}
