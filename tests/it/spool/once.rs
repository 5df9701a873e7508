//! A model that must not be asked twice (`idempotent: false`): what may have reached it once is not sent to it again, by no replay, after
//! no failure, and not where a gateway stops or dies in the middle.

use super::*;

/// The same, with so much time that no try of it ends by itself.
fn patient(config: &str) -> String {
    config.replace("once: {pool: p, timeout: 5s", "once: {pool: p, timeout: 10m")
}

/// Of a question, how often the model was asked it.
fn times(ledger: &Ledger, id: &str) -> usize {
    ledger.asked().iter().filter(|asked| *asked == id).count()
}

fn parked(weir: &Weir) -> Value {
    wait_until("the request to be parked", PATIENCE, || depth(weir)["parked"] == 1);
    http1::get(weir.admin(), "/admin/v1/spool?state=parked").expect(200).json()["entries"][0].take()
}

#[test]
fn what_may_have_reached_it_is_not_logged_at_level_3() {
    let (redis, ledger) = (Redis::start(), Ledger::listen());
    let stands_in =
        "idempotent: false, fallback: {default: {outputs: [{name: y, datatype: FP32, shape: [1], data: [0.5]}]}}";
    let config = config(&ledger, &in_redis(&redis), "{}").replace("idempotent: false", stands_in);
    let weir = Weir::start(&config.replace("open_for: 200ms", "open_for: 1h"));
    let mut connection = weir.connect();
    let mut ask = |number| connection.post("/v2/models/once/infer", question(number)).expect(200).header("weir-level");
    ledger.poison("q1");
    assert_eq!((ask(1).as_deref(), times(&ledger, "q1")), (Some("3"), 1));
    // One that did not reach it, because its breaker is open, is: in order, so that the one before it would have been there before.
    assert_eq!(ask(2).as_deref(), Some("3"));
    wait_until("a request to be kept", PATIENCE, || depth(&weir)["waiting"] == 1);
    let listed = http1::get(weir.admin(), "/admin/v1/spool").expect(200).json()["entries"].take();
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["idempotent"]), (Some(1), &json!(false)), "{listed}");
    // A server that comes back need not wait out its breaker's time.
    ledger.is_down(true);
    await_metric(weir.admin(), "weir_endpoint_healthy", &[("pool", "p")], |healthy| healthy == 0.0);
    ledger.is_down(false);
    wait_until("its result", PATIENCE, || depth(&weir)["done"] == 1);
    assert_eq!((times(&ledger, "q1"), times(&ledger, "q2")), (1, 1));
}

#[test]
fn a_replay_that_failed_is_parked_and_one_that_was_refused_by_the_model_is_told() {
    let (redis, ledger) = (Redis::start(), Ledger::listen());
    let config = config(&ledger, &in_redis(&redis), "{retry: {initial_delay: 1ms, max_delay: 1ms, max_retries: 100}}");
    let weir = Weir::start(&config);
    let mut connection = weir.connect();
    // What the model failed on itself may have acted.
    ledger.poison("q1");
    let told = ask_model_later(&mut connection, "once", "told", &question(1)).expect(500);
    assert_eq!((told.header("location"), times(&ledger, "q1")), (None, 1));
    drill(&weir, "once", 4);
    ledger.poison("q2");
    ask_model_later(&mut connection, "once", "k", &question(2)).expect(202);
    drill(&weir, "once", 0);
    let entry = parked(&weir);
    let reason = entry["reason"].as_str().expect("a reason");
    let told = "the model's server answered 500 Internal Server Error; the model may have acted on it, and must not be asked twice \
                (idempotent: false)";
    assert_eq!((reason, entry["attempts"].as_u64()), (told, Some(1)));
    // Others go on, and it stays where it is.
    drill(&weir, "m", 4);
    ask_later(&mut connection, "other", &question(3)).expect(202);
    drill(&weir, "m", 0);
    wait_until("the other's result", PATIENCE, || depth(&weir)["done"] == 1);
    assert_eq!((times(&ledger, "q2"), depth(&weir)["parked"].as_u64()), (1, Some(1)));
}

#[test]
fn one_that_a_gateway_was_asking_when_it_stopped_is_parked() {
    let (redis, ledger) = (Redis::start(), Ledger::listen());
    let config = patient(&config(&ledger, &in_redis(&redis), "{}").replace("deadline: 20s", "deadline: 1s"));
    let mut weir = Weir::start(&config);
    under_way(&weir, &ledger);
    weir.process().signal("TERM");
    assert_eq!(weir.process().wait(PATIENCE).code(), Some(0));
    ledger.hang(false);
    let entry = parked(&Weir::start(&config));
    let reason = entry["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("the gateway stopped while the model was asked; the model may have acted"), "{reason}");
    assert_eq!(times(&ledger, "q1"), 1);
}

#[test]
fn one_that_a_gateway_was_asking_when_it_was_killed_is_parked_by_the_next_on_its_file() {
    let (ledger, folder) = (Ledger::listen(), Folder::new("spool"));
    let spooled = format!("{{path: {}}}", folder.path().join("spool.redb").display());
    let config = patient(&config(&ledger, "", &spooled));
    let mut weir = Weir::start(&config);
    under_way(&weir, &ledger);
    weir.process().signal("KILL");
    weir.process().wait(PATIENCE);
    ledger.hang(false);
    let entry = parked(&Weir::start(&config));
    assert_eq!(entry["reason"], "no gateway that tried it lived to tell how it went");
    assert_eq!(times(&ledger, "q1"), 1);
}

/// Lets a replay begin that does not end.
fn under_way(weir: &Weir, ledger: &Ledger) {
    drill(weir, "once", 4);
    ask_model_later(&mut weir.connect(), "once", "k", &question(1)).expect(202);
    ledger.hang(true);
    drill(weir, "once", 0);
    wait_until("the model to be asked", PATIENCE, || ledger.asked().len() == 1);
}
