//! A caller's socket that is closed only after what the caller still sends was taken.
//!
//! An error may be answered while the request's body is on its way. Closed then, the socket has bytes that nobody read, the
//! kernel resets the connection, and the caller loses the answer it had not read yet. So the sending side is ended first, and
//! what comes is read and dropped for a while: until the caller ends its side too, for [`TIME`], or for [`BYTES`].
//!
//! Only where it is wanted: other connections close at once, so that a drain waits for nobody.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

const TIME: Duration = Duration::from_secs(5);
const BYTES: usize = 128 << 20;
const READ: usize = 16 << 10;

/// Whether the connection, if it closes now, is to linger.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted(Arc<AtomicBool>);

impl Wanted {
    pub(super) fn set(&self, wanted: bool) {
        self.0.store(wanted, Ordering::Relaxed);
    }
}

/// The socket.
pub(super) struct Lingering {
    stream: TcpStream,
    wanted: Wanted,
    closing: Option<Closing>,
}

struct Closing {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl Lingering {
    pub(super) const fn new(stream: TcpStream, wanted: Wanted) -> Self {
        Self { stream, wanted, closing: None }
    }

    /// Ready once nothing more is waited for.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let closing = self.closing.get_or_insert_with(|| Closing { until: Box::pin(sleep(TIME)), left: BYTES });
        let mut dropped = [0; READ];
        loop {
            if closing.until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut dropped);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            closing.left = closing.left.saturating_sub(buffer.filled().len());
            if read.is_err() || buffer.filled().is_empty() || closing.left == 0 {
                return Poll::Ready(());
            }
        }
    }
}

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        if this.wanted.0.load(Ordering::Relaxed) {
            ready!(this.poll_rest(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::timeout,
    };

    use super::*;

    async fn pair() -> (Lingering, Wanted, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let wanted = Wanted::default();
        (Lingering::new(listener.accept().await.unwrap().0, wanted.clone()), wanted, caller)
    }

    #[tokio::test]
    async fn what_the_caller_still_sends_does_not_cost_it_the_answer() {
        let (mut server, wanted, mut caller) = pair().await;
        wanted.set(true);
        server.write_all(b"answer").await.unwrap();
        let closed = async move { server.shutdown().await.unwrap() };
        let sent = async {
            caller.write_all(&vec![0; 8 << 20]).await.unwrap();
            caller.shutdown().await.unwrap();
            let mut answer = String::new();
            caller.read_to_string(&mut answer).await.unwrap();
            answer
        };
        assert_eq!(tokio::join!(closed, sent).1, "answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_never_ends_is_waited_for_only_so_long() {
        let (mut server, wanted, _caller) = pair().await;
        server.shutdown().await.unwrap();
        wanted.set(true);
        assert!(timeout(TIME / 2, server.shutdown()).await.is_err());
        assert!(timeout(TIME, server.shutdown()).await.is_ok());
    }
}
