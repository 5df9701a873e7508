//! A connection at work: many requests at once on one socket, answered in their order.
//!
//! ```text
//! ask ──batch──► driver ──bytes──► socket          what came together goes out together
//!  ▲                │
//!  └──replies───────┴◄─bytes────── socket          read where they lie (`reply`)
//! ```
//!
//! The driver is a task: an answer that nobody waits for any more is read all the same, so that the next one is told apart
//! from it. It ends when the socket does, with an error for everybody who waits; or when nobody holds the channel and all that
//! was taken to be sent is sent.
//!
//! Invariant: reads and writes advance together. A server that waits for us to read does not read what we write.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    sync::{mpsc, oneshot},
};

use super::{
    command::Batch,
    dial::Socket,
    reply::{Reader, Reads, Reply},
};

/// Room that is made for each read: what a server writes at once.
const CHUNK: usize = 64 * 1024;

/// Room that a connection keeps, each way; what is more was for one long command or reply, and is given back.
const KEPT: usize = 4 * CHUNK;

/// The way to a server that is connected to. Cheap to clone.
#[derive(Clone)]
pub(super) struct Channel {
    queue: mpsc::UnboundedSender<Message>,
    signs: Arc<Signs>,
}

/// What a connection's answers say of it.
#[derive(Default)]
struct Signs {
    /// One came.
    answered: AtomicBool,
    /// One did not come in time, and none has since.
    overdue: AtomicBool,
}

/// Why a connection is no more; the same for everybody who waited on it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Lost(Arc<io::Error>);

type Replies = Result<Vec<Reply>, Lost>;

struct Message {
    batch: Batch,
    answer: oneshot::Sender<Replies>,
    busy: Busy,
}

/// So many cells under way, as a counter counts them, until dropped.
#[derive(Debug)]
pub(super) struct Busy {
    under_way: Arc<AtomicUsize>,
    cells: usize,
}

impl Busy {
    pub(super) fn counted(under_way: &Arc<AtomicUsize>, cells: usize) -> Self {
        under_way.fetch_add(cells, Ordering::Relaxed);
        Self { under_way: Arc::clone(under_way), cells }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.under_way.fetch_sub(self.cells, Ordering::Relaxed);
    }
}

impl Channel {
    /// The channel over a socket, and what drives it.
    pub(super) fn over(socket: Socket) -> (Self, Driver) {
        let (queue, queued) = mpsc::unbounded_channel();
        let driver = Driver {
            socket,
            queued,
            output: Output::default(),
            input: BytesMut::new(),
            reader: Reader::default(),
            awaited: VecDeque::new(),
            signs: Arc::default(),
        };
        (Self { queue, signs: Arc::clone(&driver.signs) }, driver)
    }

    /// The replies to all commands of a batch, which is `busy` until they are read: an answer that nobody waits for any more
    /// holds up the next ones all the same.
    ///
    /// # Errors
    ///
    /// The connection broke: the commands may have been carried out or not.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the batch was sent, it is not sent; after that the answer is read and let go.
    pub(super) async fn ask(&self, batch: Batch, busy: Busy) -> Replies {
        if batch.len() == 0 {
            // The driver looks for replies only when some come.
            return Ok(Vec::new());
        }
        let (answer, replies) = oneshot::channel();
        let ended = || Lost(Arc::new(io::Error::new(io::ErrorKind::BrokenPipe, "the connection is closed")));
        self.queue.send(Message { batch, answer, busy }).map_err(|_| ended())?;
        replies.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Whether the replies to any batch came whole.
    pub(super) fn has_answered(&self) -> bool {
        self.signs.answered.load(Ordering::Relaxed)
    }

    /// Somebody's time was up before the answer came.
    pub(super) fn gave_up(&self) {
        self.signs.overdue.store(true, Ordering::Relaxed);
    }

    /// Whether somebody gave up, and no answer came since.
    pub(super) fn is_overdue(&self) -> bool {
        self.signs.overdue.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("closed", &self.queue.is_closed()).finish()
    }
}

/// Writes what is asked, reads what is answered.
#[must_use = "nothing is sent or received unless it is polled"]
pub(super) struct Driver {
    socket: Socket,
    queued: mpsc::UnboundedReceiver<Message>,
    output: Output,
    input: BytesMut,
    reader: Reader,
    /// In the order in which they were sent.
    awaited: VecDeque<Awaited>,
    signs: Arc<Signs>,
}

/// Bytes on their way out.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    written: usize,
    flushed: bool,
}

/// A batch whose replies are not all there.
struct Awaited {
    reads: Arc<[Reads]>,
    replies: Vec<Reply>,
    answer: oneshot::Sender<Replies>,
    _busy: Busy,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = &mut *self;
        let Err(error) = ready!(driver.advance(cx)) else { return Poll::Ready(()) };
        let lost = Lost(Arc::new(error));
        driver.queued.close();
        while let Ok(message) = driver.queued.try_recv() {
            let _ = message.answer.send(Err(lost.clone()));
        }
        for awaited in driver.awaited.drain(..) {
            let _ = awaited.answer.send(Err(lost.clone()));
        }
        Poll::Ready(())
    }
}

