//! MLflow's tracking server, with webhooks to receivers on this machine allowed.

use std::{net::SocketAddr, process::Command};

use serde_json::{Value, json};

use super::{
    http1::{self, Http1},
    parts,
    process::{Folder, Spawned, free_port, loopback},
};

/// A running server.
pub(crate) struct Mlflow {
    port: u16,
    _process: Spawned,
    _folder: Folder,
}

impl Mlflow {
    /// Starts one; some ten seconds.
    pub(crate) fn start() -> Self {
        let (folder, port) = (Folder::new("mlflow"), free_port());
        let mut command = Command::new(parts::python("mlflow"));
        command
            .args(["-m", "mlflow", "server", "--backend-store-uri", "sqlite:///mlflow.db", "--workers", "1"])
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .envs([
                ("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http,https"),
                ("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true"),
                // What was heard of a webhook's absence is not kept for a minute.
                ("MLFLOW_WEBHOOK_CACHE_TTL", "1"),
                ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),
                ("MLFLOW_DISABLE_TELEMETRY", "true"),
            ])
            .current_dir(folder.path());
        let mut process = Spawned::start("mlflow", &mut command, folder.path());
        process.ready("/health", |_| (http1::try_get(loopback(port), "/health")? == 200).then_some(()));
        Self { port, _process: process, _folder: folder }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// A call of its REST API.
    #[track_caller]
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let path = format!("/api/2.0/mlflow/{path}");
        let json = [("content-type", "application/json")];
        Http1::connect(self.address()).request(method, &path, &json, body.to_string().as_bytes()).expect(200).json()
    }

    /// Registers a model with that many versions.
    pub(crate) fn register(&self, name: &str, versions: u32) {
        self.call("POST", "registered-models/create", &json!({"name": name}));
        for version in 1..=versions {
            let source = format!("s3://models/{name}/{version}");
            self.call("POST", "model-versions/create", &json!({"name": name, "source": source}));
        }
    }

    /// Sets or moves an alias.
    pub(crate) fn promote(&self, name: &str, alias: &str, version: u32) {
        let body = json!({"name": name, "alias": alias, "version": version.to_string()});
        self.call("POST", "registered-models/alias", &body);
    }

    /// A webhook for what is done to aliases; its id.
    pub(crate) fn webhook(&self, url: &str, secret: &str) -> String {
        let event = |action: &str| json!({"entity": "MODEL_VERSION_ALIAS", "action": action});
        let body = json!({
            "name": "weir", "url": url, "secret": secret, "status": "ACTIVE", "events": [event("CREATED"), event("DELETED")],
        });
        let made = self.call("POST", "webhooks", &body);
        made["webhook"]["webhook_id"].as_str().expect("an id").to_owned()
    }
}
