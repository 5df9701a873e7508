//! The recorded answers of Feast's own server, given again; and the truth where it differs. On an embedded store that holds
//! the recorded database.

mod mistakes;
mod reads;
mod writes;

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, StatusCode};
use serde_json::Value as Json;
use tokio::time::Instant;

use super::{Server, allowed, api::Api};
use crate::{
    app::Tasks,
    config::{Compat, Config, Feature, Projection, PushSource, Service, View},
    features::{Store, online::Terms},
    infer::{Deadline, FeatureType, RequestId, Value, WorkerId, request::Caching},
    ingress::{
        body::ResponseBody,
        route::{Route, route},
    },
};

/// A server of the recorded repository.
struct Recorded {
    server: Server,
    store: Store,
}

/// An answer.
#[derive(Debug)]
struct Told {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Told {
    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn read(name: &str) -> Json {
    let path = format!("{}/tests/data/feast/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("digits")).collect()
}

fn hash(fields: &Json) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let fields = fields.as_object().expect("an object").iter();
    // Times have their own names, features those of four bytes.
    let name = |name: &str| if name.starts_with("_ts:") { name.as_bytes().to_vec() } else { unhex(name) };
    fields.map(|(field, value)| (name(field), unhex(value.as_str().expect("text")))).collect()
}

impl Recorded {
    async fn open(compat: Compat) -> Self {
        Self::with(compat, |_| {}).await
    }

    async fn with(compat: Compat, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(compat);
        change(&mut config);
        let store = Store::open(&config, Tasks::default()).await.expect("it opens");
        for entry in read("redis_dump.json")["keys"].as_array().expect("keys") {
            let fields = entry["hash"].as_object().expect("an object").iter();
            let fields = fields.map(|(field, value)| (unhex(field), unhex(value.as_str().expect("text")))).collect();
            store.embedded().set_hash(&unhex(entry["key_hex"].as_str().expect("text")), &fields);
        }
        Self { server: Server::new(&config), store }
    }

    async fn ask(&self, verb: &str, path: &str, headers: &[(&'static str, &str)], body: &[u8]) -> Told {
        let compat = self.server.catalog.compat;
        let (path, _query) = path.split_once('?').unwrap_or((path, ""));
        let header = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        let headers: HeaderMap = headers.iter().map(header).collect();
        let by = Deadline::after(Instant::now(), std::time::Duration::from_secs(30));
        let terms = Terms { worker: WorkerId(0), caching: Caching::Allowed, by };
        let response = match route(path) {
            Route::Feast(endpoint) => {
                let api = Api { catalog: &self.server.catalog, store: &self.store };
                let id = RequestId(HeaderValue::from_static("request-1"));
                let verb: Verb = verb.parse().expect("a method");
                let answered = match allowed(&verb, endpoint) {
                    Ok(()) => api.answer(endpoint, (&headers, body), terms, &id).await,
                    Err(refusal) => Err(refusal),
                };
                answered.unwrap_or_else(|refusal| refusal.response(compat))
            }
            _ => self.server.not_found(),
        };
        let (parts, body) = response.into_parts();
        let ResponseBody::Whole(body, None) = body else { panic!("a whole body") };
        let body = body.unwrap_or_default();
        Told { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).expect("UTF-8") }
    }

    async fn post(&self, path: &str, body: &Json) -> Told {
        self.ask("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes()).await
    }

    async fn online(&self, body: Json) -> Told {
        self.post("/get-online-features", &body).await
    }
}

/// The recorded registry's views, services and push source; what Weir cannot serve by name.
fn config(compat: Compat) -> Config {
    let registry = read("registry.json");
    let list = |json: &Json| json.as_array().expect("a list").clone();
    let text = |json: &Json| json.as_str().expect("text").to_owned();
    let mut yaml = String::from("features:\n  project: weir_demo\n  views:\n");
    for view in list(&registry["feature_views"]) {
        let spec = &view["spec"];
        yaml += &format!("    {}:\n      entities:\n", text(&spec["name"]));
        for column in list(&spec["entity_columns"]) {
            yaml += &format!("        {}: {}\n", text(&column["name"]), text(&column["value_type"]));
        }
        yaml += "      features:\n";
        for feature in list(&spec["features"]).iter().filter(|feature| feature["value_type"] != "MAP") {
            yaml += &format!("        {}: {{type: {}}}\n", text(&feature["name"]), text(&feature["value_type"]));
        }
        yaml += &format!("      max_age: {}\n", text(&spec["ttl"]));
    }
    let mut config = Config::parse(&yaml, "registry").unwrap_or_else(|problems| panic!("{problems}"));
    let features = &mut config.features;
    features.compat = compat;
    // A map's type has no place in a file's views; its values are read whatever they are declared as.
    let exotic = features.views.iter_mut().find(|view| &*view.name == "exotic").expect("a view");
    let map = Feature { name: "m".into(), kind: FeatureType::String, default: Value::Null, length: None };
    Arc::get_mut(exotic).expect("nobody else has it").features.push(map);
    for entity in list(&registry["entities"]) {
        let spec = &entity["spec"];
        features.entity_names.push((text(&spec["name"]).into(), text(&spec["join_key"]).into()));
    }
    for view in list(&registry["on_demand_feature_views"]) {
        let why = "an on-demand view needs Python";
        features.unserved.push((text(&view["spec"]["name"]).into(), why.into()));
    }
    let live = find(&features.views, "live").id;
    features.push_sources = vec![PushSource { name: "live_push".into(), views: vec![live] }];
    features.times[live.index()].created = Some("created".into());
    for service in list(&registry["feature_services"]) {
        let spec = &service["spec"];
        let projections = list(&spec["features"]);
        let known = |projection: &Json| {
            features.views.iter().any(|view| *view.name == *projection["feature_view_name"].as_str().expect("text"))
        };
        if !projections.iter().all(known) {
            features.unserved.push((text(&spec["name"]).into(), "it has on-demand views".into()));
            continue;
        }
        features.services.push(Service {
            name: text(&spec["name"]).into(),
            projections: projections.iter().map(|json| projection(&features.views, json)).collect(),
            precomputed: spec["precompute_online"] == true,
        });
    }
    config
}

fn find<'a>(views: &'a [Arc<View>], name: &str) -> &'a Arc<View> {
    views.iter().find(|view| *view.name == *name).expect("a view of that name")
}

fn projection(views: &[Arc<View>], json: &Json) -> Projection {
    let view = find(views, json["feature_view_name"].as_str().expect("text"));
    let called = |key: &str| json["join_key_map"][key].as_str().unwrap_or(key).into();
    let columns = json["feature_columns"].as_array().expect("a list").iter();
    Projection {
        view: view.id,
        alias: json["feature_view_name_alias"].as_str().filter(|alias| !alias.is_empty()).map(Into::into),
        columns: view.entities.iter().map(|(key, _)| called(key)).collect(),
        select: columns
            .map(|column| view.features.iter().position(|f| *f.name == *column["name"].as_str().unwrap()).unwrap())
            .collect(),
    }
}
