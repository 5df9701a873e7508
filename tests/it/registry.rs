//! Feast's registry is read in place of views, and followed: a change costs no request, and garbage changes nothing.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use object_store::{ObjectStoreExt as _, aws::AmazonS3Builder};
use serde_json::{Value, json};

use crate::{
    support::{
        KServe, Redis, SeaweedFs, Weir,
        http1::{self, Http1},
        metrics::await_metric,
        process::{Folder, wait_until},
        seaweed::BUCKET,
        vectors::{self, DUMP},
    },
    world::STORE,
};

const FEAST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/feast/registry.pb");
const LIMIT: Duration = Duration::from_secs(20);

/// A length-delimited field of a message.
fn field(number: u8, contents: &[u8]) -> Vec<u8> {
    let mut record = vec![number << 3 | 2];
    let mut length = contents.len();
    while length >= 0x80 {
        record.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    record.push(u8::try_from(length).expect("seven bits"));
    record.extend_from_slice(contents);
    record
}

/// `Registry{feature_services: [{spec: {name, project, features}}]}`, to be appended to a registry: messages merge.
fn service(name: &str, projections: &[(&str, &str)]) -> Vec<u8> {
    let projections = projections.iter().flat_map(|(view, feature)| {
        let column = field(2, &field(1, feature.as_bytes()));
        field(3, &[field(1, view.as_bytes()), column].concat())
    });
    let spec = [field(1, name.as_bytes()), field(2, b"weir_demo"), projections.collect()].concat();
    field(7, &field(1, &spec))
}

/// The number at the front, and how long it is.
fn varint(bytes: &[u8]) -> (usize, usize) {
    let length = 1 + bytes.iter().position(|byte| *byte < 0x80).expect("a number ends");
    let value = bytes[..length].iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
    (value, length)
}

/// The registry without the record of a view.
fn without(registry: &[u8], view: &str) -> Vec<u8> {
    let mark = field(1, view.as_bytes());
    let (mut kept, mut rest) = (Vec::new(), registry);
    while !rest.is_empty() {
        let (tag, at) = varint(rest);
        let (length, more) = varint(&rest[at..]);
        let (record, after) = rest.split_at(at + more + length);
        // A view is field 6, its spec field 1, and the spec begins with its name.
        let names = record[at + more..].windows(mark.len()).take(8).any(|window| window == mark);
        if tag >> 3 != 6 || !names {
            kept.extend_from_slice(record);
        }
        rest = after;
    }
    kept
}

/// What the model is sent of each view: `driver_stats` alone, and `live` too.
struct Versions {
    without_live: Vec<u8>,
    with_live: Vec<u8>,
}

impl Versions {
    fn new() -> Self {
        let feast = std::fs::read(FEAST).expect("the registry that Feast wrote");
        let small = service("grown", &[("driver_stats", "conv_rate")]);
        let large = service("grown", &[("driver_stats", "conv_rate"), ("live", "speed")]);
        Self { without_live: [without(&feast, "live"), small].concat(), with_live: [feast, large].concat() }
    }
}

fn config(redis: &Redis, registry: &Path, models: &str) -> String {
    format!(
        "pools:\n  kserve: {{endpoints: [{}]}}\nmodels:\n{models}\nfeatures:\n  registry: {}\n  registry_refresh: 1s\n  l1: {{ttl: 1h}}\n  l2: \
         {{redis: \"{}\", timeout: 2s}}\n",
        KServe::shared().endpoint(),
        registry.display(),
        redis.url()
    )
}

fn ask(connection: &mut Http1, model: &str, entities: &[(&str, &str, Value)]) -> Value {
    let inputs: Vec<_> = entities
        .iter()
        .map(|(name, datatype, value)| json!({"name": name, "datatype": datatype, "shape": [1], "data": [value]}))
        .collect();
    let body = json!({"inputs": inputs}).to_string();
    let answer = connection.post(&format!("/v2/models/{model}/infer"), body).expect(200);
    assert_eq!(answer.header("weir-level").as_deref(), Some("0"), "{}", answer.text());
    answer.json()
}

/// The answer's tensors by name, each of one element.
fn outputs(answer: &Value) -> Vec<(String, Value)> {
    let outputs = answer["outputs"].as_array().expect("outputs").iter();
    outputs.map(|output| (output["name"].as_str().expect("a name").to_owned(), output["data"][0].clone())).collect()
}

/// The number that Feast stored in the first row of a view which has it, and the row's entity.
fn stored(view: &str, feature: &str, entity: Option<i64>) -> f64 {
    let declared = vectors::view(view);
    let kind = &declared.features.iter().find(|(name, _)| name == feature).expect("a feature").1;
    let rows = declared.rows();
    let row = rows.iter().find(|row| entity.is_none_or(|entity| row.entity[0].2 == entity)).expect("a row");
    let bytes = vectors::elements(row.features.get(&format!("{view}:{feature}")).map(Vec::as_slice), kind).concat();
    match kind.as_str() {
        "FLOAT" => f32::from_le_bytes(bytes.try_into().expect("four bytes")).into(),
        "DOUBLE" => f64::from_le_bytes(bytes.try_into().expect("eight bytes")),
        other => panic!("{other} is no floating-point number"),
    }
}

/// Callers that ask all the time, on connections that stay open.
struct Callers {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    /// The names of the tensors of the latest answer.
    latest: Arc<Mutex<BTreeSet<String>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Callers {
    fn start(weir: &Weir, count: usize) -> Self {
        let (stop, answered, latest) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<Mutex<_>>::default());
        let address = weir.http();
        let threads = (0..count).map(|_| {
            let (stop, answered, latest) = (stop.clone(), answered.clone(), latest.clone());
            thread::spawn(move || {
                let mut connection = Http1::connect(address);
                while !stop.load(Ordering::Relaxed) {
                    // Fails the caller, and so the test, on any other status, and on a connection that was closed.
                    let answer = ask(&mut connection, "grown", &[("driver_id", "INT64", json!(1001))]);
                    *latest.lock().expect("no holder panics") =
                        outputs(&answer).into_iter().map(|(name, _)| name).collect();
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let threads = threads.collect();
        Self { stop, answered, latest, threads }
    }

    /// Waits until the model is sent these tensors, and for fifty answers more.
    #[track_caller]
    fn await_tensors(&self, names: &[&str]) {
        let expected: BTreeSet<String> = names.iter().map(|name| format!("echo_{name}")).collect();
        wait_until(&format!("{names:?} to be sent"), LIMIT, || {
            *self.latest.lock().expect("no holder panics") == expected
        });
        let before = self.answered.load(Ordering::Relaxed);
        wait_until("further answers", LIMIT, || self.answered.load(Ordering::Relaxed) >= before + 50);
        assert_eq!(*self.latest.lock().expect("no holder panics"), expected);
    }

    /// Every request was answered with 200 at level 0.
    #[track_caller]
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.threads {
            caller.join().expect("no request failed");
        }
        self.answered.load(Ordering::Relaxed)
    }
}

/// What the admin port says of the registry.
fn shown(weir: &Weir) -> Value {
    http1::get(weir.admin(), "/admin/v1/features").expect(200).json()["state"]["registry"].clone()
}

#[track_caller]
fn looked(weir: &Weir, outcome: &str) {
    await_metric(weir.admin(), "weir_registry_refreshes_total", &[("outcome", outcome)], |count| count >= 1.0);
}

#[test]
fn a_registry_that_changes_costs_no_request() {
    let redis = Redis::start();
    redis.load(&DUMP);
    let (versions, folder) = (Versions::new(), Folder::new("registry"));
    let registry: PathBuf = folder.write("registry.db", &versions.without_live);
    let models = "  grown: {pool: kserve, upstream_model: echo, features: {service: grown}}";
    let mut weir = Weir::start(&config(&redis, &registry, models));
    let callers = Callers::start(&weir, 4);
    callers.await_tensors(&["conv_rate"]);

    folder.write("registry.db", &versions.with_live);
    callers.await_tensors(&["conv_rate", "speed"]);
    let answer = ask(&mut weir.connect(), "grown", &[("driver_id", "INT64", json!(1001))]);
    let speed = outputs(&answer).into_iter().find(|(name, _)| name == "echo_speed").expect("speed").1;
    assert_eq!(speed, stored("live", "speed", Some(1001)));
    looked(&weir, "changed");
    assert_eq!(shown(&weir)["reason"], Value::Null);
    let views = http1::get(weir.admin(), "/admin/v1/features").expect(200).json()["configured"]["views"].clone();
    assert!(views.as_array().expect("views").iter().any(|view| view["name"] == "live"), "{views}");

    // Garbage, and a registry that no longer has what the model joins: what was served is served on.
    folder.write("registry.db", b"not a registry at all");
    looked(&weir, "refused");
    callers.await_tensors(&["conv_rate", "speed"]);
    assert_eq!(shown(&weir)["last"], "refused");
    let reason = shown(&weir)["reason"].as_str().expect("a reason").to_owned();
    assert!(reason.starts_with("features.registry: not a Feast registry: "), "{reason}");
    let told = weir.process().log().matches("the registry serves on as it was before").count();
    assert_eq!(told, 1, "once, however often it is looked at");
    folder.write("registry.db", std::fs::read(FEAST).expect("the registry that Feast wrote"));
    wait_until("the missing service to be told of", LIMIT, || {
        shown(&weir)["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("models.grown.features.service: no such service"))
    });
    callers.await_tensors(&["conv_rate", "speed"]);
    std::fs::remove_file(&registry).expect("it is there");
    looked(&weir, "unreachable");
    callers.await_tensors(&["conv_rate", "speed"]);

    folder.write("registry.db", &versions.without_live);
    callers.await_tensors(&["conv_rate"]);
    looked(&weir, "unchanged");
    assert_eq!(shown(&weir)["reason"], Value::Null);
    let answered = callers.end();
    assert!(answered > 300, "{answered}");
    assert_eq!(redis.calls("hmget"), 2, "a row of a view that stayed is not read again");
}

#[test]
fn a_registry_of_another_project_is_refused_and_nothing_of_that_project_is_touched() {
    let redis = Redis::start();
    redis.load(&DUMP);
    let (versions, folder) = (Versions::new(), Folder::new("registry"));
    let registry: PathBuf = folder.write("registry.db", &versions.without_live);
    let models = "  grown: {pool: kserve, upstream_model: echo, features: {service: grown}}";
    let hot = "  hot_keys: {share: 0.01, min_rate: 1}\n";
    let weir = Weir::start(&(config(&redis, &registry, models) + hot));
    let callers = Callers::start(&weir, 1);
    callers.await_tensors(&["conv_rate"]);

    // Renamed, with more in it: neither is served.
    folder.write("registry.db", renamed(&versions.with_live, "weir_demo", "weir_else"));
    looked(&weir, "refused");
    let reason = shown(&weir)["reason"].as_str().expect("a reason").to_owned();
    let told = "features.registry: of another project than is served; allowed: \"weir_demo\" until Weir is restarted, given: \"weir_else\"";
    assert_eq!(reason, told);
    callers.await_tensors(&["conv_rate"]);
    let keys = |pattern: &str| -> Vec<Vec<u8>> {
        redis::cmd("KEYS").arg(pattern).query(&mut redis.connection()).expect("it answers")
    };
    assert!(!keys("*weir_demo*").is_empty());
    assert_eq!(keys("*weir_else*"), [b""; 0]);

    // What comes after it, of the old project, is taken.
    folder.write("registry.db", &versions.with_live);
    callers.await_tensors(&["conv_rate", "speed"]);
    assert_eq!(shown(&weir)["reason"], Value::Null);
    callers.end();

    // Who starts with it serves it.
    folder.write("registry.db", renamed(&versions.with_live, "weir_demo", "weir_else"));
    let other = Weir::start(&(config(&redis, &registry, models) + hot));
    let configured = http1::get(other.admin(), "/admin/v1/features").expect(200).json()["configured"].clone();
    assert_eq!(configured["project"], "weir_else");
    wait_until("its keys to be written", LIMIT, || !keys("*weir_else*").is_empty());
}

/// With one name in another's place, which is as long.
fn renamed(registry: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut renamed = registry.to_vec();
    let places: Vec<_> = (0..registry.len()).filter(|at| registry[*at..].starts_with(from.as_bytes())).collect();
    places.into_iter().for_each(|at| renamed[at..at + to.len()].copy_from_slice(to.as_bytes()));
    renamed
}

#[test]
fn what_feast_has_just_registered_and_materialized_is_served() {
    let (redis, feast) = &*STORE;
    let models = r#"  both:
    pool: kserve
    upstream_model: echo
    features:
      - {view: user_stats, join: {user_id: user_id}, select: [txn_count_1h]}
      - {view: merchant_stats, join: {merchant_id: merchant_id}}
"#;
    let weir = Weir::start(&config(redis, &feast.registry(), models));
    let mut connection = weir.connect();
    let (users, merchants) = (&feast.rows["user_stats"], &feast.rows["merchant_stats"]);
    for (user, merchant) in users.as_array().expect("rows").iter().zip(merchants.as_array().expect("rows")) {
        let entities =
            [("user_id", "INT64", user["user_id"].clone()), ("merchant_id", "BYTES", merchant["merchant_id"].clone())];
        let found = outputs(&ask(&mut connection, "both", &entities));
        assert_eq!(
            found,
            [
                ("echo_txn_count_1h".to_owned(), user["txn_count_1h"].clone()),
                ("echo_chargeback_rate".to_owned(), merchant["chargeback_rate"].clone())
            ]
        );
    }
}

#[test]
fn a_registry_on_an_object_store_is_followed() {
    let redis = Redis::start();
    redis.load(&DUMP);
    let (seaweed, versions) = (SeaweedFs::shared(), Versions::new());
    let name = format!("registry-{}.db", redis.address().port());
    let put = |bytes: &[u8]| {
        let environment = seaweed.environment();
        let builder =
            environment.into_iter().filter_map(|(name, value)| Some((name.to_lowercase().parse().ok()?, value)));
        let builder =
            builder.fold(AmazonS3Builder::new().with_bucket_name(BUCKET), |b, (key, value)| b.with_config(key, value));
        let store = builder.build().expect("the environment names the server");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(store.put(&name.as_str().into(), bytes.to_vec().into())).expect("the server takes objects");
    };
    put(&versions.without_live);
    let models = "  grown: {pool: kserve, upstream_model: echo, features: {service: grown}}";
    let url = format!("s3://{BUCKET}/{name}");
    let weir = Weir::with_environment(&config(&redis, Path::new(&url), models), &seaweed.environment());
    let callers = Callers::start(&weir, 2);
    callers.await_tensors(&["conv_rate"]);
    looked(&weir, "unchanged");
    put(&versions.with_live);
    callers.await_tensors(&["conv_rate", "speed"]);
    put(b"{}");
    looked(&weir, "refused");
    callers.await_tensors(&["conv_rate", "speed"]);
    callers.end();
}

#[test]
fn a_service_joins_by_its_aliases_and_a_view_may_have_no_entity() {
    let redis = Redis::start();
    redis.load(&DUMP);
    let models = r#"  pair:
    pool: kserve
    upstream_model: echo
    features: {service: aliased_svc}
    inputs: {as: columns, columns: [{name: a, from: "origin_stats:conv_rate"}, {name: b, from: "dest_stats:conv_rate"}]}
  surge:
    pool: kserve
    upstream_model: echo
    features: [{view: global_stats, join: {}, select: [surge]}]
"#;
    let weir = Weir::start(&config(&redis, Path::new(FEAST), models));
    let mut connection = weir.connect();
    let conv_rate = |driver| json!(stored("driver_stats", "conv_rate", Some(driver)));
    for (origin, dest) in [(1001, 1002), (1002, 1002)] {
        let entities = [("origin_id", "INT64", json!(origin)), ("dest_id", "INT64", json!(dest))];
        let found = outputs(&ask(&mut connection, "pair", &entities));
        let number = |name: &str| found.iter().find(|(found, _)| found == name).expect("an output").1.clone();
        assert_eq!((number("echo_a"), number("echo_b")), (conv_rate(origin), conv_rate(dest)));
    }
    let found = outputs(&ask(&mut connection, "surge", &[("x", "FP64", json!(1.5))]));
    assert_eq!(
        found,
        [("echo_x".to_owned(), json!(1.5)), ("echo_surge".to_owned(), json!(stored("global_stats", "surge", None)))]
    );
}
