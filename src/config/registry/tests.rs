//! A registry that Feast wrote, compared with its JSON; registries made for a case; bytes that are none.

mod joins;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{wire::*, *};
use crate::{
    config::{Compat, Config, Consistency, Draft, Inputs, Supplied},
    infer::{EntityType, FeatureType, Value},
};

const BYTES: &[u8] = include_bytes!("../../../tests/data/feast/registry.pb");
const JSON: &str = include_str!("../../../tests/data/feast/registry.json");
const KEEP: Duration = Duration::from_secs(86_400);

const READING: Reading<'static> = Reading { project: None, versions: Versions::Together, keep: KEEP };

fn contents() -> Contents {
    read(BYTES, &READING).unwrap()
}

/// Feast's registry, changed.
fn changed(change: impl FnOnce(&mut wire::Registry)) -> Vec<u8> {
    let mut registry = wire::Registry::decode(BYTES).unwrap();
    change(&mut registry);
    registry.encode_to_vec()
}

/// What reading a changed registry gives.
fn with(change: impl FnOnce(&mut wire::Registry)) -> Contents {
    read(&changed(change), &READING).unwrap()
}

fn spec<'r>(registry: &'r mut wire::Registry, name: &str) -> &'r mut FeatureViewSpec {
    let specs = registry.feature_views.iter_mut().filter_map(|view| view.spec.as_mut());
    specs.into_iter().find(|spec| spec.name == name).unwrap()
}

fn service<'r>(registry: &'r mut wire::Registry, name: &str) -> &'r mut FeatureServiceSpec {
    let specs = registry.feature_services.iter_mut().filter_map(|service| service.spec.as_mut());
    specs.into_iter().find(|spec| spec.name == name).unwrap()
}

fn view<'c>(contents: &'c Contents, name: &str) -> &'c View {
    contents.views.iter().find(|view| &*view.name == name).unwrap()
}

fn reason<'c>(contents: &'c Contents, name: &str) -> &'c str {
    contents.unserved.iter().find(|(unserved, _)| &**unserved == name).map_or("served", |(_, reason)| reason)
}

/// Feast's name of a type as Weir keeps it.
fn kept(kind: &str) -> &str {
    match kind {
        "JSON" | "UUID" | "DECIMAL" => "STRING",
        "MAP" => "OPAQUE",
        other => other,
    }
}

