//! What the demo prints: what is listening, and commands to paste.
//!
//! Every command is plain POSIX shell that needs no file. The first one that names the example's user finds the features
//! in the lookup files (L3), so no line before it may name them.

use std::{
    fmt::{self, Display},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use super::{
    data::{MERCHANTS, USERS},
    settings::Listen,
};

macro_rules! v2_body {
    ($user:literal) => {
        concat!(
            r#"{"inputs":[{"name":"amount","datatype":"FP32","shape":[1],"data":[129.5]},"#,
            r#"{"name":"user_id","datatype":"INT64","shape":[1],"data":["#,
            $user,
            r#"]},{"name":"merchant_id","datatype":"BYTES","shape":[1],"data":["m_42"]}]}"#
        )
    };
}

const V2_BODY: &str = v2_body!(1001);

const UNKNOWN_USER: &str = v2_body!(999_999);

/// The same amount, spent by a user in a burst at a shop with chargebacks, and by one without.
const V1_BODY: &str = concat!(
    r#"{"instances":[{"amount":480.0,"user_id":13,"merchant_id":"m_15"},"#,
    r#"{"amount":480.0,"user_id":8,"merchant_id":"m_4"}]}"#
);

/// `bV80Mg==` is `m_42`: JSON carries protobuf bytes as Base64.
const GRPC_BODY: &str = concat!(
    r#"{"model_name":"fraud-detector","inputs":["#,
    r#"{"name":"amount","datatype":"FP32","shape":[1],"contents":{"fp32_contents":[129.5]}},"#,
    r#"{"name":"user_id","datatype":"INT64","shape":[1],"contents":{"int64_contents":[1001]}},"#,
    r#"{"name":"merchant_id","datatype":"BYTES","shape":[1],"contents":{"bytes_contents":["bV80Mg=="]}}]}"#
);

/// Everything the guide tells about one running demo.
#[derive(Debug)]
pub(super) struct Guide<'a> {
    /// Where the gateway listens, with real ports.
    pub(super) listen: Listen,
    /// The sample models' HTTP and gRPC.
    pub(super) models: (SocketAddr, SocketAddr),
    pub(super) folder: &'a Path,
    pub(super) config: &'a Path,
    /// Sentences on ports that were taken.
    pub(super) moved: Vec<String>,
}

/// A command and what it shows.
#[derive(Debug)]
pub(super) struct Example {
    pub(super) shows: &'static str,
    pub(super) command: String,
}

impl Guide<'_> {
    /// The commands, in the order to paste them.
    pub(super) fn examples(&self) -> Vec<Example> {
        let http = reachable(self.listen.http);
        let post = |path: &str, body: &str| {
            format!("curl -i http://{http}{path} -H 'content-type: application/json' -d '{body}'")
        };
        let get = |address: SocketAddr, path: &str| format!("curl http://{address}{path}");
        let example = |shows, command| Example { shows, command };
        let score = post("/v2/models/fraud-detector/infer", V2_BODY);
        vec![
            example("Score a payment (V2). Look for cache-status: weir-l3; hit", score.clone()),
            example("The same line again. Now cache-status: weir-l1; hit", score),
            example(
                "One amount, two users: the features decide (V1)",
                post("/v1/models/fraud-detector:predict", V1_BODY),
            ),
            example(
                "Nobody knows this user. Defaults, and weir-degraded says so",
                post("/v2/models/fraud-detector/infer", UNKNOWN_USER),
            ),
            example("What the model is", get(http, "/v2/models/fraud-detector")),
            example("What was measured", get(reachable(self.listen.admin), "/metrics")),
            example(
                "The same over gRPC, where grpcurl is installed",
                format!(
                    "grpcurl -v -plaintext -d '{GRPC_BODY}' {} inference.GRPCInferenceService/ModelInfer",
                    reachable(self.listen.grpc)
                ),
            ),
        ]
    }
}

impl Display for Guide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (models_http, models_grpc) = self.models;
        for sentence in &self.moved {
            writeln!(f, "{sentence}")?;
        }
        writeln!(f, "Weir {} is running, with everything it needs in this process:\n", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "  HTTP and gRPC  http://{}", self.listen.http)?;
        writeln!(f, "  gRPC           {}", self.listen.grpc)?;
        writeln!(f, "  admin          http://{}", self.listen.admin)?;
        writeln!(f, "  sample models  http://{models_http} and gRPC {models_grpc}: fraud-detector, fraud-lite")?;
        writeln!(f, "  features       {USERS} users, {MERCHANTS} merchants, in {}", self.folder.display())?;
        writeln!(f, "  config         {}\n", self.config.display())?;
        writeln!(f, "Paste these, in this order:\n")?;
        for Example { shows, command } in self.examples() {
            writeln!(f, "  # {shows}\n  {command}\n")?;
        }
        writeln!(f, "Ctrl-C ends it and removes the folder.")
    }
}

/// An address that a client on this machine can use: a wildcard is no destination.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn guide() -> Guide<'static> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Guide {
            listen: Listen {
                http: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
                grpc: local(8081),
                admin: local(9090),
            },
            models: (local(1), local(2)),
            folder: Path::new("/tmp/x"),
            config: Path::new("/tmp/x/weir.yaml"),
            moved: vec!["Port 8080 is taken.".into()],
        }
    }

    #[test]
    fn the_bodies_are_json_that_needs_no_escaping() {
        for body in [V1_BODY, V2_BODY, UNKNOWN_USER, GRPC_BODY] {
            assert!(!body.contains('\''), "{body}");
            serde_json::from_str::<Value>(body).unwrap();
        }
    }

    #[test]
    fn the_shell_takes_every_command_apart_as_meant() {
        for example in guide().examples() {
            // `set --` keeps the words and runs nothing.
            let script = format!("set -- {}\nfor word; do printf '%s\\n' \"$word\"; done", example.command);
            let output = std::process::Command::new("sh").args(["-euc", &script]).output().unwrap();
            let words = String::from_utf8(output.stdout).unwrap();
            let words: Vec<_> = words.lines().collect();
            assert!(["curl", "grpcurl"].contains(&words[0]), "{words:?}");
            assert!(words.iter().any(|word| word.contains("127.0.0.1:")), "{words:?}");
            if let Some(at) = words.iter().position(|word| *word == "-d") {
                serde_json::from_str::<Value>(words[at + 1]).unwrap();
            }
        }
    }

    #[test]
    fn it_tells_what_listens_and_what_was_taken() {
        let text = guide().to_string();
        assert!(text.starts_with("Port 8080 is taken.\n"), "{text}");
        assert!(text.contains("/tmp/x/weir.yaml") && text.contains("http://127.0.0.1:9090"), "{text}");
        assert!(text.matches("  curl ").count() >= 3, "{text}");
    }
}
