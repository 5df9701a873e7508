//! Callers: requests sent at moments fixed beforehand, each with its fate, on one thread for all of them.
//!
//! Unlike the other parts' load, nothing that an answer says or fails to say ends the run: a status, a connection that breaks
//! and an answer that never comes are what is measured. Time counts from the moment a request *should* have left. Nobody makes
//! a request twice, and nobody hangs up before [`PATIENCE`] is over.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::{buffer::spare_capacity, event::epoll, fd::OwnedFd};

use crate::{
    load::{answer_head_with, retry_interrupted, timespec},
    pace::{Arrivals, Pace},
};

/// How long an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// What an answer's level is told in.
const LEVEL: &str = "weir-level";
/// Connections that each stream has from the beginning.
const READY: usize = 32;
/// Connections that a stream may have.
const MOST: usize = 1024;

/// Requests to one address.
pub(super) struct Stream {
    pub(super) to: SocketAddr,
    /// Requests a second.
    pub(super) rate: f64,
    pub(super) request: Vec<u8>,
}

/// One request and what became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// When it should have been sent.
    pub(super) due: Instant,
    /// From then to its end.
    pub(super) took: Duration,
    pub(super) end: End,
    /// The level that answered, where the answer says one.
    pub(super) level: Option<u8>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With an answer.
    Status(u16),
    /// The connection broke.
    Broken,
    /// No answer came.
    Silent,
}

/// Sends every stream's requests from `start` on for `length`, and returns each stream's calls.
pub(super) fn call(streams: &[Stream], start: Instant, length: Duration) -> Result<Vec<Vec<Call>>> {
    let mut callers = Callers::new(streams, start, start + length)?;
    let mut events = Vec::with_capacity(256);
    while !callers.are_done() {
        for lane in 0..streams.len() {
            callers.dispatch(lane)?;
        }
        epoll::wait(&callers.epoll, spare_capacity(&mut events), Some(&timespec(callers.wait())))
            .or_else(retry_interrupted)?;
        for event in events.drain(..) {
            callers.receive(event.data.u64() as usize)?;
        }
    }
    Ok(callers.lanes.into_iter().map(|lane| lane.calls).collect())
}

struct Callers<'a> {
    epoll: OwnedFd,
    end: Instant,
    lanes: Vec<Lane<'a>>,
    /// By number; what is broken leaves a place.
    connections: Vec<Option<Connection>>,
    outstanding: usize,
    /// What is read lands here first.
    chunk: Vec<u8>,
}

/// One stream at work.
struct Lane<'a> {
    stream: &'a Stream,
    arrivals: Arrivals,
    /// When each request should have been sent that waits for a connection.
    backlog: VecDeque<Instant>,
    idle: Vec<usize>,
    open: usize,
    calls: Vec<Call>,
}

struct Connection {
    lane: usize,
    socket: TcpStream,
    answer: Vec<u8>,
    /// When its outstanding request was due.
    due: Option<Instant>,
}

