//! Hot keys do not make a hot shard: their reads are spread over the cluster, no copy of theirs outlives a push or an invalidation, and
//! when they are cold again nothing is left of them.
//!
//! What is compared are counts of Redis's own (`INFO commandstats`), not times: callers go on until what is waited for has come.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use ::weir::{
    features::feast::encode_value,
    infer::{EntityKey, EntityValue, Value},
};
use serde_json::json;

use crate::support::{
    Redis, RedisCluster, Weir, http1, measured,
    metrics::await_metric,
    process::{START, await_some, wait_until},
    vectors::{self, StoredHash},
};

const PROJECT: &str = "shop";
const MASTERS: usize = 3;
/// A product's price. It is called as a feature is whose field the recorded vectors have.
const PRICE: &str = "driver_stats:acc_rate";
const VIEW: &str = "driver_stats";
/// Requests that a comparison is made of.
const REQUESTS: u64 = 6000;

fn name(product: usize) -> String {
    format!("prod_{product:04}")
}

fn redis_key(product: &str) -> Vec<u8> {
    let key = EntityKey::new([("product_id", &EntityValue::String(product.to_owned()))].into_iter());
    [key.as_bytes(), PROJECT.as_bytes()].concat()
}

/// A product whose price is its version.
fn stored(product: &str, version: u32) -> StoredHash {
    let mut value = Vec::new();
    encode_value(&Value::Double(version.into()), &mut value);
    StoredHash {
        key: redis_key(product),
        fields: vec![(vectors::field(PRICE), value)],
        entity: Vec::new(),
        features: BTreeMap::new(),
        views: Vec::new(),
    }
}

/// A feature server on the cluster; with `hot` as `features.hot_keys`, and an L1 as it says.
fn weir(cluster: &RedisCluster, hot: &str, l1: &str) -> Weir {
    Weir::start(&format!(
        "features:\n  project: {PROJECT}\n  l1: {{{l1}}}\n  l2: {{mode: cluster, redis: {}, timeout: 5s}}\n{hot}  views:\n    \
         driver_stats: {{entities: {{product_id: STRING}}, features: {{acc_rate: {{type: DOUBLE, default: -1.0}}}}}}\n",
        cluster.urls()
    ))
}

/// Few reads a second are enough: how fast this machine is does not matter.
const HOT: &str = "  hot_keys: {share: 0.01, min_rate: 5, copies: auto}\n";
const NO_L1: &str = "capacity: 0B, ttl: 10s";

fn ask(connection: &mut http1::Http1, product: &str) -> f64 {
    let body = json!({"features": [PRICE], "entities": {"product_id": [product]}}).to_string();
    let answer = connection.post("/get-online-features", body).expect(200).json();
    answer["results"][1]["values"][0].as_f64().unwrap_or_else(|| panic!("no price in {answer}"))
}

fn push(weir: &Weir, product: &str, version: u32) {
    let at = chrono::DateTime::from_timestamp(1_700_000_000 + i64::from(version), 0).expect("a time").to_rfc3339();
    let row = json!({"product_id": [product], "acc_rate": [f64::from(version)], "event_timestamp": [at]});
    let body = json!({"push_source_name": VIEW, "to": "online", "df": row}).to_string();
    weir.connect().post("/push", body).expect(200);
}

/// Which product each request asks for, from a number that is drawn evenly.
type Split = Arc<dyn Fn(f64) -> String + Send + Sync>;

/// Callers that go on until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(weir: &Weir, split: &Split) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let caller = |_| {
            let (stop, answers, split) = (stop.clone(), answers.clone(), split.clone());
            let mut connection = weir.connect();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    ask(&mut connection, &split(rand::random()));
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let callers = (0..4).map(caller).collect();
        Self { stop, answers, callers }
    }

    /// Waits until as many answers more have come.
    #[track_caller]
    fn go_on(&self, answers: u64) {
        let until = self.answers.load(Ordering::Relaxed) + answers;
        wait_until("more answers", START, || {
            self.callers.iter().any(JoinHandle::is_finished) || self.answers.load(Ordering::Relaxed) >= until
        });
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.callers.into_iter().for_each(|caller| caller.join().expect("every request was answered"));
    }
}

/// Reads of each master while so many requests are answered, as shares of all; and how many a request.
fn shares(cluster: &RedisCluster, load: &Load) -> (Vec<f64>, f64) {
    let calls = || cluster.nodes()[..MASTERS].iter().map(|node| node.calls("hmget")).collect::<Vec<_>>();
    let (before, answered) = (calls(), load.answers.load(Ordering::Relaxed));
    load.go_on(REQUESTS);
    let (after, answered) = (calls(), load.answers.load(Ordering::Relaxed) - answered);
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let reads: Vec<f64> = after.iter().zip(before).map(|(after, before)| (after - before) as f64).collect();
    let all: f64 = reads.iter().sum();
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let each = all / answered as f64;
    (reads.iter().map(|reads| reads / all).collect(), each)
}

