//! Requests kept for later: none is lost, each key has exactly one result, whatever becomes of gateways and connections meanwhile;
//! what the model cannot answer now is answered when it is well, and never faster than it has room for.

use std::{
    collections::{HashMap, HashSet},
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use weir::proto::inference as pb;

use crate::support::{
    Redis, Weir,
    hand::{Counting, READY, accept, read_request},
    http1::{self, Http1, Response},
    metrics::await_metric,
    process::{Folder, await_some, wait_until},
    weir::command,
};

mod failures;
mod features;
mod ledger;
mod once;

use self::ledger::Ledger;

/// How long the machine may take, busy as it is.
const PATIENCE: Duration = Duration::from_secs(300);

/// What one gateway replays at once.
const MOST: usize = 16;

const PATH: &str = "/v2/models/m/infer";

fn question(number: usize) -> String {
    json!({"id": format!("q{number}"), "inputs": []}).to_string()
}

/// A gateway before the ledger; `features` and `spool` as in the file.
fn config(ledger: &Ledger, features: &str, spool: &str) -> String {
    format!(
        "drain: {{delay: 0s, deadline: 20s}}\n\
         pools:\n  p: {{endpoints: [\"http://{}\"], health: {{interval: 100ms}}, retry: {{max_retries: 0}}, \
         breaker: {{failure_threshold: 1, open_for: 200ms, success_threshold: 1}}}}\n\
         models:\n  m: {{pool: p, timeout: 5s}}\n  once: {{pool: p, timeout: 5s, upstream_model: m, idempotent: false}}\n  eager: {{pool: p, timeout: 5s, upstream_model: m, queue_on_reject: true}}\n\
         {features}\nspool: {spool}\n",
        ledger.address
    )
}

fn in_redis(redis: &Redis) -> String {
    format!("features: {{project: shop, l2: {{redis: [\"{}\"], timeout: 5s}}}}", redis.url())
}

/// Holds the model at a level on that gateway; 0 lets it go.
fn drill(weir: &Weir, model: &str, level: u8) {
    let body = json!({"level": level, "for": if level == 0 { "0s" } else { "1h" }}).to_string();
    Http1::connect(weir.admin()).post(&format!("/admin/v1/levels/{model}"), body).expect(200);
}

fn ask_later(connection: &mut Http1, key: &str, body: &str) -> Response {
    ask_model_later(connection, "m", key, body)
}

fn ask_model_later(connection: &mut Http1, model: &str, key: &str, body: &str) -> Response {
    let headers = [("content-type", "application/json"), ("prefer", "respond-async"), ("idempotency-key", key)];
    connection.request("POST", &format!("/v2/models/{model}/infer"), &headers, body.as_bytes())
}

fn depth(weir: &Weir) -> Value {
    http1::get(weir.admin(), "/admin/v1/spool?limit=1").expect(200).json()["depth"].clone()
}

fn result(weir: &Weir, id: &str) -> Response {
    http1::get(weir.http(), &format!("/v1/async/{id}"))
}

/// What the command line prints.
fn spool(arguments: &[&str], config: &str, folder: &Folder) -> (bool, String) {
    let file = folder.write("spool.yaml", config);
    let output = command().arg("spool").args(arguments).arg("-c").arg(file).output().expect("the binary runs");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), said)
}

