//! For tests: requests built and bodies read by other means than the ones under test.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message;
use serde_json::{json, value::RawValue};

use crate::infer::{
    Datatype, Value,
    decoded::proto::{Choice, InferTensor, InferTensorContents, ModelInferRequest, RequestedOutput},
};

/// One element as bits and bytes, so that NaN equals itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Element {
    Bool(bool),
    Int(i64),
    Single(u32),
    Double(u64),
    Bytes(Vec<u8>),
}

/// The `index`th element of a value.
pub(super) fn element(value: &Value, index: usize) -> Element {
    match value {
        Value::Bytes(v) => Element::Bytes(v.to_vec()),
        Value::String(v) => Element::Bytes(v.as_bytes().to_vec()),
        Value::Int32(v) => Element::Int(i64::from(*v)),
        Value::Int64(v) | Value::UnixTimestamp(v) => Element::Int(*v),
        Value::Double(v) => Element::Double(v.to_bits()),
        Value::Float(v) => Element::Single(v.to_bits()),
        Value::Bool(v) => Element::Bool(*v),
        Value::BytesList(v) => Element::Bytes(v[index].to_vec()),
        Value::StringList(v) => Element::Bytes(v[index].as_bytes().to_vec()),
        Value::Int32List(v) => Element::Int(i64::from(v[index])),
        Value::Int64List(v) | Value::UnixTimestampList(v) => Element::Int(v[index]),
        Value::DoubleList(v) => Element::Double(v[index].to_bits()),
        Value::FloatList(v) => Element::Single(v[index].to_bits()),
        Value::BoolList(v) => Element::Bool(v[index]),
        Value::Null | Value::Opaque(_) => panic!("no element"),
    }
}

/// A JSON value as an element of `datatype`.
fn json_element(raw: &RawValue, datatype: Datatype) -> Element {
    let text = raw.get();
    match datatype {
        Datatype::Bool => Element::Bool(serde_json::from_str(text).unwrap()),
        Datatype::Bytes => Element::Bytes(serde_json::from_str::<String>(text).unwrap().into_bytes()),
        // serde_json reads floats to the nearest but one; std reads them exactly.
        Datatype::Fp32 => Element::Single(text.parse::<f32>().unwrap().to_bits()),
        Datatype::Fp64 => Element::Double(text.parse::<f64>().unwrap().to_bits()),
        _ => Element::Int(text.parse().unwrap()),
    }
}

fn raw_elements(datatype: Datatype, mut raw: &[u8]) -> Vec<Element> {
    let mut elements = Vec::new();
    while !raw.is_empty() {
        let size = datatype.size().unwrap_or_else(|| 4 + u32::from_le_bytes(raw[..4].try_into().unwrap()) as usize);
        let (one, rest) = raw.split_at(size);
        elements.push(match datatype {
            Datatype::Bool => Element::Bool(one[0] == 1),
            Datatype::Int32 => Element::Int(i64::from(i32::from_le_bytes(one.try_into().unwrap()))),
            Datatype::Int64 => Element::Int(i64::from_le_bytes(one.try_into().unwrap())),
            Datatype::Fp32 => Element::Single(u32::from_le_bytes(one.try_into().unwrap())),
            Datatype::Fp64 => Element::Double(u64::from_le_bytes(one.try_into().unwrap())),
            Datatype::Bytes => Element::Bytes(one[4..].to_vec()),
            other => panic!("{other} is no feature's datatype"),
        });
        raw = rest;
    }
    elements
}

fn contents_elements(datatype: Datatype, contents: InferTensorContents) -> Vec<Element> {
    match datatype {
        Datatype::Bool => contents.bool_contents.into_iter().map(Element::Bool).collect(),
        Datatype::Int32 => contents.int_contents.into_iter().map(|v| Element::Int(i64::from(v))).collect(),
        Datatype::Int64 => contents.int64_contents.into_iter().map(Element::Int).collect(),
        Datatype::Fp32 => contents.fp32_contents.into_iter().map(|v| Element::Single(v.to_bits())).collect(),
        Datatype::Fp64 => contents.fp64_contents.into_iter().map(|v| Element::Double(v.to_bits())).collect(),
        Datatype::Bytes => contents.bytes_contents.into_iter().map(Element::Bytes).collect(),
        other => panic!("{other} is no feature's datatype"),
    }
}

