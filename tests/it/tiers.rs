//! Tiers: what is reserved is never lent, whatever floods the others; borrowed slots run on the burst pool; whoever cannot be
//! served in time is told so at once.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use serde_json::json;

use crate::support::{
    Weir,
    hand::{Arrival, Hand, accept, read_request},
    http1::{self, Http1, Response},
    metrics::await_metric,
    process::free_port,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{\"outputs\":[]}";

/// A model server that takes its time, and counts what it is asked.
struct Slow {
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    arrivals: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Slow {
    fn listen(takes: Duration) -> Self {
        let seen = Arc::<Seen>::default();
        let counting = seen.clone();
        Self { address: accept(move |stream| answer_slowly(stream, &counting, takes)), seen }
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn arrivals(&self) -> usize {
        self.seen.arrivals.load(SeqCst)
    }
}

fn answer_slowly(mut stream: TcpStream, seen: &Seen, takes: Duration) {
    while let Some((head, _)) = read_request(&mut stream) {
        if !head.starts_with("GET ") {
            seen.arrivals.fetch_add(1, SeqCst);
            let at_once = seen.at_once.fetch_add(1, SeqCst) + 1;
            seen.most_at_once.fetch_max(at_once, SeqCst);
            thread::sleep(takes);
            seen.at_once.fetch_sub(1, SeqCst);
        }
        if stream.write_all(OK).is_err() {
            return;
        }
    }
}

fn ask(connection: &mut Http1, model: &str, headers: &[(&str, &str)]) -> Response {
    let headers = [&[("content-type", "application/json")], headers].concat();
    connection.request("POST", &format!("/v2/models/{model}/infer"), &headers, b"{}")
}

/// Sends a request and does not wait for its answer.
fn send(weir: &Weir, model: &str, headers: &[(&str, &str)]) -> Http1 {
    let mut connection = weir.connect();
    let headers = [&[("content-type", "application/json")], headers].concat();
    connection.send("POST", &format!("/v2/models/{model}/infer"), &headers, b"{}");
    connection
}

#[track_caller]
fn expect_shed(answer: Response) -> Response {
    let answer = answer.expect(429);
    let seconds: u64 = answer.header("retry-after").expect("it says when").parse().expect("in seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
    answer
}

/// Slots of `best-effort` in the flood: 2 reserved, at most 6 of 20.
const MOST: usize = 6;

#[test]
fn a_flood_of_best_effort_never_takes_what_is_reserved() {
    let [steady, flooded] = [(); 2].map(|()| Slow::listen(Duration::from_millis(20)));
    let weir = Weir::start(&format!(
        "capacity: {{slots: 20, shared: 0.2}}\ntiers:\n  high: {{pool: a}}\n  standard: {{pool: a}}\n  \
         best-effort: {{pool: b, queue: 4}}\npools:\n  a: {{endpoints: [\"{}\"]}}\n  b: {{endpoints: [\"{}\"]}}\n\
         models:\n  h: {{tier: high, timeout: 20s}}\n  b: {{tier: best-effort, timeout: 20s}}\n",
        steady.endpoint(),
        flooded.endpoint()
    ));
    let (flooding, answered, shed) = (AtomicBool::new(true), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..10 * MOST {
            scope.spawn(|| flood(&weir, &flooding, (&answered, &shed)));
        }
        scope.spawn(|| watch_slots(&weir, &flooding));
        // 8 slots are the high tier's own; none of its requests ever finds fewer than one of them free.
        let steady: Vec<_> = (0..4).map(|_| scope.spawn(|| ask_steadily(&weir))).collect();
        let outcomes: Vec<_> = steady.into_iter().map(thread::ScopedJoinHandle::join).collect();
        flooding.store(false, SeqCst);
        assert!(outcomes.iter().all(Result::is_ok), "a request of the high tier was not answered 200");
    });
    let metrics = weir.metrics();
    assert_eq!(steady.arrivals(), 4 * 100);
    assert_eq!(metrics.count("weir_requests_shed_total", &[("tier", "high")]), 0.0);
    let (answered, shed) = (answered.into_inner(), shed.into_inner());
    assert!(answered > 0 && shed > 0, "{answered} answered, {shed} shed: it was no flood");
    assert_eq!(flooded.arrivals(), answered, "what was shed never arrived");
    assert_eq!(metrics.count("weir_requests_shed_total", &[("tier", "best-effort")]), shed as f64);
    assert!(flooded.seen.most_at_once.load(SeqCst) <= MOST);
}

fn flood(weir: &Weir, flooding: &AtomicBool, (answered, shed): (&AtomicUsize, &AtomicUsize)) {
    let mut connection = weir.connect();
    while flooding.load(SeqCst) {
        let answer = ask(&mut connection, "b", &[]);
        if answer.status == 200 {
            answered.fetch_add(1, SeqCst);
        } else {
            expect_shed(answer);
            shed.fetch_add(1, SeqCst);
            // Paced so that the flood, ten times what its tier can do, leaves the machine to others.
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn watch_slots(weir: &Weir, flooding: &AtomicBool) {
    while flooding.load(SeqCst) {
        let in_use = weir.metrics().count("weir_tier_slots_in_use", &[("tier", "best-effort")]);
        assert!(in_use <= MOST as f64, "{in_use}");
    }
}

fn ask_steadily(weir: &Weir) {
    let mut connection = weir.connect();
    for _ in 0..100 {
        ask(&mut connection, "h", &[]).expect(200);
    }
}

/// Ten slots: the high tier has 4 and may borrow one, the best-effort tier has 1 and may borrow both. `fixed` has a pool of its own.
fn held(own: &str, burst: &str, other: &str) -> Weir {
    Weir::start(&format!(
        "capacity: {{slots: 10, shared: 0.2, burst_pool: burst}}\ntiers:\n  high: {{pool: own, queue: 0}}\n  \
         best-effort: {{pool: own, queue: 0}}\npools:\n  own: {{endpoints: [\"{own}\"]}}\n  \
         burst: {{endpoints: [\"{burst}\"], health: {{interval: 200ms}}}}\n  other: {{endpoints: [\"{other}\"]}}\nmodels:\n  \
         m: {{tier: high, timeout: 60s}}\n  b: {{tier: best-effort, timeout: 60s}}\n  \
         fixed: {{tier: high, pool: other, timeout: 60s}}\n"
    ))
}

/// Sends as many requests for `m` as its tier has reserved, and holds them at its own pool.
fn reserved(weir: &Weir, own: &Hand) -> Vec<(Http1, Arrival)> {
    (0..4).map(|_| (send(weir, "m", &[]), own.arrival())).collect()
}

#[test]
fn a_borrowed_slot_runs_on_the_burst_pool() {
    let [own, burst, other] = [(); 3].map(|()| Hand::listen());
    let weir = held(&own.endpoint(), &burst.endpoint(), &other.endpoint());
    let mut holding = reserved(&weir, &own);
    let (mut borrower, at_burst) = (send(&weir, "m", &[]), burst.arrival());
    let tiers = http1::get(weir.admin(), "/admin/v1/tiers").expect(200).json();
    assert_eq!(
        tiers["state"]["high"],
        json!({"slots": 5, "reserved": 4, "in_use": 5, "borrowed": 1, "waiting": 0, "mean_wait_seconds": null})
    );
    expect_shed(ask(&mut weir.connect(), "m", &[]));
    // One of its own ends: the slot given back is the shared one, and the place at its own pool is the tier's again.
    let (mut first, arrival) = holding.pop().expect("four are held");
    arrival.answer("{}");
    first.receive().expect(200);
    await_metric(weir.admin(), "weir_tier_slots_in_use", &[("tier", "high")], |in_use| in_use == 4.0);
    let tiers = http1::get(weir.admin(), "/admin/v1/tiers").expect(200).json();
    assert_eq!(tiers["state"]["high"]["borrowed"], 0);
    let (mut next, at_own) = (send(&weir, "m", &[]), own.arrival());
    at_burst.answer("{}");
    borrower.receive().expect(200);
    at_own.answer("{}");
    next.receive().expect(200);
}

#[test]
fn a_model_with_a_pool_of_its_own_stays_there() {
    let [own, burst, other] = [(); 3].map(|()| Hand::listen());
    let weir = held(&own.endpoint(), &burst.endpoint(), &other.endpoint());
    let _holding = reserved(&weir, &own);
    let (mut fixed, arrival) = (send(&weir, "fixed", &[]), other.arrival());
    arrival.answer("{}");
    fixed.receive().expect(200);
    assert_eq!(burst.pending(), 0);
}

#[test]
fn a_burst_pool_that_is_gone_is_done_without() {
    let [own, other] = [(); 2].map(|()| Hand::listen());
    // A process that can be killed, and says that it is ready: a gateway of no models.
    let burst = Weir::start("features: {views: {v: {entities: {id: INT64}, features: {f: {type: DOUBLE}}}}}");
    let weir = held(&own.endpoint(), &format!("http://{}", burst.http()), &other.endpoint());
    let healthy = |state: f64| {
        await_metric(weir.admin(), "weir_endpoint_healthy", &[("pool", "burst")], |healthy| healthy == state);
    };
    healthy(1.0);
    drop(burst);
    healthy(0.0);
    let _holding = reserved(&weir, &own);
    let (mut borrower, arrival) = (send(&weir, "m", &[]), own.arrival());
    arrival.answer("{}");
    borrower.receive().expect(200);
}

#[test]
fn a_caller_lowers_its_tier_and_never_raises_it() {
    let [own, burst, other] = [(); 3].map(|()| Hand::listen());
    let weir = held(&own.endpoint(), &burst.endpoint(), &other.endpoint());
    let _full = [
        (send(&weir, "b", &[]), own.arrival()),
        (send(&weir, "m", &[("weir-tier", "best-effort")]), burst.arrival()),
        (send(&weir, "b", &[("weir-tier", "high")]), burst.arrival()),
    ];
    let mut connection = weir.connect();
    for (model, tier) in [("b", "high"), ("b", "best-effort"), ("m", "best-effort")] {
        let answer = expect_shed(ask(&mut connection, model, &[("weir-tier", tier)]));
        assert!(answer.error().contains("tier best-effort"), "{}", answer.error());
    }
    let (mut high, arrival) = (send(&weir, "m", &[("weir-tier", "high")]), own.arrival());
    arrival.answer("{}");
    high.receive().expect(200);
    assert!(ask(&mut connection, "m", &[("weir-tier", "gold")]).expect(400).error().contains("high, best-effort"));
}

#[test]
fn a_deadline_that_the_model_cannot_keep_is_refused_at_once() {
    let slow = Slow::listen(Duration::from_millis(60));
    let weir = Weir::start(&format!(
        "pools:\n  p: {{endpoints: [\"{}\"]}}\nmodels:\n  m: {{timeout: 20s}}\n",
        slow.endpoint()
    ));
    let mut connection = weir.connect();
    for _ in 0..10 {
        ask(&mut connection, "m", &[]).expect(200);
    }
    let answer = expect_shed(ask(&mut connection, "m", &[("weir-timeout-ms", "50")]));
    assert!(answer.error().starts_with("too little time: "), "{}", answer.error());
    assert_eq!(slow.arrivals(), 10, "the model was not bothered");
    assert_eq!(weir.metrics().count("weir_requests_shed_total", &[("reason", "deadline")]), 1.0);
    ask(&mut connection, "m", &[]).expect(200);
    assert!(weir.metrics().sum("weir_demand", &[("model", "m")]).expect("it is exported") > 0.0);
}

#[test]
fn a_pool_that_takes_over_is_asked_under_its_own_policy() {
    let hand = Hand::listen();
    let weir = Weir::start(&format!(
        "pools:\n  p: {{endpoints: [\"http://127.0.0.1:{}\"], health: {{interval: 200ms}}, failover: dr}}\n  dr: {{endpoints: [\"{}\"], limit: \
         adaptive, retry: {{max_retries: 0}}}}\nmodels:\n  m: {{pool: p, timeout: 60s}}\n",
        free_port(),
        hand.endpoint()
    ));
    await_metric(weir.admin(), "weir_pool_failed_over", &[("pool", "p")], |over| over >= 1.0);
    let mut held: Vec<_> = (0..20).map(|_| (send(&weir, "m", &[]), hand.arrival())).collect();
    expect_shed(ask(&mut weir.connect(), "m", &[]));
    let (mut asked, mut arrival) = held.swap_remove(0);
    arrival.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    asked.receive().expect(503);
    assert_eq!(hand.pending(), 0, "not once more, as requests to p are");
}

#[test]
fn over_an_adaptive_limit_is_refused_without_being_sent() {
    let hand = Hand::listen();
    let weir = Weir::start(&format!(
        "pools:\n  p: {{endpoints: [\"{}\"], limit: adaptive}}\nmodels:\n  m: {{timeout: 60s}}\n",
        hand.endpoint()
    ));
    // Where nothing is known yet, the limit is 20.
    let _held: Vec<_> = (0..20).map(|_| (send(&weir, "m", &[]), hand.arrival())).collect();
    expect_shed(ask(&mut weir.connect(), "m", &[]));
    let metrics = weir.metrics();
    assert_eq!(metrics.count("weir_requests_shed_total", &[("reason", "limit")]), 1.0);
    assert_eq!(metrics.sum("weir_pool_limit", &[("pool", "p")]), Some(20.0));
    assert_eq!(hand.pending(), 0);
}
