//! Balance: endpoints are found, left and found again without a failed request; the own zone is preferred; one that is killed,
//! stopped or slow loses its requests and gets them back; a region that is gone is replaced, and said to be gone.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    Weir,
    hand::Counting,
    http1,
    metrics::await_metric,
    process::{Folder, free_port, wait_until},
};

const PATH: &str = "/v2/models/m/infer";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{\"outputs\":[]}";
const LIMIT: Duration = Duration::from_secs(60);

/// A server that can be killed and stopped: a gateway that has one model, which the hand behind it answers.
fn backend(port: u16, behind: &Counting) -> Weir {
    Weir::start(&format!(
        "listen: {{http: \"127.0.0.1:{port}\", grpc: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"}}\npools:\n  b: {{endpoints: [\"{}\"]}}\nmodels:\n  \
         m: {{pool: b}}\n",
        behind.endpoint()
    ))
}

/// Requests that go on until it is stopped; each must be answered 200.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(weir: &Weir) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..2).map(|_| {
            let (mut connection, stop, answered) = (weir.connect(), stop.clone(), answered.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    connection.post(PATH, "{}").expect(200);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        let threads = threads.collect();
        Self { stop, answered, threads }
    }

    /// Waits until as many more were answered.
    fn pass(&self, more: usize) {
        let goal = self.answered.load(Ordering::SeqCst) + more;
        wait_until("requests to be answered", LIMIT, || self.answered.load(Ordering::SeqCst) >= goal);
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("every request was answered 200"));
    }
}

/// Puts a file in place whole, as a config map's is.
fn put(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).expect("the folder is writable");
    fs::rename(&next, path).expect("one folder");
}

fn endpoints(weir: &Weir, pool: &str) -> Vec<Value> {
    let pools = http1::get(weir.admin(), "/admin/v1/pools").expect(200).json();
    pools["state"][pool]["endpoints"].as_array().cloned().unwrap_or_default()
}

/// Why the pool's first source found nothing.
fn failure(weir: &Weir, pool: &str) -> Option<String> {
    let pools = http1::get(weir.admin(), "/admin/v1/pools").expect(200).json();
    pools["state"][pool]["discovery"][0]["failure"].as_str().map(ToOwned::to_owned)
}

#[test]
fn a_file_of_endpoints_is_followed_without_a_failed_request() {
    let (a, b, folder) = (Counting::listen(OK), Counting::listen(OK), Folder::new("endpoints"));
    let file = folder.write("endpoints.yaml", format!("- {}\n", a.endpoint()));
    let mut weir = Weir::start(&format!(
        "pools:\n  p: {{endpoints: [{{file: \"{}\"}}], slow_start: 0s}}\nmodels:\n  m: {{pool: p, timeout: 10s}}\n",
        file.display()
    ));
    let load = Load::start(&weir);
    load.pass(50);
    assert_eq!(b.count(), 0);
    put(&file, &format!("[{:?}, {{\"http\": {:?}}}]", a.endpoint(), b.endpoint()));
    wait_until("the new endpoint to be asked", LIMIT, || b.count() > 20);
    put(&file, "- this is no endpoint\n");
    await_metric(weir.admin(), "weir_discovery_refreshes_total", &[("pool", "p"), ("outcome", "failed")], |n| n >= 1.0);
    assert_eq!(endpoints(&weir, "p").len(), 2, "garbage keeps the old set");
    // Another mistake is told too: in the log, and where the pool is looked at.
    for (mistake, words) in [("- this is no endpoint\n", "not a URL"), ("- {htp: 'http://h:1'}\n", "htp")] {
        put(&file, mistake);
        wait_until("the mistake to be shown", LIMIT, || failure(&weir, "p").is_some_and(|told| told.contains(words)));
        let log = weir.process().log();
        let source = format!("file {}", file.display());
        let is_told = |line: &str| [words, &source, "endpoints cannot be found"].iter().all(|part| line.contains(part));
        assert_eq!(log.lines().filter(|line| is_told(line)).count(), 1, "{log}");
    }
    put(&file, &format!("- {}\n", b.endpoint()));
    await_metric(weir.admin(), "weir_endpoints", &[("pool", "p")], |count| count <= 1.0);
    // What was chosen before the set changed has arrived by then.
    load.pass(10);
    let left = a.count();
    load.pass(100);
    assert_eq!(a.count(), left, "one that left takes no new request");
    load.end();
    assert_eq!(failure(&weir, "p"), None);
    let authority = a.endpoint().replace("http://", "");
    assert_eq!(weir.metrics().sum("weir_endpoint_healthy", &[("endpoint", &authority)]), None, "nothing is said of it");
    assert_eq!(weir.metrics().sum("weir_breaker_state", &[("target", &format!("p/{authority}"))]), None);
}

