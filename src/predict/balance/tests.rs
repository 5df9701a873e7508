//! Pools under traffic that is played with time passed in: who is asked how often, and who is not.

use std::time::Duration;

use super::*;
use crate::{
    config, fixture,
    infer::{Asker, Protocol},
    predict::{
        classify::Class,
        endpoint::{Ended, Health, InFlight},
        pool::Pool,
    },
    resilience::{breaker, outlier},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// How a played endpoint is.
#[derive(Clone, Copy)]
enum Server {
    /// Answers after so many milliseconds.
    Takes(u32),
    /// Refuses connections.
    Down,
    /// Its model fails after so many milliseconds, but it passes its health checks.
    Hung(u32),
    /// So many answers take 300 ms, then 10.
    Cold(u32),
}

/// A pool of played endpoints, a request a millisecond, health checks each five seconds, a look each half.
struct Play {
    pool: Pool,
    servers: Vec<Server>,
    now: Instant,
    millis: u64,
    under_way: Vec<UnderWay>,
    asked: Vec<u32>,
}

struct UnderWay {
    ends: Instant,
    began: Instant,
    class: Class,
    choice: Choice,
    _in_flight: Option<InFlight>,
}

fn endpoint(port: usize, zone: Option<&str>) -> config::Endpoint {
    let authority = format!("h:{port}");
    let upstream =
        config::Upstream { authority: authority.as_str().into(), host: "h".into(), port: u16::try_from(port).unwrap() };
    config::Endpoint { name: authority.into(), http: Some(upstream), grpc: None, zone: zone.map(Into::into) }
}

fn settings(count: usize) -> config::Pool {
    let mut config = fixture::config().pools[0].clone();
    config.endpoints = (0..count).map(|at| endpoint(at, None)).collect();
    config.max_in_flight = None;
    config
}

const WANT: Want = Want { protocol: Protocol::V2Json, last: None, probing: true, asker: Asker::Caller };

impl Play {
    fn new(config: &config::Pool, servers: &[Server]) -> Self {
        let now = Instant::now();
        let pool = Pool::new(config, 1, now);
        Self { pool, servers: servers.to_vec(), now, millis: 0, under_way: Vec::new(), asked: vec![0; servers.len()] }
    }

    fn server(&self, endpoint: &Endpoint) -> usize {
        endpoint.name().rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// Plays on; how often each endpoint was asked meanwhile.
    fn run(&mut self, length: Duration) -> Vec<u32> {
        self.asked.fill(0);
        for _ in 0..length.as_millis() {
            self.step();
        }
        self.asked.clone()
    }

    fn step(&mut self) {
        self.end();
        if self.millis.is_multiple_of(5000) {
            self.check();
        }
        if self.millis.is_multiple_of(500) {
            self.pool.look(self.now);
        }
        let mut want = WANT;
        for _ in 0..3 {
            let Ok(choice) = self.pool.pick(&want, self.now) else { break };
            want = Want { last: Some(choice.index), probing: false, ..WANT };
            if self.ask(choice) {
                break;
            }
        }
        self.now += MS;
        self.millis += 1;
    }

    /// Whether an answer is to come; a refused connection is known at once and asked for elsewhere.
    fn ask(&mut self, choice: Choice) -> bool {
        let server = self.server(&choice.endpoint);
        self.asked[server] += 1;
        let (after, class) = match self.servers[server] {
            Server::Takes(millis) => (MS * millis, Class::Answered),
            Server::Hung(millis) => (MS * millis, Class::TimedOut),
            Server::Cold(0) => (MS * 10, Class::Answered),
            Server::Cold(left) => {
                self.servers[server] = Server::Cold(left - 1);
                (MS * 300, Class::Answered)
            }
            Server::Down => {
                let endpoint = choice.endpoint.clone();
                endpoint.observe(Ended::of(Class::Connect), choice.permit, MS, self.now);
                return false;
            }
        };
        let _in_flight = choice.endpoint.enter();
        self.under_way.push(UnderWay { ends: self.now + after, began: self.now, class, choice, _in_flight });
        true
    }

    fn end(&mut self) {
        let now = self.now;
        let ended: Vec<_> = self.under_way.extract_if(.., |each| each.ends <= now).collect();
        for UnderWay { choice, class, began, .. } in ended {
            choice.endpoint.observe(Ended::of(class), choice.permit, now - began, now);
        }
    }

    fn check(&self) {
        for endpoint in self.pool.members().iter() {
            let down = matches!(self.servers[self.server(endpoint)], Server::Down);
            endpoint.checked(if down { Health::Failing } else { Health::Passing }, MS, self.now);
        }
    }

    fn until(&mut self, what: impl Fn(&Pool) -> bool) -> Duration {
        let start = self.now;
        while !what(&self.pool) {
            self.step();
            assert!(self.now - start < 100 * SECOND, "never");
        }
        self.now - start
    }
}

fn share(asked: &[u32], of: usize) -> f64 {
    f64::from(asked[of]) / f64::from(asked.iter().sum::<u32>())
}

#[test]
fn an_endpoint_that_comes_back_has_its_share_within_five_seconds_of_its_breaker_closing() {
    let mut play = Play::new(&settings(3), &[Server::Takes(10); 3]);
    play.run(10 * SECOND);
    play.servers[0] = Server::Down;
    let gone = play.pool.members()[0].clone();
    for _ in 0..5 {
        let permit = gone.breaker.admit(play.now).ok().unwrap();
        gone.observe(Ended::of(Class::Broken), permit, MS, play.now);
    }
    assert_eq!(play.run(70 * SECOND)[0], 0, "no arrivals while it is open, nor while checks fail");
    play.servers[0] = Server::Takes(10);
    play.until(|pool| pool.members()[0].breaker.is_closed());
    play.run(5 * SECOND);
    let asked = play.run(5 * SECOND);
    assert!(share(&asked, 0) > 0.28, "a third, not {asked:?}");
}

#[test]
fn an_endpoint_that_comes_back_cold_has_its_share_as_soon() {
    for slow in [3, 4, 10] {
        // Found by its probes, or by its health checks alone.
        for fault in [Server::Hung(10), Server::Down] {
            let mut play = Play::new(&settings(3), &[Server::Takes(10); 3]);
            play.run(10 * SECOND);
            play.servers[0] = fault;
            if matches!(fault, Server::Down) {
                play.until(|pool| pool.members()[0].health() == Health::Failing);
                play.servers[0] = Server::Cold(slow);
            } else {
                play.until(|pool| !pool.members()[0].breaker.is_closed());
                play.servers[0] = Server::Cold(slow);
            }
            play.until(|pool| pool.members()[0].breaker.is_closed() && pool.members()[0].health() == Health::Passing);
            play.run(5 * SECOND);
            for second in 5..30 {
                let asked = play.run(SECOND);
                assert!(share(&asked, 0) > 0.25, "a third, not {asked:?}, {second} s after; {slow} slow answers");
            }
        }
    }
}

#[test]
fn one_that_comes_back_slow_for_good_has_few_requests() {
    let mut play = Play::new(&settings(3), &[Server::Takes(10); 3]);
    play.run(10 * SECOND);
    play.servers[0] = Server::Hung(10);
    play.until(|pool| !pool.members()[0].breaker.is_closed());
    play.servers[0] = Server::Takes(300);
    play.until(|pool| pool.members()[0].breaker.is_closed());
    let asked = play.run(9 * SECOND);
    assert!(share(&asked, 0) < 0.05, "as many under way as at others: {asked:?}");
    play.run(2 * SECOND);
    let asked = play.run(5 * SECOND);
    assert!(share(&asked, 0) < 0.01, "{asked:?}");
}

/// The times at which a pool asked, none of whose endpoints is well.
fn arrivals_of(servers: &[Server], length: Duration) -> (Play, u32) {
    let mut play = Play::new(&settings(servers.len()), &vec![Server::Takes(5); servers.len()]);
    play.run(10 * SECOND);
    play.servers = servers.to_vec();
    play.until(|pool| !pool.members().iter().any(|each| each.breaker.is_closed()));
    let asked = play.run(length).iter().sum();
    (play, asked)
}

#[test]
fn where_every_breaker_is_open_one_endpoint_a_second_is_probed() {
    for count in [1, 3, 8] {
        let (_, asked) = arrivals_of(&vec![Server::Hung(10); count], 25 * SECOND);
        assert!((18..=36).contains(&asked), "{asked} in 25 s of {count}, three of them at once");
    }
}

#[test]
fn a_pool_is_back_soon_after_its_servers() {
    for count in [1, 3] {
        let (mut play, _) = arrivals_of(&vec![Server::Hung(10); count], 5 * SECOND);
        let waits = play.pool.pick(&WANT, play.now).err().map(|nobody| nobody.wait.unwrap());
        assert!(waits.is_none_or(|wait| wait <= 2 * SECOND), "{waits:?}");
        let last = play.servers.len() - 1;
        play.servers[last] = Server::Takes(5);
        let took = play.until(|pool| pool.members()[last].breaker.is_closed());
        assert!(took < (2 * count as u32) * SECOND, "{took:?}, one of {count}");
        play.servers.fill(Server::Takes(5));
        let took = play.until(|pool| pool.members().iter().all(|each| each.breaker.is_closed()));
        assert!(count == 1 || took > 15 * SECOND, "who is not missed waits for its time: {took:?}");
    }
}

#[test]
fn what_fails_its_checks_is_not_probed_early() {
    let mut config = settings(2);
    config.balance.panic_threshold = 0.0;
    let now = Instant::now();
    let pool = Pool::new(&config, 1, now);
    let members = pool.members();
    for endpoint in members.iter() {
        for _ in 0..5 {
            let permit = endpoint.breaker.admit(now).ok().unwrap();
            endpoint.observe(Ended::of(Class::ServerError), permit, MS, now);
        }
    }
    let later = now + 5 * SECOND;
    let nobody = pool.pick(&WANT, later).err().unwrap();
    assert_eq!(nobody.wait, Some(25 * SECOND), "nor what was never checked");
    members[0].checked(Health::Failing, MS, later);
    members[1].checked(Health::Passing, MS, later);
    let soon = pool.pick(&WANT, now + SECOND / 2).err().unwrap();
    assert_eq!(soon.wait, Some(SECOND / 2), "when it may be probed");
    let probe = pool.pick(&WANT, later).ok().unwrap();
    assert!(Arc::ptr_eq(&probe.endpoint, &members[1]) && probe.permit.is_probe());
    assert!(pool.pick(&WANT, later).is_err());
}

#[test]
fn a_penalty_is_lifted_by_probes_alone() {
    let mut play = Play::new(&settings(3), &[Server::Takes(10); 3]);
    play.run(SECOND);
    // It passes its checks all the while: only probes can find it well.
    play.servers[0] = Server::Hung(10);
    play.until(|pool| !pool.members()[0].breaker.is_closed());
    play.servers[0] = Server::Takes(10);
    let took = play.until(|pool| pool.members()[0].breaker.is_closed());
    assert!(took > 29 * SECOND && took < 31 * SECOND, "the next requests are its probes, after {took:?}");
    let asked = play.run(5 * SECOND);
    assert!(share(&asked, 0) > 0.28, "a third, not {asked:?}");
}

#[test]
fn what_is_busy_is_spared_as_long_as_it_says_though_it_passes_its_checks() {
    let mut play = Play::new(&settings(2), &[Server::Takes(10); 2]);
    play.run(SECOND);
    let busy = play.pool.members()[0].clone();
    let permit = busy.breaker.admit(play.now).ok().unwrap();
    busy.observe(Ended { asked: Some(20 * SECOND), ..Ended::of(Class::Overloaded) }, permit, MS, play.now);
    assert_eq!(play.run(15 * SECOND)[0], 0);
    play.run(6 * SECOND);
    let asked = play.run(5 * SECOND);
    assert!(share(&asked, 0) > 0.4, "half, not {asked:?}");
}

#[test]
fn a_check_that_is_late_does_not_undo_a_newer_one() {
    let (pool, now) = (Pool::new(&settings(1), 1, Instant::now()), Instant::now() + SECOND);
    let endpoint = pool.members()[0].clone();
    assert_eq!(endpoint.checked(Health::Passing, MS, now), Some(Health::Unknown));
    assert_eq!(endpoint.checked(Health::Failing, SECOND, now + MS), None, "it began before");
    assert_eq!(endpoint.health(), Health::Passing);
    assert_eq!(endpoint.checked(Health::Failing, MS, now + 2 * MS), Some(Health::Passing));
}

#[test]
fn a_model_that_hangs_behind_a_server_that_is_well_is_probed_once_each_open_time() {
    let mut play = Play::new(&settings(3), &[Server::Hung(100), Server::Takes(10), Server::Takes(10)]);
    play.until(|pool| !pool.members()[0].breaker.is_closed());
    play.run(SECOND);
    let asked = play.run(90 * SECOND);
    assert!((2..=3).contains(&asked[0]), "{asked:?}");
}

#[test]
fn probes_go_one_at_a_time_and_only_where_they_may() {
    let pool = Pool::new(&settings(3), 1, Instant::now());
    let now = Instant::now();
    let members = pool.members();
    for _ in 0..5 {
        let permit = members[2].breaker.admit(now).ok().unwrap();
        members[2].observe(Ended::of(Class::ServerError), permit, MS, now);
    }
    let later = now + 31 * SECOND;
    let probe = pool.pick(&WANT, later).ok().unwrap();
    assert!(Arc::ptr_eq(&probe.endpoint, &members[2]) && probe.permit.is_probe());
    for _ in 0..50 {
        let other = pool.pick(&WANT, later).ok().unwrap();
        assert!(!other.permit.is_probe() && !Arc::ptr_eq(&other.endpoint, &members[2]));
    }
    probe.permit.record(breaker::Outcome::Neutral, later);
    assert!(pool.pick(&WANT, later).ok().unwrap().permit.is_probe(), "one that came to nothing is made again");
}

#[test]
fn a_brown_out_loses_its_requests_and_is_ejected() {
    let mut play = Play::new(&settings(3), &[Server::Takes(50); 3]);
    play.run(10 * SECOND);
    play.servers[1] = Server::Takes(1000);
    play.run(SECOND);
    let asked = play.run(2 * SECOND);
    assert!(share(&asked, 1) < 0.15, "{asked:?}");
    play.until(|pool| pool.members()[1].ejected_until().is_some());
    assert_eq!(play.run(20 * SECOND)[1], 0, "ejected for 30 s");
    play.servers[1] = Server::Takes(50);
    play.until(|pool| pool.members()[1].ejected_until().is_none());
    play.run(12 * SECOND);
    let asked = play.run(5 * SECOND);
    assert!(share(&asked, 1) > 0.28, "back after its slow start: {asked:?}");
}

#[test]
fn failing_endpoints_are_left_out_until_too_many_are() {
    let now = Instant::now();
    let pool = Pool::new(&settings(3), 1, now);
    let fail = |at: usize| pool.members()[at].checked(Health::Failing, MS, now);
    let asked = |last: Option<usize>| {
        let want = Want { last, ..WANT };
        (0..200).map(|_| pool.pick(&want, now).ok().unwrap().index).collect::<std::collections::BTreeSet<_>>()
    };
    fail(0);
    pool.look(now);
    assert_eq!(asked(None), [2, 3].into());
    assert_eq!(asked(Some(2)), [3].into());
    fail(1);
    pool.look(now);
    assert_eq!(asked(None), [1, 2, 3].into(), "one of three is less than half: all are asked");
    assert_eq!(asked(Some(3)), [1, 2].into());
}

#[test]
fn the_only_healthy_one_is_asked_again_rather_than_one_that_fails() {
    let mut config = settings(2);
    config.balance.panic_threshold = 0.0;
    let now = Instant::now();
    let pool = Pool::new(&config, 1, now);
    pool.members()[0].checked(Health::Failing, MS, now);
    pool.look(now);
    let again = Want { last: Some(2), ..WANT };
    assert_eq!(pool.pick(&again, now).ok().unwrap().index, 2);
    pool.members()[1].checked(Health::Failing, MS, now);
    pool.look(now);
    assert_eq!(pool.pick(&again, now).ok().unwrap().index, 1, "where none is healthy, any is better than none");
}

#[test]
fn a_full_endpoint_is_passed_over_and_all_full_is_said() {
    let mut config = settings(2);
    config.max_in_flight = Some(1);
    let now = Instant::now();
    let pool = Pool::new(&config, 1, now);
    let first = pool.members()[0].enter();
    (0..50).for_each(|_| assert_eq!(pool.pick(&WANT, now).ok().unwrap().index, 2));
    let second = pool.members()[1].enter();
    assert!(first.is_some() && second.is_some());
    assert_eq!(pool.pick(&WANT, now).err().unwrap().kind, crate::infer::Kind::Shed);
    // Failing its checks, it would be asked all the same.
    for endpoint in pool.members().iter() {
        endpoint.checked(Health::Failing, MS, now);
    }
    pool.look(now);
    assert_eq!(pool.pick(&WANT, now).err().unwrap().kind, crate::infer::Kind::Shed);
}

/// Two endpoints in the gateway's own zone, two in another.
fn zones() -> config::Pool {
    let mut config = settings(0);
    config.endpoints = (0..4).map(|at| endpoint(at, Some(if at < 2 { "a" } else { "b" }))).collect();
    config.balance.own_zone = Some("a".into());
    config
}

/// The part of picks that stay in the own zone.
fn own(pool: &Pool, now: Instant) -> f64 {
    let here = (0..4000).filter(|_| pool.pick(&WANT, now).ok().unwrap().endpoint.is_own).count();
    here as f64 / 4000.0
}

#[test]
fn requests_stay_in_their_own_zone_as_far_as_it_can_take_them() {
    let now = Instant::now();
    let mut config = zones();
    config.max_in_flight = Some(1);
    let pool = Pool::new(&config, 1, now);
    pool.look(now);
    assert!(own(&pool, now) >= 1.0);
    pool.members()[0].checked(Health::Failing, MS, now);
    pool.look(now);
    assert!((own(&pool, now) - 0.7).abs() < 0.05, "half is healthy, times 1.4");
    let _held = pool.members()[1].enter();
    assert!(own(&pool, now) <= 0.0, "its only healthy one is full");
}

#[test]
fn without_endpoints_of_its_own_zone_a_gateway_asks_any() {
    let now = Instant::now();
    let mut config = zones();
    config.balance.own_zone = Some("c".into());
    let pool = Pool::new(&config, 1, now);
    pool.look(now);
    let asked: std::collections::BTreeSet<_> = (0..200).map(|_| pool.pick(&WANT, now).ok().unwrap().index).collect();
    assert_eq!(asked, [1, 2, 3, 4].into());
}

#[test]
fn a_new_endpoint_works_up_to_its_share() {
    let mut config = settings(2);
    config.discovery = vec![config::Discovery::File(config::EndpointsFile { path: "x".into(), zone: None })];
    let mut play = Play::new(&config, &[Server::Takes(10); 3]);
    // What is found until then is part of the start.
    play.run(10 * SECOND);
    play.pool.found(1, vec![endpoint(2, None)], play.now);
    let early = share(&play.run(2 * SECOND), 2);
    assert!(early > 0.01 && early < 0.15, "{early}");
    play.run(8 * SECOND);
    let late = share(&play.run(5 * SECOND), 2);
    assert!(late > 0.28, "{late}");
}

#[test]
fn one_that_leaves_takes_no_new_request_and_ends_those_it_has() {
    let mut config = settings(1);
    config.discovery = vec![config::Discovery::File(config::EndpointsFile { path: "x".into(), zone: None })];
    let (pool, scrape) = crate::telemetry::scratch(|| {
        let pool = Pool::new(&config, 1, Instant::now());
        pool.found(1, vec![endpoint(1, None), endpoint(2, None)], Instant::now());
        pool
    });
    let now = Instant::now();
    let leaving = pool.members()[1].clone();
    leaving.checked(Health::Passing, MS, now);
    assert!(scrape.render().contains("weir_endpoint_healthy{pool=\"gpu\",endpoint=\"h:1\"} 1\n"));
    let under_way = leaving.enter();
    pool.found(1, vec![endpoint(2, None)], now);
    assert_eq!(pool.names(), "h:0, h:2");
    (0..100).for_each(|_| assert!(!Arc::ptr_eq(&pool.pick(&WANT, now).ok().unwrap().endpoint, &leaving)));
    assert_eq!(leaving.in_flight(), 1);
    drop(under_way);
    // What ends late says nothing of one that is gone.
    for _ in 0..5 {
        let permit = leaving.breaker.admit(now).ok().unwrap();
        leaving.observe(Ended::of(Class::ServerError), permit, MS, now);
    }
    let text = scrape.render();
    assert!(text.contains("weir_endpoints{pool=\"gpu\"} 2\n"), "{text}");
    assert_eq!(gauges_of(&text, "h:1"), [""; 0], "no gauge says anything of it");
    // A look that began before it left, a check and a scrape that end after.
    leaving.set_record(outlier::Record::default());
    leaving.checked(Health::Failing, MS, now);
    leaving.show(now);
    assert_eq!(gauges_of(&scrape.render(), "h:1"), [""; 0]);
}

/// The lines about an endpoint that are no counters.
fn gauges_of<'t>(text: &'t str, endpoint: &str) -> Vec<&'t str> {
    text.lines().filter(|line| line.contains(endpoint) && !line.contains("_total{")).collect()
}

