//! A promotion in MLflow ends what is kept of a model's predictions: its webhook tells, and where it does not, a look finds it.

use std::time::SystemTime;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::support::{
    Weir,
    hand::Counting,
    http1::{Http1, Response},
    metrics::await_metric,
    mlflow::Mlflow,
    process::{START, wait_until},
};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n{\"predictions\":[]}";
const SECRET: &str = "weir-test-secret";

/// A gateway of `m`, which is registered as `fraud`, and of `other`, whose predictions are kept for an hour.
fn weir(model: &Counting, mlflow: &str) -> Weir {
    Weir::start(&format!(
        "pools:\n  p: {{endpoints: [{}]}}\nmodels:\n  m: {{pool: p, registered_model: fraud, timeout: 20s, cache: {{ttl: 1h}}}}\n  \
         other: {{pool: p, timeout: 20s, cache: {{ttl: 1h}}}}\nmlflow: {{{mlflow}}}\n",
        model.endpoint()
    ))
}

/// Whether a model's prediction is one that was kept.
fn is_hit(weir: &Weir, model: &str) -> bool {
    let answer = weir.connect().post(&format!("/v1/models/{model}:predict"), r#"{"instances": [[1]]}"#).expect(200);
    answer.header("cache-status").is_some_and(|status| status.contains("weir-prediction; hit"))
}

fn await_dropped(weir: &Weir, what: &str) {
    wait_until(what, START, || !is_hit(weir, "m"));
    assert!(is_hit(weir, "m"), "the new one is kept");
}

#[test]
fn mlflows_webhook_ends_what_is_kept_of_the_model() {
    let (model, mlflow) = (Counting::listen(ANSWER), Mlflow::start());
    mlflow.register("fraud", 2);
    mlflow.register("unknown", 1);
    let weir = weir(&model, &format!("secret: {SECRET}, aliases: [champion]"));
    let id = mlflow.webhook(&format!("http://{}/admin/v1/webhooks/mlflow", weir.admin()), SECRET);
    for model in ["m", "other"] {
        assert!(!is_hit(&weir, model) && is_hit(&weir, model));
    }
    let delivered = |outcome: &str, least: f64| {
        await_metric(weir.admin(), "weir_mlflow_deliveries_total", &[("outcome", outcome)], |count| count >= least)
    };
    // A test, an alias that serves nothing here, a model of somebody else: all are answered, and change nothing.
    let test = mlflow.call("POST", &format!("webhooks/{id}/test"), &json!({}));
    assert_eq!(test["result"]["success"], Value::Bool(true), "{test}");
    mlflow.promote("fraud", "shadow", 1);
    mlflow.promote("unknown", "champion", 1);
    delivered("ignored", 3.0);
    assert!(is_hit(&weir, "m"));
    mlflow.promote("fraud", "champion", 2);
    await_dropped(&weir, "the promotion to end the prediction");
    delivered("dropped", 1.0);
    mlflow.call("DELETE", "registered-models/alias", &json!({"name": "fraud", "alias": "champion"}));
    await_dropped(&weir, "the alias's end to end the prediction");
    assert!(is_hit(&weir, "other"), "another model's predictions stay");
    assert_eq!(weir.metrics().count("weir_mlflow_deliveries_total", &[("outcome", "unsigned")]), 0.0);
}

#[test]
fn a_promotion_that_nobody_told_of_is_found_and_a_registry_that_is_away_costs_nothing() {
    let (model, mlflow) = (Counting::listen(ANSWER), Mlflow::start());
    mlflow.register("fraud", 2);
    mlflow.promote("fraud", "champion", 1);
    let weir = weir(&model, &format!("url: \"http://{}\", reconcile_every: 1s", mlflow.address()));
    let looked = |outcome: &str, least: f64| {
        await_metric(weir.admin(), "weir_mlflow_looks_total", &[("outcome", outcome)], |count| count >= least)
    };
    assert!(!is_hit(&weir, "m"));
    let seen = looked("unchanged", 1.0);
    assert!(is_hit(&weir, "m"), "what is so when a gateway starts is no promotion");
    looked("unchanged", seen + 1.0);
    assert!(is_hit(&weir, "m"));
    mlflow.promote("fraud", "champion", 2);
    looked("changed", 1.0);
    await_dropped(&weir, "the look to end the prediction");
    // Nobody can tell anything without a secret.
    let post = Http1::connect(weir.admin()).post("/admin/v1/webhooks/mlflow", "{}");
    assert!(post.expect(404).error().contains("mlflow.secret"));
    drop(mlflow);
    looked("failed", 1.0);
    assert!(is_hit(&weir, "m"));
}

/// Sends a delivery, signed as MLflow would with that secret, and then with another body if there is one.
fn deliver(weir: &Weir, id: &str, (secret, body): (&str, &str), instead: Option<&str>) -> Response {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than 1970").as_secs();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = STANDARD.encode(hmac::sign(&key, format!("{id}.{now}.{body}").as_bytes()));
    let (now, signature) = (now.to_string(), format!("v1,{signature}"));
    let headers = [
        ("content-type", "application/json"),
        ("x-mlflow-delivery-id", id),
        ("x-mlflow-timestamp", &now),
        ("x-mlflow-signature", &signature),
    ];
    let body = instead.unwrap_or(body).as_bytes();
    Http1::connect(weir.admin()).request("POST", "/admin/v1/webhooks/mlflow", &headers, body)
}

#[test]
fn a_delivery_of_nobodys_changes_nothing_and_one_that_comes_twice_counts_once() {
    let model = Counting::listen(ANSWER);
    let weir = weir(&model, &format!("secret: {SECRET}"));
    let body = |alias: &str| {
        json!({
            "entity": "model_version_alias", "action": "created", "timestamp": "2026-11-23T06:59:55.356219+00:00",
            "data": {"name": "fraud", "alias": alias, "version": "2"}
        })
        .to_string()
    };
    let promotion = body("champion");
    assert!(!is_hit(&weir, "m") && is_hit(&weir, "m"));
    let other_secret = deliver(&weir, "one", ("another-secret", &promotion), None);
    let other_body = deliver(&weir, "one", (SECRET, &body("shadow")), Some(&promotion));
    let unsigned = Http1::connect(weir.admin()).post("/admin/v1/webhooks/mlflow", &promotion);
    for refused in [other_secret, other_body, unsigned] {
        assert!(refused.expect(401).error().contains("not signed with mlflow.secret"));
    }
    assert!(is_hit(&weir, "m"), "and nobody's delivery took the id away from MLflow's");

    let told = deliver(&weir, "one", (SECRET, &promotion), None).expect(200).json();
    assert_eq!(told["predictions"]["dropped"], json!(["m"]), "{told}");
    assert!(!is_hit(&weir, "m") && is_hit(&weir, "m"));
    let again = deliver(&weir, "one", (SECRET, &promotion), None).expect(200).json();
    assert_eq!(again, json!({"ignored": "this delivery came before"}));
    assert!(is_hit(&weir, "m"), "what was kept since stays");
    deliver(&weir, "two", (SECRET, &promotion), None).expect(200);
    assert!(!is_hit(&weir, "m"), "another delivery of the same is one");
    let count = |outcome| weir.metrics().count("weir_mlflow_deliveries_total", &[("outcome", outcome)]);
    assert_eq!([count("unsigned"), count("dropped"), count("duplicate")], [3.0, 2.0, 1.0]);
}
