//! The servers that the tests share, and the configs that name them.

use std::sync::LazyLock;

use ::weir::proto::inference as pb;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::{
    Feast, KServe, Redis, Triton, Weir,
    grpc::raw_input,
    triton::{FAILS, FRAUD, SLOW},
    vectors::{self, View},
};

/// Triton with every model of the tests. Started once.
pub(crate) static TRITON: LazyLock<Triton> = LazyLock::new(|| {
    let mut builder = Triton::builder()
        .echo("echo", &[("f", "FP32", &[-1, -1]), ("s", "BYTES", &[-1]), ("i", "INT64", &[-1]), ("b", "BOOL", &[-1])])
        .echo(
            "ranker",
            &[
                ("item", "BYTES", &[-1]),
                ("embedding", "FP32", &[-1, -1]),
                ("item_embedding", "FP32", &[-1, -1]),
                ("category", "BYTES", &[-1]),
            ],
        )
        .model("fraud", &[("input-0", "FP32", &[-1, 4])], &[("score", "FP32", &[-1])], FRAUD)
        .model("slow", &[("millis", "FP32", &[1])], &[("slept", "FP32", &[1])], SLOW)
        .model("fails", &[("x", "FP32", &[-1])], &[("y", "FP32", &[-1])], FAILS);
    for view in vectors::VIEWS.iter() {
        builder = echo_view(builder, view);
    }
    builder.start()
});

/// A model `echo-VIEW` that echoes the view's features, one tensor each.
fn echo_view(builder: crate::support::triton::Builder, view: &View) -> crate::support::triton::Builder {
    let tensor = |(name, kind): &'static (String, String)| {
        let dims: &[i64] = if kind.ends_with("_LIST") { &[-1, -1] } else { &[-1] };
        (name.as_str(), vectors::datatype(kind).expect("a tensor holds it"), dims)
    };
    let view = vectors::view(&view.name);
    let tensors: Vec<_> = view.features.iter().map(tensor).collect();
    builder.echo(&format!("echo-{}", view.name), &tensors)
}

/// Redis with what Feast materialized for the project `shop`. Not to be killed.
pub(crate) static STORE: LazyLock<(Redis, Feast)> = LazyLock::new(|| {
    let redis = Redis::start();
    let feast = Feast::into_redis(&redis.address().to_string());
    (redis, feast)
});

/// Weir in front of Triton; nothing is joined.
pub(crate) static BEFORE_TRITON: LazyLock<Weir> = LazyLock::new(|| {
    Weir::start(&format!(
        "pools:\n  triton: {{endpoints: [{}]}}\nmodels:\n  echo: {{pool: triton}}\n  fraud: {{pool: triton}}\n  \
         slow: {{pool: triton}}\n  fails: {{pool: triton}}\n",
        TRITON.endpoint()
    ))
});

/// Weir in front of KServe; nothing is joined.
pub(crate) static BEFORE_KSERVE: LazyLock<Weir> = LazyLock::new(|| {
    Weir::start(&format!(
        "pools:\n  kserve: {{endpoints: [{}]}}\nmodels:\n  echo: {{pool: kserve}}\n  fraud: {{pool: kserve}}\n",
        KServe::shared().endpoint()
    ))
});

/// The fraud example on the shared store: joined on Triton (V2, gRPC) and on KServe (V1 too).
pub(crate) static FRAUD_DETECTOR: LazyLock<Weir> =
    LazyLock::new(|| Weir::start(&fraud_config(&format!("redis: [{}]", STORE.0.url()), "")));

/// The fraud example: `l2` and further keys of `features`.
pub(crate) fn fraud_config(l2: &str, features: &str) -> String {
    let model = |name: &str, pool: &str| {
        format!(
            r#"
  {name}:
    pool: {pool}
    upstream_model: fraud
    timeout: 5s
    features:
      - {{view: user_stats, join: {{user_id: user_id}}, select: [txn_count_1h, avg_amount_7d]}}
      - {{view: merchant_stats, join: {{merchant_id: merchant_id}}, select: [chargeback_rate]}}
    inputs:
      as: matrix
      name: input-0
      datatype: FP32
      columns: [amount, "user_stats:txn_count_1h", "user_stats:avg_amount_7d", "merchant_stats:chargeback_rate"]"#
        )
    };
    format!(
        r#"
pools:
  triton: {{endpoints: [{}]}}
  kserve: {{endpoints: [{}]}}
models:{}{}
  fraud: {{pool: triton}}
  slow: {{pool: triton}}
features:
  project: {}
  l2: {{{l2}}}
  {features}
  views:
    user_stats:
      entities: {{user_id: INT64}}
      features: {{txn_count_1h: {{type: INT64, default: 5}}, avg_amount_7d: {{type: DOUBLE, default: 0.25}}}}
      ttl: 5m
    merchant_stats:
      entities: {{merchant_id: STRING}}
      features: {{chargeback_rate: {{type: FLOAT, default: 0.5}}}}
      ttl: 1h
"#,
        TRITON.endpoint(),
        KServe::shared().endpoint(),
        model("fraud-detector", "triton"),
        model("fraud-kserve", "kserve"),
        Feast::PROJECT,
    )
}

/// A V2 request to `fraud-detector`: one row.
pub(crate) fn fraud_request(user: i64, merchant: &str, amount: f64) -> String {
    json!({"inputs": [
        {"name": "user_id", "datatype": "INT64", "shape": [1], "data": [user]},
        {"name": "merchant_id", "datatype": "BYTES", "shape": [1], "data": [merchant]},
        {"name": "amount", "datatype": "FP64", "shape": [1], "data": [amount]},
    ]})
    .to_string()
}

/// The same over gRPC.
pub(crate) fn fraud_over_grpc(user: i64, merchant: &str, amount: f64) -> pb::ModelInferRequest {
    pb::ModelInferRequest {
        model_name: "fraud-detector".into(),
        inputs: vec![
            raw_input("user_id", "INT64", &[1]),
            raw_input("merchant_id", "BYTES", &[1]),
            raw_input("amount", "FP64", &[1]),
        ],
        raw_input_contents: vec![
            Bytes::copy_from_slice(&user.to_le_bytes()),
            Bytes::from(vectors::bytes_element(merchant.as_bytes())),
            Bytes::copy_from_slice(&amount.to_le_bytes()),
        ],
        ..Default::default()
    }
}

/// Its path.
pub(crate) const FRAUD_PATH: &str = "/v2/models/fraud-detector/infer";

/// What `fraud` makes of a row, to compare with [`near`].
pub(crate) fn score(amount: f64, txn_count: f64, avg_amount: f64, chargeback_rate: f64) -> f64 {
    0.001 * amount + 0.01 * txn_count + 0.1 * avg_amount + chargeback_rate
}

/// The first output's only number.
#[track_caller]
pub(crate) fn first_number(answer: &Value) -> f64 {
    answer["outputs"][0]["data"][0].as_f64().unwrap_or_else(|| panic!("no number in {answer}"))
}

/// Equal, but for what single precision loses.
#[track_caller]
pub(crate) fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= expected.abs() * 1e-6 + 1e-9, "{found} is not {expected}");
}
