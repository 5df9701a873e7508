//! What a feature server's answer says, cell by cell.

use super::*;

#[derive(Deserialize)]
struct Vectors {
    values: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    hex: String,
    oneof: String,
    http_json: Box<RawValue>,
}

/// The type of a feature that has such values.
fn kind(value: &Value) -> FeatureType {
    match value {
        Value::Null | Value::Double(_) => FeatureType::Double,
        Value::Bytes(_) => FeatureType::Bytes,
        Value::String(_) => FeatureType::String,
        Value::Int32(_) => FeatureType::Int32,
        Value::Int64(_) => FeatureType::Int64,
        Value::Float(_) => FeatureType::Float,
        Value::Bool(_) => FeatureType::Bool,
        Value::UnixTimestamp(_) => FeatureType::UnixTimestamp,
        Value::BytesList(_) => FeatureType::BytesList,
        Value::StringList(_) => FeatureType::StringList,
        Value::Int32List(_) => FeatureType::Int32List,
        Value::Int64List(_) => FeatureType::Int64List,
        Value::DoubleList(_) => FeatureType::DoubleList,
        Value::FloatList(_) => FeatureType::FloatList,
        Value::BoolList(_) => FeatureType::BoolList,
        Value::UnixTimestampList(_) => FeatureType::UnixTimestampList,
        Value::Opaque(_) => FeatureType::Opaque,
    }
}

#[test]
fn every_value_that_feast_told_is_read_as_the_one_that_is_stored() {
    let vectors: Vectors = serde_json::from_str(include_str!("../../../../tests/data/feast/values.json")).unwrap();
    for Vector { hex, oneof, http_json } in &vectors.values {
        let stored = decode_value(&unhex(hex)).unwrap();
        let told = cell::value(kind(&stored), http_json.get());
        match stored {
            // Feast writes it as a null.
            _ if http_json.get() == "null" => assert_eq!(told, Some(Value::Null), "{oneof} {hex}"),
            // The JSON does not say which kind of set or map it is.
            Value::Opaque(_) => assert!(matches!(told, Some(Value::Opaque(_))), "{oneof} {hex}"),
            // A NaN is not equal to itself.
            stored => assert_eq!(format!("{told:?}"), format!("{:?}", Some(stored)), "{oneof} {hex}"),
        }
    }
    assert!(vectors.values.len() >= 60);
}

#[test]
fn what_does_not_fit_its_type_is_no_value() {
    for (kind, json) in [
        (FeatureType::Int64, "1.5"),
        (FeatureType::Int64, "9223372036854775808"),
        (FeatureType::Int64, "\"1\""),
        (FeatureType::Int32, "2147483648"),
        (FeatureType::Bool, "1"),
        (FeatureType::Double, "\"nan\""),
        (FeatureType::Double, "true"),
        (FeatureType::String, "1"),
        (FeatureType::Bytes, "\"*\""),
        (FeatureType::Int64List, "1"),
        (FeatureType::Int64List, "[1,null]"),
        (FeatureType::StringList, "{}"),
    ] {
        assert_eq!(cell::value(kind, json), None, "{kind} {json}");
    }
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert_eq!(cell::value(FeatureType::Opaque, &deep), None);
}

fn told(
    view: &View,
    body: &serde_json::Value,
    count: usize,
) -> Result<Vec<Result<Option<Row>, Malformed>>, &'static str> {
    answer::rows(Form::of(view).features(), body.to_string().as_bytes(), count)
}

const TIME: &str = "2026-11-22T10:00:00.5Z";
const EPOCH: &str = "1970-01-01T00:00:00Z";

fn timed(values: [Option<Value>; 2]) -> Row {
    Row::new(Some(1_795_341_600_500_000_000), values.into())
}

#[test]
fn a_weir_tells_what_is_null_what_is_not_there_and_what_is_too_old() {
    let view = typed("v", &[("a", FeatureType::Int64), ("b", FeatureType::String)]);
    let body = json!({
        "results": [
            {"values": [1, 2, 3, 4], "statuses": vec!["PRESENT"; 4], "event_timestamps": vec![EPOCH; 4]},
            {"values": ["x", null, null, "y"], "statuses": ["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"],
             "event_timestamps": [TIME, TIME, EPOCH, TIME]},
            {"values": [7, null, null, null], "statuses": ["PRESENT", "NOT_FOUND", "NOT_FOUND", "OUTSIDE_MAX_AGE"],
             "event_timestamps": [TIME, EPOCH, EPOCH, TIME]},
        ],
        "metadata": {"feature_names": ["user", "v__b", "v__a"]},
    });
    let string = |text: &str| Some(Value::String(text.into()));
    let expected = [
        Ok(Some(timed([int(7), string("x")]))),
        Ok(Some(timed([None, Some(Value::Null)]))),
        Ok(None),
        Ok(Some(timed([Some(Value::Null), string("y")]))),
    ];
    assert_eq!(told(&view, &body, 4).unwrap(), expected);
}