#[test]
fn one_that_is_back_is_shown_again() {
    let mut config = settings(1);
    config.discovery = vec![config::Discovery::File(config::EndpointsFile { path: "x".into(), zone: None })];
    let ((), scrape) = crate::telemetry::scratch(|| {
        let (pool, now) = (Pool::new(&config, 1, Instant::now()), Instant::now());
        for endpoints in [vec![endpoint(1, None)], vec![endpoint(2, None)], vec![endpoint(1, None)]] {
            pool.found(1, endpoints, now);
        }
    });
    let text = scrape.render();
    assert!(text.contains("weir_breaker_state{target=\"gpu/h:1\",state=\"closed\"} 1\n"), "{text}");
    assert_eq!(gauges_of(&text, "h:2"), [""; 0]);
}

/// At a start all are new, and nobody is there who could take their share.
#[test]
fn a_start_is_not_slow() {
    let file = || config::Discovery::File(config::EndpointsFile { path: "x".into(), zone: None });
    let mut config = settings(0);
    config.discovery = vec![file(), file()];
    let now = Instant::now();
    let pool = Pool::new(&config, 1, now);
    let weights = |at: Instant| pool.members().iter().map(|each| each.weight(at)).collect::<Vec<_>>();
    pool.found(1, vec![endpoint(1, None)], now);
    pool.found(2, vec![endpoint(2, None), endpoint(3, None)], now + SECOND);
    assert_eq!(weights(now + SECOND), [1.0; 3], "each source's first find is part of the start");
    pool.found(2, vec![endpoint(2, None), endpoint(3, None), endpoint(4, None)], now + 2 * SECOND);
    assert_eq!(weights(now + 2 * SECOND), [1.0, 1.0, 1.0, 0.1], "one that joins others is spared");
}

