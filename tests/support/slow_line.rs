//! A line to a server that lets what the server says wait, as long as a test wants: all of it, or some.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

/// What is connected to in the server's place.
pub(crate) struct SlowLine {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    millis: AtomicU64,
    /// One in so many waits, at random; 0 and 1: all.
    one_in: AtomicU64,
    late: AtomicU64,
}

impl SlowLine {
    /// One that is not slow yet.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::<Shared>::default();
        let serving = shared.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // A caller whose server is gone is let go of.
                let Ok(far) = TcpStream::connect(server) else { continue };
                for (from, to, shared) in [(&near, &far, None), (&far, &near, Some(serving.clone()))] {
                    to.set_nodelay(true).expect("it is a TCP socket");
                    let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                    thread::spawn(move || pass(from, to, shared.as_deref()));
                }
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `redis://…`
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Everything waits so long from now on.
    pub(crate) fn slow(&self, millis: u64) {
        self.slow_now_and_then(millis, 1);
    }

    /// One in so many of what is said at once on a connection waits, and with it what follows there; other connections go on.
    pub(crate) fn slow_now_and_then(&self, millis: u64, one_in: u64) {
        self.shared.one_in.store(one_in, SeqCst);
        self.shared.millis.store(millis, SeqCst);
    }

    /// How often something waited.
    pub(crate) fn late(&self) -> u64 {
        self.shared.late.load(SeqCst)
    }
}

impl Shared {
    fn wait(&self) {
        let (millis, one_in) = (self.millis.load(SeqCst), self.one_in.load(SeqCst));
        if millis > 0 && (one_in < 2 || rand::random_range(0..one_in) == 0) {
            self.late.fetch_add(1, SeqCst);
            thread::sleep(Duration::from_millis(millis));
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, shared: Option<&Shared>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        shared.into_iter().for_each(Shared::wait);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}
