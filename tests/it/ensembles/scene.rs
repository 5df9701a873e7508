//! Members that answer as a test says, a file that names them, and what a caller is told.

use super::*;

pub(super) const PROTOCOLS: [&str; 4] = ["v1", "v2 json", "v2 binary", "grpc"];
/// What everybody is waited for, however busy the machine.
pub(super) const FAR: &str = "20s";

/// What a model answers: a status (HTTP, or gRPC's code) and a tensor `y` of these values.
#[derive(Clone)]
pub(super) struct Says {
    pub(super) protocol: &'static str,
    pub(super) status: u16,
    pub(super) values: Vec<f32>,
}

pub(super) fn says(protocol: &'static str, values: &[f32]) -> Says {
    Says { protocol, status: if protocol == "grpc" { 0 } else { 200 }, values: values.to_vec() }
}

impl Says {
    pub(super) fn body(&self) -> (Vec<u8>, String) {
        let (values, length) = (&self.values, self.values.len());
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        match self.protocol {
            "v1" => (json!({"predictions": values}).to_string().into(), String::new()),
            "v2 json" => {
                let output = json!({"name": "y", "datatype": "FP32", "shape": [length], "data": values});
                (
                    json!({"model_name": "member", "id": "members", "outputs": [output]}).to_string().into(),
                    String::new(),
                )
            }
            "v2 binary" => {
                let parameters = json!({"binary_data_size": raw.len()});
                let output = json!({"name": "y", "datatype": "FP32", "shape": [length], "parameters": parameters});
                let json = json!({"model_name": "member", "id": "members", "outputs": [output]}).to_string();
                let field = format!("inference-header-content-length: {}\r\n", json.len());
                ([json.as_bytes(), &raw].concat(), field)
            }
            _ => {
                let output = pb::model_infer_response::InferOutputTensor {
                    name: "y".into(),
                    datatype: "FP32".into(),
                    shape: vec![i64::try_from(length).expect("few")],
                    ..Default::default()
                };
                let message = pb::ModelInferResponse {
                    model_name: "member".into(),
                    id: "members".into(),
                    outputs: vec![output],
                    raw_output_contents: vec![raw.into()],
                    ..Default::default()
                };
                (framed(&message.encode_to_vec()), String::new())
            }
        }
    }

    pub(super) fn model(self) -> FaultyModel {
        let (body, field) = self.body();
        self.answering(&body, &field)
    }

    /// A model that answers with another body.
    pub(super) fn answering(&self, body: &[u8], field: &str) -> FaultyModel {
        let status = self.status;
        if self.protocol == "grpc" {
            let body = body.to_vec();
            return scripted(Speaks::Http2, move |stream| {
                let answer = head(stream, &[(":status", "200"), ("content-type", "application/grpc")]);
                let trailers = last_head(stream, &[("grpc-status", &status.to_string())]);
                vec![Send(answer), Send(data(stream, &body)), Send(trailers)]
            });
        }
        let head = format!(
            "HTTP/1.1 {status} so\r\ncontent-type: application/json\r\n{field}content-length: {}\r\n\r\n",
            body.len()
        );
        let answer = [head.as_bytes(), body].concat();
        scripted(Speaks::Http1, move |_| vec![Send(answer.clone())])
    }
}

pub(super) fn scripted(
    speaks: Speaks,
    steps: impl Fn(u32) -> Vec<Step> + std::marker::Send + Sync + 'static,
) -> FaultyModel {
    FaultyModel::listen(speaks, Arc::new(move |at| steps(at.stream)))
}

pub(super) fn speaks(protocol: &str) -> Speaks {
    if protocol == "grpc" { Speaks::Http2 } else { Speaks::Http1 }
}

/// A config file being written: a pool and a model of one name for each server.
#[derive(Default)]
pub(super) struct File {
    pub(super) pools: String,
    pub(super) models: String,
    /// Answer health checks over HTTP for those that speak gRPC only.
    pub(super) health: Vec<FaultyModel>,
}

impl File {
    pub(super) fn server(&mut self, name: &str, protocol: &str, address: impl std::fmt::Display) {
        let endpoint = if protocol == "grpc" {
            self.health.push(answers::good("v1"));
            format!("{{http: \"http://{}\", grpc: \"http://{address}\"}}", self.health[self.health.len() - 1].address())
        } else {
            format!("\"http://{address}\"")
        };
        let keys = "health: {interval: 1h}, retry: {max_retries: 0}";
        writeln!(self.pools, "  {name}: {{endpoints: [{endpoint}], {keys}}}").expect("a string takes anything");
        writeln!(self.models, "  {name}: {{pool: {name}, timeout: {FAR}}}").expect("a string takes anything");
    }

