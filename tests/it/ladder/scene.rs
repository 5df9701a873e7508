//! What the ladder's tests stand on: a model server whose mood a test turns, and one request in every protocol.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use ::weir::proto::inference as pb;
use prost::Message;
use serde_json::{Value, json};

use crate::{
    faults::answers,
    support::{
        Weir,
        faulty_model::{Blackhole, FaultyModel, Refusing},
        grpc::{SERVICE, raw_input},
        hand::read_request,
        http1,
        process::await_some,
    },
};

pub(crate) const PROTOCOLS: [&str; 4] = ["v1", "v2 json", "v2 binary", "grpc"];

/// How long a busy machine may take to come to what it must come to.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A protocol as part of a name.
pub(crate) fn tag(protocol: &str) -> String {
    protocol.replace(' ', "-")
}

/// A model server of one protocol that does what its mood says: a fault of the fault table, or `none`.
pub(crate) struct Moody {
    protocol: &'static str,
    model: FaultyModel,
    health: FaultyModel,
    mood: Arc<Mutex<&'static str>>,
}

/// A gateway before a model of each protocol, whose predictions are kept.
pub(crate) fn caching(models: &[Moody; 4]) -> Weir {
    let (mut pools, mut entries) = (String::new(), String::new());
    for (name, model) in PROTOCOLS.map(tag).into_iter().zip(models) {
        pools += &model.pool(&name, "");
        entries += &format!("  {name}: {{pool: {name}, timeout: 20s, cache: {{ttl: 1h}}}}\n");
    }
    Weir::start(&format!("pools:\n{pools}models:\n{entries}"))
}

impl Moody {
    /// One that is well.
    pub(crate) fn new(protocol: &'static str) -> Self {
        let mood = Arc::new(Mutex::new("none"));
        let current = mood.clone();
        let script = move |arrived| {
            let mood = *current.lock().expect("no holder panics");
            answers::script(mood, protocol).unwrap_or_else(|| panic!("no such fault: {mood}"))(arrived)
        };
        let model = FaultyModel::listen(answers::speaks(protocol), Arc::new(script));
        // Another listener answers the health check, so that it is not counted.
        Self { protocol, model, health: answers::good("v1"), mood }
    }

    /// One for each protocol.
    pub(crate) fn all() -> [Self; 4] {
        PROTOCOLS.map(Self::new)
    }

    pub(crate) fn turn(&self, mood: &'static str) {
        *self.mood.lock().expect("no holder panics") = mood;
    }

    pub(crate) fn endpoint(&self) -> String {
        let address = self.model.address();
        match self.protocol {
            "grpc" => format!("{{http: \"http://{}\", grpc: \"http://{address}\"}}", self.health.address()),
            _ => format!("\"http://{address}\""),
        }
    }

    pub(crate) fn server(&self) -> &FaultyModel {
        &self.model
    }

    pub(crate) fn arrivals(&self) -> usize {
        self.model.requests()
    }

    /// A pool of it, whose breaker counts no failures; no retries.
    pub(crate) fn pool(&self, name: &str, more: &str) -> String {
        pool(name, &[self.endpoint()], more)
    }
}

/// A pool whose breakers count no failures; no retries.
pub(crate) fn pool(name: &str, endpoints: &[String], more: &str) -> String {
    let breaker = if more.contains("breaker:") { "" } else { ", breaker: {failure_threshold: 100000}" };
    format!("  {name}: {{endpoints: [{}], retry: {{max_retries: 0}}{breaker}{more}}}\n", endpoints.join(", "))
}

/// A server that is not there yet: connections are refused, or lost.
pub(crate) enum Absent {
    Refused(Refusing),
    Blackhole(Blackhole),
}

impl Absent {
    /// What cannot be reached in that way; `None`: the fault is another one's.
    pub(crate) fn with(fault: &str) -> Option<Self> {
        match fault {
            "refused" => Some(Self::Refused(Refusing::bind())),
            "blackhole" => Some(Self::Blackhole(Blackhole::open())),
            _ => None,
        }
    }

    pub(crate) fn endpoint(&self, protocol: &str, health: &FaultyModel) -> String {
        let address = match self {
            Self::Refused(refusing) => refusing.address(),
            Self::Blackhole(hole) => hole.address(),
        };
        match protocol {
            "grpc" => format!("{{http: \"http://{}\", grpc: \"http://{address}\"}}", health.address()),
            _ => format!("\"http://{address}\""),
        }
    }

    /// From now on it is there, and well.
    pub(crate) fn arrives(self, protocol: &str) -> FaultyModel {
        let listener = match self {
            Self::Refused(refusing) => refusing.into_listener(),
            Self::Blackhole(hole) => hole.into_listener(),
        };
        answers::good_on(listener, protocol)
    }
}

/// One row of a request.
pub(crate) type Row = (i64, f64);