#[test]
fn ten_thousand_outlive_gateways_and_connections_with_one_result_each() {
    const COUNT: usize = 10_000;
    const CALLERS: usize = 8;
    let (redis, ledger) = (Redis::start(), Ledger::listen());
    let config = config(&ledger, &in_redis(&redis), "{keep_for: 1h}");
    let (mut first, second) = (Weir::start(&config), Weir::start(&config));
    drill(&first, "m", 4);
    drill(&second, "m", 4);
    // Each caller at either gateway, in order.
    let gateways = [&first, &second];
    let ids: Vec<Vec<(usize, String)>> = thread::scope(|scope| {
        let caller = |number: usize| {
            let mut connection = gateways[number % 2].connect();
            let ask = move |number: usize| {
                let answer = ask_later(&mut connection, &format!("k{number}"), &question(number)).expect(202);
                (number, answer.json()["id"].as_str().expect("an id").to_owned())
            };
            (number..COUNT).step_by(CALLERS).map(ask).collect()
        };
        let callers: Vec<_> = (0..CALLERS).map(|number| scope.spawn(move || caller(number))).collect();
        callers.into_iter().map(|caller| caller.join().expect("it ends")).collect()
    });
    let ids: HashMap<usize, String> = ids.into_iter().flatten().collect();
    assert_eq!(ids.values().collect::<HashSet<_>>().len(), COUNT);
    assert_eq!(depth(&first), json!({"waiting": COUNT, "running": 0, "done": 0, "parked": 0}));
    assert_eq!(ledger.asked().len(), 0, "a drilled model is not asked, for later neither");
    let queued: Vec<(String, HashMap<String, String>)> = ::redis::cmd("XRANGE")
        .arg("weir:spool:{shop}:stream:m")
        .arg("-")
        .arg("+")
        .query(&mut redis.connection())
        .expect("a stream");
    let places: HashMap<&str, usize> =
        queued.iter().enumerate().map(|(place, (_, entry))| (&*entry["id"], place)).collect();
    let places = ids.iter().map(|(number, id)| (format!("q{number}"), places[&**id])).collect();

    drill(&first, "m", 0);
    drill(&second, "m", 0);
    let answered = |share: usize| {
        wait_until(&format!("{share} answers"), PATIENCE, || ledger.asked().len() >= share);
    };
    let break_connections = || {
        let mut connection = redis.connection();
        let kill = ::redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").to_owned();
        kill.query::<u64>(&mut connection).expect("Redis runs")
    };
    answered(COUNT / 5);
    assert!(break_connections() > 0);
    answered(2 * COUNT / 5);
    first.process().signal("KILL");
    answered(3 * COUNT / 5);
    assert!(break_connections() > 0);
    let all_done = json!({"waiting": 0, "running": 0, "done": COUNT, "parked": 0});
    wait_until("every request to have its result", PATIENCE, || depth(&second) == all_done);

    let mut connection = second.connect();
    for (number, id) in &ids {
        let answer = result(&second, id).expect(200).json();
        assert_eq!(answer["id"], format!("q{number}"), "its own question's");
        // The same key again: the same answer, and the model is not asked.
        let again = ask_later(&mut connection, &format!("k{number}"), &question(*number)).expect(200).json();
        assert_eq!(again, answer);
    }
    let asked = ledger.asked();
    assert_eq!(asked.iter().collect::<HashSet<_>>().len(), COUNT);
    // Once each, but for what the killed gateway had begun and what a broken connection left unsaid.
    assert!(asked.len() <= COUNT + 6 * MOST, "{} arrivals", asked.len());
    let most = ledger.most_inside();
    assert!(most <= 2 * MOST, "{most} at once");
    in_order(&asked, &places);
}

/// Questions came to the model nearly in the order of the queue: those that are far from their place are those that a killed gateway and
/// broken connections left behind.
fn in_order(asked: &[String], places: &HashMap<String, usize>) {
    let mut seen = HashSet::new();
    let firsts = asked.iter().filter(|id| seen.insert(id.as_str()));
    let far = |(arrival, id): &(usize, &String)| arrival.abs_diff(places[*id]) > 20 * MOST;
    let strays = firsts.enumerate().filter(far).count();
    assert!(strays <= 6 * MOST, "{strays} are far from their place");
}