/// Elements as `contents`.
fn contents(datatype: Datatype, elements: &[Element]) -> InferTensorContents {
    let mut contents = InferTensorContents::default();
    for element in elements.iter().cloned() {
        match (element, datatype) {
            (Element::Bool(v), _) => contents.bool_contents.push(v),
            (Element::Int(v), Datatype::Int32) => contents.int_contents.push(v as i32),
            (Element::Int(v), _) => contents.int64_contents.push(v),
            (Element::Single(v), _) => contents.fp32_contents.push(f32::from_bits(v)),
            (Element::Double(v), _) => contents.fp64_contents.push(f64::from_bits(v)),
            (Element::Bytes(v), _) => contents.bytes_contents.push(v),
        }
    }
    contents
}

fn raw(datatype: Datatype, elements: &[Element]) -> Vec<u8> {
    let mut out = Vec::new();
    for element in elements {
        match (element, datatype) {
            (Element::Bool(v), _) => out.push(u8::from(*v)),
            (Element::Int(v), Datatype::Int32) => out.extend_from_slice(&(*v as i32).to_le_bytes()),
            (Element::Int(v), _) => out.extend_from_slice(&v.to_le_bytes()),
            (Element::Single(v), _) => out.extend_from_slice(&v.to_le_bytes()),
            (Element::Double(v), _) => out.extend_from_slice(&v.to_le_bytes()),
            (Element::Bytes(v), _) => {
                out.extend_from_slice(&(v.len() as u32).to_le_bytes());
                out.extend_from_slice(v);
            }
        }
    }
    out
}

fn json_text(element: &Element) -> String {
    match element {
        Element::Bool(v) => v.to_string(),
        Element::Int(v) => v.to_string(),
        Element::Single(v) => format!("{:?}", f32::from_bits(*v)),
        Element::Double(v) => format!("{:?}", f64::from_bits(*v)),
        Element::Bytes(v) => serde_json::to_string(std::str::from_utf8(v).unwrap()).unwrap(),
    }
}

fn json_list(elements: &[Element]) -> String {
    format!("[{}]", elements.iter().map(json_text).collect::<Vec<_>>().join(", "))
}

/// A request in a protocol: the users in a join form, a column `extra`, an id, an output and a parameter `keep`.
pub(super) fn encode(
    protocol: &str,
    form: &str,
    users: &[Value],
    extra: (Datatype, &[Value]),
) -> (Bytes, Option<usize>) {
    let users: Vec<Element> = users.iter().map(|value| element(value, 0)).collect();
    let extra = (extra.0, extra.1.iter().map(|value| element(value, 0)).collect::<Vec<_>>());
    match protocol {
        "v1" => (encode_v1(form, &users, &extra.1).into(), None),
        "v2 json" => (encode_v2(form, &users, &extra).into(), None),
        "v2 binary" => encode_binary(form, &users, &extra),
        _ => (encode_grpc(protocol == "grpc raw", form, &users, &extra).into(), None),
    }
}

fn encode_v1(form: &str, users: &[Element], extra: &[Element]) -> String {
    let instance = |(user, extra): (&Element, &Element)| {
        let user = if form == "instance key" { format!("\"user_id\" : {}, ", json_text(user)) } else { String::new() };
        format!("{{{user}\"extra\": {} }}", json_text(extra))
    };
    let instances: Vec<String> = users.iter().zip(extra).map(instance).collect();
    let tensor = if form.starts_with("tensor") { format!("\"inputs\": {},", json_list(users)) } else { String::new() };
    let parameter = if form == "parameter" { "\"user_id\": 7, " } else { "" };
    format!(
        r#"{{ "id": "req-1", {tensor} "instances" : [{}], "outputs": [{{"name": "score"}}], "parameters": {{{parameter}"keep": [1, {{}}]}} }}"#,
        instances.join(" , ")
    )
}

fn shape(form: &str, rows: usize) -> Vec<usize> {
    if form == "tensor [n,1]" { vec![rows, 1] } else { vec![rows] }
}