    pub(super) fn model(&mut self, name: &str, keys: &str) {
        writeln!(self.models, "  {name}: {{{keys}}}").expect("a string takes anything");
    }

    pub(super) fn start(&self, more: &str) -> Weir {
        Weir::unready(&format!("pools:\n{}models:\n{}{more}", self.pools, self.models), &[])
    }
}

/// What the caller is told.
#[derive(Debug, PartialEq)]
pub(super) struct Told {
    pub(super) status: u32,
    pub(super) level: String,
    pub(super) degraded: Option<String>,
    pub(super) values: Vec<f64>,
    /// The model and the request's id, where the protocol says them.
    pub(super) names: Option<(String, String)>,
}

pub(super) fn ask(weir: &Weir, protocol: &str, model: &str) -> Told {
    if protocol == "grpc" { call(weir, model) } else { post(weir, protocol, model) }
}

pub(super) fn call(weir: &Weir, model: &str) -> Told {
    let request = pb::ModelInferRequest {
        model_name: model.into(),
        id: "mine".into(),
        inputs: vec![raw_input("x", "FP32", &[1])],
        raw_input_contents: vec![1f32.to_le_bytes().to_vec().into()],
        ..Default::default()
    };
    let answer = Grpc::connect(weir.grpc()).infer(&request);
    let said = (answer.status() == 0).then(|| answer.decode::<pb::ModelInferResponse>());
    let raw = said.iter().flat_map(|said| &said.raw_output_contents);
    let floats = raw.flat_map(|raw| raw.chunks(4).map(|four| f32::from_le_bytes(four.try_into().expect("four"))));
    Told {
        status: answer.status(),
        level: answer.metadata("weir-level").expect("every answer has one"),
        degraded: answer.metadata("weir-degraded"),
        values: floats.map(f64::from).collect(),
        names: said.as_ref().map(|said| (said.model_name.clone(), said.id.clone())),
    }
}

pub(super) fn post(weir: &Weir, protocol: &str, model: &str) -> Told {
    let input = |more: Value| {
        let mut input = json!({"name": "x", "datatype": "FP32", "shape": [1]});
        input.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({"id": "mine", "inputs": [input], "parameters": {"binary_data_output": protocol == "v2 binary"}})
            .to_string()
    };
    let v2 = format!("/v2/models/{model}/infer");
    let (path, json, tail) = match protocol {
        "v1" => (format!("/v1/models/{model}:predict"), json!({"instances": [1.0]}).to_string(), Vec::new()),
        "v2 json" => (v2, input(json!({"data": [1.0]})), Vec::new()),
        _ => (v2, input(json!({"parameters": {"binary_data_size": 4}})), 1f32.to_le_bytes().to_vec()),
    };
    let length = json.len().to_string();
    // Answers that are not compressed are asked for, or nobody could combine them.
    let mut fields = vec![("content-type", "application/json"), ("accept-encoding", "gzip")];
    if protocol == "v2 binary" {
        fields = vec![("content-type", "application/octet-stream"), ("inference-header-content-length", &*length)];
    }
    let answer = weir.connect().request("POST", &path, &fields, &[json.as_bytes(), &tail].concat());
    let json_length = answer.header("inference-header-content-length").map(|length| length.parse().expect("a length"));
    let (json, raw) = answer.body.split_at(json_length.unwrap_or(answer.body.len()));
    let said: Value = serde_json::from_slice(json).unwrap_or_default();
    let values = if json_length.is_some() {
        raw.chunks(4).map(|four| f64::from(f32::from_le_bytes(four.try_into().expect("four")))).collect()
    } else {
        let numbers = said["predictions"].as_array().or_else(|| said["outputs"][0]["data"].as_array());
        numbers.into_iter().flatten().filter_map(Value::as_f64).collect()
    };
    let text = |key: &str| said[key].as_str().map(str::to_owned);
    Told {
        status: u32::from(answer.status),
        level: answer.header("weir-level").expect("every answer has one"),
        degraded: answer.header("weir-degraded"),
        values,
        names: text("model_name").zip(text("id")),
    }
}

pub(super) fn good(protocol: &str) -> u32 {
    if protocol == "grpc" { 0 } else { 200 }
}
