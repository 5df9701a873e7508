//! The load: keep-alive HTTP/1.1 connections on one thread, closed loop or open loop.
//!
//! A closed loop sends the next request on a connection when the last one was answered. An open loop sends at times fixed
//! beforehand (Poisson arrivals, the same for every setup) and measures from the time a request *should* have left, so a slow
//! proxy cannot hide behind the requests it kept from being sent. Raw sockets and one epoll: what it costs is reported.
//! Over HTTP every answer must be a 200 with a Content-Length; anything else ends the run with an error. The same loop asks
//! Redis where a request is a pipeline of its commands.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    fd::OwnedFd,
};

use crate::{
    pace::{Arrivals, Pace, SEED},
    resp,
};

/// What is spoken, and so when an answer is whole.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    Http,
    /// A request is a pipeline of so many commands that are answered with an array of strings each.
    Redis(usize),
}

/// What a run saw.
pub(crate) struct Outcome {
    /// Requests answered.
    pub(crate) answered: u64,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

/// Open connections to one server.
pub(crate) struct Load<'a> {
    connections: Vec<Connection>,
    epoll: OwnedFd,
    requests: &'a [Vec<u8>],
    next_request: usize,
}

struct Connection {
    stream: TcpStream,
    answer: Answer,
    buffer: Vec<u8>,
    filled: usize,
    /// What of its outstanding request the socket's buffer had no room for: which request, and from where on.
    unsent: Option<(usize, usize)>,
    /// When its outstanding request was, or should have been, sent.
    since: Option<Instant>,
}

/// How much of the outstanding answer is known.
#[derive(Debug)]
enum Answer {
    /// Its length, once its head is whole.
    Http(Option<usize>),
    Redis {
        arrays: usize,
        replies: resp::Replies,
    },
}

/// An answer may take this long before the run is given up.
const PATIENCE: Duration = Duration::from_secs(5);

impl<'a> Load<'a> {
    /// Connects; `requests` are whole requests of the protocol, sent in turn.
    pub(crate) fn connect(
        protocol: Protocol,
        address: SocketAddr,
        connections: usize,
        requests: &'a [Vec<u8>],
    ) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let connections = (0..connections)
            .map(|index| {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let token = epoll::EventData::new_u64(index as u64);
                epoll::add(&epoll, &stream, token, epoll::EventFlags::IN)?;
                let buffer = vec![0; 16 * 1024];
                Ok(Connection { stream, answer: Answer::new(protocol), buffer, filled: 0, unsent: None, since: None })
            })
            .collect::<Result<_>>()?;
        Ok(Self { connections, epoll, requests, next_request: 0 })
    }

    /// Sends for `length`, then waits for what is outstanding.
    pub(crate) fn run(&mut self, pace: Pace, length: Duration) -> Result<Outcome> {
        let start = Instant::now();
        let mut run = Run {
            end: start + length,
            arrivals: Arrivals::new(pace, start, SEED),
            backlog: VecDeque::new(),
            idle: (0..self.connections.len()).collect(),
            outcome: Outcome {
                answered: 0,
                elapsed: length,
                latency: Histogram::new_with_max(PATIENCE.as_nanos() as u64 * 2, 3)?,
            },
        };
        if matches!(pace, Pace::Closed) {
            run.backlog.extend((0..self.connections.len()).map(|_| start));
        }
        let mut events = Vec::with_capacity(self.connections.len());
        loop {
            self.dispatch(&mut run)?;
            if run.is_over(self.connections.len()) {
                run.outcome.elapsed = start.elapsed();
                return Ok(run.outcome);
            }
            let wait = run.wait();
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)).or_else(retry_interrupted)?;
            if events.is_empty() && Instant::now() > run.end + PATIENCE {
                bail!("no answer for {PATIENCE:?}");
            }
            for event in events.drain(..) {
                let (index, flags) = (event.data.u64() as usize, event.flags);
                if flags.contains(epoll::EventFlags::OUT) {
                    self.write(index)?;
                }
                self.receive(index, &mut run)?;
            }
        }
    }

    /// Sends what is due on idle connections.
    fn dispatch(&mut self, run: &mut Run) -> Result<()> {
        run.backlog.extend(run.arrivals.due(run.end));
        while !run.backlog.is_empty() {
            let Some(index) = run.idle.pop() else { return Ok(()) };
            let since = run.backlog.pop_front().expect("not empty");
            self.send(index, since)?;
        }
        Ok(())
    }

    fn send(&mut self, index: usize, since: Instant) -> Result<()> {
        let connection = &mut self.connections[index];
        connection.since = Some(since);
        connection.unsent = Some((self.next_request, 0));
        self.next_request = (self.next_request + 1) % self.requests.len();
        self.write(index)
    }

    /// Writes what the socket takes; asks to be told when it takes the rest.
    fn write(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let Some((request, from)) = connection.unsent else { return Ok(()) };
        let rest = &self.requests[request][from..];
        let written = match connection.stream.write(rest) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error).context("cannot send"),
        };
        let whole = written == rest.len();
        connection.unsent = (!whole).then_some((request, from + written));
        if whole && from == 0 {
            return Ok(());
        }
        let out = if whole { epoll::EventFlags::empty() } else { epoll::EventFlags::OUT };
        let token = epoll::EventData::new_u64(index as u64);
        Ok(epoll::modify(&self.epoll, &connection.stream, token, epoll::EventFlags::IN | out)?)
    }

    fn receive(&mut self, index: usize, run: &mut Run) -> Result<()> {
        let connection = &mut self.connections[index];
        let Some(since) = connection.receive()? else { return Ok(()) };
        let now = Instant::now();
        run.outcome.answered += 1;
        run.outcome.latency.saturating_record((now - since).as_nanos() as u64);
        if matches!(run.arrivals.pace, Pace::Closed) && now < run.end {
            return self.send(index, now);
        }
        run.idle.push(index);
        Ok(())
    }
}

