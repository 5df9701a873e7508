//! Pools that do another's work: which is asked, under whose policy, and what is said when none can be.

use super::*;
use crate::resilience::breaker::Permit;

const P: PoolId = PoolId(0);
const Q: PoolId = PoolId(1);
const R: PoolId = PoolId(2);

/// `p` fails over to `q`, and that to `r`; each has one endpoint, where nobody listens.
fn three() -> Predict {
    let named = |name: &str, to: Option<PoolId>| {
        let failover = to.map(|pool| config::Failover { pool, threshold: 0.5, back_after: Duration::from_secs(10) });
        config::Pool { name: name.into(), failover, ..pool(&["127.0.0.1:1"]) }
    };
    let pools = [named("p", Some(Q)), named("q", Some(R)), named("r", None)];
    let (now, one) = (Instant::now(), predict(pools[0].clone()));
    Predict {
        failovers: failover::failovers(&pools),
        awaited: vec![true, false, false],
        pools: pools.iter().map(|pool| Pool::new(pool, 1, now)).collect(),
        ..one
    }
}

fn admit(predict: &Predict, pool: PoolId, now: Instant) -> Permit {
    predict.pools[pool.index()].members()[0].breaker.admit(now).ok().unwrap()
}

fn trip(predict: &Predict, pool: PoolId, now: Instant) {
    (0..5).for_each(|_| admit(predict, pool, now).record(Outcome::Failure, now));
}

fn able(predict: &Predict, now: Instant) -> PoolId {
    predict.able(P, Protocol::V2Json, now)
}

#[tokio::test]
async fn the_chain_is_followed_to_whoever_can_be_asked() {
    let (predict, now) = (three(), Instant::now());
    assert_eq!(able(&predict, now), P);
    trip(&predict, Q, now);
    assert_eq!(able(&predict, now), P);
    trip(&predict, P, now);
    assert_eq!(able(&predict, now), R, "the next one is sick, the one behind it is not");
    trip(&predict, R, now);
    assert_eq!(able(&predict, now), P, "it says why");
}

#[tokio::test]
async fn a_sick_backup_is_as_well_as_its_own_and_what_went_over_comes_back_to_whoever_can_be_asked() {
    let (predict, now) = (three(), Instant::now());
    trip(&predict, Q, now);
    trip(&predict, P, now);
    (0..2).for_each(|_| predict.look(now));
    assert_eq!(predict.acting(P), R, "decided too");
    let later = now + Duration::from_secs(31);
    trip(&predict, R, later);
    assert_eq!(predict.acting(P), R, "not looked at yet");
    assert_eq!(able(&predict, later), P, "it waits for a probe: better than nobody");
}

/// The lines that are logged meanwhile.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_outage_costs_a_line_and_its_end_another() {
    let (predict, then) = (three(), Instant::now());
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let after = |seconds: u64| then + Duration::from_secs(seconds);
    tracing::subscriber::with_default(log, || {
        predict.look(then);
        trip(&predict, R, then);
        // Half an hour of probes that fail.
        for seconds in (0..1_800).step_by(10) {
            if let Ok(probe) = predict.pools[2].members()[0].breaker.admit(after(seconds)) {
                predict.look(after(seconds));
                probe.record(Outcome::Failure, after(seconds));
            }
            predict.look(after(seconds));
        }
        for _ in 0..3 {
            admit(&predict, R, after(2_000)).record(Outcome::Success, after(2_000));
            predict.look(after(2_000));
        }
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let told: Vec<_> = text.lines().filter(|line| line.contains("outage")).collect();
    assert!(matches!(&told[..], [out, back] if out.contains("WARN") && back.contains("INFO")), "{told:#?}");
    assert!(told.iter().all(|line| line.contains("pool=r")), "{told:#?}");
}

#[tokio::test]
async fn an_outage_is_told_of_model_and_pool_with_the_time_of_whoever_is_back_first() {
    let (predict, then) = (three(), Instant::now());
    for (pool, seconds) in [(P, 20), (R, 0), (Q, 10)] {
        trip(&predict, pool, then + Duration::from_secs(seconds));
    }
    let now = then + Duration::from_secs(25);
    for (asked, message) in [
        (P, "model \"m\": pool \"p\": the circuit breaker of every endpoint is open"),
        (R, "model \"m\": pool \"r\" (failover of \"p\"): the circuit breaker of every endpoint is open"),
    ] {
        let plan = Plan { pool: asked, ..plan(Duration::from_secs(60)) };
        let error = predict.run(request(), None, &plan, P, now).await.unwrap_err();
        assert_eq!((error.kind(), &*error.to_string()), (Kind::Unavailable, message));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(5)), "that of r");
    }
}
