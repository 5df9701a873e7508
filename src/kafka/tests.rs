//! Which rows a message is about, and where a consumer is.

use serde_json::json;

use super::{
    notice::{Wrong, read},
    places::{Begin, Places},
};
use crate::{
    config::{Config, PushSource, View},
    fixture,
    infer::{EntityKey, EntityType, EntityValue, ViewId},
};

/// `user_stats` by `user_id`, `pairs` by an item and a user, `everybody` without entities; a push source of the first two.
fn config() -> Config {
    let mut config = fixture::config();
    let first = config.features.views[0].clone();
    let view = |id: u32, name: &str, entities: &[(&str, EntityType)]| {
        let entities = entities.iter().map(|(name, kind)| ((*name).into(), *kind)).collect();
        View { id: ViewId(id), name: name.into(), entities, ..View::clone(&first) }.into()
    };
    config.features.views.push(view(1, "pairs", &[("item", EntityType::String), ("user_id", EntityType::Int64)]));
    config.features.views.push(view(2, "everybody", &[(crate::config::ENTITYLESS_KEY, EntityType::String)]));
    config.features.push_sources = vec![PushSource { name: "events".into(), views: vec![ViewId(0), ViewId(1)] }];
    config
}

fn user(id: i64) -> (ViewId, EntityKey) {
    (ViewId(0), EntityKey::new([("user_id", &EntityValue::Int64(id))].into_iter()))
}

fn pair(item: &str, id: i64) -> (ViewId, EntityKey) {
    let (item, id) = (EntityValue::String(item.into()), EntityValue::Int64(id));
    (ViewId(1), EntityKey::new([("item", &item), ("user_id", &id)].into_iter()))
}

#[test]
fn a_message_names_a_row_or_is_a_push() {
    let nobody =
        (ViewId(2), EntityKey::new([(crate::config::ENTITYLESS_KEY, &EntityValue::String(String::new()))].into_iter()));
    let frame =
        json!({"user_id": [1, "2"], "item": ["a", "b"], "txn_count_1h": [7, null], "event_timestamp": ["x", "y"]});
    for (message, rows) in [
        (json!({"view": "user_stats", "entity": {"user_id": 1001}}), vec![user(1001)]),
        (
            json!({"view": "user_stats", "entity": {"user_id": "1001", "x": []}, "event_timestamp": 3, "op": {}}),
            vec![user(1001)],
        ),
        (json!({"view": "pairs", "entity": {"user_id": 3, "item": "\u{e9}\n"}}), vec![pair("\u{e9}\n", 3)]),
        (json!({"view": "everybody", "entity": {}}), vec![nobody.clone()]),
        (json!({"view": "everybody"}), vec![nobody]),
        (
            json!({"push_source_name": "events", "df": frame, "to": "online"}),
            vec![user(1), user(2), pair("a", 1), pair("b", 2)],
        ),
        (
            json!({"push_source_name": "events", "df": frame, "to": "online_and_offline"}),
            vec![user(1), user(2), pair("a", 1), pair("b", 2)],
        ),
        (json!({"push_source_name": "events", "df": frame, "to": "offline"}), vec![]),
        (json!({"push_source_name": "events", "df": {}}), vec![]),
        (json!({"feature_view_name": "user_stats", "df": {"user_id": [5]}}), vec![user(5)]),
    ] {
        assert_eq!(read(message.to_string().as_bytes(), &config()), Ok(rows), "{message}");
    }
}

#[test]
fn any_bytes_may_be_read() {
    assert!(super::read_any(br#"{"view": "v", "entity": {"i": 1, "s": "x", "b": "AA=="}}"#), "the views are there");
    assert!(!super::read_any(b"x"));
}

#[test]
fn what_is_about_something_else_is_told_apart_from_what_cannot_be_read() {
    let unknown = |message: &str| matches!(read(message.as_bytes(), &config()), Err(Wrong::Unknown { .. }));
    assert!(unknown(r#"{"view": "other", "entity": {"user_id": 1}}"#));
    assert!(unknown(r#"{"push_source_name": "other", "df": {}}"#));
    assert!(unknown(r#"{"feature_view_name": "other", "df": {}}"#));
    let deep = "[".repeat(100_000);
    for message in [
        "",
        "null",
        "[]",
        "{}",
        "{\"view\": 1}",
        "\u{0}\u{0}\u{0}\u{0}\u{1}avro",
        r#"{"view": "user_stats"}"#,
        r#"{"view": "user_stats", "entity": {"user": 1}}"#,
        r#"{"view": "user_stats", "entity": {"user_id": null}}"#,
        r#"{"view": "user_stats", "entity": {"user_id": 1.5}}"#,
        r#"{"view": "user_stats", "entity": {"user_id": [1]}}"#,
        r#"{"view": "user_stats", "entity": {"user_id": 1}"#,
        r#"{"push_source_name": "events"}"#,
        r#"{"push_source_name": "events", "df": {"user_id": [1, 2], "item": ["a"]}}"#,
        r#"{"push_source_name": "events", "df": {"user_id": [1]}}"#,
        r#"{"push_source_name": "events", "df": [1]}"#,
        deep.as_str(),
    ] {
        let told = read(message.as_bytes(), &config());
        assert!(matches!(told, Err(Wrong::Malformed(_))), "{:.100} {told:?}", message);
    }
    assert!(read(b"\xff\xff", &config()).is_err());
}

#[test]
fn what_was_there_is_read_from_its_end_and_what_came_later_from_its_beginning() {
    let mut places = Places::default();
    assert!(!places.are_settled(), "nobody looked");
    places.found([0, 1]);
    assert_eq!(places.waiting().collect::<Vec<_>>(), [(0, Begin::End), (1, Begin::End)]);
    places.begin(0, 10);
    assert!(!places.are_settled());
    places.begin(1, 0);
    assert!(places.are_settled());
    places.found([0, 1, 2]);
    assert_eq!(places.waiting().collect::<Vec<_>>(), [(2, Begin::Beginning)]);
    assert_eq!(places.read().collect::<Vec<_>>(), [(0, 10), (1, 0)], "whoever is read stays where it is");
    places.begin(2, 0);
    places.found([0]);
    assert!(places.are_settled(), "a broker that knows less changes nothing");
}

#[test]
fn a_topic_that_is_made_later_is_read_whole() {
    let mut places = Places::default();
    places.found([]);
    assert!(places.are_settled());
    places.found([0]);
    assert_eq!(places.waiting().collect::<Vec<_>>(), [(0, Begin::Beginning)]);
}

#[test]
fn a_place_that_is_lost_is_taken_at_the_end_again() {
    let mut places = Places::default();
    places.found([0]);
    places.begin(0, 10);
    places.advance(0, 10);
    places.advance(0, 14);
    assert_eq!(places.read().collect::<Vec<_>>(), [(0, 15)]);
    assert_eq!(
        [places.lag(0, 20), places.lag(0, 15), places.lag(0, -1001), places.lag(7, 1)],
        [Some(5), Some(0), None, None]
    );
    // A log that is shorter than what was read of it is another one.
    let past = [(0, 14), (0, 0), (0, 15), (0, 20), (0, -1001), (7, 1)].map(|(of, end)| places.is_past(of, end));
    assert_eq!(past, [true, true, false, false, false, false]);
    places.lose();
    assert!(!places.is_past(0, 14), "it waits for its end");
    places.advance(0, 15);
    assert_eq!(places.waiting().collect::<Vec<_>>(), [(0, Begin::End)]);
    assert_eq!(places.lag(0, 20), None);
}
