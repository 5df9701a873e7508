//! Writes: every recorded one on the hash that it was recorded on, and what a push does to the caches.

use serde_json::json;

use super::{super::TIMEOUT, *};
use crate::{config::Consistency, telemetry::handles::feast::Endpoint};

/// What Weir does not do as Feast does: where Feast wrote to the offline store or materialized, Weir says that it did not.
const REFUSED: [(&str, u16); 3] = [("push_offline_only", 501), ("materialize", 501), ("materialize_async", 501)];

#[tokio::test]
async fn every_recorded_write_does_what_feasts_did() {
    let cases = read("http_writes.json");
    let (mut same, mut refused) = (0, 0);
    for case in cases.as_array().expect("cases") {
        let name = case["name"].as_str().unwrap();
        let weir = Recorded::open(Compat::FeastPython).await;
        let key = unhex(case["key_hex"].as_str().unwrap());
        let (before, after) = (hash(&case["redis_before"]["hash"]), hash(&case["redis_after"]["hash"]));
        weir.store.embedded().set_hash(&key, &before);
        let told = weir.post(case["request"]["path"].as_str().unwrap(), &case["request"]["body"]).await;
        let names: Vec<Vec<u8>> = before.keys().chain(after.keys()).cloned().collect();
        let stored = weir.store.embedded().hash(&key, &names);
        if let Some((_, status)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            assert_eq!(told.status.as_u16(), *status, "{name}: {}", told.body);
            assert_eq!(stored, before, "{name}: what is refused writes nothing");
            refused += 1;
            continue;
        }
        assert_eq!(u64::from(told.status.as_u16()), case["response"]["status"], "{name}: {}", told.body);
        assert_eq!(told.body, case["response"]["body_text"].as_str().unwrap(), "{name}");
        assert_eq!(stored, after, "{name}");
        same += 1;
    }
    println!("{same} recorded writes did what Feast's did, {refused} refused by name");
    assert_eq!((same, refused), (17, REFUSED.len()));
}

fn live(driver: i64, time: &str, speed: &Json, gear: i64) -> Json {
    json!({"push_source_name": "live_push", "df": {
        "driver_id": [driver], "event_timestamp": [time], "created": [time], "speed": [speed], "gear": [gear]
    }})
}

impl Recorded {
    async fn speed(&self, driver: i64) -> (Json, Json) {
        let told = self.online(json!({"features": ["live:speed"], "entities": {"driver_id": [driver]}})).await;
        assert_eq!(told.status, 200, "{}", told.body);
        let column = &told.json()["results"][1];
        (column["values"][0].clone(), column["statuses"][0].clone())
    }
}

#[tokio::test]
async fn a_read_after_a_push_sees_it() {
    let weir = Recorded::open(Compat::Truthful).await;
    assert_eq!(weir.speed(7001).await, (json!(null), json!("NOT_FOUND")));
    let told = weir.post("/push", &live(7001, "2026-11-22T10:00:00Z", &json!(1.5), 1)).await;
    assert_eq!((told.status.as_u16(), &*told.body), (200, ""));
    assert_eq!(weir.speed(7001).await, (json!(1.5), json!("PRESENT")));
    // An older event is acknowledged and changes nothing.
    let told = weir.post("/push", &live(7001, "2026-11-22T09:00:00Z", &json!(9.5), 1)).await;
    assert_eq!(told.status, 200);
    assert_eq!(weir.speed(7001).await, (json!(1.5), json!("PRESENT")));
    let told = weir.post("/push", &live(7001, "2026-11-22T10:00:00.000001Z", &json!(null), 1)).await;
    assert_eq!(told.status, 200);
    assert_eq!(weir.speed(7001).await, (json!(null), json!("NULL_VALUE")));
}

