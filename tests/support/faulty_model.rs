//! A model server that misbehaves as it is told, over HTTP/1.1 or over HTTP/2, and counts what arrives: what no real server
//! does on demand.
//!
//! A test says what is done about the n-th request as a row of [`Step`]s. Over HTTP/1.1 health checks (GETs) are answered
//! apart and not counted; over HTTP/2 every request counts.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    faulty::reset,
    hand::{READY, accept_on, read_request},
    http2::{self, Came},
};

/// One thing that is done about a request.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// These bytes are written.
    Send(Vec<u8>),
    /// These parts are written one by one, this far apart; whole frames over HTTP/2, where others may come between.
    Trickle(Vec<Vec<u8>>, Duration),
    /// Nothing is done for so long.
    Pause(Duration),
    /// Nothing is done any more.
    Hang,
    /// The connection ends.
    Close,
    /// The connection is reset.
    Reset,
}

/// A request that arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    /// Which it is, from 1.
    pub(crate) nth: usize,
    /// Its stream, over HTTP/2.
    pub(crate) stream: u32,
}

/// What is done about requests.
pub(crate) type Script = Arc<dyn Fn(Arrived) -> Vec<Step> + Send + Sync>;

/// How it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

/// The listener.
pub(crate) struct FaultyModel {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    speaks: Speaks,
    /// What a connection meets before it said anything.
    greeting: Vec<Step>,
    script: Script,
    connections: AtomicUsize,
    requests: AtomicUsize,
}

/// Whether the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    Over,
}

impl FaultyModel {
    /// Listens on any port.
    pub(crate) fn listen(speaks: Speaks, script: Script) -> Self {
        let greeting = match speaks {
            Speaks::Http1 => Vec::new(),
            Speaks::Http2 => vec![Step::Send(http2::greeting())],
        };
        Self::greeting(speaks, greeting, script)
    }

    /// The same; each connection meets `greeting` first.
    pub(crate) fn greeting(speaks: Speaks, greeting: Vec<Step>, script: Script) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), speaks, greeting, script)
    }

    /// The same, at an address.
    pub(crate) fn at(address: SocketAddr, speaks: Speaks, greeting: Vec<Step>, script: Script) -> Self {
        Self::on(TcpListener::bind(address).expect("the port is free"), speaks, greeting, script)
    }

    /// The same, on a listener.
    pub(crate) fn on(listener: TcpListener, speaks: Speaks, greeting: Vec<Step>, script: Script) -> Self {
        let (connections, requests) = Default::default();
        let shared = Arc::new(Shared { speaks, greeting, script, connections, requests });
        let serving = shared.clone();
        Self { address: accept_on(listener, move |stream| serving.serve(stream)), shared }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were made.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Requests whose head arrived.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        self.connections.fetch_add(1, Ordering::SeqCst);
        stream.set_nodelay(true)?;
        if play(&mut stream, &self.greeting)? == Then::Over {
            return Ok(());
        }
        match self.speaks {
            Speaks::Http1 => self.http1(stream),
            Speaks::Http2 => self.http2(stream),
        }
    }

    fn http1(&self, mut stream: TcpStream) -> io::Result<()> {
        while let Some((head, _)) = read_request(&mut stream) {
            if head.starts_with("GET ") {
                stream.write_all(READY)?;
                continue;
            }
            let arrived = Arrived { nth: self.count(), stream: 0 };
            if play(&mut stream, &(self.script)(arrived))? == Then::Over {
                return Ok(());
            }
        }
        Ok(())
    }

    fn http2(&self, mut stream: TcpStream) -> io::Result<()> {
        if http2::read_preface(&mut stream).is_none() {
            return Ok(());
        }
        // Streams come between each other.
        let mut open = HashMap::new();
        while let Some(came) = http2::read_frame(&mut stream) {
            let whole = match came {
                Came::Head(id, is_all) => {
                    open.insert(id, self.count());
                    is_all.then_some(id)
                }
                Came::End(id) => Some(id),
                Came::Settings => {
                    stream.write_all(&http2::settings_ack())?;
                    None
                }
                Came::Ping(payload) => {
                    stream.write_all(&http2::pong(payload))?;
                    None
                }
                Came::Other => None,
            };
            if let Some((id, nth)) = whole.and_then(|id| Some((id, open.remove(&id)?)))
                && self.play_on_stream(&mut stream, Arrived { nth, stream: id })? == Then::Over
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What hangs or trickles holds no other stream up.
    fn play_on_stream(&self, stream: &mut TcpStream, arrived: Arrived) -> io::Result<Then> {
        let mut steps = (self.script)(arrived);
        let hangs = steps.iter().position(|step| matches!(step, Step::Hang | Step::Trickle(..)));
        let rest = hangs.map(|at| steps.split_off(at)).unwrap_or_default();
        let then = play(stream, &steps)?;
        if let [Step::Trickle(..), ..] = *rest {
            let mut stream = stream.try_clone()?;
            thread::spawn(move || drop(play(&mut stream, &rest)));
        }
        Ok(then)
    }

    fn count(&self) -> usize {
        self.requests.fetch_add(1, Ordering::SeqCst) + 1
    }
}

fn play(stream: &mut TcpStream, steps: &[Step]) -> io::Result<Then> {
    for step in steps {
        match step {
            Step::Send(bytes) => stream.write_all(bytes)?,
            Step::Pause(length) => thread::sleep(*length),
            Step::Trickle(parts, apart) => {
                for part in parts {
                    stream.write_all(part)?;
                    thread::sleep(*apart);
                }
            }
            Step::Hang => {
                // Until the caller gives up.
                while stream.read(&mut [0; 1024])? > 0 {}
                return Ok(Then::Over);
            }
            Step::Close => return Ok(Then::Over),
            Step::Reset => {
                reset(stream.try_clone()?)?;
                return Ok(Then::Over);
            }
        }
    }
    Ok(Then::GoOn)
}

/// An address that refuses every connection, and that nobody else gets: a socket that is bound and does not listen.
pub(crate) struct Refusing {
    socket: tokio::net::TcpSocket,
}

impl Refusing {
    /// Binds a port.
    pub(crate) fn bind() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has ports");
        Self { socket }
    }

    /// Where nobody is let in.
    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("it is bound")
    }

    /// Lets those who come from now on in.
    pub(crate) fn into_listener(self) -> TcpListener {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        let _guard = runtime.enter();
        let listener = self.socket.listen(1024).and_then(tokio::net::TcpListener::into_std).expect("it is bound");
        listener.set_nonblocking(false).expect("a socket");
        listener
    }
}

/// An address that takes no more connections and says nothing to who tries: a listener whose queue is full.
pub(crate) struct Blackhole {
    listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Blackhole {
    /// Fills the queue of a listener that accepts nobody.
    pub(crate) fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        let guard = runtime.enter();
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has ports");
        let listener = socket.listen(1).and_then(tokio::net::TcpListener::into_std).expect("it is bound");
        drop(guard);
        let address = listener.local_addr().expect("it is bound");
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
        let queued: Vec<_> = std::iter::from_fn(connect).take(64).collect();
        assert!(queued.len() < 64, "the queue of {address} never fills");
        Self { listener, _queued: queued }
    }

    /// Lets those who come from now on, and who still try, through.
    pub(crate) fn into_listener(self) -> TcpListener {
        self.listener.set_nonblocking(false).expect("a socket");
        self.listener
    }

    /// Where nobody gets through.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it is bound")
    }
}
