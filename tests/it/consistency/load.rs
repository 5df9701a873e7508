//! Clients that push ever newer versions of a few rows through three gateways and read them, and note what they saw.
//!
//! One read or write of one row is an operation: a read of several rows is as many, which began and ended together.
//!
//! Bystanders read another view of the same entities, and of as many more, whose rows may be old and come from anywhere; it is pushed
//! too. What they see is not checked: they are why keys are hot, have copies, and are read from replicas.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::history::{Act, Operation};

/// Rows that are pushed and read: so few that each is pushed and read all the time.
pub(crate) const KEYS: u32 = 48;
/// Rows of one read, at most.
const TOGETHER: u32 = 16;
/// Clients of each gateway that push, and that read.
const CLIENTS: usize = 2;
/// A row is pushed to the other view each so many pushes.
const OTHERWISE: u64 = 4;
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// How far the clients are.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    end: AtomicBool,
    /// Operations that were answered.
    pub(crate) operations: AtomicU64,
    /// Pushes that were acknowledged.
    pub(crate) pushes: AtomicU64,
    /// Requests to read that were answered.
    pub(crate) reads: AtomicU64,
    /// Bystanders' requests that were answered.
    pub(crate) bystanders: AtomicU64,
    /// By row, the last version that was given out.
    versions: Vec<AtomicU64>,
}

impl Progress {
    /// Operations, acknowledged pushes, and requests to read, so far.
    pub(crate) fn so_far(&self) -> [u64; 3] {
        [&self.operations, &self.pushes, &self.reads].map(|count| count.load(Ordering::Relaxed))
    }
}

/// What a client does.
#[derive(Clone, Copy)]
enum Job {
    Push,
    Read,
    StandBy,
}

/// Whether there is another view of the entities, that bystanders read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bystanders {
    Some,
    None,
}

/// All clients.
pub(crate) struct Load {
    pub(crate) progress: Arc<Progress>,
    clients: Vec<JoinHandle<Vec<Operation>>>,
}

impl Load {
    pub(crate) fn start(gateways: &[SocketAddr], bystanders: Bystanders) -> Self {
        let versions = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
        let progress = Arc::new(Progress { versions, ..Progress::default() });
        let mut jobs = [Job::Push, Job::Read].repeat(CLIENTS);
        jobs.extend((bystanders == Bystanders::Some).then_some(Job::StandBy));
        let mut clients = Vec::new();
        for gateway in gateways {
            for job in &jobs {
                let (progress, client, job) = (Arc::clone(&progress), Client::of(*gateway, bystanders), *job);
                clients.push(thread::spawn(move || client.run(job, &progress)));
            }
        }
        Self { progress, clients }
    }

    /// Ends all of them; what they saw.
    pub(crate) fn end(self) -> Vec<Operation> {
        self.progress.end.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().expect("a client panics at nothing")).collect()
    }
}

/// A connection that may break, and is made again.
struct Client {
    gateway: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
    bystanders: Bystanders,
}

impl Client {
    fn of(gateway: SocketAddr, bystanders: Bystanders) -> Self {
        Self { gateway, stream: None, bystanders }
    }

    fn run(mut self, job: Job, progress: &Progress) -> Vec<Operation> {
        let mut seen = Vec::new();
        while !progress.end.load(Ordering::Relaxed) {
            let is_answered = match job {
                Job::Push => self.push(progress, &mut seen),
                Job::Read => self.read(progress, &mut seen),
                Job::StandBy => self.stand_by(progress),
            };
            if !is_answered {
                // Nobody is there, or refuses: what is written in a circle only heats.
                thread::sleep(Duration::from_millis(5));
            }
        }
        seen
    }

    fn push(&mut self, progress: &Progress, seen: &mut Vec<Operation>) -> bool {
        let key = rand::random_range(0..KEYS);
        let version = progress.versions[key as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let asked = Instant::now();
        let is_acknowledged = self.push_to("stock", key, version);
        progress.pushes.fetch_add(u64::from(is_acknowledged), Ordering::Relaxed);
        progress.operations.fetch_add(u64::from(is_acknowledged), Ordering::Relaxed);
        let answered = is_acknowledged.then(Instant::now);
        seen.push(Operation { key, act: Act::Push, version, asked, answered });
        if self.bystanders == Bystanders::Some && version.is_multiple_of(OTHERWISE) {
            self.push_to("lately", key, version);
        }
        is_acknowledged
    }

    fn push_to(&mut self, view: &str, key: u32, version: u64) -> bool {
        let at = 1_790_000_000_000_000_000 + version * 1_000_000_000;
        let rows = json!({"sku": [key], "version": [version], "event_timestamp": [at]});
        let body = json!({"push_source_name": view, "to": "online", "df": rows}).to_string();
        matches!(self.post("/push", &body), Ok((200, _)))
    }

    fn read(&mut self, progress: &Progress, seen: &mut Vec<Operation>) -> bool {
        let (first, count) = (rand::random_range(0..KEYS), rand::random_range(1..=TOGETHER));
        let keys: Vec<u32> = (0..count).map(|next| (first + next) % KEYS).collect();
        let body = json!({"features": ["stock:version"], "entities": {"sku": keys}}).to_string();
        let asked = Instant::now();
        let Ok((200, body)) = self.post("/get-online-features", &body) else { return false };
        let answered = Some(Instant::now());
        let answer: Value = serde_json::from_slice(&body).expect("a 200 has JSON");
        let values = answer["results"][1]["values"].as_array().expect("a column");
        assert_eq!(values.len(), keys.len());
        progress.operations.fetch_add(u64::from(count), Ordering::Relaxed);
        progress.reads.fetch_add(1, Ordering::Relaxed);
        for (key, value) in keys.into_iter().zip(values) {
            let version = value.as_u64().unwrap_or_default();
            seen.push(Operation { key, act: Act::Read, version, asked, answered });
        }
        true
    }

    /// Reads any rows of the other view; now and then pushes one that nobody else pushes.
    fn stand_by(&mut self, progress: &Progress) -> bool {
        let turn = progress.bystanders.load(Ordering::Relaxed);
        if turn.is_multiple_of(32) {
            self.push_to("lately", KEYS + rand::random_range(0..KEYS), turn + 1);
        }
        let first = rand::random_range(0..2 * KEYS);
        let keys: Vec<u32> = (0..TOGETHER).map(|next| (first + next) % (2 * KEYS)).collect();
        let body = json!({"features": ["lately:version"], "entities": {"sku": keys}}).to_string();
        let is_answered = matches!(self.post("/get-online-features", &body), Ok((200, _)));
        progress.bystanders.fetch_add(u64::from(is_answered), Ordering::Relaxed);
        is_answered
    }

    /// Status and body; after an error the next one is on another connection.
    fn post(&mut self, path: &str, body: &str) -> io::Result<(u16, Vec<u8>)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.gateway, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: weir\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.get_mut().write_all((head + body).as_bytes())?;
        let answer = receive(&mut stream)?;
        self.stream = Some(stream);
        Ok(answer)
    }
}

/// An answer, whose length Weir tells.
fn receive(stream: &mut BufReader<TcpStream>) -> io::Result<(u16, Vec<u8>)> {
    let broken = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    let mut length = 0;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(broken());
        }
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(given) = header.strip_prefix("content-length:") {
            length = given.trim().parse().map_err(|_| broken())?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status, body))
}