#[test]
fn what_the_model_cannot_answer_is_answered_when_it_is_well() {
    let (redis, ledger) = (Redis::start(), Ledger::listen());
    let config = config(&ledger, &in_redis(&redis), "{retry: {initial_delay: 100ms, max_delay: 1s, max_retries: 100}}");
    let weir = Weir::start(&config);
    let mut connection = weir.connect();
    let answered = ask_later(&mut connection, "well", &question(0)).expect(200);
    assert_eq!((answered.header("weir-level").as_deref(), answered.header("location")), (Some("0"), None));
    ledger.is_down(true);
    // Now and then the breaker lets a probe through, which is answered as the model's server answered it.
    let mut until = |status: u16, ask: &mut dyn FnMut(&mut Http1) -> Response| {
        await_some(&format!("an answer {status}"), PATIENCE, || {
            let answer = ask(&mut connection);
            assert!([500, status].contains(&answer.status), "{} {}", answer.status, answer.text());
            (answer.status == status).then_some(answer)
        })
    };
    until(503, &mut |connection| connection.post(PATH, question(1)));
    let queued = until(202, &mut |connection| ask_later(connection, "later", &question(2)));
    assert_eq!(queued.header("weir-level").as_deref(), Some("4"));
    assert_eq!(queued.header("preference-applied").as_deref(), Some("respond-async"));
    let id = queued.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(queued.header("location"), Some(format!("/v1/async/{id}")));
    let waiting = result(&weir, &id).expect(202);
    let state = waiting.header("weir-async").expect("it is known");
    assert!(["waiting", "running"].contains(&&*state), "{state}");
    assert!(waiting.header("retry-after").is_some());
    // A key is one request.
    let again = until(202, &mut |connection| ask_later(connection, "later", &question(2)));
    assert_eq!(again.json()["id"], *id);
    let other = until(422, &mut |connection| ask_later(connection, "later", &question(3))).error();
    assert!(other.starts_with("idempotency-key \"later\" was used for another request"), "{other}");
    // A model that queues without being asked, another that does not.
    let eager = until(202, &mut |connection| connection.post("/v2/models/eager/infer", question(4))).json();
    until(503, &mut |connection| connection.post(PATH, question(5)));
    ledger.is_down(false);
    wait_until("the results", PATIENCE, || {
        [&id, eager["id"].as_str().expect("an id")].into_iter().all(|id| result(&weir, id).status == 200)
    });
    let done = result(&weir, &id);
    assert_eq!((done.json()["id"].as_str(), done.header("weir-async").as_deref()), (Some("q2"), Some("done")));
    assert_eq!(done.header("weir-level").as_deref(), Some("0"));
    assert!(result(&weir, &"0".repeat(32)).expect(404).error().contains("spool.keep_for"));
    await_metric(weir.admin(), "weir_spool_depth", &[("state", "done")], |done| done == 2.0);
    await_metric(weir.admin(), "weir_spool_replays_total", &[("outcome", "done")], |done| done == 2.0);
}

#[test]
fn what_was_answered_at_level_3_is_asked_again() {
    let (redis, ledger) = (Redis::start(), Ledger::listen());
    let stands_in = "m: {pool: p, timeout: 5s, fallback: {default: {outputs: [{name: y, datatype: FP32, shape: [1], data: [0.5]}]}}}";
    let config = config(&ledger, &in_redis(&redis), "{}").replace("m: {pool: p, timeout: 5s}", stands_in);
    let weir = Weir::start(&config);
    ledger.is_down(true);
    let answer = weir.connect().post(PATH, question(1)).expect(200);
    assert_eq!(answer.header("weir-level").as_deref(), Some("3"), "{}", answer.text());
    let listed = await_some("the request to be kept", PATIENCE, || {
        let listed = http1::get(weir.admin(), "/admin/v1/spool").expect(200).json();
        listed["entries"].get(0).cloned()
    });
    assert_eq!((&listed["why"], ledger.asked().len()), (&json!("logged"), 0));
    ledger.is_down(false);
    wait_until("its result", PATIENCE, || depth(&weir)["done"] == 1);
    assert_eq!((ledger.asked(), depth(&weir)["waiting"].as_u64()), (vec!["q1".to_owned()], Some(0)));
    let id = listed["id"].as_str().expect("an id");
    let shown = http1::get(weir.admin(), &format!("/admin/v1/spool/{id}")).expect(200).json();
    assert!(shown["result"]["body"].as_str().is_some_and(|body| body.contains("q1")), "{shown}");
}