/// What a caller was told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// The HTTP status, which a gRPC code stands for.
    pub(crate) status: u16,
    pub(crate) level: String,
    pub(crate) degraded: String,
    pub(crate) caches: String,
    pub(crate) retry_after: Option<u64>,
    /// The first output, a row each; of an error nothing.
    pub(crate) scores: Vec<f64>,
    /// All of the answer that is text.
    pub(crate) text: String,
}

/// Sends these rows to a model.
#[track_caller]
pub(crate) fn ask(weir: &Weir, protocol: &str, model: &str, rows: &[Row]) -> Told {
    ask_with(weir, protocol, (model, &[]), rows)
}

/// The same, with headers.
#[track_caller]
pub(crate) fn ask_with(weir: &Weir, protocol: &str, (model, headers): (&str, &[(&str, &str)]), rows: &[Row]) -> Told {
    if protocol == "grpc" { call(weir, model, headers, rows) } else { post(weir, protocol, (model, headers), rows) }
}

/// The same requests at once, one connection each.
pub(crate) fn burst(weir: &Weir, protocol: &str, model: &str, count: usize) -> Vec<Told> {
    thread::scope(|scope| {
        let asked: Vec<_> = (0..count).map(|_| scope.spawn(|| ask(weir, protocol, model, &[(1, 1.0)]))).collect();
        asked.into_iter().map(|asked| asked.join().expect("it is answered")).collect()
    })
}