impl<'a> Callers<'a> {
    fn new(streams: &'a [Stream], start: Instant, end: Instant) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let lane = |(index, stream): (usize, &'a Stream)| Lane {
            stream,
            arrivals: Arrivals::new(Pace::Open(stream.rate), start, crate::pace::SEED + index as u64),
            backlog: VecDeque::new(),
            idle: Vec::new(),
            open: 0,
            calls: Vec::new(),
        };
        let lanes = streams.iter().enumerate().map(lane).collect();
        let mut callers =
            Self { epoll, end, lanes, connections: Vec::new(), outstanding: 0, chunk: vec![0; 16 * 1024] };
        for lane in 0..streams.len() {
            for _ in 0..READY {
                let index = callers.connect(lane)?;
                callers.lanes[lane].idle.push(index);
            }
        }
        Ok(callers)
    }

    /// All was sent, and answered or given up.
    fn are_done(&self) -> bool {
        let sent = self.lanes.iter().all(|lane| lane.backlog.is_empty() && lane.arrivals.next >= self.end);
        sent && self.outstanding == 0
    }

    /// Until the next request is due; in the end, until the last is given up.
    fn wait(&self) -> Duration {
        let next = self.lanes.iter().map(|lane| lane.arrivals.next).filter(|next| *next < self.end).min();
        next.map_or(Duration::from_millis(20), |next| next.saturating_duration_since(Instant::now()))
    }

    /// Sends what is due, on new connections where none is idle.
    fn dispatch(&mut self, index: usize) -> Result<()> {
        let lane = &mut self.lanes[index];
        lane.backlog.extend(lane.arrivals.due(self.end));
        while let Some(&due) = self.lanes[index].backlog.front() {
            let lane = &mut self.lanes[index];
            let connection = match lane.idle.pop() {
                Some(idle) => idle,
                None if lane.open < MOST => self.connect(index)?,
                None => break,
            };
            self.lanes[index].backlog.pop_front();
            self.send(connection, due);
        }
        if Instant::now() > self.end + PATIENCE {
            self.give_up();
        }
        Ok(())
    }

    fn connect(&mut self, lane: usize) -> Result<usize> {
        let to = self.lanes[lane].stream.to;
        let socket = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let index = self.connections.iter().position(Option::is_none).unwrap_or(self.connections.len());
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
        let connection = Some(Connection { lane, socket, answer: Vec::new(), due: None });
        match self.connections.get_mut(index) {
            Some(place) => *place = connection,
            None => self.connections.push(connection),
        }
        self.lanes[lane].open += 1;
        Ok(index)
    }

    fn send(&mut self, index: usize, due: Instant) {
        let Some(connection) = &mut self.connections[index] else { return };
        connection.due = Some(due);
        self.outstanding += 1;
        let request = &self.lanes[connection.lane].stream.request;
        // An idle connection's buffer has room for the whole of it.
        if !matches!(connection.socket.write(request), Ok(written) if written == request.len()) {
            self.close(index, End::Broken);
        }
    }

    /// Reads what is there. Of a connection that was closed meanwhile there is nothing.
    fn receive(&mut self, index: usize) -> Result<()> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        match connection.socket.read(&mut self.chunk) {
            Ok(read) if read > 0 => connection.answer.extend_from_slice(&self.chunk[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            _ => {
                self.close(index, End::Broken);
                return Ok(());
            }
        }
        if let Some((status, length, level)) = answer_head_with(&connection.answer, LEVEL)?
            && connection.answer.len() >= length
        {
            connection.answer.clear();
            let lane = connection.lane;
            self.note(index, End::Status(status), level);
            self.lanes[lane].idle.push(index);
        }
        Ok(())
    }

    /// Writes down how the connection's outstanding request ended, if it has one.
    fn note(&mut self, index: usize, end: End, level: Option<u8>) {
        let Some(connection) = &mut self.connections[index] else { return };
        let Some(due) = connection.due.take() else { return };
        self.outstanding -= 1;
        self.lanes[connection.lane].calls.push(Call { due, took: due.elapsed(), end, level });
    }

    fn close(&mut self, index: usize, end: End) {
        self.note(index, end, None);
        if let Some(connection) = self.connections[index].take() {
            let lane = &mut self.lanes[connection.lane];
            lane.open -= 1;
            lane.idle.retain(|idle| *idle != index);
        }
    }

    fn give_up(&mut self) {
        for index in 0..self.connections.len() {
            self.note(index, End::Silent, None);
        }
        for lane in &mut self.lanes {
            let silent =
                lane.backlog.drain(..).map(|due| Call { due, took: due.elapsed(), end: End::Silent, level: None });
            lane.calls.extend(silent);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers a connection's first request as its number says, and breaks it off at the second.
    fn moody_server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for (number, socket) in listener.incoming().enumerate() {
                std::thread::spawn(move || {
                    let (mut socket, mut request) = (socket.unwrap(), [0; 4]);
                    socket.read_exact(&mut request).unwrap();
                    let status = if number % 2 == 0 { 200 } else { 503 };
                    write!(socket, "HTTP/1.1 {status} x\r\ncontent-length: 2\r\n\r\nok").unwrap();
                    let _ = socket.read_exact(&mut request);
                });
            }
        });
        address
    }

    #[test]
    fn every_request_has_an_end_whatever_the_server_does() {
        let streams = [
            Stream { to: moody_server(), rate: 2000.0, request: b"abcd".to_vec() },
            Stream { to: moody_server(), rate: 500.0, request: b"abcd".to_vec() },
        ];
        let length = Duration::from_millis(200);
        let calls = call(&streams, Instant::now(), length).unwrap();
        let count = |lane: usize, end: End| calls[lane].iter().filter(|call| call.end == end).count();
        for lane in 0..2 {
            assert!(
                count(lane, End::Status(200)) > 0 && count(lane, End::Status(503)) > 0 && count(lane, End::Broken) > 0
            );
            assert_eq!(count(lane, End::Silent), 0);
        }
        assert!(calls[0].len() > 2 * calls[1].len(), "{} {}", calls[0].len(), calls[1].len());
        let mut arrivals =
            Arrivals::new(Pace::Open(2000.0), Instant::now() - Duration::from_secs(1), crate::pace::SEED);
        let end = arrivals.next + length;
        assert_eq!(calls[0].len(), arrivals.due(end).len());
    }
    #[test]
    fn who_is_given_up_was_never_answered() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let streams = [Stream { to: silent.local_addr().unwrap(), rate: 1.0, request: b"abcd".to_vec() }];
        let now = Instant::now();
        let mut callers = Callers::new(&streams, now, now).unwrap();
        callers.send(0, now);
        callers.lanes[0].backlog.push_back(now);
        assert!(!callers.are_done());
        callers.give_up();
        assert!(callers.are_done());
        assert_eq!([0, 1].map(|call| callers.lanes[0].calls[call].end), [End::Silent; 2]);
    }
}