#[test]
fn every_view_of_a_real_registry_is_read() {
    let (contents, json): (_, Json) = (contents(), serde_json::from_str(JSON).unwrap());
    let expected = json["feature_views"].as_array().unwrap();
    assert_eq!((contents.views.len(), expected.len(), &*contents.project), (10, 10, "weir_demo"));
    for (position, (view, expected)) in contents.views.iter().zip(expected).enumerate() {
        let spec = &expected["spec"];
        assert_eq!(
            (view.id.index(), &*view.name, &*view.stored),
            (position, spec["name"].as_str().unwrap(), &*view.name)
        );
        let mut keys: Vec<_> = spec["entity_columns"].as_array().unwrap().iter().collect();
        keys.sort_by_key(|column| column["name"].as_str().unwrap());
        let keys: Vec<_> = keys.iter().map(|column| json!([column["name"], column["value_type"]])).collect();
        let found: Vec<_> = view.entities.iter().map(|(name, kind)| json!([&**name, kind.name()])).collect();
        assert_eq!(found, keys, "{}", view.name);
        let features: Vec<_> = spec["features"].as_array().unwrap().iter().collect();
        let features: Vec<_> =
            features.iter().map(|f| json!([f["name"], kept(f["value_type"].as_str().unwrap())])).collect();
        let found: Vec<_> = view.features.iter().map(|f| json!([&*f.name, f.kind.name()])).collect();
        assert_eq!(found, features, "{}", view.name);
        let ttl: u64 = spec["ttl"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
        assert_eq!(view.max_age, Some(Duration::from_secs(ttl)).filter(|age| !age.is_zero()), "{}", view.name);
        assert_eq!((view.ttl, view.is_entityless()), (KEEP, &*view.name == "global_stats"));
    }
    assert_eq!(view(&contents, "user_item").entities[0], ("item_id".into(), EntityType::Int64));
    assert_eq!(view(&contents, "region_fv").entities[0].1, EntityType::Int32);
    assert_eq!(view(&contents, "driver_stats").features[2].default, Value::Int64(0));
    assert_eq!(view(&contents, "exotic").features[3].kind, FeatureType::Opaque);
}

#[test]
fn every_service_of_a_real_registry_is_read() {
    let (contents, json): (_, Json) = (contents(), serde_json::from_str(JSON).unwrap());
    let expected = json["feature_services"].as_array().unwrap();
    assert_eq!((contents.services.len(), expected.len()), (5, 5));
    for (service, expected) in contents.services.iter().zip(expected) {
        let spec = &expected["spec"];
        assert_eq!(&*service.name, spec["name"].as_str().unwrap());
        assert_eq!(service.precomputed, &*service.name == "precomp_svc");
        if &*service.name == "odfv_svc" {
            assert!(service.projections.is_empty());
            continue;
        }
        let projections = spec["features"].as_array().unwrap();
        assert_eq!(service.projections.len(), projections.len());
        for (projection, expected) in service.projections.iter().zip(projections) {
            let view = &contents.views[projection.view.index()];
            assert_eq!(&*view.name, expected["feature_view_name"].as_str().unwrap());
            assert_eq!(projection.alias.as_deref(), expected["feature_view_name_alias"].as_str());
            let selected: Vec<_> = projection.select.iter().map(|feature| &*view.features[*feature].name).collect();
            let columns = expected["feature_columns"].as_array().unwrap();
            assert_eq!(selected, columns.iter().map(|column| column["name"].as_str().unwrap()).collect::<Vec<_>>());
            let mapped: Vec<_> =
                view.entities.iter().map(|(key, _)| expected["join_key_map"][&**key].as_str().unwrap_or(key)).collect();
            assert_eq!(projection.columns.iter().map(|column| &**column).collect::<Vec<_>>(), mapped);
        }
    }
    let aliased = contents.services.iter().find(|service| &*service.name == "aliased_svc").unwrap();
    assert_eq!(aliased.projections[1].columns, [Arc::from("dest_id")]);
}

#[test]
fn views_that_share_a_push_source_keep_their_own_columns_of_time() {
    let contents = with(|registry| {
        let shared = spec(registry, "live").stream_source.clone();
        let other = spec(registry, "driver_stats");
        other.stream_source = shared;
        let batch = other.batch_source.as_mut().unwrap();
        (batch.timestamp_field, batch.created_timestamp_column) = ("seen_at".to_owned(), String::new());
    });
    let [push] = contents.push_sources.as_slice() else { panic!("{:?}", contents.push_sources) };
    let mut times: Vec<_> = push
        .views
        .iter()
        .map(|id| (&*contents.views[id.index()].name, &contents.times[id.index()]))
        .map(|(view, times)| (view, &*times.event, times.created.as_deref()))
        .collect();
    times.sort_unstable();
    assert_eq!(times, [("driver_stats", "seen_at", None), ("live", "event_timestamp", Some("created"))]);
}

#[test]
fn the_rest_of_a_real_registry_is_read() {
    let contents = contents();
    let names: Vec<_> = contents.entity_names.iter().map(|(name, key)| format!("{name}={key}")).collect();
    assert_eq!(names, ["driver=driver_id", "item=item_id", "region=region_id", "user=user_id"]);
    let [push] = contents.push_sources.as_slice() else { panic!("{:?}", contents.push_sources) };
    assert_eq!((&*push.name, push.views.len()), ("live_push", 1));
    let times = &contents.times[push.views[0].index()];
    assert_eq!((&*times.event, times.created.as_deref()), ("event_timestamp", Some("created")));
    assert_eq!(contents.times.len(), contents.views.len());
    assert_eq!(&*contents.views[push.views[0].index()].name, "live");
    let unserved: Vec<_> = contents.unserved.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    let odfv = "an on-demand feature view, which takes Python to compute";
    assert_eq!(
        unserved,
        [
            format!("driver_odfv: {odfv}"),
            format!("driver_py_odfv: {odfv}"),
            format!("odfv_svc: its view driver_odfv is not served: {odfv}"),
        ]
    );
}

#[test]
fn a_view_is_served_while_it_is_materialized() {
    // The state is field 6 of the view's meta message, which is field 2, and MATERIALIZING is 3: nothing of it is decoded.
    let mut view = wire::Registry::decode(BYTES).unwrap().feature_views.swap_remove(0).encode_to_vec();
    view.extend_from_slice(&[0x12, 2, 0x30, 3]);
    let mut bytes = changed(|registry| registry.feature_views.clear());
    prost::encoding::encode_key(6, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(view.len() as u64, &mut bytes);
    bytes.extend_from_slice(&view);
    let contents = read(&bytes, &READING).unwrap();
    assert_eq!(contents.views.iter().map(|view| &*view.name).collect::<Vec<_>>(), ["user_profile"]);
}

#[test]
fn what_cannot_be_served_is_left_out_by_name() {
    let contents = with(|registry| {
        spec(registry, "live").disabled = true;
        spec(registry, "region_fv").entity_columns[0].value_type = 7;
        spec(registry, "stale_stats").features.clear();
        spec(registry, "wide_ints").name = "größe".into();
        spec(registry, "exotic").features[1].name = "j".into();
        let again = registry.feature_views[0].clone();
        registry.feature_views.push(again);
        service(registry, "user_item_svc").features[0].columns[0].name = "gone".into();
        service(registry, "aliased_svc").features[1].view = "nowhere".into();
        registry.label_views =
            vec![Object { spec: Some(ObjectSpec { name: "labels".into(), project: "weir_demo".into() }) }];
    });
    assert_eq!(reason(&contents, "live"), "disabled in the registry");
    assert_eq!(
        reason(&contents, "region_fv"),
        "join key region_id is of value type 7, which makes no key; allowed: BYTES, STRING, INT32, INT64, UNIX_TIMESTAMP"
    );
    assert_eq!(reason(&contents, "stale_stats"), "no feature");
    assert!(reason(&contents, "größe").starts_with("its name cannot be told in headers; allowed: ASCII"));
    assert_eq!(reason(&contents, "exotic"), "two features named j");
    assert_eq!(reason(&contents, "user_profile"), "a second view of that name; the first is served");
    assert_eq!(reason(&contents, "driver_svc"), "its view live is not served: disabled in the registry");
    assert_eq!(reason(&contents, "precomp_svc"), "its view stale_stats is not served: no feature");
    assert_eq!(reason(&contents, "user_item_svc"), "its feature user_item:gone is not in the view");
    assert_eq!(reason(&contents, "aliased_svc"), "its view nowhere is not in the registry");
    assert_eq!(reason(&contents, "labels"), "a label view");
    assert!(contents.push_sources.is_empty());
    assert_eq!(contents.views.len(), 5);
    assert!(contents.services.iter().all(|service| service.projections.is_empty()));
}

#[test]
fn join_keys_of_older_registries_come_from_the_entities() {
    let contents = with(|registry| {
        for name in ["user_item", "global_stats", "region_fv"] {
            spec(registry, name).entity_columns.clear();
        }
        spec(registry, "live").entity_columns.clear();
        spec(registry, "live").entities = vec!["nobody".into()];
        spec(registry, "stale_stats").entity_columns.clear();
        spec(registry, "stale_stats").entities.clear();
    });
    let keys =
        |name| view(&contents, name).entities.iter().map(|(key, kind)| format!("{key} {kind}")).collect::<Vec<_>>();
    assert_eq!(keys("user_item"), ["item_id INT64", "user_id STRING"]);
    assert_eq!(keys("region_fv"), ["region_id INT32"]);
    assert!(view(&contents, "global_stats").is_entityless() && view(&contents, "stale_stats").is_entityless());
    assert_eq!(reason(&contents, "live"), "its entity nobody is not in the registry");
}

#[test]
fn stream_feature_views_are_views_too() {
    let contents = with(|registry| {
        let plain = spec(registry, "driver_stats").clone();
        let stream = StreamFeatureViewSpec {
            name: "streamed".into(),
            project: plain.project,
            features: plain.features,
            entity_columns: plain.entity_columns,
            ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            ..StreamFeatureViewSpec::default()
        };
        registry.stream_feature_views.push(StreamFeatureView { spec: Some(stream), meta: None });
    });
    let streamed = view(&contents, "streamed");
    assert_eq!((streamed.id.index(), streamed.features.len()), (10, 6));
    assert_eq!(streamed.max_age, Some(Duration::from_secs(60)));
}

#[test]
fn versions_are_stored_apart_where_feast_does() {
    let bytes = changed(|registry| {
        registry.feature_views[0].meta.get_or_insert_default().current_version_number = 2;
        service(registry, "user_item_svc").features[1].version_tag = Some(2);
        service(registry, "driver_svc").features[0].version_tag = Some(1);
    });
    let together = read(&bytes, &READING).unwrap();
    assert_eq!(&*view(&together, "user_profile").stored, "user_profile");
    let apart = read(&bytes, &Reading { versions: Versions::Apart, ..READING }).unwrap();
    assert_eq!(&*view(&apart, "user_profile").stored, "user_profile_v2");
    assert_eq!(&*view(&apart, "live").stored, "live");
    assert_eq!(reason(&apart, "user_item_svc"), "served");
    assert_eq!(
        reason(&apart, "driver_svc"),
        "it pins version 1 of view driver_stats, and only the current one, 0, is served"
    );
}

#[test]
fn of_several_projects_one_is_served() {
    let bytes = changed(|registry| {
        spec(registry, "live").project = "other".into();
        registry.projects.push(Project { spec: Some(ProjectSpec { name: "empty".into() }) });
    });
    let refused = read(&bytes, &READING).unwrap_err();
    assert_eq!(refused.to_string(), "a registry of 3 projects, and features.project names none");
    assert_eq!(refused.allowed(), "features.project as one of empty, other, weir_demo");
    let of = |project| read(&bytes, &Reading { project: Some(project), ..READING });
    assert_eq!(of("other").unwrap().views.len(), 1);
    assert_eq!(of("weir_demo").unwrap().views.len(), 9);
    assert!(of("empty").unwrap().views.is_empty());
    let refused = of("nope").unwrap_err();
    assert_eq!(
        (refused.to_string(), refused.allowed()),
        ("no project \"nope\" in the registry".to_owned(), "empty, other, weir_demo".to_owned())
    );
}

#[test]
fn bytes_that_are_no_registry_are_refused_in_words() {
    let said = |bytes: &[u8]| read(bytes, &READING).unwrap_err().to_string();
    assert_eq!(said(b""), "not a Feast registry: no registry_schema_version in its 0 bytes");
    assert!(said(b"{\"entities\": []}").starts_with("not a Feast registry: "), "{}", said(b"{\"entities\": []}"));
    assert!(said(&BYTES[..BYTES.len() / 2]).starts_with("not a Feast registry: "));
    let marked = wire::Registry { schema_version: "1".into(), ..wire::Registry::default() };
    assert_eq!(said(&marked.encode_to_vec()), "a registry without any project");
}

#[test]
fn no_truncation_makes_it_panic() {
    for end in (0..BYTES.len()).step_by(7) {
        let _ = read(&BYTES[..end], &READING);
    }
}

proptest! {
    #[test]
    fn no_garbage_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = read(&bytes, &READING);
    }

    #[test]
    fn no_flipped_bits_make_it_panic(flips in prop::collection::vec((0..BYTES.len(), 0..8_u8), 1..16)) {
        let mut bytes = BYTES.to_vec();
        for (at, bit) in flips {
            bytes[at] ^= 1 << bit;
        }
        if let Ok(contents) = read(&bytes, &Reading { versions: Versions::Apart, ..READING }) {
            for (position, view) in contents.views.iter().enumerate() {
                prop_assert_eq!(view.id.index(), position);
                prop_assert!(!view.entities.is_empty() && !view.features.is_empty());
            }
            for projection in contents.services.iter().flat_map(|service| &service.projections) {
                let view = &contents.views[projection.view.index()];
                prop_assert!(projection.select.iter().all(|feature| *feature < view.features.len()));
                prop_assert_eq!(projection.columns.len(), view.entities.len());
            }
        }
    }
}