#[test]
fn when_all_are_new_none_is_spared() {
    let mut config = settings(0);
    config.discovery = vec![config::Discovery::File(config::EndpointsFile { path: "x".into(), zone: None })];
    let (now, later) = (Instant::now(), Instant::now() + 3600 * SECOND);
    let pool = Pool::new(&config, 1, now);
    // An hour after the pool began: it was scaled to nothing, say.
    pool.found(1, vec![endpoint(1, None), endpoint(2, None)], later);
    pool.found(1, vec![endpoint(3, None), endpoint(4, None)], later + SECOND);
    assert!(pool.members().iter().all(|each| each.weight(later + SECOND) >= 1.0));
}

#[test]
fn a_source_that_finds_late_joins_those_that_serve() {
    let mut config = settings(1);
    config.discovery = vec![config::Discovery::File(config::EndpointsFile { path: "x".into(), zone: None })];
    let (now, later) = (Instant::now(), Instant::now() + 60 * SECOND);
    let pool = Pool::new(&config, 1, now);
    pool.found(1, vec![endpoint(1, None)], later);
    assert!(pool.members()[1].weight(later) < 0.2);
}

#[test]
fn two_are_drawn_alike_often() {
    let mut counts = [0u32; 5];
    for _ in 0..50_000 {
        let [first, second] = two_of(5).unwrap();
        assert_ne!(first, second);
        counts[first] += 1;
        counts[second] += 1;
    }
    assert!(counts.iter().all(|count| (18_500..21_500).contains(count)), "{counts:?}");
    assert_eq!((two_of(0), two_of(1)), (None, Some([0, 0])));
}
