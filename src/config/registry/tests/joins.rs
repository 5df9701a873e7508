//! A registry in the place of the file's views: what models join of it.

use super::*;

/// A file's text with the registry in its place.
fn file(text: &str, supplied: Supplied<'_>) -> Result<Config, Vec<String>> {
    let sources =
        crate::config::substitute::Sources { var: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
    let loaded = Draft::parse(text, "weir.yaml", &sources).and_then(|draft| draft.finish(supplied));
    loaded.map(|loaded| loaded.config).map_err(|problems| problems.to_string().lines().map(str::to_owned).collect())
}

fn model(features: &str) -> String {
    format!(
        "pools: {{p: {{endpoints: [http://h:1]}}}}\nfeatures: {{registry: /r.db, l2: {{redis: redis://h}}}}\nmodels: {{m: {{{features}}}}}\n"
    )
}

fn joined(features: &str) -> Result<Config, Vec<String>> {
    file(&model(features), Supplied::Bytes(BYTES))
}

#[test]
fn the_registry_takes_the_place_of_the_files_views() {
    let config = file("features: {registry: 's3://b/r.db', registry_refresh: 5s}", Supplied::Bytes(BYTES)).unwrap();
    let features = &config.features;
    assert_eq!((&*features.project, features.views.len(), features.services.len()), ("weir_demo", 10, 5));
    let registry = features.registry.as_ref().unwrap();
    assert_eq!((&*registry.url, registry.refresh), ("s3://b/r.db", Duration::from_secs(5)));
    assert_eq!((features.compat, config.notices.len()), (Compat::Truthful, 0));
}

#[test]
fn a_model_joins_a_service() {
    let config = joined("features: {service: driver_svc}").unwrap();
    let model = &config.models[0];
    let joins: Vec<_> =
        model.joins.iter().map(|join| (&*join.label, join.sources.clone(), join.select.clone())).collect();
    assert_eq!(
        joins,
        [
            ("driver_stats", vec![Arc::from("driver_id")], vec![0, 5, 3]),
            ("live", vec![Arc::from("driver_id")], vec![0, 1]),
        ]
    );
    let Some(Inputs::Columns { columns }) = &model.inputs else { panic!("{:?}", model.inputs) };
    assert_eq!(
        columns.iter().map(|column| &*column.name).collect::<Vec<_>>(),
        ["conv_rate", "city", "tier", "speed", "gear"]
    );
}

#[test]
fn a_service_may_join_a_view_twice_under_two_aliases() {
    let config = joined(
        "features: {service: aliased_svc}, inputs: {as: matrix, name: x, datatype: FP32, columns: \
         ['origin_stats:conv_rate', 'dest_stats:conv_rate']}",
    )
    .unwrap();
    let joins = &config.models[0].joins;
    assert_eq!(joins[0].view, joins[1].view);
    assert_eq!((&joins[0].sources[..], &joins[1].sources[..]), (&["origin_id".into()][..], &["dest_id".into()][..]));
    let said = joined("features: {service: aliased_svc}").unwrap_err();
    assert_eq!(
        said,
        [
            "models.m.features: two tensors named conv_rate; allowed: another name, written in inputs.columns as {name: …, from: \
          \"dest_stats:conv_rate\"}; given: a mapping with service (weir.yaml:3:24)"
        ]
    );
}

#[test]
fn a_view_without_entities_is_joined_without_a_join_key() {
    let config = joined("features: [{view: global_stats, join: {}}]").unwrap();
    assert!(config.models[0].joins[0].sources.is_empty());
    let config = joined("features: [{view: global_stats, join: {__dummy_id: x}}]").unwrap();
    assert_eq!(config.models[0].joins[0].sources, [Arc::from("x")], "files that are older than this name it");
}

#[test]
fn what_a_model_cannot_join_is_said_in_words() {
    let said = |features: &str| joined(features).unwrap_err().join("\n");
    assert_eq!(
        said("features: {service: odfv_svc}"),
        "models.m.features.service: not served: its view driver_odfv is not served: an on-demand feature view, which takes Python \
         to compute; allowed: a service that is; given: odfv_svc (weir.yaml:3:34)"
    );
    assert_eq!(
        said("features: {service: driver_src}"),
        "models.m.features.service: no such service, did you mean `driver_svc`?; allowed: odfv_svc, driver_svc, user_item_svc, \
         precomp_svc, aliased_svc; given: driver_src (weir.yaml:3:34)"
    );
    assert_eq!(
        said("features: [{view: exotic, join: {driver_id: d}}]"),
        "models.m.features[0]: exotic:m is of a type that no tensor can hold; allowed: of exotic: j, u, dec; given: a mapping with \
         view, join (weir.yaml:3:25)"
    );
    assert!(joined("features: [{view: exotic, join: {driver_id: d}, select: [j]}]").is_ok());
    let matrix = "inputs: {as: matrix, name: x, datatype: FP32, columns: ['user_profile:emb']}";
    assert!(
        said(&format!("features: [{{view: user_profile, join: {{user_id: u}}}}], {matrix}"))
            .starts_with("models.m.inputs.columns[0]: a list of unknown length"),
    );
    let no_registry =
        file("pools: {p: {endpoints: [http://h:1]}}\nmodels: {m: {features: {service: s}}}", Supplied::Nothing("x"));
    assert_eq!(
        no_registry.unwrap_err(),
        [
            "models.m.features.service: a service without a registry; allowed: a service of `features.registry`, or a list of views; \
          given: s (weir.yaml:2:34)"
        ]
    );
}

#[test]
fn a_registry_that_cannot_be_read_is_the_only_problem() {
    let text = model("features: {service: driver_svc}, inputs: {as: columns, columns: ['driver_stats:tier']}");
    assert_eq!(
        file(&text, Supplied::Nothing("no such bucket")).unwrap_err(),
        [
            "features.registry: cannot be read: no such bucket; allowed: s3://bucket/key, gs://bucket/key, az://container/key, \
          file:///path, or a path on this machine; given: /r.db (weir.yaml:2:22)"
        ]
    );
    assert_eq!(
        file(&text, Supplied::Bytes(b"")).unwrap_err(),
        ["features.registry: not a Feast registry: no registry_schema_version in its 0 bytes; allowed: a serialized \
          feast.core.Registry, as `feast apply` writes it; given: /r.db (weir.yaml:2:22)"]
    );
    let views = "{v: {entities: {a: INT64}, features: {f: {type: INT32}}}}";
    let said = file(
        &format!("features: {{registry: ftp://x/y, registry_refresh: 10ms, views: {views}}}"),
        Supplied::Bytes(BYTES),
    );
    assert_eq!(
        said.unwrap_err(),
        [
            "features.registry: beside `views`; allowed: the registry's views or the file's own, not both; given: ftp://x/y \
             (weir.yaml:1:22)",
            "features.registry: ftp:// is not an object store; allowed: s3://bucket/key, gs://bucket/key, az://container/key, \
             file:///path, or a path on this machine; given: ftp://x/y (weir.yaml:1:22)",
            "features.registry_refresh: too short; allowed: 1s or more; given: 10ms (weir.yaml:1:51)",
        ]
    );
}

#[test]
fn a_tag_says_how_a_views_rows_are_kept() {
    let tagged = |value: &str| {
        let tag = ("weir.consistency".to_owned(), value.to_owned());
        with(|registry| spec(registry, "driver_stats").tags = [tag, ("team".into(), "x".into())].into())
    };
    assert_eq!(view(&contents(), "driver_stats").consistency, Consistency::Ttl);
    for (value, expected) in
        [("ttl", Consistency::Ttl), ("write_through", Consistency::WriteThrough), ("immutable", Consistency::Immutable)]
    {
        assert_eq!(view(&tagged(value), "driver_stats").consistency, expected);
    }
    assert_eq!(
        reason(&tagged("strong"), "driver_stats"),
        "its tag weir.consistency is \"strong\"; allowed: ttl (what it is without), write_through, immutable"
    );
    let stream = with(|registry| {
        let plain = spec(registry, "driver_stats").clone();
        let spec = StreamFeatureViewSpec {
            name: "streamed".into(),
            project: plain.project,
            features: plain.features,
            entity_columns: plain.entity_columns,
            tags: [("weir.consistency".into(), "write_through".into())].into(),
            ..StreamFeatureViewSpec::default()
        };
        registry.stream_feature_views.push(StreamFeatureView { spec: Some(spec), meta: None });
    });
    assert_eq!(view(&stream, "streamed").consistency, Consistency::WriteThrough);
}
