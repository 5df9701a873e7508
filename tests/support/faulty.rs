//! A proxy before an object store that spoils answers as it is told: what no real store does on demand.
//!
//! Requests reach the store as they came, `host` included, since that is signed; one a connection, so that an answer is whole
//! bytes to be cut, held back or replaced. Only GETs are spoilt.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    SeaweedFs,
    hand::{accept, read_request},
};

/// What becomes of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing: they pass.
    None,
    /// 503 in S3's words, in place of each.
    SlowDown,
    /// They wait until the fault is another one.
    Held,
    /// Half of the body comes, then the connection's end.
    CutOff,
    /// Half of the body comes, then a reset.
    Reset,
    /// Fewer bytes than were asked for, in an answer that is whole.
    Fewer,
    /// 200 and the whole object, where a range was asked for.
    WholeObject,
}

const SLOW_DOWN: &str = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your request \
                         rate.</Message></Error>";

/// A running proxy.
pub(crate) struct Faulty {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    store: SocketAddr,
    fault: Mutex<Fault>,
    changed: Condvar,
    spoilt: AtomicUsize,
}

impl Faulty {
    /// Listens before the store; nothing is spoilt yet.
    pub(crate) fn before(store: &SeaweedFs) -> Self {
        let (fault, changed) = (Mutex::new(Fault::None), Condvar::new());
        let shared = Arc::new(Shared { store: store.address(), fault, changed, spoilt: AtomicUsize::new(0) });
        let serving = shared.clone();
        Self { address: accept(move |stream| serving.serve(stream)), shared }
    }

    /// From now on, answers that are held among them.
    pub(crate) fn spoil(&self, fault: Fault) {
        *self.shared.fault.lock().expect("no holder panics") = fault;
        self.shared.changed.notify_all();
    }

    /// GETs that met a fault so far.
    pub(crate) fn spoilt(&self) -> usize {
        self.shared.spoilt.load(Ordering::SeqCst)
    }

    /// The store's environment, with the proxy in its place.
    pub(crate) fn environment(&self, store: &SeaweedFs) -> Vec<(String, String)> {
        let (theirs, ours) = (store.address().to_string(), self.address.to_string());
        store.environment().into_iter().map(|(name, value)| (name, value.replace(&theirs, &ours))).collect()
    }
}

impl Shared {
    fn serve(&self, mut caller: TcpStream) -> std::io::Result<()> {
        let Some((head, body)) = read_request(&mut caller) else { return Ok(()) };
        let fault = if head.starts_with("GET ") { self.fault() } else { Fault::None };
        self.spoilt.fetch_add(usize::from(fault != Fault::None), Ordering::SeqCst);
        let answer = self.ask(&head, &body)?;
        let whole = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
        let (head, body) = answer.split_at(whole);
        let half = [head, &body[..body.len() / 2]].concat();
        match fault {
            Fault::None => caller.write_all(&answer),
            Fault::SlowDown => {
                let length = SLOW_DOWN.len();
                let head = "HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\nconnection: close\r\n";
                caller.write_all(format!("{head}content-length: {length}\r\n\r\n{SLOW_DOWN}").as_bytes())
            }
            Fault::Held => {
                let held = self.fault.lock().expect("no holder panics");
                drop(self.changed.wait_while(held, |fault| *fault == Fault::Held).expect("no holder panics"));
                caller.write_all(&answer)
            }
            Fault::CutOff => caller.write_all(&half),
            Fault::Reset => {
                caller.write_all(&half)?;
                reset(caller)
            }
            Fault::Fewer => caller.write_all(&fewer(head, body)),
            Fault::WholeObject => caller.write_all(&whole_object(head, body)),
        }
    }

    fn fault(&self) -> Fault {
        *self.fault.lock().expect("no holder panics")
    }

    /// The store's answer, to the connection's end.
    fn ask(&self, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut store = TcpStream::connect(self.store)?;
        let (line, headers) = head.split_once("\r\n").unwrap_or((head, "\r\n"));
        store.write_all(format!("{line}\r\nconnection: close\r\n{headers}").as_bytes())?;
        store.write_all(body)?;
        let mut answer = Vec::new();
        store.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// A socket that lingers for no time is reset when it is closed.
pub(crate) fn reset(stream: TcpStream) -> std::io::Result<()> {
    tokio::net::TcpSocket::from_std_stream(stream).set_zero_linger()
}

/// The range that an answer says it is: its first byte, and the object's length.
fn range(head: &[u8]) -> Option<(usize, usize)> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = head.lines().find_map(|line| line.strip_prefix("content-range: bytes "))?;
    let (range, total) = value.trim().split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}

fn fewer(head: &[u8], body: &[u8]) -> Vec<u8> {
    let Some((first, total)) = range(head) else { return [head, body].concat() };
    let body = &body[..body.len() / 2];
    let (length, last) = (body.len(), first + body.len() - 1);
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {length}\r\ncontent-range: bytes {first}-{last}/{total}\r\n\
         last-modified: Fri, 27 Nov 2026 00:00:00 GMT\r\netag: \"x\"\r\nconnection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn whole_object(head: &[u8], body: &[u8]) -> Vec<u8> {
    let Some((first, total)) = range(head) else { return [head, body].concat() };
    let mut object = vec![0; total];
    object[first..first + body.len()].copy_from_slice(body);
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {total}\r\nlast-modified: Fri, 27 Nov 2026 00:00:00 GMT\r\netag: \"x\"\r\n\
         connection: close\r\n\r\n"
    );
    [head.as_bytes(), &object].concat()
}
