//! Against the bytes that Feast itself wrote (`tests/data/feast/`).

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::infer::{EntityValue, Value};

pub(crate) fn data(file: &str) -> Json {
    let path = format!("{}/tests/data/feast/{file}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A recorded entity value.
pub(crate) fn entity(kind: &str, value: &Json) -> EntityValue {
    match kind {
        "bytes" => EntityValue::Bytes(unhex(value.as_str().unwrap())),
        "string" => EntityValue::String(value.as_str().unwrap().into()),
        "int32" => EntityValue::Int32(value.as_i64().unwrap().try_into().unwrap()),
        "int64" => EntityValue::Int64(value.as_i64().unwrap()),
        "unix_timestamp" => EntityValue::UnixTimestamp(value.as_i64().unwrap()),
        other => panic!("unknown entity type {other}"),
    }
}

fn encoded(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    encode_value(value, &mut out);
    out
}

fn view(name: &str, features: &[&str]) -> Arc<View> {
    crate::features::tests::view(name).features(features).build()
}

#[test]
fn entity_keys_are_feasts() {
    let vectors = data("entity_keys");
    for vector in vectors.as_array().unwrap() {
        let mut pairs: Vec<(&str, EntityValue)> = vector["entity"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, given)| (&**name, entity(given["type"].as_str().unwrap(), &given["value"])))
            .collect();
        pairs.sort_by_key(|(name, _)| *name);
        let key = EntityKey::new(pairs.iter().map(|(name, value)| (*name, value)));
        assert_eq!(key.as_bytes(), unhex(vector["entity_key_hex"].as_str().unwrap()), "{vector}");
        let redis = redis_key(&key, vector["project"].as_str().unwrap());
        assert_eq!(redis, unhex(vector["key_hex"].as_str().unwrap()), "{vector}");
    }
    assert!(vectors.as_array().unwrap().len() >= 30);
}

#[test]
fn hash_fields_are_feasts() {
    let vectors = data("hash_fields");
    for vector in vectors["fields"].as_array().unwrap() {
        let (view, feature) = (vector["view"].as_str().unwrap(), vector["feature"].as_str().unwrap());
        assert_eq!(field(view, feature).as_slice(), unhex(vector["field_hex"].as_str().unwrap()), "{vector}");
    }
    for vector in vectors["timestamp_fields"].as_array().unwrap() {
        let layout = Layout::of(&view(vector["view"].as_str().unwrap(), &[]));
        assert_eq!(layout.event_time(), unhex(vector["ts_field_hex"].as_str().unwrap()), "{vector}");
    }
    assert!(vectors["fields"].as_array().unwrap().len() >= 20);
}

/// A value as the recorded answers show it, where their notation says it all.
fn shown(value: &Value) -> Option<Json> {
    fn float(v: f64) -> Json {
        match v {
            v if v.is_nan() => "NaN".into(),
            v if v.is_infinite() && v > 0.0 => "Infinity".into(),
            v if v.is_infinite() => "-Infinity".into(),
            v => v.into(),
        }
    }
    Some(match value {
        Value::Null => Json::Null,
        Value::String(v) => (**v).into(),
        Value::Int32(v) => (*v).into(),
        Value::Int64(v) | Value::UnixTimestamp(v) => (*v).into(),
        Value::Double(v) => float(*v),
        Value::Float(v) => float(f64::from(*v)),
        Value::Bool(v) => (*v).into(),
        Value::StringList(v) => v.iter().map(|v| Json::from(&**v)).collect(),
        Value::Int32List(v) => v.iter().copied().collect(),
        Value::Int64List(v) | Value::UnixTimestampList(v) => v.iter().copied().collect(),
        Value::DoubleList(v) => v.iter().map(|v| float(*v)).collect(),
        Value::FloatList(v) => v.iter().map(|v| float(f64::from(*v))).collect(),
        Value::BoolList(v) => v.iter().copied().collect(),
        Value::Bytes(v) => base64::Engine::encode(&base64::engine::general_purpose::STANDARD, v).into(),
        Value::BytesList(v) if v.is_empty() => Json::Array(Vec::new()),
        Value::BytesList(_) | Value::Opaque(_) => return None,
    })
}

/// Which kind of value a recorded oneof member is to become.
fn kind(oneof: &str) -> std::mem::Discriminant<Value> {
    let none = Vec::<i64>::new();
    std::mem::discriminant(&match oneof {
        "null_val" => Value::Null,
        "bytes_val" => Value::Bytes(Bytes::new()),
        "string_val" | "json_val" | "uuid_val" | "time_uuid_val" | "decimal_val" => Value::String("".into()),
        "int32_val" => Value::Int32(0),
        "int64_val" => Value::Int64(0),
        "double_val" => Value::Double(0.0),
        "float_val" => Value::Float(0.0),
        "bool_val" => Value::Bool(false),
        "unix_timestamp_val" => Value::UnixTimestamp(0),
        "bytes_list_val" => Value::BytesList([].into()),
        "string_list_val" | "json_list_val" | "uuid_list_val" | "time_uuid_list_val" | "decimal_list_val" => {
            Value::StringList([].into())
        }
        "int32_list_val" => Value::Int32List([].into()),
        "int64_list_val" => Value::Int64List(none.into()),
        "double_list_val" => Value::DoubleList([].into()),
        "float_list_val" => Value::FloatList([].into()),
        "bool_list_val" => Value::BoolList([].into()),
        "unix_timestamp_list_val" => Value::UnixTimestampList(none.into()),
        _ => Value::Opaque(Bytes::new()),
    })
}

#[test]
fn values_are_read_as_feast_shows_them() {
    let vectors = data("values");
    for vector in vectors["values"].as_array().unwrap() {
        let bytes = unhex(vector["hex"].as_str().unwrap());
        let value = decode_value(&bytes).unwrap();
        assert_eq!(std::mem::discriminant(&value), kind(vector["oneof"].as_str().unwrap()), "{vector}");
        match (&value, shown(&value)) {
            (_, Some(shown)) => assert_eq!(shown, vector["http_json"], "{vector}"),
            (Value::Opaque(raw), _) => assert_eq!(raw, &bytes, "{vector}"),
            _ => panic!("not compared: {vector}"),
        }
        // Feast never writes `null_val` or unpacked lists, and text types come back as strings.
        let own = vector.get("note").is_none() && !matches!(value, Value::String(_) | Value::StringList(_));
        if own || vector["oneof"] == "string_val" || vector["oneof"] == "string_list_val" {
            assert_eq!(encoded(&value), bytes, "{vector}");
        }
    }
    assert!(vectors["values"].as_array().unwrap().len() >= 60);
}

#[test]
fn event_times_are_read_and_written() {
    for vector in data("values")["timestamps"].as_array().unwrap() {
        let bytes = unhex(vector["hex"].as_str().unwrap());
        let time = vector["seconds"].as_i64().unwrap() * 1_000_000_000 + vector["nanos"].as_i64().unwrap();
        assert_eq!(decode_time(&bytes), Ok(time), "{vector}");
        assert_eq!(encode_time(time), bytes, "{vector}");
    }
    assert_eq!(decode_time(b""), Ok(0), "the epoch itself is no bytes at all");
    for time in [i64::MIN, -1, i64::MAX] {
        assert_eq!(decode_time(&encode_time(time)), Ok(time));
    }
    assert_eq!(decode_time(&unhex("08ffffffffffffffff7f")), Ok(i64::MAX), "beyond 2262");
}

#[test]
fn every_row_of_a_database_feast_wrote_is_read_and_would_be_written_the_same() {
    let dump = data("redis_dump");
    let names: HashMap<&str, &str> =
        dump["field_names"].as_object().unwrap().iter().map(|(hex, name)| (&**hex, name.as_str().unwrap())).collect();
    let mut rows = 0;
    for key in dump["keys"].as_array().unwrap() {
        let hash: HashMap<Vec<u8>, Vec<u8>> = key["hash"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(field, value)| (unhex(field), unhex(value.as_str().unwrap())))
            .collect();
        for name in hash.keys().filter_map(|field| std::str::from_utf8(field.strip_prefix(b"_ts:")?).ok()) {
            let features: Vec<&str> =
                names.values().filter_map(|full| full.strip_prefix(name)?.strip_prefix(':')).collect();
            let layout = Layout::of(&view(name, &features));
            let row = layout.row(layout.fields().map(|field| hash.get(field).map(Vec::as_slice))).unwrap().unwrap();
            assert!(row.event_time.is_some(), "{name} of {}", key["key_hex"]);
            for (field, value) in layout.cells(&row) {
                let stored = &hash[field];
                let text = matches!(decode_value(stored), Ok(Value::String(_) | Value::StringList(_)));
                assert!(text || &value == stored, "{name} of {}", key["key_hex"]);
            }
            rows += 1;
        }
    }
    assert!(rows >= 47, "{rows}");
}

#[test]
fn what_is_not_stored_is_told_from_null() {
    let layout = Layout::of(&view("v", &["a", "b", "c"]));
    let five = unhex("2005");
    let row = layout.row([None, Some(&[][..]), Some(&five), None]).unwrap().unwrap();
    assert_eq!(*row.values, [None, Some(Value::Null), Some(Value::Int64(5))]);
    assert_eq!(row.event_time, None);
    assert_eq!(layout.row([None; 4]), Ok(None));
    let only_time = layout.row([None, None, None, Some(&[][..])]).unwrap().unwrap();
    assert_eq!(only_time.event_time, Some(0));
    assert_eq!(layout.row([None; 3]), Err(Malformed::Truncated));
}

#[test]
fn bytes_that_are_no_value_are_refused() {
    let refused = [
        ("18", Malformed::Truncated),
        ("1880", Malformed::Truncated),
        ("18ffffffffffffffffffff01", Malformed::Number),
        ("00", Malformed::Number),
        ("1203 6162", Malformed::Truncated),
        ("1202 c328", Malformed::Utf8),
        ("1a00", Malformed::WireType(3)),
        ("2b", Malformed::WireType(5)),
        ("82010 70a05 0000c03f00", Malformed::Truncated),
        ("7203 0d000000", Malformed::Truncated),
        ("7205 0d00000000", Malformed::WireType(1)),
    ];
    for (hex, error) in refused {
        assert_eq!(decode_value(&unhex(&hex.replace(' ', ""))), Err(error), "{hex}");
    }
}

#[test]
fn the_last_member_of_the_oneof_counts_and_unknown_ones_stay_as_they_came() {
    assert_eq!(decode_value(&unhex("18012005")), Ok(Value::Int64(5)));
    let later = unhex("9a0602 0801".replace(' ', "").as_str());
    assert_eq!(decode_value(&later), Ok(Value::Opaque(Bytes::from(later))));
}

fn values() -> impl Strategy<Value = Value> {
    fn list<T: std::fmt::Debug>(item: impl Strategy<Value = T>) -> impl Strategy<Value = Arc<[T]>> {
        proptest::collection::vec(item, 0..200).prop_map(Arc::from)
    }
    let bytes = || proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    let text = || ".{0,200}".prop_map(Arc::<str>::from);
    prop_oneof![
        Just(Value::Null),
        bytes().prop_map(Value::Bytes),
        text().prop_map(Value::String),
        any::<i32>().prop_map(Value::Int32),
        any::<i64>().prop_map(Value::Int64),
        any::<f64>().prop_map(Value::Double),
        any::<f32>().prop_map(Value::Float),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::UnixTimestamp),
        list(bytes()).prop_map(Value::BytesList),
        list(text()).prop_map(Value::StringList),
        list(any::<i32>()).prop_map(Value::Int32List),
        list(any::<i64>()).prop_map(Value::Int64List),
        list(any::<f64>()).prop_map(Value::DoubleList),
        list(any::<f32>()).prop_map(Value::FloatList),
        list(any::<bool>()).prop_map(Value::BoolList),
        list(any::<i64>()).prop_map(Value::UnixTimestampList),
    ]
}

proptest! {
    #[test]
    fn every_value_survives_the_round_trip(value in values()) {
        prop_assert_eq!(decode_value(&encoded(&value)), Ok(value));
    }

    #[test]
    fn every_time_survives_the_round_trip(time in any::<i64>()) {
        prop_assert_eq!(decode_time(&encode_time(time)), Ok(time));
    }

    #[test]
    fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode_value(&bytes);
        let _ = decode_time(&bytes);
    }
}

#[test]
fn a_version_is_stored_under_a_name_of_its_own() {
    let (versioned, plain) = (view("v", &["f"]), view("v_v2", &["f"]));
    let versioned = View { stored: "v_v2".into(), ..View::clone(&versioned) };
    let fields = |view: &View| Layout::of(view).fields().map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert_eq!(fields(&versioned), fields(&plain));
    assert_eq!(fields(&versioned)[1], b"_ts:v_v2");
}
