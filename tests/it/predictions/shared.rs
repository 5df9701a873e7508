//! Gateways share predictions through Redis, and a pushed feature or a promotion ends them for all.

use super::*;

/// One view of a user, joined to Triton's `fraud`.
fn fraud(redis: &str) -> Weir {
    Weir::start(&format!(
        r#"
pools:
  triton: {{endpoints: [{}]}}
models:
  fraud:
    pool: triton
    timeout: 20s
    cache: {{ttl: 10m}}
    features: [{{view: user_stats, join: {{user_id: user_id}}, select: [txn_count_1h, avg_amount_7d, rate]}}]
    inputs:
      as: matrix
      name: input-0
      datatype: FP32
      columns: [amount, "user_stats:txn_count_1h", "user_stats:avg_amount_7d", "user_stats:rate"]
features:
  project: kept
  l2: {{{redis}, timeout: 5s}}
  views:
    user_stats:
      entities: {{user_id: INT64}}
      features: {{txn_count_1h: {{type: INT64}}, avg_amount_7d: {{type: DOUBLE}}, rate: {{type: FLOAT}}}}
"#,
        TRITON.endpoint()
    ))
}

fn pushed_features_and_promotions_end_predictions(redis: &str) {
    let weir = fraud(redis);
    let push = |second: u32, count: i64| {
        let body = json!({"push_source_name": "user_stats", "df": {
            "user_id": [7], "event_timestamp": [format!("2024-01-01T00:00:{second:02}Z")],
            "txn_count_1h": [count], "avg_amount_7d": [2.0], "rate": [0.5],
        }});
        weir.connect().post("/push", body.to_string()).expect(200);
    };
    let predict = |user: i64, expected: f64| {
        let body = json!({"inputs": [
            {"name": "user_id", "datatype": "INT64", "shape": [1], "data": [user]},
            {"name": "amount", "datatype": "FP64", "shape": [1], "data": [100.0]},
        ]});
        let answer = weir.connect().post("/v2/models/fraud/infer", body.to_string()).expect(200);
        near(first_number(&answer.json()), expected);
        cache(&answer)
    };
    push(1, 3);
    let (third, ninth) = (score(100.0, 3.0, 2.0, 0.5), score(100.0, 9.0, 2.0, 0.5));
    assert_eq!([predict(7, third), predict(7, third)], ["fwd=miss", "hit"]);
    // Of somebody without a row too, for as long as there is none.
    let none = score(100.0, 0.0, 0.0, 0.0);
    assert_eq!([predict(8, none), predict(8, none)], ["fwd=miss", "hit"]);
    for (second, count, expected) in [(2, 9, ninth), (3, 3, third), (4, 9, ninth)] {
        push(second, count);
        let told = predict(7, expected);
        // A value that comes again finds the prediction of then.
        assert_eq!(told, if second == 2 { "fwd=miss" } else { "hit" });
    }
    let drop = |model: &str| {
        let body = json!({"model": model}).to_string();
        Http1::connect(weir.admin()).post("/admin/v1/invalidate", body)
    };
    assert_eq!(drop("fraud").expect(200).json()["predictions"], "dropped");
    assert_eq!([predict(7, ninth), predict(7, ninth)], ["fwd=miss", "hit"]);
    assert!(drop("lite").expect(404).error().contains("configured: fraud"));
}

#[test]
fn pushed_features_and_promotions_end_predictions_on_redis() {
    let redis = Redis::start();
    pushed_features_and_promotions_end_predictions(&format!("redis: [{}]", redis.url()));
}

#[test]
fn pushed_features_and_promotions_end_predictions_on_a_cluster() {
    let cluster = RedisCluster::shared();
    pushed_features_and_promotions_end_predictions(&format!("mode: cluster, redis: {}", cluster.urls()));
}

/// Waits until a gateway asks L2, by asking it what nobody asked before.
fn await_l2(weir: &Weir) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    wait_until("L2 to be asked for predictions", START, || {
        predict(weir, &v1(0, 1_000_000 + NEXT.fetch_add(1, Ordering::Relaxed))).expect(200);
        weir.metrics().count("weir_prediction_lookups_total", &[("layer", "l2"), ("outcome", "miss")]) > 0.0
    });
}