fn encode_v2(form: &str, users: &[Element], (datatype, extra): &(Datatype, Vec<Element>)) -> String {
    let user = if form.starts_with("tensor") {
        // Nested data for [n, 1], as numpy's tolist makes it.
        let nested: Vec<String> = users.iter().map(|user| json_list(std::slice::from_ref(user))).collect();
        let data = if form == "tensor [n]" { json_list(users) } else { format!("[{}]", nested.join(",")) };
        format!(
            r#"{{"name": "user_id", "datatype": "INT64", "shape": {:?}, "data": {data}}},"#,
            shape(form, users.len())
        )
    } else {
        String::new()
    };
    let instances = if form == "instance key" { r#""instances": [{"user_id": 7}], "# } else { "" };
    let parameter = if form == "parameter" { "\"user_id\": 7, " } else { "" };
    format!(
        r#"{{"id": "req-1", {instances}"parameters": {{{parameter}"keep": [1, {{}}]}}, "inputs": [{user} {{"shape": [{}], "data": {}, "name": "extra", "datatype": "{datatype}"}}], "outputs": [{{"name": "score"}}]}}"#,
        extra.len(),
        json_list(extra),
    )
}

fn encode_binary(
    form: &str,
    users: &[Element],
    (datatype, extra): &(Datatype, Vec<Element>),
) -> (Bytes, Option<usize>) {
    let (users_raw, extra_raw) = (raw(Datatype::Int64, users), raw(*datatype, extra));
    let mut inputs = vec![];
    let mut data = Vec::new();
    if form.starts_with("tensor") {
        inputs.push(json!({"name": "user_id", "datatype": "INT64", "shape": shape(form, users.len()), "parameters": {"binary_data_size": users_raw.len()}}));
        data.extend(users_raw);
    }
    inputs.push(json!({"name": "extra", "datatype": datatype.name(), "shape": [extra.len()], "parameters": {"binary_data_size": extra_raw.len()}}));
    data.extend(extra_raw);
    let mut parameters = json!({"keep": [1, {}]});
    if form == "parameter" {
        parameters["user_id"] = json!(7);
    }
    let object = json!({"id": "req-1", "inputs": inputs, "outputs": [{"name": "score"}], "parameters": parameters});
    let mut body = serde_json::to_vec(&object).unwrap();
    let length = body.len();
    body.extend(data);
    (body.into(), Some(length))
}

fn encode_grpc(as_raw: bool, form: &str, users: &[Element], (datatype, extra): &(Datatype, Vec<Element>)) -> Vec<u8> {
    let tensor = |name: &str, datatype: Datatype, shape: &[usize], elements: &[Element]| InferTensor {
        name: name.into(),
        datatype: datatype.name().into(),
        shape: shape.iter().map(|&n| n as i64).collect(),
        parameters: BTreeMap::new(),
        contents: (!as_raw).then(|| contents(datatype, elements)),
    };
    let mut message = ModelInferRequest {
        model_name: "fraud".into(),
        id: "req-1".into(),
        outputs: vec![RequestedOutput { name: "score".into() }],
        parameters: BTreeMap::from([("keep".to_owned(), Choice::String("kept".into()).into())]),
        ..ModelInferRequest::default()
    };
    if form.starts_with("tensor") {
        message.inputs.push(tensor("user_id", Datatype::Int64, &shape(form, users.len()), users));
        message.raw_input_contents.push(raw(Datatype::Int64, users));
    }
    if form == "parameter" {
        message.parameters.insert("user_id".into(), Choice::Int64(7).into());
    }
    message.inputs.push(tensor("extra", *datatype, &[extra.len()], extra));
    message.raw_input_contents.push(raw(*datatype, extra));
    if !as_raw {
        message.raw_input_contents.clear();
    }
    message.encode_to_vec()
}

/// A tensor as an independent parser read it.
#[derive(Debug)]
pub(super) struct ReadTensor {
    pub(super) name: String,
    pub(super) datatype: Datatype,
    pub(super) shape: Vec<usize>,
    pub(super) elements: Vec<Element>,
}

/// A body as an independent parser read it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) tensors: Vec<ReadTensor>,
    instances: Vec<Box<RawValue>>,
    /// Which of the parts that must be kept are there, unchanged; anything else fails while reading.
    pub(super) kept: Vec<&'static str>,
}

impl Read {
    pub(super) fn check_tensor(
        &self,
        index: usize,
        name: &str,
        datatype: Datatype,
        shape: &[usize],
        elements: Vec<Element>,
    ) {
        let tensor = &self.tensors[index];
        assert_eq!((tensor.name.as_str(), tensor.datatype, tensor.shape.as_slice()), (name, datatype, shape));
        assert_eq!(tensor.elements, elements, "{name}");
    }

    /// Instances as rows of an `extra` and the elements joined to it.
    pub(super) fn check_instances(
        &self,
        way: &str,
        list: bool,
        datatype: Datatype,
        rows: Vec<(Element, Vec<Element>)>,
    ) {
        assert_eq!(self.instances.len(), rows.len());
        for (instance, (extra, joined)) in self.instances.iter().zip(rows) {
            if way == "matrix" {
                let cells: Vec<&RawValue> = serde_json::from_str(instance.get()).unwrap();
                let cells: Vec<_> = cells.into_iter().map(|cell| json_element(cell, datatype)).collect();
                assert_eq!(cells, std::iter::once(extra).chain(joined).collect::<Vec<_>>());
                continue;
            }
            let keys: BTreeMap<&str, &RawValue> = serde_json::from_str(instance.get()).unwrap();
            assert_eq!(keys.keys().copied().collect::<Vec<_>>(), ["extra", "feature"]);
            assert_eq!(json_element(keys["extra"], datatype), extra);
            let found: Vec<Element> = if list {
                let cells: Vec<&RawValue> = serde_json::from_str(keys["feature"].get()).unwrap();
                cells.into_iter().map(|cell| json_element(cell, datatype)).collect()
            } else {
                vec![json_element(keys["feature"], datatype)]
            };
            assert_eq!(found, joined);
        }
    }
}