#[test]
fn a_grpc_caller_finds_its_answer_under_its_key() {
    let (redis, triton) = (Redis::start(), &*crate::world::TRITON);
    let config = format!(
        "pools:\n  triton: {{endpoints: [{}]}}\nmodels:\n  fraud: {{pool: triton}}\n{}\n",
        triton.endpoint(),
        in_redis(&redis)
    );
    let weir = Weir::start(&config);
    drill(&weir, "fraud", 4);
    let tensor = pb::model_infer_request::InferInputTensor {
        name: "input-0".into(),
        datatype: "FP32".into(),
        shape: vec![1, 4],
        contents: Some(pb::InferTensorContents { fp32_contents: vec![1000.0, 0.0, 0.0, 0.0], ..Default::default() }),
        ..Default::default()
    };
    let request = pb::ModelInferRequest { model_name: "fraud".into(), inputs: vec![tensor], ..Default::default() };
    let metadata = [("prefer", "respond-async"), ("idempotency-key", "g")];
    let mut grpc = weir.connect_grpc();
    let queued = grpc.call("ModelInfer", &request, &metadata);
    assert_eq!((queued.status(), queued.metadata("grpc-retry-pushback-ms").as_deref()), (14, Some("-1")));
    let location = queued.metadata("location").expect("where the result will be");
    assert_eq!(queued.metadata("idempotency-key").as_deref(), Some("g"));
    drill(&weir, "fraud", 0);
    wait_until("the result", PATIENCE, || http1::get(weir.http(), &location).status == 200);
    let answer: pb::ModelInferResponse = grpc.call("ModelInfer", &request, &metadata).decode();
    assert_eq!(answer.outputs[0].name, "score");
    let over_http = http1::get(weir.http(), &location);
    assert_eq!(over_http.header("content-type").as_deref(), Some("application/x-protobuf"));
    let decoded: pb::ModelInferResponse = prost::Message::decode(&*over_http.body).expect("it is the message");
    assert_eq!(decoded, answer);
}

#[test]
fn a_full_spool_refuses_in_words() {
    let (redis, ledger) = (Redis::start(), Ledger::listen());
    let weir = Weir::start(&config(&ledger, &in_redis(&redis), "{max_entries: 2}"));
    drill(&weir, "m", 4);
    let mut connection = weir.connect();
    for number in 0..2 {
        ask_later(&mut connection, &format!("k{number}"), &question(number)).expect(202);
    }
    let refused = ask_later(&mut connection, "k2", &question(2)).expect(507).error();
    assert!(refused.contains("the spool is full: it keeps 2 entries (spool.max_entries)"), "{refused}");
    redis.kill();
    let refused = ask_later(&mut connection, "k3", &question(3)).expect(503).error();
    assert!(refused.contains("and it may have been queued, or not: the spool cannot be reached"), "{refused}");
}

#[test]
fn who_asks_while_the_spool_hangs_is_told_where_a_result_would_be_and_no_model_is_asked_twice() {
    let (redis, ledger) = (Redis::start(), Ledger::listen());
    let config = config(&ledger, &in_redis(&redis), "{}");
    let weir = Weir::start(&config);
    let mut connection = weir.connect();
    ["m", "once"].iter().for_each(|model| drill(&weir, model, 4));
    ask_later(&mut connection, "before", &question(0)).expect(202);
    redis.freeze();
    let unsure = ask_later(&mut connection, "k", &question(1)).expect(503);
    let told = unsure.error();
    assert!(
        told.contains("and it may have been queued, or not: the spool cannot be reached: no answer in time"),
        "{told}"
    );
    let place = unsure.header("location").expect("where its result would be");
    assert!(told.contains(&place) && unsure.header("retry-after").is_some(), "{told}");
    assert_eq!(unsure.header("idempotency-key").as_deref(), Some("k"));
    // One that may have reached its model before is not sent on as if it had no key.
    drill(&weir, "once", 0);
    let refused = ask_model_later(&mut connection, "once", "o", &question(2)).expect(503).error();
    assert!(refused.starts_with("whether a request is kept under idempotency-key \"o\" is not known"), "{refused}");
    assert_eq!(ledger.asked().len(), 0);
    redis.thaw();
    drill(&weir, "m", 0);
    let result =
        await_some("what was kept", PATIENCE, || Some(http1::get(weir.http(), &place)).filter(|it| it.status == 200));
    assert_eq!(result.json()["id"], "q1", "it was queued, and its caller knows where");
}

