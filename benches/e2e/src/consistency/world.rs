//! Gateways on one Redis Cluster, the rows in it, and a run of load with what it took of whom.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    caller::{Answer, Caller},
    cluster::Cluster,
    cpu, feast,
    load::{Load, Outcome},
    pace::Pace,
    part::Bench,
    peers::{self, Server, Weir},
};

/// Nobody fails here: long enough that a busy machine does not look like it.
const NODE_TIMEOUT: Duration = Duration::from_secs(15);

/// A cluster, and the masters of its entities.
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) owners: Vec<usize>,
    /// When the rows' events were: seconds since the epoch.
    pub(super) loaded: u64,
}

impl World {
    /// Writes the rows of the entities from 1 on.
    pub(super) fn start(bench: Bench<'_>, users: usize) -> Result<Self> {
        let cluster = Cluster::start(bench.place, bench.redis, NODE_TIMEOUT)?;
        let loaded = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut writer = cluster.writer()?;
        let owners = (1..).take(users).map(|user| writer.write(&feast::row(user, loaded)));
        let owners = owners.collect::<Result<_>>()?;
        Ok(Self { cluster, owners, loaded })
    }

    /// A gateway with one worker: what L1 may hold, what is said of the view, and what else of features.
    pub(super) fn gateway(&self, bench: Bench<'_>, name: &str, (l1, view, more): (&str, &str, &str)) -> Result<Weir> {
        let features = peers::features(l1, &format!("{}, timeout: 1s", self.cluster.l2()));
        let config = format!("{features}{view}{more}");
        let weir = peers::weir_with(bench.place, (name, bench.weir), &config)?;
        // It listens before it knows the cluster.
        let until = Instant::now() + Duration::from_secs(10);
        while first_feature(&Caller::connect(weir.server.address)?.call(&feast::read(1, ""))?).is_err() {
            ensure!(Instant::now() < until, "{name} does not read a row");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(weir)
    }
}

/// The value of the first feature in an answer with one row.
pub(super) fn first_feature(answer: &Answer) -> Result<f64> {
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200, "answered {}: {text}", answer.status);
    let body: Value = serde_json::from_slice(&answer.body).with_context(|| format!("answered {text}"))?;
    let names = body["metadata"]["feature_names"].as_array().context("no names")?;
    let at = names.iter().position(|name| *name == *feast::feature(0)).context("not the feature")?;
    body["results"][at]["values"][0].as_f64().with_context(|| format!("answered {text}"))
}

/// Whether nothing but L1 was asked.
pub(super) fn is_from_l1(answer: &Answer) -> bool {
    answer.header("cache-status").is_some_and(|status| status.ends_with("weir-l1; hit"))
}

/// What a run gave, and the processor time that it took of each of some processes.
pub(super) struct Run {
    pub(super) outcome: Outcome,
    pub(super) cpu: Vec<Duration>,
}

impl Run {
    /// Runs a load that is connected already.
    pub(super) fn of(load: &mut Load<'_>, run: (Pace, Duration), servers: &[&Server]) -> Result<Self> {
        let used =
            || servers.iter().map(|server| cpu::used_by_threads(server.process.id())).collect::<Result<Vec<_>>>();
        let before = used()?;
        let outcome = load.run(run.0, run.1)?;
        let cpu = used()?.into_iter().zip(before).map(|(after, before)| after.saturating_sub(before)).collect();
        Ok(Self { outcome, cpu })
    }

    pub(super) fn rate(&self) -> f64 {
        self.outcome.answered as f64 / self.outcome.elapsed.as_secs_f64()
    }

    /// Milliseconds.
    pub(super) fn quantile(&self, quantile: f64) -> f64 {
        self.outcome.latency.value_at_quantile(quantile) as f64 / 1e6
    }

    /// µs of a request, of all those processes together.
    pub(super) fn cost(&self) -> f64 {
        self.cpu.iter().sum::<Duration>().as_secs_f64() * 1e6 / self.outcome.answered as f64
    }
}