/// Reads a body back.
pub(super) fn read(protocol: &str, body: &Bytes, json_length: Option<usize>) -> Read {
    match protocol {
        "v1" | "v2 json" => read_json(body, body.len()),
        "v2 binary" => read_json(body, json_length.expect("a binary body says where its JSON ends")),
        _ => read_grpc(body, protocol == "grpc raw"),
    }
}

fn read_json(body: &[u8], json: usize) -> Read {
    let members: HashMap<&str, &RawValue> = serde_json::from_slice(&body[..json]).unwrap();
    let mut read = Read { tensors: Vec::new(), instances: Vec::new(), kept: Vec::new() };
    let (mut rest, mut names): (_, Vec<&str>) = (&body[json..], members.keys().copied().collect());
    names.sort_unstable();
    for name in names {
        let raw = members[name];
        let value: serde_json::Value = serde_json::from_str(raw.get()).unwrap();
        match name {
            "id" if value == "req-1" => read.kept.push("id"),
            "outputs" if value == json!([{"name": "score"}]) => read.kept.push("outputs"),
            "parameters" if value == json!({"keep": [1, {}]}) => read.kept.push("parameter keep"),
            "instances" => read.instances = serde_json::from_str(raw.get()).unwrap(),
            "inputs" => {
                let tensors: Vec<HashMap<&str, &RawValue>> = serde_json::from_str(raw.get()).unwrap();
                read.tensors = tensors.iter().map(|tensor| read_tensor(tensor, &mut rest)).collect();
            }
            _ => panic!("{name}: {raw}"),
        }
    }
    assert!(rest.is_empty(), "{} bytes of no tensor", rest.len());
    read
}

fn read_tensor(members: &HashMap<&str, &RawValue>, rest: &mut &[u8]) -> ReadTensor {
    let text = |key: &str| serde_json::from_str::<String>(members[key].get()).unwrap();
    let datatype: Datatype = text("datatype").parse().unwrap();
    let elements = if let Some(data) = members.get("data") {
        let cells: Vec<&RawValue> = serde_json::from_str(data.get()).unwrap();
        cells.into_iter().map(|cell| json_element(cell, datatype)).collect()
    } else {
        let parameters: HashMap<String, usize> = serde_json::from_str(members["parameters"].get()).unwrap();
        let (chunk, after) = rest.split_at(parameters["binary_data_size"]);
        *rest = after;
        raw_elements(datatype, chunk)
    };
    ReadTensor { name: text("name"), datatype, shape: serde_json::from_str(members["shape"].get()).unwrap(), elements }
}

fn read_grpc(framed: &[u8], as_raw: bool) -> Read {
    assert_eq!(framed[0], 0, "uncompressed");
    assert_eq!(u32::from_be_bytes(framed[1..5].try_into().unwrap()) as usize, framed.len() - 5);
    let message = ModelInferRequest::decode(&framed[5..]).unwrap();
    let mut read = Read { tensors: Vec::new(), instances: Vec::new(), kept: Vec::new() };
    assert_eq!(message.model_name, "fraud");
    assert_eq!(message.raw_input_contents.len(), if as_raw { message.inputs.len() } else { 0 });
    for (index, input) in message.inputs.into_iter().enumerate() {
        let datatype: Datatype = input.datatype.parse().unwrap();
        let elements = if as_raw {
            assert_eq!(input.contents, None);
            raw_elements(datatype, &message.raw_input_contents[index])
        } else {
            contents_elements(datatype, input.contents.unwrap())
        };
        let shape = input.shape.iter().map(|&n| n as usize).collect();
        read.tensors.push(ReadTensor { name: input.name, datatype, shape, elements });
    }
    if message.id == "req-1" {
        read.kept.push("id");
    }
    if message.outputs == [RequestedOutput { name: "score".into() }] {
        read.kept.push("outputs");
    }
    if message.parameters == BTreeMap::from([("keep".to_owned(), Choice::String("kept".into()).into())]) {
        read.kept.push("parameter keep");
    }
    read
}