#[test]
fn of_feasts_own_server_a_null_at_the_epoch_was_never_written() {
    let view = typed("v", &[("a", FeatureType::Int64), ("b", FeatureType::Int64)]);
    let column = |values: serde_json::Value| json!({"values": values, "statuses": vec!["PRESENT"; 3], "event_timestamps": [TIME, EPOCH, EPOCH]});
    let body = json!({
        "results": [column(json!([1, 2, 3])), column(json!([null, null, 5])), column(json!([7, null, null]))],
        "metadata": {"feature_names": ["user", "v__a", "v__b"]},
    });
    let untimed = Row::new(None, [int(5), None].into());
    let expected = [Ok(Some(timed([Some(Value::Null), int(7)]))), Ok(None), Ok(Some(untimed))];
    assert_eq!(told(&view, &body, 3).unwrap(), expected);
    let bare = json!({"results": [{"values": [1]}, {"values": [2]}], "metadata": {"feature_names": ["v__a", "v__b"]}});
    assert_eq!(told(&view, &bare, 1).unwrap(), [Ok(Some(Row::new(None, [int(1), int(2)].into())))]);
}

#[test]
fn a_cell_that_cannot_be_read_spoils_its_row_and_no_other() {
    let view = typed("v", &[("a", FeatureType::Int64)]);
    let body = json!({
        "results": [{"values": [1, "x", null, 4, 5], "statuses": ["PRESENT", "PRESENT", "INVALID", "SOMETHING", "PRESENT"],
                     "event_timestamps": [TIME, TIME, EPOCH, TIME, "yesterday"]}],
        "metadata": {"feature_names": ["v__a"]},
    });
    let rows = told(&view, &body, 5).unwrap();
    let wrong = |what| Err(Malformed::Served(what));
    let first = Row::new(Some(1_795_341_600_500_000_000), [int(1)].into());
    let status = "a cell's status";
    assert_eq!(rows, [Ok(Some(first)), wrong("a value"), wrong(status), wrong(status), wrong("an event's time")]);
}

#[test]
fn an_answer_to_something_else_is_none() {
    let view = typed("v", &[("a", FeatureType::Int64)]);
    let names = json!({"feature_names": ["v__a"]});
    let wrong = |body: serde_json::Value| told(&view, &body, 2).unwrap_err();
    let rows = "the answer has another number of rows than was asked for";
    assert_eq!(wrong(json!({"results": [{"values": [1]}], "metadata": names})), rows);
    assert_eq!(wrong(json!({"results": [{"values": [1, 2], "statuses": ["PRESENT"]}], "metadata": names})), rows);
    assert_eq!(wrong(json!({"results": [], "metadata": names})), "the answer lacks a feature");
    assert_eq!(wrong(json!({"results": [], "metadata": {"feature_names": []}})), "the answer lacks a feature");
    assert_eq!(wrong(json!({"results": {}})), "the answer is not Feast's JSON");
    assert_eq!(answer::rows(&[], b"\xff", 2), Err("the answer is not Feast's JSON"));
}

#[test]
fn what_a_weir_served_past_its_time_is_known_by_its_view() {
    let age = |told: &[&str]| {
        let mut headers = http::HeaderMap::new();
        for told in told {
            headers.append("weir-degraded", told.parse().unwrap());
        }
        answer::stale(&headers, "v").map(|age| age.as_secs())
    };
    assert_eq!(age(&[]), None);
    assert_eq!(age(&["default;view=v;reason=unavailable"]), None);
    assert_eq!(age(&["stale;view=vv;age=5, stale; age=7; view=v"]), Some(7));
    assert_eq!(age(&["stale;view=v;age=5", "stale;view=v;age=9"]), Some(9));
    assert_eq!(age(&["stale;view=v;age=x, stale;view=v, stale"]), None);
}