/// Drops a model's predictions; whether other gateways are told.
fn drop_echo(weir: &Weir) -> String {
    let told = http1::post(weir.admin(), "/admin/v1/invalidate", r#"{"model":"echo"}"#).expect(200).json();
    assert_eq!(told["predictions"], "dropped");
    told["other_gateways"].as_str().expect("it says so").to_owned()
}

fn gateways_share(redis: &str, project: &str, keys: impl Fn() -> u64) {
    let model = Counting::listen(ANSWER);
    let features = format!("features: {{project: {project}, l2: {{{redis}, timeout: 5s}}}}\n");
    let gateway = || before(&model.endpoint(), ", cache: {ttl: 10m}", &features);
    let (one, other) = (gateway(), gateway());
    [&one, &other].into_iter().for_each(await_l2);
    let (asked, stored) = (model.count(), keys());
    for x in 0..20 {
        assert_eq!(cache(&predict(&one, &v1(1, x)).expect(200)), "fwd=miss");
    }
    wait_until("predictions to be in Redis", START, || keys() >= stored + 20);
    for x in 0..20 {
        assert_eq!(cache(&predict(&other, &v1(1, x)).expect(200)), "hit", "{x}");
    }
    assert_eq!(model.count(), asked + 20);
    assert!(other.metrics().count("weir_prediction_lookups_total", &[("layer", "l2"), ("outcome", "hit")]) == 20.0);
    // A promotion that one hears of ends the other's too, and what lies in Redis.
    wait_until("the others to be told", START, || drop_echo(&one) == "told");
    assert_eq!(cache(&predict(&one, &v1(1, 0)).expect(200)), "fwd=miss");
    wait_until("the other gateway to hear of it", START, || {
        predict(&other, &v1(1, 1)).expect(200);
        other.metrics().count("weir_predictions_dropped_total", &[("model", "echo")]) > 0.0
    });
    assert_eq!(cache(&predict(&other, &v1(1, 2)).expect(200)), "fwd=miss");
    let late = gateway();
    await_l2(&late);
    assert_eq!(cache(&predict(&late, &v1(1, 3)).expect(200)), "fwd=miss", "nor one that comes later");
}

#[test]
fn gateways_share_predictions_through_redis() {
    let redis = Redis::start();
    let keys = || redis::cmd("DBSIZE").query(&mut redis.connection()).expect("Redis runs");
    gateways_share(&format!("redis: [{}]", redis.url()), "shared", keys);
}

#[test]
fn gateways_share_predictions_through_a_cluster() {
    let cluster = RedisCluster::of_masters();
    let keys = || cluster.sizes().iter().sum();
    gateways_share(&format!("mode: cluster, redis: {}", cluster.urls()), "shared", keys);
    assert!(cluster.sizes().iter().all(|size| *size > 0), "on every master: {:?}", cluster.sizes());
}

#[test]
fn a_redis_that_is_away_costs_hits_and_no_answer() {
    let (redis, model) = (Redis::start(), Counting::listen(ANSWER));
    let features = format!("features: {{project: away, l2: {{redis: [{}]}}}}\n", redis.url());
    let weir = before(&model.endpoint(), ", cache: {ttl: 10m}", &features);
    await_l2(&weir);
    redis.freeze();
    for x in 0..20 {
        assert_eq!(cache(&predict(&weir, &v1(1, x)).expect(200)), "fwd=miss");
        assert_eq!(cache(&predict(&weir, &v1(1, x)).expect(200)), "hit");
    }
    let errors = weir.metrics().count("weir_prediction_lookups_total", &[("layer", "l2"), ("outcome", "error")]);
    assert!(errors > 0.0);
    wait_until("others not to be told", START, || drop_echo(&weir) == "not told");
    redis.thaw();
    redis.kill();
    assert_eq!(cache(&predict(&weir, &v1(1, 100)).expect(200)), "fwd=miss");
}