/// The state of one run.
struct Run {
    end: Instant,
    arrivals: Arrivals,
    /// When each request that found no idle connection should have been sent.
    backlog: VecDeque<Instant>,
    idle: Vec<usize>,
    outcome: Outcome,
}

impl Run {
    fn is_over(&self, connections: usize) -> bool {
        let sent_all = match self.arrivals.pace {
            Pace::Closed => self.outcome.answered > 0,
            Pace::Open(_) => self.arrivals.next >= self.end,
        };
        sent_all && self.backlog.is_empty() && self.idle.len() == connections
    }

    /// Until the next arrival; else long enough to notice that nothing comes.
    fn wait(&self) -> Timespec {
        let until = match self.arrivals.pace {
            Pace::Open(_) if self.arrivals.next < self.end => {
                self.arrivals.next.saturating_duration_since(Instant::now())
            }
            _ => Duration::from_secs(1),
        };
        timespec(until)
    }
}

impl Connection {
    /// Reads what is there; when the answer is whole, the time its request was (to be) sent.
    fn receive(&mut self) -> Result<Option<Instant>> {
        let read = match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => bail!("the connection was closed"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("cannot receive"),
        };
        self.filled += read;
        let whole = self.answer.is_whole(&self.buffer[..self.filled])?;
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.filled * 2, 0);
        }
        if !whole {
            return Ok(None);
        }
        self.filled = 0;
        Ok(self.since.take())
    }
}

impl Answer {
    fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::Http(None),
            Protocol::Redis(arrays) => Self::Redis { arrays, replies: resp::Replies::new(arrays) },
        }
    }

    /// Whether `bytes`, which begin where the answer does, hold all of it; then the next answer is awaited.
    fn is_whole(&mut self, bytes: &[u8]) -> Result<bool> {
        let length = match self {
            Self::Http(length) => {
                if length.is_none() {
                    *length = answer_length(bytes)?;
                }
                *length
            }
            Self::Redis { replies, .. } => replies.end(bytes)?,
        };
        let Some(length) = length else { return Ok(false) };
        ensure!(bytes.len() <= length, "more came than was asked for");
        if bytes.len() < length {
            return Ok(false);
        }
        match self {
            Self::Http(length) => *length = None,
            Self::Redis { arrays, replies } => *replies = resp::Replies::new(*arrays),
        }
        Ok(true)
    }
}

/// Length of head and body of a 200, once the head is whole.
fn answer_length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some((status, length)) = answer_head(bytes)? else { return Ok(None) };
    ensure!(status == 200, "answered {}", String::from_utf8_lossy(bytes));
    Ok(Some(length))
}

/// Status of an answer, and the length of head and body, once the head is whole.
pub(crate) fn answer_head(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    Ok(answer_head_with(bytes, "")?.map(|(status, length, _)| (status, length)))
}

/// The same, and the value of a header that is a number.
pub(crate) fn answer_head_with(bytes: &[u8], number: &str) -> Result<Option<(u16, usize, Option<u8>)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(bytes)? else { return Ok(None) };
    let status = answer.code.context("no status")?;
    let value = |name: &str| {
        let header = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok().map(str::trim)
    };
    let length = value("content-length").with_context(|| format!("no length: {}", String::from_utf8_lossy(bytes)))?;
    Ok(Some((status, head + length.parse::<usize>()?, value(number).and_then(|value| value.parse().ok()))))
}

/// A signal is no reason to stop measuring.
pub(crate) fn retry_interrupted(error: rustix::io::Errno) -> rustix::io::Result<usize> {
    if error == rustix::io::Errno::INTR { Ok(0) } else { Err(error) }
}

/// A length of time as epoll takes it.
pub(crate) fn timespec(length: Duration) -> Timespec {
    Timespec { tv_sec: length.as_secs() as i64, tv_nsec: i64::from(length.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_measured_once_its_head_is_whole() {
        assert_eq!(answer_length(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        assert_eq!(answer_length(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab").unwrap(), Some(43));
        assert!(answer_length(b"HTTP/1.1 503 No\r\ncontent-length: 5\r\n\r\nab").is_err());
        assert!(answer_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").is_err());
    }

    #[test]
    fn requests_and_answers_larger_than_any_buffer_go_through_whole() {
        const BYTES: usize = 3 << 20;
        let text = vec![b'x'; BYTES];
        // A command and the answer to it look alike.
        let message = resp::command(&[text.clone(), text]);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = message.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer) = (stream.unwrap(), answer.clone());
                std::thread::spawn(move || {
                    let mut request = vec![0; answer.len()];
                    while stream.read_exact(&mut request).is_ok() {
                        assert!(request == answer);
                        stream.write_all(&answer).unwrap();
                    }
                });
            }
        });
        let requests = [message];
        let mut load = Load::connect(Protocol::Redis(1), address, 2, &requests).unwrap();
        for _ in 0..2 {
            let outcome = load.run(Pace::Closed, Duration::from_millis(20)).unwrap();
            assert!(outcome.answered >= 2 && outcome.latency.len() == outcome.answered);
        }
    }
}