/// Does something for each protocol at once.
pub(crate) fn each(of: impl Fn(&'static str) + Sync) {
    thread::scope(|scope| {
        let (of, mut running) = (&of, Vec::new());
        for protocol in PROTOCOLS {
            running.push((protocol, scope.spawn(move || of(protocol))));
        }
        for (protocol, run) in running {
            assert!(run.join().is_ok(), "{protocol}: see above");
        }
    });
}

fn json_of(protocol: &str, rows: &[Row]) -> (Value, Vec<u8>) {
    let users: Vec<i64> = rows.iter().map(|row| row.0).collect();
    let amounts: Vec<f64> = rows.iter().map(|row| row.1).collect();
    match protocol {
        "v1" => {
            let instance = |row: &Row| json!({"user_id": row.0, "amount": row.1});
            (json!({"instances": rows.iter().map(instance).collect::<Vec<_>>()}), Vec::new())
        }
        "v2 json" => (
            json!({"inputs": [
                {"name": "user_id", "datatype": "INT64", "shape": [rows.len()], "data": users},
                {"name": "amount", "datatype": "FP64", "shape": [rows.len()], "data": amounts},
            ]}),
            Vec::new(),
        ),
        _ => {
            let size = json!({"binary_data_size": 8 * rows.len()});
            let json = json!({"parameters": {"binary_data_output": true}, "inputs": [
                {"name": "user_id", "datatype": "INT64", "shape": [rows.len()], "parameters": size},
                {"name": "amount", "datatype": "FP64", "shape": [rows.len()], "parameters": size},
            ]});
            (json, [raw(&users, i64::to_le_bytes), raw(&amounts, f64::to_le_bytes)].concat())
        }
    }
}

fn raw<T: Copy>(values: &[T], bytes: impl Fn(T) -> [u8; 8]) -> Vec<u8> {
    values.iter().flat_map(|value| bytes(*value)).collect()
}

#[track_caller]
fn post(weir: &Weir, protocol: &str, (model, headers): (&str, &[(&str, &str)]), rows: &[Row]) -> Told {
    let path = match protocol {
        "v1" => format!("/v1/models/{model}:predict"),
        _ => format!("/v2/models/{model}/infer"),
    };
    let (json, tail) = json_of(protocol, rows);
    let json = json.to_string();
    let length = json.len().to_string();
    let fields: &[_] = match protocol {
        "v2 binary" => {
            &[("content-type", "application/octet-stream"), ("inference-header-content-length", length.as_str())]
        }
        _ => &[("content-type", "application/json")],
    };
    let answer = weir.connect().request("POST", &path, &[fields, headers].concat(), &[json.as_bytes(), &tail].concat());
    let header = |name| answer.header(name);
    let head = header("inference-header-content-length").map_or(answer.body.len(), |n| n.parse().expect("a length"));
    let (json, binary) = answer.body.split_at(head);
    let value: Value = serde_json::from_slice(json).unwrap_or_default();
    Told {
        status: answer.status,
        level: header("weir-level").unwrap_or_default(),
        degraded: header("weir-degraded").unwrap_or_default(),
        caches: header("cache-status").unwrap_or_default(),
        retry_after: header("retry-after").map(|text| text.parse().expect("seconds")),
        scores: if binary.is_empty() { numbers(&value) } else { floats(&binary[..first_length(&value)]) },
        text: String::from_utf8_lossy(json).into_owned(),
    }
}

/// The predictions of V1, or the first output's data; of objects, their first number.
fn numbers(value: &Value) -> Vec<f64> {
    let rows = value.get("predictions").or_else(|| value.get("outputs")?.get(0)?.get("data"));
    let number = |row: &Value| row.as_f64().or_else(|| row.get("score")?.as_f64());
    rows.and_then(Value::as_array).into_iter().flatten().filter_map(number).collect()
}

/// Of the binary data, what is the first output's.
fn first_length(value: &Value) -> usize {
    let length = value["outputs"][0]["parameters"]["binary_data_size"].as_u64().expect("it says how long it is");
    usize::try_from(length).expect("short")
}

fn floats(raw: &[u8]) -> Vec<f64> {
    raw.chunks_exact(4).map(|four| f64::from(f32::from_le_bytes(four.try_into().expect("four bytes")))).collect()
}

#[track_caller]
fn call(weir: &Weir, model: &str, headers: &[(&str, &str)], rows: &[Row]) -> Told {
    let shape = [i64::try_from(rows.len()).expect("few rows")];
    let users: Vec<i64> = rows.iter().map(|row| row.0).collect();
    let amounts: Vec<f64> = rows.iter().map(|row| row.1).collect();
    let request = pb::ModelInferRequest {
        model_name: model.into(),
        inputs: vec![raw_input("user_id", "INT64", &shape), raw_input("amount", "FP64", &shape)],
        raw_input_contents: vec![raw(&users, i64::to_le_bytes).into(), raw(&amounts, f64::to_le_bytes).into()],
        ..Default::default()
    };
    let answer = weir.connect_grpc().call_raw(&format!("{SERVICE}/ModelInfer"), &request.encode_to_vec(), headers);
    let message = answer.message.clone().map(|bytes| pb::ModelInferResponse::decode(bytes).expect("it decodes"));
    let first = message.as_ref().and_then(|message| message.raw_output_contents.first());
    Told {
        status: status_of(answer.status()),
        level: answer.metadata("weir-level").unwrap_or_default(),
        degraded: answer.metadata("weir-degraded").unwrap_or_default(),
        caches: answer.metadata("cache-status").unwrap_or_default(),
        retry_after: answer.metadata("retry-after").map(|text| text.parse().expect("seconds")),
        scores: first.map_or_else(Vec::new, |raw| floats(raw)),
        text: format!("{}{message:?}", answer.text()),
    }
}

fn status_of(code: u32) -> u16 {
    match code {
        0 => 200,
        3 => 400,
        4 => 504,
        5 => 404,
        8 => 429,
        13 => 500,
        14 => 503,
        other => panic!("code {other} is not expected anywhere here"),
    }
}

/// Where a model stands, as the admin API shows it.
#[track_caller]
pub(crate) fn standing(weir: &Weir, model: &str) -> Value {
    http1::get(weir.admin(), "/admin/v1/levels").expect(200).json()[model].take()
}

/// Waits until a model stands there, for this reason.
#[track_caller]
pub(crate) fn await_standing(weir: &Weir, model: &str, level: u64, reasons: &[&str]) {
    await_some(&format!("{model} at level {level} because of {reasons:?}"), PATIENCE, || {
        let state = standing(weir, model);
        (state["level"] == level && state["reasons"] == json!(reasons)).then_some(())
    });
}

/// What the log says of a model's moves to this level, a line each.
pub(crate) fn moves(log: &str, what: &str, model: &str, reason: &str) -> usize {
    let (model, reason) = (format!("model={model} "), format!("reason=\"{reason}\""));
    log.lines().filter(|line| line.contains(what) && line.contains(&model) && line.contains(&reason)).count()
}

/// The page of an exporter of GPU memory, of which a test says how full it is.
pub(crate) struct Exporter {
    address: SocketAddr,
    shared: Arc<Page>,
}

struct Page {
    /// Percent, by scrape: the n-th has `percents[n % len]`.
    percents: Mutex<Vec<u64>>,
    scrapes: AtomicUsize,
}

impl Exporter {
    pub(crate) fn at(percents: &[u64]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let page = Page { percents: Mutex::new(percents.to_vec()), scrapes: AtomicUsize::new(0) };
        let shared = Arc::new(page);
        let serving = shared.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let page = serving.clone();
                thread::spawn(move || {
                    while read_request(&mut stream).is_some() {
                        let body = page.text();
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                        if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, shared }
    }

    /// From now on.
    pub(crate) fn fill(&self, percent: u64) {
        *self.shared.percents.lock().expect("no holder panics") = vec![percent];
    }

    pub(crate) fn scrapes(&self) -> usize {
        self.shared.scrapes.load(SeqCst)
    }

    /// The key of a pool.
    pub(crate) fn key(&self) -> String {
        format!(", gpu: {{metrics: \"http://{}/metrics\", interval: 50ms}}", self.address)
    }
}

impl Page {
    /// As DCGM's exporter writes it, of one GPU of 100 MiB.
    fn text(&self) -> String {
        let percents = self.percents.lock().expect("no holder panics");
        let used = percents[self.scrapes.fetch_add(1, SeqCst) % percents.len()];
        format!(
            "DCGM_FI_DEV_FB_USED{{gpu=\"0\",UUID=\"GPU-1\"}} {used}\nDCGM_FI_DEV_FB_FREE{{gpu=\"0\",UUID=\"GPU-1\"}} {}\n",
            100 - used
        )
    }
}
