//! Reads: every recorded one, and the truth about each kind of row.

use serde_json::json;

use super::*;

/// What Weir cannot answer as Feast does, and what it says instead.
const REFUSED: [(&str, u16, &str); 2] =
    [("odfv_python", 501, "driver_py_odfv"), ("odfv_missing_request_data", 501, "driver_odfv")];

/// An answer by the names of its columns: values, statuses, times; and the rest.
fn columns(answer: &Json) -> (BTreeMap<String, Json>, Json) {
    let names = answer["metadata"]["feature_names"].as_array().expect("names");
    let results = answer["results"].as_array().expect("columns");
    assert_eq!(names.len(), results.len());
    let named = names.iter().zip(results).map(|(name, column)| (name.as_str().unwrap().to_owned(), column.clone()));
    (named.collect(), answer["metadata"]["feature_view_metadata"].clone())
}

#[tokio::test]
async fn every_recorded_read_is_answered_as_feast_answered_it() {
    let weir = Recorded::open(Compat::FeastPython).await;
    let cases = read("http_get_online_features.json");
    let (mut same, mut refused) = (0, 0);
    for case in cases.as_array().expect("cases") {
        let (name, request, response) = (case["name"].as_str().unwrap(), &case["request"], &case["response"]);
        let body = match (&request["body"], request["raw_body"].as_str()) {
            // Recorded as Latin-1: a character a byte.
            (Json::Null, Some(raw)) => raw.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect(),
            (Json::Null, None) => Vec::new(),
            (body, _) => body.to_string().into_bytes(),
        };
        let content_type = request["headers"]["Content-Type"].as_str();
        let headers: Vec<_> = content_type.iter().map(|value| ("content-type", *value)).collect();
        let verb = request["method"].as_str().unwrap();
        let told = weir.ask(verb, request["path"].as_str().unwrap(), &headers, &body).await;
        if let Some((_, status, word)) = REFUSED.iter().find(|(refused, ..)| *refused == name) {
            assert_eq!(told.status.as_u16(), *status, "{name}: {}", told.body);
            assert!(told.body.contains(word), "{name}: {}", told.body);
            refused += 1;
            continue;
        }
        assert_eq!(u64::from(told.status.as_u16()), response["status"], "{name}: {}", told.body);
        if let Some(allow) = response["headers"]["allow"].as_str() {
            assert_eq!(told.headers["allow"], allow, "{name}");
        }
        if verb == "HEAD" {
            // A body is not sent with it.
        } else if told.status == StatusCode::OK {
            assert_eq!(columns(&told.json()), columns(&response["body_json"]), "{name}");
            assert_eq!(told.headers["content-type"], "application/json");
        } else {
            assert_eq!(told.body, response["body_text"].as_str().unwrap(), "{name}");
        }
        same += 1;
    }
    println!("{same} recorded reads answered as Feast answered them, {refused} refused by name");
    assert_eq!((same, refused), (41, REFUSED.len()));
}

/// A column's values, statuses and times.
fn column(told: &Told, name: &str) -> (Json, Json, Json) {
    assert_eq!(told.status, 200, "{}", told.body);
    let column = columns(&told.json()).0.remove(name).unwrap_or_else(|| panic!("no {name} in {}", told.body));
    (column["values"].clone(), column["statuses"].clone(), column["event_timestamps"].clone())
}

#[tokio::test]
async fn what_is_so_is_said() {
    let weir = Recorded::open(Compat::Truthful).await;
    let epoch = "1970-01-01T00:00:00Z";
    let told = weir
        .online(json!({
            "features": ["driver_stats:conv_rate", "stale_stats:stale_score"], "entities": {"driver_id": [1001, 999999]}
        }))
        .await;
    let expected =
        (json!([0.5099999904632568, null]), json!(["PRESENT", "NOT_FOUND"]), json!(["2026-11-22T10:00:00Z", epoch]));
    assert_eq!(column(&told, "conv_rate"), expected);
    let (values, statuses, times) = column(&told, "stale_score");
    assert_eq!(
        (&values[0], &statuses[0], &times[0]),
        (&json!(1251.25), &json!("OUTSIDE_MAX_AGE"), &json!("2026-11-01T00:00:00Z"))
    );
    assert_eq!((&values[1], &statuses[1], &times[1]), (&json!(null), &json!("NOT_FOUND"), &json!(epoch)));
    assert_eq!(column(&told, "driver_id").1, json!(["PRESENT", "PRESENT"]));

    // A stored null has the row's time; a view never written for the entity has none.
    let told =
        weir.online(json!({"features": ["exotic:u", "exotic:m"], "entities": {"driver_id": [1002, 1001]}})).await;
    let time = "2026-11-22T10:00:00Z";
    let (values, statuses, times) = column(&told, "u");
    assert_eq!((&values[0], &statuses[0], &times[0]), (&json!(null), &json!("NULL_VALUE"), &json!(time)));
    assert_eq!(column(&told, "m").0[1], json!({"k1": "v1", "k2": 2}));
    assert_eq!(statuses[1], "PRESENT");

    // Part of a composite key names nothing.
    let told = weir.online(json!({"features": ["user_item:clicks"], "entities": {"user_id": ["u1"]}})).await;
    assert_eq!(column(&told, "clicks"), (json!([null]), json!(["NOT_FOUND"]), json!([epoch])));
}