impl Driver {
    /// Goes on with everything; ready once it is over.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(ended) = self.poll_send(cx) {
            return Poll::Ready(ended);
        }
        self.poll_read(cx).map(Err)
    }

    /// Sends what is asked; ready when nobody can ask any more, or nothing can be sent. While a server takes nothing, nothing
    /// more is taken from those who ask: what they give up meanwhile is never sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.output.poll_write(&mut self.socket, cx))?;
            if self.take(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if self.output.bytes.is_empty() {
                return Poll::Pending;
            }
        }
    }

    /// Takes what is to be sent; ready when nobody can ask any more.
    fn take(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(Message { batch, answer, busy }) = ready!(self.queued.poll_recv(cx)) {
            if answer.is_closed() {
                continue;
            }
            self.output.put(&batch.bytes);
            let replies = Vec::with_capacity(batch.len());
            self.awaited.push_back(Awaited { reads: batch.reads, replies, answer, _busy: busy });
        }
        Poll::Ready(())
    }

    /// Reads until there is nothing to read; ready with why there will never be.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            // Of an empty buffer this tells how much its whole block holds.
            if self.input.is_empty() && self.input.try_reclaim(KEPT + 1) {
                self.input = BytesMut::new();
            }
            self.input.reserve(CHUNK);
            let read = pin!(self.socket.read_buf(&mut self.input)).poll(cx);
            match ready!(read) {
                Ok(0) => return Poll::Ready(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server")),
                Ok(_) => {}
                Err(error) => return Poll::Ready(error),
            }
            if let Err(error) = self.hand_out() {
                return Poll::Ready(error);
            }
        }
    }

    /// Hands the replies that are there to those who wait for them.
    fn hand_out(&mut self) -> io::Result<()> {
        while let Some(first) = self.awaited.front_mut() {
            while let Some(reads) = first.reads.get(first.replies.len()) {
                let broken = |broken| io::Error::new(io::ErrorKind::InvalidData, broken);
                let Some(reply) = self.reader.next(&mut self.input, reads).map_err(broken)? else { return Ok(()) };
                first.replies.push(reply);
            }
            self.signs.answered.store(true, Ordering::Relaxed);
            self.signs.overdue.store(false, Ordering::Relaxed);
            if let Some(Awaited { replies, answer, .. }) = self.awaited.pop_front() {
                // Whoever asked may have given up.
                let _ = answer.send(Ok(replies));
            }
        }
        self.reader.idle(&mut self.input).map_err(|broken| io::Error::new(io::ErrorKind::InvalidData, broken))
    }
}

