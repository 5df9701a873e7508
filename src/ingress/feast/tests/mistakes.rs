//! Mistakes of callers: the caller's where Weir tells the truth, Feast's 500 where it is to answer as Feast does.

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_mistake_is_the_callers_and_said_in_words() {
    let (truthful, python) = (Recorded::open(Compat::Truthful).await, Recorded::open(Compat::FeastPython).await);
    let one = json!({"driver_id": [1001]});
    let feature = json!(["driver_stats:conv_rate"]);
    let cases = [
        (json!({"features": ["driver_stats:nope"], "entities": one}), 422, 500, "no feature \\\"nope\\\""),
        (json!({"features": ["conv_rate"], "entities": one}), 422, 500, "allowed: \\\"view:feature\\\""),
        (json!({"features": ["driver_stats@v1:tier"], "entities": one}), 422, 500, "versions are not served"),
        (json!({"entities": one}), 422, 500, "no features are asked for"),
        (json!({"features": ["driver_stats:tier", "driver_stats:tier"], "entities": one}), 422, 500, "Duplicate"),
        (
            json!({"feature_service": "aliased_svc", "entities": {"origin_id": [1], "dest_id": [2]}}),
            422,
            500,
            "Duplicate",
        ),
        (json!({"features": feature, "entities": {"driver_id": [1, null]}}), 422, 500, "entities.driver_id[1]: null"),
        (
            json!({"features": feature, "entities": {"driver_id": [[1]]}}),
            422,
            500,
            "entities.driver_id[0]: null or a list",
        ),
        (json!({"features": feature, "entities": {"driver_id": ["abc"]}}), 422, 500, "is no whole number"),
        (json!({"features": feature, "entities": {"driver_id": [1e300]}}), 422, 500, "does not fit INT64"),
        (
            json!({"features": ["region_fv:pop"], "entities": {"region_id": [4294967296_i64]}}),
            422,
            500,
            "does not fit INT32",
        ),
        (
            json!({"features": feature, "entities": {"driver_id": [1, 2], "x": [1]}}),
            422,
            500,
            "driver_id has 2, x has 1",
        ),
        (json!({"features": feature, "entities": {}}), 422, 500, "has no column"),
        (json!({"features": feature, "entities": {"driver_id": []}}), 422, 500, "needs values of driver_id"),
        (json!({"features": feature, "entities": {"user_id": ["u1"]}}), 422, 500, "needs values of driver_id"),
        (json!({"features": ["nope:x"], "entities": one}), 404, 404, "nope does not exist in project weir_demo"),
        (json!({"feature_service": "nope", "entities": one}), 404, 404, "Feature service nope does not exist"),
        (json!({"features": ["driver_odfv:conv_plus"], "entities": one}), 501, 501, "an on-demand view needs Python"),
        (json!({"feature_service": "odfv_svc", "entities": one}), 501, 501, "it has on-demand views"),
        (
            json!({"features": feature, "entities": {"driver_id": vec![1; 10_001]}}),
            400,
            400,
            "at most 10000 (listen.max_rows)",
        ),
    ];
    for (body, status, feast, words) in cases {
        let told = truthful.online(body.clone()).await;
        assert_eq!(told.status, status, "{}", told.body);
        assert!(told.body.contains(words), "{words} in {}", told.body);
        assert!(told.json().is_string(), "{}", told.body);
        assert_eq!(python.online(body).await.status, feast);
    }
}

#[tokio::test]
async fn what_feast_says_of_missing_keys() {
    let python = Recorded::open(Compat::FeastPython).await;
    let told = python.online(json!({"features": ["driver_stats:conv_rate"], "entities": {"user_id": ["u1"]}})).await;
    assert_eq!(
        told.json(),
        "\"Missing join key values for keys: ['driver_id', 'item_id', 'region_id', 'user_id']. No values provided for keys: \
         ['driver_id', 'item_id', 'region_id', 'user_id']. Provided join_key_values: ['user_id']\""
    );
    let told = python.online(json!({"features": ["driver_stats:nope"], "entities": {"driver_id": [1]}})).await;
    assert_eq!(told.json(), "'Feature nope not found in projection driver_stats'");
    let told = python.online(json!({"features": ["driver_stats:tier"], "entities": {"driver_id": ["x"]}})).await;
    assert_eq!(told.json(), "invalid literal for int() with base 10: 'x'");
}