#[test]
fn each_address_of_a_name_is_an_endpoint() {
    let server = Counting::listen(OK);
    let port = server.endpoint().rsplit_once(':').expect("it has a port").1.to_owned();
    let weir = Weir::start(&format!(
        "pools:\n  p: {{endpoints: [{{dns: \"localhost:{port}\", refresh: 200ms}}]}}\nmodels:\n  m: {{pool: p, timeout: 10s}}\n"
    ));
    let mut connection = weir.connect();
    (0..20).for_each(|_| drop(connection.post(PATH, "{}").expect(200)));
    assert_eq!(server.count(), 20);
    let names: Vec<_> = endpoints(&weir, "p").iter().map(|endpoint| endpoint["name"].to_string()).collect();
    assert!(names.contains(&format!("\"127.0.0.1:{port}\"")), "{names:?}");
    await_metric(weir.admin(), "weir_discovery_refreshes_total", &[("outcome", "unchanged")], |n| n >= 1.0);
}

#[test]
fn the_own_zone_is_asked_until_it_is_gone() {
    let [near, far] = [(); 2].map(|()| Counting::listen(OK));
    let port = free_port();
    let process = backend(port, &near);
    let weir = Weir::with_environment(
        &format!(
            "zone: \"${{ZONE}}\"\npools:\n  p: {{endpoints: [{{http: \"http://127.0.0.1:{port}\", zone: a}}, {{http: \"{}\", zone: b}}], \
             health: {{interval: 200ms}}}}\nmodels:\n  m: {{pool: p, timeout: 10s}}\n",
            far.endpoint()
        ),
        &[("ZONE".into(), "a".into())],
    );
    let mut connection = weir.connect();
    wait_until("the zone to be known", LIMIT, || {
        let before = far.count();
        (0..20).for_each(|_| drop(connection.post(PATH, "{}").expect(200)));
        far.count() == before
    });
    let (here, there) = (near.count(), far.count());
    (0..60).for_each(|_| drop(connection.post(PATH, "{}").expect(200)));
    assert_eq!((near.count() - here, far.count() - there), (60, 0), "all of them stay in their zone");
    drop(process);
    (0..60).for_each(|_| drop(connection.post(PATH, "{}").expect(200)));
    assert_eq!((near.count() - here, far.count() - there), (60, 60), "none is lost with it");
}

#[test]
fn a_killed_endpoint_costs_no_answer_and_has_requests_again_once_it_is_back() {
    let [behind, other] = [(); 2].map(|()| Counting::listen(OK));
    let port = free_port();
    let killed = backend(port, &behind);
    let weir = Weir::start(&format!(
        "pools:\n  p: {{endpoints: [\"http://127.0.0.1:{port}\", \"{}\"], health: {{interval: 300ms}}, slow_start: 1s}}\nmodels:\n  \
         m: {{pool: p, timeout: 10s}}\n",
        other.endpoint()
    ));
    let load = Load::start(&weir);
    wait_until("both to be asked", LIMIT, || behind.count() > 10 && other.count() > 10);
    drop(killed);
    let labels = [("endpoint", &*format!("127.0.0.1:{port}"))];
    await_metric(weir.admin(), "weir_endpoint_healthy", &labels, |healthy| healthy < 1.0);
    load.pass(50);
    let before = behind.count();
    let _back = backend(port, &behind);
    wait_until("it to be asked again", LIMIT, || behind.count() > before + 50);
    load.end();
}