impl Output {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.flushed = false;
    }

    /// Writes and flushes; ready when all is out.
    fn poll_write(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            match ready!(Pin::new(&mut *socket).poll_write(cx, &self.bytes[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.written = 0;
        if !self.flushed {
            ready!(Pin::new(&mut *socket).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use ::redis::Value;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A channel and the server's end of its socket, which holds so many bytes.
    fn channel(holds: usize) -> (Channel, DuplexStream) {
        let (ours, theirs) = duplex(holds);
        let (channel, driver) = Channel::over(Box::new(ours));
        crate::app::Tasks::default().attend(driver);
        (channel, theirs)
    }

    fn echo(text: &str) -> Batch {
        Batch::of(::redis::cmd("ECHO").arg(text))
    }

    async fn ask(channel: &Channel, batch: Batch) -> Replies {
        channel.ask(batch, Busy::counted(&Arc::default(), 1)).await
    }

    async fn receive(server: &mut DuplexStream, batch: &Batch) {
        let mut received = vec![0; batch.bytes.len()];
        server.read_exact(&mut received).await.unwrap();
        assert_eq!(received, batch.bytes);
    }

    #[track_caller]
    fn only(replies: Replies) -> String {
        match replies.unwrap().as_slice() {
            [Reply::Value(Value::SimpleString(text))] => text.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn each_gets_the_answer_to_what_it_asked() {
        let (channel, mut server) = channel(1024);
        let [a, b] = ["a", "b"].map(echo);
        let serve = async {
            receive(&mut server, &a).await;
            receive(&mut server, &b).await;
            server.write_all(b"+a\r\n+b\r\n").await.unwrap();
        };
        let (first, second, ()) = tokio::join!(ask(&channel, a.clone()), ask(&channel, b.clone()), serve);
        assert_eq!((only(first), only(second)), ("a".into(), "b".into()));
    }

    #[tokio::test]
    async fn an_answer_that_nobody_waits_for_is_nobody_else_s() {
        let (channel, mut server) = channel(1024);
        let [late, next] = ["late", "next"].map(echo);
        tokio::select! {
            _ = ask(&channel, late.clone()) => panic!("nothing answered"),
            () = receive(&mut server, &late) => {}
        }
        let serve = async {
            server.write_all(b"+late\r\n").await.unwrap();
            receive(&mut server, &next).await;
            server.write_all(b"+next\r\n").await.unwrap();
        };
        let (answer, ()) = tokio::join!(ask(&channel, next.clone()), serve);
        assert_eq!(only(answer), "next");
    }

    #[tokio::test]
    async fn what_was_given_up_before_it_was_sent_is_not_sent() {
        let (channel, mut server) = channel(1024);
        let (gone, next) = (echo("gone"), echo("next"));
        // Queued, and dropped before the driver runs.
        assert!(futures_util::poll!(pin!(ask(&channel, gone))).is_pending());
        let serve = async {
            receive(&mut server, &next).await;
            server.write_all(b"+next\r\n").await.unwrap();
        };
        let (answer, ()) = tokio::join!(ask(&channel, next.clone()), serve);
        assert_eq!(only(answer), "next");
    }

    #[tokio::test]
    async fn a_server_that_reads_nothing_before_it_is_read_is_read() {
        // Neither end's bytes fit the socket.
        let (channel, mut server) = channel(16);
        let long = "x".repeat(10_000);
        let (first, second) = (echo("a"), echo(&long));
        let serve = async {
            receive(&mut server, &first).await;
            server.write_all(format!("+{long}\r\n").as_bytes()).await.unwrap();
            receive(&mut server, &second).await;
            server.write_all(b"+b\r\n").await.unwrap();
        };
        let (one, two, ()) = tokio::join!(ask(&channel, first.clone()), ask(&channel, second.clone()), serve);
        assert_eq!((only(one), only(two)), (long.clone(), "b".into()));
    }

    #[tokio::test]
    async fn a_broken_connection_is_told_to_all_who_wait() {
        for (said, why) in [
            (&b"+a\r\n"[..], "closed by the server"),
            (b"+a\r\n+b", "closed by the server"),
            (b"+a\r\nHTTP/1.1 400\r\n", "not a reply of Redis: an unknown type"),
        ] {
            let (channel, mut server) = channel(1024);
            let serve = async {
                receive(&mut server, &echo("a")).await;
                receive(&mut server, &echo("b")).await;
                server.write_all(said).await.unwrap();
                drop(server);
            };
            let (first, second, ()) = tokio::join!(ask(&channel, echo("a")), ask(&channel, echo("b")), serve);
            assert_eq!(only(first), "a");
            assert_eq!(second.unwrap_err().to_string(), why);
            let after = ask(&channel, echo("c")).await.unwrap_err();
            assert_eq!(after.to_string(), "the connection is closed");
        }
    }

    #[tokio::test]
    async fn an_answer_to_nothing_ends_the_connection() {
        let (channel, mut server) = channel(1024);
        server.write_all(b">1\r\n+message\r\n+OK\r\n").await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0, "closed");
        assert!(ask(&channel, echo("a")).await.is_err());
    }

    #[tokio::test]
    async fn the_socket_is_closed_when_nobody_can_ask() {
        let (channel, mut server) = channel(1024);
        let another = channel.clone();
        drop(channel);
        assert!(futures_util::poll!(pin!(server.read(&mut [0]))).is_pending());
        drop(another);
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_a_long_command_and_its_long_answer_took_is_given_back() {
        let (ours, mut theirs) = duplex(1 << 16);
        let (channel, mut driver) = Channel::over(Box::new(ours));
        let long = "x".repeat(20 * CHUNK);
        let (large, small) = (echo(&long), echo("a"));
        let serve = async {
            receive(&mut theirs, &large).await;
            theirs.write_all(format!("+{long}\r\n").as_bytes()).await.unwrap();
            receive(&mut theirs, &small).await;
            theirs.write_all(b"+a\r\n").await.unwrap();
        };
        let asks = async {
            assert_eq!(only(ask(&channel, large.clone()).await), long);
            assert_eq!(only(ask(&channel, small.clone()).await), "a");
        };
        tokio::select! {
            () = &mut driver => panic!("the connection ended"),
            _ = async { tokio::join!(asks, serve) } => {}
        }
        // Not what is left of its block, but all of it.
        driver.input.reserve(CHUNK);
        for room in [driver.input.capacity(), driver.output.bytes.capacity()] {
            assert!(room <= KEPT, "{room} bytes are kept");
        }
    }

    #[tokio::test]
    async fn nothing_asked_is_answered_at_once() {
        let (channel, _server) = channel(1024);
        let nothing = super::super::command::Commands::default().all();
        let answer = futures_util::poll!(pin!(ask(&channel, nothing)));
        assert!(matches!(answer, Poll::Ready(Ok(replies)) if replies.is_empty()));
    }
}