#[test]
fn an_explanation_longer_than_is_held_is_queued_too() {
    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    let (redis, busy) = (Redis::start(), Counting::listen(BUSY));
    let config = format!(
        "pools: {{p: {{endpoints: [\"{}\"], retry: {{max_retries: 0}}}}}}\nmodels:\n  m: {{pool: p, explainer: {{pool: p}}, \
         queue_on_reject: true}}\n{}\nspool: {{retry: {{initial_delay: 1h, max_delay: 1h}}}}\n",
        busy.endpoint(),
        in_redis(&redis)
    );
    let weir = Weir::start(&config);
    let body = json!({"instances": ["x".repeat(100_000)]}).to_string();
    let queued = http1::post(weir.http(), "/v1/models/m:explain", body.as_str()).expect(202);
    let id = queued.json()["id"].as_str().expect("an id").to_owned();
    let shown = http1::get(weir.admin(), &format!("/admin/v1/spool/{id}")).expect(200).json();
    assert_eq!(shown["request"]["path"], "/v1/models/m:explain", "{}", shown["request"]);
}

#[test]
fn an_operator_sees_replays_and_drops() {
    let (redis, ledger, folder) = (Redis::start(), Ledger::listen(), Folder::new("spool"));
    let config = config(&ledger, &in_redis(&redis), "{retry: {max_retries: 0}}");
    let weir = Weir::start(&config);
    operate(&weir, &ledger, &config, &folder, "redis");
}

#[test]
fn the_embedded_spool_is_its_gateways_and_outlives_it() {
    let (ledger, folder) = (Ledger::listen(), Folder::new("spool"));
    let spooled = format!("{{path: {}, retry: {{max_retries: 0}}}}", folder.path().join("spool.redb").display());
    let ports: Vec<_> = (0..3).map(|_| crate::support::process::free_port()).collect();
    let listen = format!(
        "listen: {{http: \"127.0.0.1:{}\", grpc: \"127.0.0.1:{}\", admin: \"127.0.0.1:{}\"}}\n",
        ports[0], ports[1], ports[2]
    );
    let config = config(&ledger, "", &spooled) + &listen;
    let mut weir = Weir::start(&config);
    operate(&weir, &ledger, &config, &folder, "file");
    drill(&weir, "m", 4);
    let id = ask_later(&mut weir.connect(), "kept", &question(7)).expect(202).json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    weir.process().signal("KILL");
    weir.process().wait(PATIENCE);
    let (is_good, shown) = spool(&["show", &id], &config, &folder);
    assert!(is_good && shown.contains("\"state\": \"waiting\""), "the file alone: {shown}");
    let weir = Weir::start(&config);
    wait_until("the result", PATIENCE, || result(&weir, &id).status == 200);
    assert_eq!(result(&weir, &id).json()["id"], "q7");
}

