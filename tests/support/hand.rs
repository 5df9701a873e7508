//! An upstream that the test plays by hand: the only way to see from inside when Weir lets go of a connection, or to answer
//! with bytes that no model server sends. Health checks it answers by itself.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

/// What a health check is answered.
pub(crate) const READY: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{\"ready\":true}";

/// The listener.
pub(crate) struct Hand {
    address: SocketAddr,
    arrivals: Receiver<Arrival>,
}

/// One that answers every POST the same, and counts them.
pub(crate) struct Counting {
    address: SocketAddr,
    count: Arc<AtomicUsize>,
}

/// A V1 model that answers with the instances it was sent.
pub(crate) struct Echo {
    address: SocketAddr,
}

/// A request that reached it.
pub(crate) struct Arrival {
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    stream: TcpStream,
}

impl Hand {
    /// Listens.
    pub(crate) fn listen() -> Self {
        let (sender, arrivals) = channel();
        Self { address: accept(move |stream| serve(stream, &sender)), arrivals }
    }

    /// An endpoint for Weir's config.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next request, awaited.
    #[track_caller]
    pub(crate) fn arrival(&self) -> Arrival {
        self.arrivals.recv_timeout(Duration::from_secs(20)).expect("a request arrives")
    }

    /// A request that is there already.
    pub(crate) fn waiting(&self) -> Option<Arrival> {
        self.arrivals.try_recv().ok()
    }

    /// How many requests are waiting to be looked at; they are dropped.
    pub(crate) fn pending(&self) -> usize {
        self.arrivals.try_iter().count()
    }
}

impl Counting {
    /// Listens; each POST is answered with these bytes.
    pub(crate) fn listen(answer: &'static [u8]) -> Self {
        Self::slow(answer, Duration::ZERO)
    }

    /// The same, after `pause`.
    pub(crate) fn slow(answer: &'static [u8], pause: Duration) -> Self {
        Self::slow_if(answer, pause, |_| true)
    }

    /// The same, where the pause is only before answers to POSTs of these numbers, from 0.
    pub(crate) fn slow_if(answer: &'static [u8], pause: Duration, is_slow: fn(usize) -> bool) -> Self {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let address = accept(move |stream| count_and_answer(stream, &counter, (answer, pause, is_slow)));
        Self { address, count }
    }

    /// An endpoint for Weir's config.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many POSTs arrived.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

impl Echo {
    /// Listens.
    pub(crate) fn listen() -> Self {
        Self { address: accept(echo) }
    }

    /// An endpoint for Weir's config.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn echo(mut stream: TcpStream) {
    while let Some((head, body)) = read_request(&mut stream) {
        let answer = if head.starts_with("GET ") {
            READY.to_vec()
        } else {
            let body = String::from_utf8_lossy(&body).replacen("\"instances\"", "\"predictions\"", 1);
            let length = body.len();
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
                .into()
        };
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

fn count_and_answer(
    mut stream: TcpStream,
    counter: &AtomicUsize,
    (answer, pause, is_slow): (&[u8], Duration, fn(usize) -> bool),
) {
    while let Some((head, _)) = read_request(&mut stream) {
        let post = !head.starts_with("GET ");
        let number = counter.fetch_add(usize::from(post), Ordering::SeqCst);
        if post && is_slow(number) {
            thread::sleep(pause);
        }
        if stream.write_all(if post { answer } else { READY }).is_err() {
            return;
        }
    }
}

impl Arrival {
    /// A header of the request.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Writes bytes back.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("Weir reads");
    }

    /// Writes bytes back until one write has to wait for `limit`; how many were taken.
    pub(crate) fn write_until_held_up(&mut self, bytes: &[u8], limit: Duration) -> usize {
        self.stream.set_write_timeout(Some(limit)).expect("it is a TCP socket");
        let mut taken = 0;
        while taken < bytes.len() {
            match self.stream.write(&bytes[taken..]) {
                Ok(written) => taken += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("Weir reads: {error}"),
            }
        }
        taken
    }

    /// Writes so many bytes back, or as many as are taken before the connection ends; how many that were.
    pub(crate) fn write_as_far_as_it_goes(&mut self, length: usize) -> usize {
        let part = vec![b'x'; 64 << 10];
        let mut taken = 0;
        while taken < length {
            match self.stream.write(&part[..part.len().min(length - taken)]) {
                Ok(written) => taken += written,
                Err(_) => break,
            }
        }
        taken
    }

    /// Answers 200 with a JSON body.
    pub(crate) fn answer(mut self, body: &str) {
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        self.write(format!("{head}{body}").as_bytes());
    }

    /// Waits until the other side closes or resets the connection.
    pub(crate) fn closed_within(&mut self, limit: Duration) -> bool {
        self.stream.set_read_timeout(Some(limit)).expect("it is a TCP socket");
        match self.stream.read(&mut [0; 1]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// Reads requests off one connection: GETs are answered, a POST is handed over with the connection.
fn serve(mut stream: TcpStream, arrivals: &Sender<Arrival>) {
    while let Some((head, body)) = read_request(&mut stream) {
        if head.starts_with("GET ") {
            if stream.write_all(READY).is_err() {
                return;
            }
            continue;
        }
        // The test may have ended and dropped the receiver.
        drop(arrivals.send(Arrival { head, body, stream }));
        return;
    }
}

/// Listens on loopback; each connection is served in a thread of its own.
pub(crate) fn accept<R>(serve: impl Fn(TcpStream) -> R + Send + Sync + 'static) -> SocketAddr {
    accept_on(TcpListener::bind("127.0.0.1:0").expect("loopback has ports"), serve)
}

/// The same on a listener. What a connection comes to is nobody's business: a caller that went away is no failure.
pub(crate) fn accept_on<R>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> R + Send + Sync + 'static,
) -> SocketAddr {
    let address = listener.local_addr().expect("it is bound");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || drop(serve(stream)));
        }
    });
    address
}

/// One request off a connection: its head as it came, and its body.
pub(crate) fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}