#[test]
fn a_stopped_endpoint_loses_its_requests() {
    let [behind, other] = [(); 2].map(|()| Counting::listen(OK));
    let port = free_port();
    let mut stopped = backend(port, &behind);
    let weir = Weir::start(&format!(
        "pools:\n  p: {{endpoints: [\"http://127.0.0.1:{port}\", \"{}\"], health: {{interval: 300ms, timeout: 300ms}}, attempt_timeout: \
         2s}}\nmodels:\n  m: {{pool: p, timeout: 20s}}\n",
        other.endpoint()
    ));
    let load = Load::start(&weir);
    wait_until("both to be asked", LIMIT, || behind.count() > 10 && other.count() > 10);
    stopped.process().signal("STOP");
    let labels = [("endpoint", &*format!("127.0.0.1:{port}"))];
    await_metric(weir.admin(), "weir_endpoint_healthy", &labels, |healthy| healthy < 1.0);
    load.pass(100);
    stopped.process().signal("CONT");
    await_metric(weir.admin(), "weir_endpoint_healthy", &labels, |healthy| healthy >= 1.0);
    let before = behind.count();
    wait_until("it to be asked again", LIMIT, || behind.count() > before + 20);
    load.end();
}

#[test]
fn the_other_region_takes_over_and_gives_back() {
    let [east, west] = [(); 2].map(|()| Counting::listen(OK));
    let port = free_port();
    let primary = backend(port, &east);
    let weir = Weir::start(&format!(
        "pools:\n  p: {{region: us-east-1, endpoints: [\"http://127.0.0.1:{port}\"], health: {{interval: 200ms}}, failover: {{pool: dr, \
         back_after: 1s}}}}\n  dr: {{region: us-west-2, endpoints: [\"{}\"], health: {{interval: 200ms}}}}\nmodels:\n  m: {{pool: p, timeout: \
         10s}}\n",
        west.endpoint()
    ));
    let region = |name: &str| http1::get(weir.admin(), &format!("/readyz?region={name}"));
    let becomes = |name: &str, status: u16| {
        wait_until(&format!("{name} to be {status}"), LIMIT, || region(name).status == status);
    };
    let over = |value: f64| {
        await_metric(weir.admin(), "weir_pool_failed_over", &[("pool", "p")], |now| (now - value).abs() < 0.5);
    };
    becomes("us-east-1", 200);
    becomes("us-west-2", 200);
    let unknown = region("mars").expect(404);
    assert!(unknown.error().contains("us-east-1, us-west-2"), "{}", unknown.error());
    let mut connection = weir.connect();
    (0..10).for_each(|_| drop(connection.post(PATH, "{}").expect(200)));
    assert_eq!((east.count(), west.count()), (10, 0));
    // Nobody asks meanwhile: health checks alone notice.
    drop(primary);
    over(1.0);
    becomes("us-east-1", 503);
    let told = region("us-east-1").text();
    let reason = format!("127.0.0.1:{port}: fails its health check");
    assert!(told.contains("pool \\\"p\\\"") && told.contains(&reason) && !told.contains("dr"), "{told}");
    becomes("us-west-2", 200);
    (0..10).for_each(|_| drop(connection.post(PATH, "{}").expect(200)));
    assert_eq!((east.count(), west.count()), (10, 10));
    let _back = backend(port, &east);
    over(0.0);
    becomes("us-east-1", 200);
    (0..10).for_each(|_| drop(connection.post(PATH, "{}").expect(200)));
    assert_eq!((east.count(), west.count()), (20, 10));
}

#[test]
fn pools_that_help_out_are_not_waited_for() {
    let (alive, dead) = (Counting::listen(OK), format!("{{endpoints: [\"http://127.0.0.1:{}\"]}}", free_port()));
    let weir = Weir::start(&format!(
        "capacity: {{burst_pool: burst}}\ntiers:\n  high: {{pool: p}}\n  best-effort: {{pool: low, low_priority: true}}\npools:\n  p: \
         {{endpoints: [\"{}\"], failover: dr}}\n  dr: {dead}\n  burst: {dead}\n  low: {dead}\n  idle: {dead}\nmodels:\n  m: {{tier: \
         high}}\n  n: {{tier: best-effort}}\n",
        alive.endpoint(),
    ));
    weir.connect().post(PATH, "{}").expect(200);
}
