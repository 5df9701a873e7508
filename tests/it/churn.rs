//! Endpoints that are killed, hang and come back while requests go on: as long as one of them is well, callers are answered, and no
//! endpoint is asked more often for it than retries are allowed.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use crate::support::{
    Weir,
    faulty::reset,
    hand::{READY, accept, read_request},
    metrics::await_metric,
    process::wait_until,
};

const PATH: &str = "/v2/models/m/infer";
const LIMIT: Duration = Duration::from_secs(30);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{\"outputs\":[]}";
const CALLERS: usize = 6;

/// How a server is, in requests and health checks alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Well,
    /// As a process that was killed: connections are reset.
    Dead,
    /// As a process that was stopped: it takes what it is sent, and nothing comes back.
    Hung,
}

struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// POSTs.
    arrivals: AtomicUsize,
}

impl Server {
    fn listen() -> Self {
        let shared =
            Arc::new(Shared { state: Mutex::new(State::Well), changed: Condvar::new(), arrivals: AtomicUsize::new(0) });
        let serving = shared.clone();
        Self { address: accept(move |stream| serving.serve(stream)), shared }
    }

    fn set(&self, state: State) {
        *self.shared.state.lock().expect("no holder panics") = state;
        self.shared.changed.notify_all();
    }

    fn arrivals(&self) -> usize {
        self.shared.arrivals.load(SeqCst)
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        if self.state() == State::Dead {
            return reset(stream);
        }
        while let Some((head, _)) = read_request(&mut stream) {
            let is_check = head.starts_with("GET ");
            self.arrivals.fetch_add(usize::from(!is_check), SeqCst);
            if self.state() != State::Well {
                let state = self.state.lock().expect("no holder panics");
                drop(self.changed.wait_while(state, |state| *state == State::Hung).expect("no holder panics"));
                return reset(stream);
            }
            std::io::Write::write_all(&mut stream, if is_check { READY } else { OK })?;
        }
        Ok(())
    }

    fn state(&self) -> State {
        *self.state.lock().expect("no holder panics")
    }
}

/// Callers that ask one after the other until they are told to stop; how many were answered, and how many not.
fn call(weir: &Weir, stop: &AtomicBool) -> (usize, usize) {
    let (mut answered, mut failed) = (0, 0);
    let mut connection = weir.connect();
    while !stop.load(SeqCst) {
        if connection.post(PATH, "{}").status == 200 {
            answered += 1;
        } else {
            failed += 1;
        }
    }
    (answered, failed)
}

/// Tells callers to stop, also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Waits until an endpoint is known to be well, or not.
#[track_caller]
fn await_health(weir: &Weir, server: &Server, well: bool) {
    let endpoint = server.address.to_string();
    let labels = [("endpoint", &*endpoint)];
    await_metric(weir.admin(), "weir_endpoint_healthy", &labels, |healthy| (healthy > 0.0) == well);
    if well {
        let target = format!("p/{endpoint}");
        await_metric(weir.admin(), "weir_breaker_state", &[("target", &target), ("state", "closed")], |is| is > 0.0);
    }
}

#[test]
fn while_one_endpoint_is_well_callers_are_answered() {
    let servers = [(); 3].map(|()| Server::listen());
    let endpoints = servers.each_ref().map(|server| format!("\"http://{}\"", server.address)).join(", ");
    let weir = Weir::start(&format!(
        "pools:\n  p: {{endpoints: [{endpoints}], attempt_timeout: 500ms, health: {{interval: 1s, timeout: 500ms}}}}\n\
         models:\n  m: {{pool: p, timeout: 20s}}\n"
    ));
    let stop = AtomicBool::new(false);
    let (answered, failed) = thread::scope(|scope| {
        let stopping = Stop(&stop);
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(|| call(&weir, &stop))).collect();
        for (first, second) in [(0, 1), (1, 2), (2, 0)] {
            let [first, second] = [&servers[first], &servers[second]];
            first.set(State::Hung);
            await_health(&weir, first, false);
            second.set(State::Dead);
            await_health(&weir, second, false);
            // What was hung dies, as one that is restarted does, and what was dead is back.
            first.set(State::Dead);
            second.set(State::Well);
            await_health(&weir, second, true);
            first.set(State::Well);
            await_health(&weir, first, true);
            for server in [first, second] {
                let before = server.arrivals();
                wait_until("the endpoint to have requests again", LIMIT, || server.arrivals() >= before + 100);
            }
        }
        drop(stopping);
        let ended = callers.into_iter().map(|caller| caller.join().expect("a caller does not panic"));
        ended.fold((0, 0), |(answered, failed), (a, f)| (answered + a, failed + f))
    });
    let requests = answered + failed;
    assert!(requests >= 1000 && failed * 1000 <= requests, "{failed} of {requests} were not answered");
    let arrivals: usize = servers.iter().map(Server::arrivals).sum();
    let retries = weir.metrics().count("weir_retries_total", &[]) as usize;
    assert!(arrivals <= requests + requests / 5 + 200, "{arrivals} arrivals of {requests} requests, {retries} retries");
}
