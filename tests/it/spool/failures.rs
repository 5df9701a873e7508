//! A failure that the model's server tells itself, in every protocol: queued where the caller would come back, told as it is to who
//! would not, and never queued where it may have acted and must not twice, nor where it is the caller's own mistake.

use super::*;
use crate::ladder::scene::{Moody, PROTOCOLS, Told, ask, ask_with, each, tag};

/// Where a queued request's result will be.
fn location(told: &Told) -> Option<&str> {
    let begin = told.text.find("/v1/async/")?;
    told.text.get(begin..begin + "/v1/async/".len() + 32)
}

/// What the failure is told as over HTTP, and the status that a 202 has in a protocol: gRPC has none.
fn statuses(protocol: &str, mood: &str) -> (u16, u16) {
    let failure = mood.parse().expect("a status");
    (failure, if protocol == "grpc" { 503 } else { 202 })
}

#[test]
fn a_failure_that_the_server_tells_is_queued_in_every_protocol() {
    let (redis, models, once) = (Redis::start(), Moody::all(), Moody::all());
    let (mut pools, mut entries) = (String::new(), String::new());
    for ((name, model), once) in PROTOCOLS.map(tag).into_iter().zip(&models).zip(&once) {
        pools += &(model.pool(&name, "") + &once.pool(&format!("{name}-once"), ""));
        entries += &format!(
            "  {name}: {{pool: {name}, timeout: 20s}}\n  {name}-eager: {{pool: {name}, timeout: 20s, queue_on_reject: true}}\n  \
             {name}-once: {{pool: {name}-once, timeout: 20s, idempotent: false}}\n"
        );
    }
    let weir = Weir::start(&format!(
        "pools:\n{pools}models:\n{entries}{}\nspool: {{retry: {{initial_delay: 1h, max_delay: 1h, max_retries: 100}}}}\n",
        in_redis(&redis)
    ));
    each(|protocol| {
        let name = tag(protocol);
        let at = PROTOCOLS.iter().position(|each| *each == protocol).expect("it is one");
        let (model, once) = (&models[at], &once[at]);
        model.turn("400");
        let headers = [("prefer", "respond-async"), ("idempotency-key", "mistaken")];
        let told = ask_with(&weir, protocol, (&name, &headers), &[(1, 1.0)]);
        assert_eq!((told.status, &*told.level, location(&told)), (400, "0", None), "the caller's own: {told:?}");
        let mut places = Vec::new();
        for mood in ["503", "500", "429"] {
            let (failure, queued) = statuses(protocol, mood);
            [model, once].into_iter().for_each(|server| server.turn(mood));
            let later = |model: &str| {
                let headers = [("prefer", "respond-async"), ("idempotency-key", mood)];
                ask_with(&weir, protocol, (model, &headers), &[(1, 1.0)])
            };
            for told in [later(&name), ask(&weir, protocol, &format!("{name}-eager"), &[(1, 1.0)])] {
                assert_eq!((told.status, &*told.level), (queued, "4"), "{mood}: {told:?}");
                assert!(told.retry_after.is_some(), "{mood}: {told:?}");
                places.push(location(&told).unwrap_or_else(|| panic!("{mood}: {told:?}")).to_owned());
            }
            // Who would not come back is told, and so is who must not be asked twice.
            for told in [ask(&weir, protocol, &name, &[(1, 1.0)]), later(&format!("{name}-once"))] {
                assert_eq!((told.status, location(&told)), (failure, None), "{mood}: {told:?}");
            }
        }
        assert_eq!(once.arrivals(), 3, "a request each, and no replay");
        // What is kept is neither an answer nor an error.
        let eager = format!("{name}-eager");
        let metrics = weir.metrics();
        assert_eq!(metrics.count("weir_requests_total", &[("model", &eager), ("status", "202")]), 3.0);
        assert_eq!(metrics.count("weir_requests_total", &[("model", &eager)]), 3.0);
        assert_eq!(metrics.count("weir_answers_total", &[("model", &eager)]), 0.0);
        model.turn("none");
        for place in &places {
            // It was tried in vain, or is about to be for the first time.
            let id = place.rsplit('/').next().expect("an id");
            let result = await_some("a result", PATIENCE, || {
                let result = http1::get(weir.http(), place);
                if result.header("weir-async").as_deref() == Some("done") {
                    return Some(result);
                }
                http1::post(weir.admin(), &format!("/admin/v1/spool/{id}/replay"), "");
                None
            });
            assert_eq!(result.status, 200, "{}", result.text());
        }
    });
}

#[test]
fn what_a_drill_answered_is_not_logged_nor_anything_where_logging_is_off() {
    let stands_in = "m: {pool: p, timeout: 5s, fallback: {default: {outputs: [{name: y, datatype: FP32, shape: [1], data: [0.5]}]}}}";
    for (spool, is_drilled) in [("{}", true), ("{log: false}", false)] {
        let (redis, ledger) = (Redis::start(), Ledger::listen());
        let config = config(&ledger, &in_redis(&redis), spool).replace("m: {pool: p, timeout: 5s}", stands_in);
        let mut weir = Weir::start(&config);
        if is_drilled {
            drill(&weir, "m", 3);
        } else {
            ledger.is_down(true);
        }
        let answer = weir.connect().post(PATH, question(1)).expect(200);
        assert_eq!(answer.header("weir-level").as_deref(), Some("3"), "{}", answer.text());
        // What is to be logged is, before the process ends.
        weir.process().signal("TERM");
        assert_eq!(weir.process().wait(PATIENCE).code(), Some(0));
        let keys: Vec<String> =
            ::redis::cmd("KEYS").arg("weir:spool:{shop}:stream:*").query(&mut redis.connection()).expect("Redis runs");
        assert!(keys.is_empty(), "{spool}: {keys:?}");
    }
}

/// Requests that fail whenever they are tried are no reason to keep anybody else from the model, neither from one that is well nor from one
/// that recovers.
#[test]
fn replays_that_fail_keep_no_breaker_open() {
    const POISONED: usize = 12;
    let (redis, ledger) = (Redis::start(), Ledger::listen());
    let config =
        config(&ledger, &in_redis(&redis), "{retry: {initial_delay: 100ms, max_delay: 100ms, max_retries: 100}}")
            .replace("success_threshold: 1", "success_threshold: 3");
    let weir = Weir::start(&config);
    let mut connection = weir.connect();
    drill(&weir, "m", 4);
    for number in 0..POISONED {
        let body = json!({"id": "poison", "number": number, "inputs": []}).to_string();
        ask_later(&mut connection, &format!("k{number}"), &body).expect(202);
    }
    ledger.poison("poison");
    drill(&weir, "m", 0);
    let retried = || weir.metrics().count("weir_spool_replays_total", &[("outcome", "retried")]);
    let all_answered_while_replays_fail = |connection: &mut Http1| {
        let enough = retried() + 2.0 * POISONED as f64;
        let mut live = 0;
        wait_until("replays to fail", PATIENCE, || {
            connection.post(PATH, question(live)).expect(200);
            live += 1;
            retried() >= enough
        });
    };
    all_answered_while_replays_fail(&mut connection);
    ledger.is_down(true);
    connection.post(PATH, question(0)).expect(500);
    ledger.is_down(false);
    await_some("the breaker to take a probe", PATIENCE, || {
        let answer = connection.post(PATH, question(0));
        assert!([200, 500, 503].contains(&answer.status), "{}", answer.text());
        (answer.status == 200).then_some(())
    });
    all_answered_while_replays_fail(&mut connection);
}