#[tokio::test]
async fn of_one_batch_the_newest_event_stays() {
    for compat in [Compat::Truthful, Compat::FeastPython] {
        let weir = Recorded::open(compat).await;
        let body = json!({"push_source_name": "live_push", "df": {
            "driver_id": [7002, 7002, 7002, 7003],
            "event_timestamp": ["2026-11-22T10:00:01Z", "2026-11-22T10:00:03Z", "2026-11-22T10:00:02Z", "2026-11-22T10:00:00"],
            "created": [null, null, null, null],
            "speed": [1.0, 3.0, 2.0, 4.0],
            "gear": [1, 1, 1, 1]
        }});
        assert_eq!(weir.post("/push", &body).await.status, 200);
        assert_eq!(weir.speed(7002).await.0, json!(3.0));
        assert_eq!(weir.speed(7003).await.0, json!(4.0));
    }
}

#[tokio::test]
async fn a_push_to_several_views_reads_the_time_of_each_from_its_own_column() {
    let weir = Recorded::with(Compat::Truthful, |config| {
        let features = &mut config.features;
        let other = find(&features.views, "driver_stats").id;
        features.push_sources[0].views.push(other);
        features.times[other.index()].event = "seen_at".into();
    })
    .await;
    let mut columns = json!({
        "driver_id": [7010], "event_timestamp": ["2026-11-22T10:00:00Z"], "created": [null], "speed": [1.5], "gear": [1]
    });
    for feature in &weir.server.catalog.view("driver_stats").unwrap().features {
        columns[&*feature.name] = json!([2]);
    }
    let push = |columns: &Json| json!({"push_source_name": "live_push", "df": columns});
    let told = weir.post("/push", &push(&columns)).await;
    assert_eq!(told.status, 422);
    assert!(told.body.contains("seen_at"), "{}", told.body);
    columns["seen_at"] = json!(["2026-11-22T11:00:00Z"]);
    let told = weir.post("/push", &push(&columns)).await;
    assert_eq!(told.status, 200, "{}", told.body);
    let asked = json!({"entities": {"driver_id": [7010]}, "features": ["live:speed", "driver_stats:conv_rate"]});
    let answer = weir.online(asked).await.json();
    let times = [1, 2].map(|column| answer["results"][column]["event_timestamps"][0].clone());
    assert_eq!(times, [json!("2026-11-22T10:00:00Z"), json!("2026-11-22T11:00:00Z")]);
}

#[tokio::test]
async fn many_rows_are_pushed_in_batches() {
    let weir = Recorded::open(Compat::Truthful).await;
    let ids: Vec<i64> = (0..9_000).map(|at| 50_000 + at).collect();
    let times = vec!["2026-11-22T10:00:00Z"; ids.len()];
    let body = json!({"push_source_name": "live_push", "df": {
        "driver_id": ids, "event_timestamp": times, "created": times, "speed": ids, "gear": vec![1; ids.len()]
    }});
    assert_eq!(weir.post("/push", &body).await.status, 200);
    assert_eq!(weir.speed(58_999).await.0, json!(58_999.0));
}