fn hottest_to_mean(shares: &[f64]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "three")]
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    shares.iter().copied().fold(0.0, f64::max) / mean
}

fn table(title: &str, before: &[f64], after: &[f64]) {
    let line = |(row, shares): (&str, &[f64])| {
        let each: Vec<_> = shares.iter().map(|share| format!("{:5.1} %", share * 100.0)).collect();
        format!("\n  {row:8} {}   hottest {:.2} x mean", each.join("  "), hottest_to_mean(shares))
    };
    let lines: String = [("one key", before), ("copies", after)].map(line).concat();
    measured(format_args!("{title}: share of reads, by master{lines}"));
}

/// The products that a master has, of so many.
fn held_by(node: &Redis, products: usize) -> Vec<String> {
    let mut connection = node.connection();
    let held = |product: &String| redis::cmd("EXISTS").arg(redis_key(product)).query(&mut connection).unwrap_or(false);
    (0..products).map(name).filter(held).collect()
}

/// A shop's on a sale: half of all requests ask for one product, a fifth for another of the same master, a tenth for a third one.
fn mission(cluster: &RedisCluster, products: usize) -> (Vec<String>, Split) {
    let [first, second] = [0, 1].map(|node| held_by(&cluster.nodes()[node], products));
    let hot = vec![first[0].clone(), first[1].clone(), second[0].clone()];
    let names = hot.clone();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place among the products")]
    let others = move |random: f64| name((random * products as f64) as usize);
    let split = move |random: f64| match random {
        ..0.5 => names[0].clone(),
        ..0.7 => names[1].clone(),
        ..0.8 => names[2].clone(),
        _ => others((random - 0.8) / 0.2),
    };
    (hot, Arc::new(split))
}

/// The product at place `k` is asked for as often as `1 / k^1.1`.
fn zipf(products: usize) -> Split {
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let weights: Vec<f64> = (1..=products).map(|place| (place as f64).powf(-1.1)).collect();
    let all: f64 = weights.iter().sum();
    let mut upto = 0.0;
    let ends: Vec<f64> = weights.iter().map(|weight| (upto += weight / all, upto).1).collect();
    Arc::new(move |random| name(ends.partition_point(|end| *end < random).min(products - 1)))
}

fn hot_keys(weir: &Weir) -> serde_json::Value {
    http1::get(weir.admin(), "/admin/v1/hot-keys").expect(200).json()["state"].clone()
}

/// Waits until those keys are hot here, and have as many copies together.
fn await_hot(weir: &Weir, products: &[String], copies: u64) {
    await_some("hot keys with their copies", START, || {
        let state = hot_keys(weir);
        let keys = state["keys"].as_array()?;
        let of = |product: &String| keys.iter().find(|key| key["entity"] == format!("product_id={product}"));
        let counts: Option<Vec<u64>> = products.iter().map(|product| of(product)?["copies"].as_u64()).collect();
        (counts?.iter().sum::<u64>() >= copies).then_some(())
    });
}

/// Names of copies on any node.
fn copies_in_redis(cluster: &RedisCluster) -> Vec<String> {
    let keys = |node: &Redis| -> Vec<Vec<u8>> {
        redis::cmd("KEYS").arg("weir:{*:shard_*").query(&mut node.connection()).expect("the node runs")
    };
    let all = cluster.nodes()[..MASTERS].iter().flat_map(keys);
    all.map(|key| String::from_utf8_lossy(&key).into_owned()).collect()
}

/// Before: a gateway that does not look for hot keys. After: one that does, and has copied them.
fn is_spread(cluster: &RedisCluster, title: &str, split: &Split, hot: (&[String], u64)) {
    let plain = weir(cluster, "", NO_L1);
    let load = Load::on(&plain, split);
    let (before, _) = shares(cluster, &load);
    load.end();
    drop(plain);
    let weir = weir(cluster, HOT, NO_L1);
    let load = Load::on(&weir, split);
    await_hot(&weir, hot.0, hot.1);
    let (after, each) = shares(cluster, &load);
    load.end();
    table(title, &before, &after);
    assert!(hottest_to_mean(&after) <= 1.3, "{after:?}");
    assert!(hottest_to_mean(&before) > hottest_to_mean(&after), "{before:?} {after:?}");
    assert!(each < 1.1, "a copy that is there is read instead of the key, not beside it: {each} reads a request");
    let metrics = weir.metrics();
    let hits = metrics.count("weir_hot_key_copy_reads_total", &[("outcome", "hit")]);
    let missed = metrics.count("weir_hot_key_copy_reads_total", &[("outcome", "miss")]);
    assert!(hits > 100.0 * missed, "{}", metrics.lines_of("weir_hot_key"));
}

#[test]
fn reads_are_spread_over_the_cluster() {
    let (cluster, products) = (RedisCluster::start(), 600);
    cluster.load(&(0..products).map(|product| stored(&name(product), 1)).collect::<Vec<_>>());
    let (hot, split) = mission(&cluster, products);
    is_spread(&cluster, "50/20/10/20", &split, (&hot, 5));
    let hottest: Vec<String> = (0..4).map(name).collect();
    is_spread(&cluster, "Zipf 1.1", &zipf(products), (&hottest, 5));
}

