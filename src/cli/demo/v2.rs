//! The sample server's V2 bodies: JSON, and JSON followed by binary tensors, in both directions.
//!
//! It is a model server of its own and shares no code with the gateway, so that a mistake in one does not hide in the
//! other. It reads whole bodies into a tree, as nothing here is meant to be fast.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::model::{DATATYPE, Model, OUTPUT, Refusal, VERSION};

/// The header that tells where the JSON of a body ends and its binary tensors begin.
pub(super) const HEADER_LENGTH: &str = "inference-header-content-length";

/// A V2 answer's body.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    /// The JSON's length, where binary data follows it.
    pub(super) header_length: Option<usize>,
}

#[derive(Deserialize)]
struct Request {
    id: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
    inputs: Vec<Tensor>,
    #[serde(default)]
    outputs: Vec<RequestedOutput>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: Map<String, Value>,
    data: Option<Value>,
}

#[derive(Deserialize)]
struct RequestedOutput {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// Answers one V2 request; `header_length` is the value of [`HEADER_LENGTH`].
pub(super) fn infer(model: &Model, body: &[u8], header_length: Option<usize>) -> Result<Answer, Refusal> {
    let (header, binary) = body
        .split_at_checked(header_length.unwrap_or(body.len()))
        .ok_or_else(|| Refusal::Invalid(format!("{HEADER_LENGTH} is beyond the body's {} bytes", body.len())))?;
    let request: Request = serde_json::from_slice(header).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let (tensor, data) = find_input(model, &request.inputs, binary)?;
    let scores = model.infer(&tensor.datatype, &tensor.shape, &data)?;
    let form = output_form(&request)?;
    Ok(encode(model, request.id, &scores, form))
}

/// The model's input and its elements. Walks all tensors, since binary data is found by the sizes before it.
fn find_input<'a>(model: &Model, tensors: &'a [Tensor], mut binary: &[u8]) -> Result<(&'a Tensor, Vec<f32>), Refusal> {
    let mut found = None;
    for tensor in tensors {
        let mut raw = None;
        if let Some(size) = tensor.parameters.get("binary_data_size") {
            let size = size.as_u64().and_then(|size| usize::try_from(size).ok());
            let split = size.and_then(|size| binary.split_at_checked(size));
            let (own, rest) = split.ok_or_else(|| {
                Refusal::Invalid(format!("tensor {:?}: binary_data_size is beyond the body", tensor.name))
            })?;
            (raw, binary) = (Some(own), rest);
        }
        if tensor.name == model.input {
            let data = match (raw, &tensor.data) {
                (Some(raw), None) => from_raw(model, raw)?,
                (None, Some(data)) => from_json(model, data)?,
                _ => return Err(model.invalid("either data or binary_data_size is wanted")),
            };
            found = Some((tensor, data));
        }
    }
    if !binary.is_empty() {
        return Err(Refusal::Invalid(format!("{} bytes of binary data belong to no tensor", binary.len())));
    }
    found.ok_or_else(|| model.invalid("missing"))
}

/// Little-endian FP32 elements.
pub(super) fn from_raw(model: &Model, raw: &[u8]) -> Result<Vec<f32>, Refusal> {
    let (elements, rest) = raw.as_chunks::<4>();
    if rest.is_empty() {
        Ok(elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    } else {
        Err(model.invalid(&format!("{} bytes are not a whole number of FP32 elements", raw.len())))
    }
}

/// Numbers, flat or nested, in row-major order.
pub(super) fn from_json(model: &Model, data: &Value) -> Result<Vec<f32>, Refusal> {
    let mut elements = Vec::new();
    flatten(data, &mut elements).map_err(|other| model.invalid(&format!("a number is wanted, got {other}")))?;
    Ok(elements)
}

fn flatten<'a>(data: &'a Value, elements: &mut Vec<f32>) -> Result<(), &'a Value> {
    match data {
        Value::Array(items) => items.iter().try_for_each(|item| flatten(item, elements)),
        Value::Number(number) => {
            elements.push(number.as_f64().ok_or(data)? as f32);
            Ok(())
        }
        other => Err(other),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Json,
    Binary,
}

/// The form of the one output: its own `binary_data`, else the request's `binary_data_output`.
fn output_form(request: &Request) -> Result<Form, Refusal> {
    let mut binary = request.parameters.get("binary_data_output");
    for output in &request.outputs {
        if output.name != OUTPUT {
            return Err(Refusal::Invalid(format!("output {:?} does not exist; there is {OUTPUT:?}", output.name)));
        }
        binary = output.parameters.get("binary_data").or(binary);
    }
    Ok(if binary == Some(&Value::Bool(true)) { Form::Binary } else { Form::Json })
}

fn encode(model: &Model, id: Option<String>, scores: &[f32], form: Form) -> Answer {
    let mut output = json!({"name": OUTPUT, "datatype": DATATYPE, "shape": [scores.len()]});
    match form {
        Form::Json => output["data"] = json!(scores),
        Form::Binary => output["parameters"] = json!({"binary_data_size": size_of_val(scores)}),
    }
    let mut answer = json!({"model_name": model.name, "model_version": VERSION, "outputs": [output]});
    if let Some(id) = id {
        answer["id"] = Value::String(id);
    }
    let mut body = answer.to_string().into_bytes();
    let header_length = (form == Form::Binary).then_some(body.len());
    if header_length.is_some() {
        body.extend(scores.iter().flat_map(|score| score.to_le_bytes()));
    }
    Answer { body, header_length }
}