#[tokio::test]
async fn a_feature_that_a_row_never_had_is_not_found() {
    let weir = Recorded::with(Compat::Truthful, |config| {
        let view = config.features.views.iter_mut().find(|view| &*view.name == "driver_stats").unwrap();
        let late = Feature { name: "late".into(), kind: FeatureType::Int64, default: Value::Int64(7), length: None };
        Arc::make_mut(view).features.push(late);
    })
    .await;
    let ask = json!({"features": ["driver_stats:late", "driver_stats:tier"], "entities": {"driver_id": [1001, 1002]}});
    let told = weir.online(ask).await;
    let (values, statuses, times) = column(&told, "late");
    assert_eq!((values, statuses), (json!([null, null]), json!(["NOT_FOUND", "NOT_FOUND"])));
    assert_eq!(times, json!(["1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"]));
    assert_eq!(column(&told, "tier").1, json!(["PRESENT", "PRESENT"]));
}

#[tokio::test]
async fn an_answer_has_the_headers_of_every_answer() {
    let weir = Recorded::open(Compat::Truthful).await;
    let ask = || weir.online(json!({"features": ["driver_stats:tier"], "entities": {"driver_id": [1001]}}));
    let told = ask().await;
    assert_eq!(told.headers["weir-level"], "0");
    assert_eq!(told.headers["x-request-id"], "request-1");
    assert_eq!(told.headers["cache-status"], "weir-l1; fwd=miss, weir-l2; hit");
    assert!(told.headers.contains_key("server-timing"));
    assert_eq!(ask().await.headers["cache-status"], "weir-l1; hit");
}

#[tokio::test]
async fn a_service_whose_vectors_feast_precomputes_is_answered_from_its_rows() {
    let weir = Recorded::open(Compat::Truthful).await;
    for full in [true, false] {
        let ask =
            json!({"feature_service": "precomp_svc", "entities": {"driver_id": [1001]}, "full_feature_names": full});
        let told = weir.online(ask).await;
        let name = if full { "stale_stats__stale_score" } else { "stale_score" };
        assert_eq!(column(&told, name).1, json!(["OUTSIDE_MAX_AGE"]));
    }
}

#[tokio::test]
async fn entities_by_their_old_names_and_those_of_other_views() {
    let weir = Recorded::open(Compat::Truthful).await;
    let body = br#"{"features": ["driver_stats:tier"],
        "entities": {"driver": ["1001"], "user_id": ["u1"], "bogus": [{"x": 1}], "item_id": [null]}}"#;
    let told = weir.ask("POST", "/get-online-features", &[], body).await;
    let names = told.json()["metadata"]["feature_names"].clone();
    assert_eq!(names, json!(["driver_id", "user_id", "item_id", "tier"]));
    assert_eq!(column(&told, "driver_id").0, json!([1001]));
    assert_eq!(column(&told, "user_id").0, json!(["u1"]));
}

#[tokio::test]
async fn vectors_that_not_every_entity_has_are_feasts_own_failure() {
    let weir = Recorded::open(Compat::FeastPython).await;
    for entities in [json!([1001, 424_242]), json!([424_242])] {
        let ask =
            json!({"feature_service": "precomp_svc", "entities": {"driver_id": entities}, "full_feature_names": true});
        let told = weir.online(ask).await;
        assert_eq!(told.status, 500);
        assert!(told.body.contains("pre-computed vectors could not be read"), "{}", told.body);
    }
}

#[tokio::test]
async fn one_long_row_is_not_told_without_end() {
    let weir = Recorded::with(Compat::Truthful, |config| {
        let live = config.features.views.iter_mut().find(|view| &*view.name == "live").expect("a view");
        let speed = Arc::get_mut(live).expect("nobody else has it").features.iter_mut().find(|f| &*f.name == "speed");
        let speed = speed.expect("a feature");
        (speed.kind, speed.default) = (FeatureType::String, Value::Null);
    })
    .await;
    let push = json!({"push_source_name": "live_push", "df": {
        "driver_id": [7020], "event_timestamp": ["2026-11-22T10:00:00Z"], "created": [null],
        "speed": ["x".repeat(1 << 20)], "gear": [1]
    }});
    assert_eq!(weir.post("/push", &push).await.status, 200);
    let asked = |rows: usize| json!({"features": ["live:speed"], "entities": {"driver_id": vec![7020; rows]}});
    assert_eq!(weir.online(asked(3)).await.status, 200);
    let told = weir.online(asked(300)).await;
    assert_eq!(told.status, 400);
    assert!(told.body.contains("longer than 256 MiB"), "{}", told.body);
}