/// Parks a request, and does with it what an operator would.
fn operate(weir: &Weir, ledger: &Ledger, config: &str, folder: &Folder, store: &str) {
    drill(weir, "m", 4);
    let mut connection = weir.connect();
    let id =
        ask_later(&mut connection, "poison", &question(6)).expect(202).json()["id"].as_str().expect("an id").to_owned();
    let (is_good, listed) = spool(&["ls"], config, folder);
    assert!(
        is_good && listed.contains(&id) && listed.contains(&format!("at most 100000 are kept, in {store}")),
        "{listed}"
    );
    let (is_good, shown) = spool(&["show", &id], config, folder);
    assert!(is_good && shown.contains("\"idempotency_key\": \"poison\"") && shown.contains("q6"), "{shown}");
    // Its only try fails.
    ledger.poison("q6");
    drill(weir, "m", 0);
    wait_until("the request to be parked", PATIENCE, || depth(weir)["parked"] == 1);
    assert_eq!(result(weir, &id).expect(202).json()["state"], "parked");
    let asked = ledger.asked().len();
    let (is_good, listed) = spool(&["ls", "--state", "parked"], config, folder);
    assert!(is_good && listed.contains("the model's server answered 500"), "{listed}");
    assert_eq!(ledger.asked().len(), asked, "it is not tried by itself");
    ledger.poison("");
    let (is_good, said) = spool(&["replay", "--state", "parked"], config, folder);
    assert!(is_good && said == "1 replayed\n", "{said}");
    wait_until("its result", PATIENCE, || result(weir, &id).status == 200);
    let (is_good, said) = spool(&["replay", &id], config, folder);
    assert!(!is_good && said.contains("not while it is done; allowed: waiting, parked"), "{said}");
    let (is_good, said) = spool(&["drop", &id], config, folder);
    assert!(is_good && said == "1 dropped\n", "{said}");
    result(weir, &id).expect(404);
    let (is_good, said) = spool(&["drop", &id], config, folder);
    assert!(!is_good && said.contains("no such entry"), "{said}");
}

#[test]
fn a_drain_gives_claims_back() {
    let (redis, ledger) = (Redis::start(), Ledger::listen());
    let config = config(&ledger, &in_redis(&redis), "{}").replace("deadline: 20s", "deadline: 1s");
    let config = config.replace("m: {pool: p, timeout: 5s}", "m: {pool: p, timeout: 10m}");
    let mut weir = Weir::start(&config);
    drill(&weir, "m", 4);
    let id =
        ask_later(&mut weir.connect(), "k", &question(1)).expect(202).json()["id"].as_str().expect("an id").to_owned();
    ledger.hang(true);
    drill(&weir, "m", 0);
    wait_until("the model to be asked", PATIENCE, || ledger.asked().len() == 1);
    weir.process().signal("TERM");
    assert_eq!(weir.process().wait(PATIENCE).code(), Some(0));
    ledger.hang(false);
    // Not after the ten minutes that its claim would have lasted.
    let weir = Weir::start(&config);
    wait_until("the result", Duration::from_secs(120), || result(&weir, &id).status == 200);
}

/// A key is its caller's: who asks under another one's, with other credentials or for another tenant, is told nothing of its result.
#[test]
fn another_callers_key_is_refused() {
    let (redis, ledger) = (Redis::start(), Ledger::listen());
    for features in [String::new(), in_redis(&redis)] {
        let cached = "m: {pool: p, timeout: 5s, cache: {ttl: 1h, headers: [x-tenant]}}";
        let weir = Weir::start(&config(&ledger, &features, "{}").replace("m: {pool: p, timeout: 5s}", cached));
        let ask = |who: &[(&str, &str)]| {
            let asks =
                [("content-type", "application/json"), ("prefer", "respond-async"), ("idempotency-key", "order-1")];
            weir.connect().request("POST", PATH, &[&asks, who].concat(), question(1).as_bytes())
        };
        let owner = [("authorization", "Bearer a"), ("x-tenant", "a")];
        let refused = || {
            for other in [&[("authorization", "Bearer b"), ("x-tenant", "a")][..], &[owner[0], ("x-tenant", "b")], &[]]
            {
                let told = ask(other).expect(422);
                assert!(told.error().contains("or by another caller"), "{}", told.text());
                assert_eq!((told.header("location"), told.header("weir-async")), (None, None), "{other:?}");
            }
        };
        drill(&weir, "m", 4);
        let queued = ask(&owner).expect(202).json();
        refused();
        assert_eq!(ask(&owner).expect(202).json()["id"], queued["id"]);
        drill(&weir, "m", 0);
        wait_until("the result", PATIENCE, || ask(&owner).status == 200);
        refused();
        let asked = ledger.asked().len();
        assert_eq!(ask(&owner).expect(200).header("weir-async").as_deref(), Some("done"));
        assert_eq!(ledger.asked().len(), asked);
    }
    assert_eq!(ledger.asked(), ["q1", "q1"], "once for each store");
}