#[tokio::test]
async fn a_body_that_is_none_is_422_in_both() {
    for compat in [Compat::Truthful, Compat::FeastPython] {
        let weir = Recorded::open(compat).await;
        for (content_type, body, kind) in [
            ("text/plain", &b"{\"entities\": {}}"[..], "model_attributes_type"),
            ("application/json", b"[1]", "model_attributes_type"),
            ("application/json", b"null", "missing"),
            ("application/json; charset=utf-8", b"{\"entities\": ", "json_invalid"),
            ("application/vnd.x+json", b"{\"entities\": {\"a\": 1}}", "list_type"),
        ] {
            let told = weir.ask("POST", "/get-online-features", &[("content-type", content_type)], body).await;
            assert_eq!(told.status, 422);
            assert_eq!(told.json()["detail"][0]["type"], kind, "{}", told.body);
        }
    }
}

#[tokio::test]
async fn many_rows_and_long_keys() {
    let weir = Recorded::open(Compat::Truthful).await;
    let ids: Vec<i64> = (0..10_000).map(|at| 1001 + at % 4).collect();
    let told = weir.online(json!({"features": ["driver_stats:tier"], "entities": {"driver_id": ids}})).await;
    assert_eq!(told.status, 200);
    assert_eq!(told.json()["results"][1]["values"].as_array().unwrap().len(), 10_000);
    let long = "ü\"".repeat(1 << 19);
    let told = weir.online(json!({"features": ["user_profile:age"], "entities": {"user_id": [long, "u1"]}})).await;
    let answer = told.json();
    assert_eq!(answer["results"][0]["values"][0], long);
    assert_eq!(answer["results"][1]["statuses"], json!(["NOT_FOUND", "PRESENT"]));
}

#[tokio::test]
async fn materializing_is_refused_by_name() {
    let weir = Recorded::open(Compat::Truthful).await;
    let times = json!({"start_ts": "2026-10-01T00:00:00", "end_ts": "2026-11-23T00:00:00"});
    for path in ["/materialize", "/materialize-incremental", "/materialize?async=true"] {
        let told = weir.post(path, &times).await;
        assert_eq!(told.status, 501);
        assert!(told.body.contains("feast materialize"), "{}", told.body);
    }
}

#[tokio::test]
async fn what_takes_few_bytes_to_ask_for_is_limited_too() {
    let weir = Recorded::open(Compat::Truthful).await;
    let drivers = vec![1001; 10_000];
    let features: Vec<String> = (0..101).map(|n| format!("driver_stats@latest:{}", ["tier", "city"][n % 2])).collect();
    let told = weir.online(json!({"features": features, "entities": {"driver_id": [1001]}})).await;
    assert_eq!(told.status, 422, "names twice: {}", told.body);
    let many: serde_json::Map<_, _> = (0..20_000).map(|n| (format!("c{n}"), json!([1]))).collect();
    let told = weir.online(json!({"features": ["driver_stats:tier"], "entities": many})).await;
    assert_eq!(told.status, 422, "columns that nobody knows: {}", told.body);
    let told = weir.online(json!({"features": ["driver_stats:tier"], "entities": {"driver_id": drivers}})).await;
    assert_eq!(told.status, 200);
}

#[tokio::test]
async fn an_answer_has_no_more_cells_than_are_allowed() {
    let weir = Recorded::with(Compat::Truthful, |config| config.listen.max_rows = 2_000_000).await;
    let drivers = vec![1001; 1_000_001];
    let told = weir.online(json!({"features": ["driver_stats:tier"], "entities": {"driver_id": drivers}})).await;
    assert_eq!(told.status, 400, "{}", told.body);
    assert!(told.body.contains("1000001 rows of 1 features; allowed: at most 1000000 cells"), "{}", told.body);
}

#[tokio::test]
async fn a_join_key_of_two_types_is_refused_and_not_told_as_absent() {
    let weir = Recorded::with(Compat::Truthful, |config| {
        let view = config.features.views.iter_mut().find(|view| &*view.name == "stale_stats").expect("recorded");
        std::sync::Arc::make_mut(view).entities[0].1 = crate::infer::EntityType::String;
    })
    .await;
    let features = json!(["driver_stats:tier", "stale_stats:stale_score"]);
    let told = weir.online(json!({"features": features, "entities": {"driver_id": [1001]}})).await;
    assert_eq!(told.status, 422, "{}", told.body);
    assert!(
        told.body.contains("driver_id is INT64 in one of the views and STRING in view stale_stats"),
        "{}",
        told.body
    );
}