#[test]
fn no_read_finds_an_old_row_in_a_copy_and_cold_keys_have_none() {
    let cluster = RedisCluster::start();
    cluster.load(&(0..400).map(|product| stored(&name(product), 1)).collect::<Vec<_>>());
    let (hot, split) = mission(&cluster, 400);
    let (weir, other) = (weir(&cluster, HOT, NO_L1), weir(&cluster, HOT, NO_L1));
    let load = Load::on(&weir, &split);
    await_hot(&weir, &hot, 5);

    // The other gateway is asked for nothing, and knows all the same.
    await_hot(&other, &hot, 1);
    assert_eq!(other.metrics().count("weir_feature_lookups_total", &[]), 0.0);
    assert_eq!(await_metric(other.admin(), "weir_hot_key_gateways", &[], |count| count == 2.0), 2.0);

    // Pushed through either, a row is new for everybody who asks from then on, while copies come and go.
    let product = &hot[0];
    let newest = Arc::new([AtomicU32::new(1), AtomicU32::new(1)]);
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<JoinHandle<u64>> = [0, 1, 0, 1]
        .map(|at| {
            let (mut connection, newest, stop, product) =
                ([&weir, &other][at].connect(), newest.clone(), stop.clone(), product.clone());
            thread::spawn(move || {
                let mut reads = 0;
                while !stop.load(Ordering::Relaxed) {
                    let [here, there] = [at, 1 - at].map(|at| newest[at].load(Ordering::SeqCst));
                    let price = ask(&mut connection, &product);
                    assert!(price >= f64::from(here), "{price} where {here} was acknowledged by the same gateway");
                    if price < f64::from(there) {
                        // It may have joined a fetch that began before the other gateway was told; what it asks now cannot.
                        let price = ask(&mut connection, &product);
                        assert!(price >= f64::from(there), "{price} after {there} was acknowledged by the other one");
                    }
                    reads += 1;
                }
                reads
            })
        })
        .into();
    let acknowledged = |version: u32| newest[version as usize % 2].store(version, Ordering::SeqCst);
    for version in 2..=20 {
        push(if version % 2 == 0 { &weir } else { &other }, product, version);
        acknowledged(version);
        // As often with copies that are there as without.
        if version % 3 == 0 {
            await_hot(&weir, &hot[..1], 2);
            await_hot(&other, &hot[..1], 2);
        }
    }
    for version in 21..=30 {
        // Written by somebody else; an operator says so, to either gateway.
        await_hot(&weir, &hot[..1], 2);
        await_hot(&other, &hot[..1], 2);
        cluster.load(&[stored(product, version)]);
        let scope = match version % 3 {
            0 => json!({"view": VIEW, "entity": {"product_id": product}}),
            1 => json!({"view": VIEW, "prefix": "prod_"}),
            _ => json!({"view": VIEW}),
        };
        let admin = if version % 2 == 0 { weir.admin() } else { other.admin() };
        http1::post(admin, "/admin/v1/invalidate", scope.to_string()).expect(200);
        acknowledged(version);
    }
    stop.store(true, Ordering::Relaxed);
    let reads: u64 = readers.into_iter().map(|reader| reader.join().expect("every row was new")).sum();
    assert!(reads > 0);

    // When nobody asks any more, nothing stays hot, and copies go by themselves.
    load.end();
    for gateway in [&weir, &other] {
        wait_until("no key to be hot", START, || gateway.metrics().sum("weir_hot_keys", &[]) == Some(0.0));
        assert_eq!(hot_keys(gateway)["keys"], json!([]));
    }
    wait_until("all copies to be gone", START, || copies_in_redis(&cluster).is_empty());
    let log = |mut weir: Weir| weir.process().log();
    let told = log(weir);
    assert!(told.contains("key is hot ") || told.contains("key is hot\t"), "{told}");
    assert!(told.contains("key is hot no more"), "{told}");
}

#[test]
fn a_hot_row_stays_in_l1_and_its_reads_never_reach_redis() {
    let cluster = RedisCluster::start();
    let products = 400;
    cluster.load(&(0..products).map(|product| stored(&name(product), 1)).collect::<Vec<_>>());
    let (hot, split) = mission(&cluster, products);
    // Rows are good for two seconds: everything else is read again and again.
    let weir = weir(&cluster, HOT, "ttl: 2s, stale_for: 0s");
    let load = Load::on(&weir, &split);
    await_hot(&weir, &hot, 5);
    let refreshes = || weir.metrics().count("weir_hot_key_refreshes_total", &[]);
    let before = refreshes();
    let (_, each) = shares(&cluster, &load);
    measured(format_args!("50/20/10/20 with L1: {:.1} % of requests reach Redis", each * 100.0));
    assert!(each <= 0.5, "{each} reads a request");
    await_metric(weir.admin(), "weir_hot_key_refreshes_total", &[], |count| count >= before + 3.0);
    load.end();
}
