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