#[tokio::test]
async fn a_write_that_cannot_be_is_said_and_writes_nothing() {
    let weir = Recorded::open(Compat::Truthful).await;
    let time = "2026-11-22T10:00:00Z";
    let push = |df: Json| json!({"push_source_name": "live_push", "df": df});
    let cases = [
        (push(json!({"driver_id": [7004], "event_timestamp": [time], "created": [time], "speed": [1.0]})), 422, "gear"),
        (push(json!({"driver_id": [7004], "created": [time], "speed": [1.0], "gear": [1]})), 422, "event_timestamp"),
        (
            push(
                json!({"driver_id": [7004, 7004], "event_timestamp": [time, "soon"], "created": [time, time], "speed": [1.0, 2.0], "gear": [1, 1]}),
            ),
            422,
            "df.event_timestamp[1]",
        ),
        (
            push(
                json!({"driver_id": [null], "event_timestamp": [time], "created": [time], "speed": [1.0], "gear": [1]}),
            ),
            422,
            "df.driver_id[0]",
        ),
        (
            push(
                json!({"driver_id": [7004], "event_timestamp": [time], "created": [time], "speed": ["fast"], "gear": [1]}),
            ),
            422,
            "df.speed[0]",
        ),
        (push(json!({"driver_id": 7004})), 422, "every column"),
        (json!({"push_source_name": "live_push", "df": {}, "to": "moon"}), 422, "none of"),
        (
            json!({"push_source_name": "live_push", "df": {"driver_id": [7004]}, "to": "online_and_offline"}),
            501,
            "wrote nothing",
        ),
        (push(json!({"driver_id": vec![1; 10_001]})), 400, "listen.max_rows"),
    ];
    for (body, status, words) in cases {
        let told = weir.post("/push", &body).await;
        assert_eq!(told.status, status, "{}", told.body);
        assert!(told.body.contains(words), "{words} in {}", told.body);
    }
    assert_eq!(weir.speed(7004).await.1, json!("NOT_FOUND"));
    assert_eq!(weir.post("/push", &push(json!({}))).await.status, 200);
}

#[tokio::test]
async fn a_view_is_written_to_by_its_name() {
    let weir = Recorded::open(Compat::Truthful).await;
    let body = json!({"feature_view_name": "wide_ints", "allow_registry_cache": false, "df": {
        "driver_id": [1001], "big": ["9007199254740993"], "small": [null],
        "event_timestamp": ["2026-11-23T10:00:00"], "created": [null]
    }});
    let told = weir.post("/write-to-online-store", &body).await;
    assert_eq!((told.status.as_u16(), &*told.body), (200, "null"));
    let ask = json!({"features": ["wide_ints:big", "wide_ints:small"], "entities": {"driver_id": [1001]}});
    let told = weir.online(ask).await.json();
    assert_eq!(told["results"][1]["values"], json!([9_007_199_254_740_993_i64]));
    assert_eq!(told["results"][2]["statuses"], json!(["NULL_VALUE"]));
}

#[tokio::test]
async fn a_view_without_entities_is_written_to_with_feasts_own_column_and_without() {
    let weir = Recorded::open(Compat::Truthful).await;
    for (day, dummy, surge) in [(24, Some(json!([""])), 1.5), (25, Some(json!([null])), 2.5), (26, None, 3.5)] {
        let time = format!("2026-11-{day}T10:00:00Z");
        let mut df = json!({"surge": [surge], "n_open": [7], "event_timestamp": [time], "created": [time]});
        if let Some(dummy) = dummy {
            df["__dummy_id"] = dummy;
        }
        let told = weir.post("/write-to-online-store", &json!({"feature_view_name": "global_stats", "df": df})).await;
        assert_eq!((told.status.as_u16(), &*told.body), (200, "null"));
        let ask = json!({"features": ["global_stats:surge"], "entities": {"driver_id": [1]}});
        assert_eq!(weir.online(ask).await.json()["results"][1]["values"], json!([surge]));
    }
}

#[test]
fn a_push_that_may_have_to_wait_for_a_lease_has_the_time_for_it() {
    let long = std::time::Duration::from_secs(8);
    let timeouts = |server: &Server| {
        [Endpoint::Push, Endpoint::WriteToOnlineStore, Endpoint::GetOnlineFeatures].map(|of| server.timeout(of))
    };
    let mut config = config(Compat::Truthful);
    config.features.lease = long;
    assert_eq!(timeouts(&Server::new(&config)), [TIMEOUT; 3], "no view waits for one");
    Arc::get_mut(&mut config.features.views[0]).unwrap().consistency = Consistency::WriteThrough;
    let server = Server::new(&config);
    for server in [&server, &server.next(&config)] {
        assert_eq!(timeouts(server), [TIMEOUT + long, TIMEOUT + long, TIMEOUT]);
    }
}
