//! What Feast really wrote: a whole database with its schema, and the tensor that each stored value has to become.
//!
//! The decoder here is written from Feast's `Value.proto` and shares no code with Weir's.

use std::{collections::BTreeMap, fmt::Write, sync::LazyLock};

use serde_json::Value as Json;

use super::parts;

/// A stored hash.
pub(crate) struct StoredHash {
    pub(crate) key: Vec<u8>,
    pub(crate) fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// Join keys with their types (`int64`) and values.
    pub(crate) entity: Vec<(String, String, Json)>,
    /// Stored values by `view:feature`.
    pub(crate) features: BTreeMap<String, Vec<u8>>,
    /// Views that have a `_ts:` field.
    pub(crate) views: Vec<String>,
}

/// A feature view of the dumped repository.
pub(crate) struct View {
    pub(crate) name: String,
    /// Join keys and types (`INT64`), sorted by name.
    pub(crate) entities: Vec<(String, String)>,
    /// Names and types.
    pub(crate) features: Vec<(String, String)>,
}

/// Every hash of the dump.
pub(crate) static DUMP: LazyLock<Vec<StoredHash>> = LazyLock::new(|| {
    let dump = read_json("feast/redis_dump.json");
    let names = dump["field_names"].as_object().expect("an object");
    let hash = |entry: &Json| {
        let fields: Vec<_> = entry["hash"].as_object().expect("an object").iter().collect();
        let text = |json: &Json| json.as_str().expect("text").to_owned();
        let parts = entry["entity"].as_array().expect("an array").iter();
        StoredHash {
            key: unhex(&text(&entry["key_hex"])),
            entity: parts.map(|part| (text(&part[0]), text(&part[1]), part[2].clone())).collect(),
            features: fields
                .iter()
                .filter_map(|(field, value)| Some((text(names.get(*field)?), unhex(&text(value)))))
                .collect(),
            views: fields.iter().filter_map(|(field, _)| timestamp_view(field)).collect(),
            fields: fields.iter().map(|(field, value)| (unhex(field), unhex(&text(value)))).collect(),
        }
    };
    dump["keys"].as_array().expect("an array").iter().map(hash).collect()
});

/// The hash field of a feature, `view:feature`, as Feast named it.
pub(crate) fn field(name: &str) -> Vec<u8> {
    let dump = read_json("feast/redis_dump.json");
    let names = dump["field_names"].as_object().expect("an object");
    let field = names.iter().find_map(|(field, said)| (said == name).then_some(field));
    unhex(field.unwrap_or_else(|| panic!("no feature {name} in the dump")))
}

/// Every view of the repository whose features a tensor can hold.
pub(crate) static VIEWS: LazyLock<Vec<View>> = LazyLock::new(|| {
    let registry = read_json("feast/registry.json");
    let text = |json: &Json| json.as_str().expect("text").to_owned();
    let columns = |list: &Json| -> Vec<(String, String)> {
        let list = list.as_array().expect("an array").iter();
        list.map(|column| (text(&column["name"]), text(&column["value_type"]))).collect()
    };
    let views = registry["feature_views"].as_array().expect("an array").iter().map(|view| {
        let mut entities = columns(&view["spec"]["entity_columns"]);
        entities.sort();
        View { name: text(&view["spec"]["name"]), entities, features: columns(&view["spec"]["features"]) }
    });
    views.filter(|view| view.features.iter().all(|(_, kind)| datatype(kind).is_some())).collect()
});

/// The view of that name.
pub(crate) fn view(name: &str) -> &'static View {
    VIEWS.iter().find(|view| view.name == name).unwrap_or_else(|| panic!("no view {name} in the dump"))
}

impl View {
    /// Its entry under `features.views`.
    pub(crate) fn yaml(&self) -> String {
        let mut text = format!("    {}:\n      entities:\n", self.name);
        for (name, kind) in &self.entities {
            writeln!(text, "        {name}: {kind}").expect("a String");
        }
        text += "      features:\n";
        for (name, kind) in &self.features {
            writeln!(text, "        {name}: {{type: {kind}}}").expect("a String");
        }
        text + "      ttl: 5m\n"
    }

    /// The dump's hashes that hold a row of this view.
    pub(crate) fn rows(&self) -> Vec<&'static StoredHash> {
        DUMP.iter().filter(|hash| hash.views.contains(&self.name)).collect()
    }
}

/// The tensor datatype of a feature or entity type.
pub(crate) fn datatype(kind: &str) -> Option<&'static str> {
    Some(match kind.trim_end_matches("_LIST") {
        "BYTES" | "STRING" => "BYTES",
        "INT32" => "INT32",
        "INT64" | "UNIX_TIMESTAMP" => "INT64",
        "DOUBLE" => "FP64",
        "FLOAT" => "FP32",
        "BOOL" => "BOOL",
        _ => return None,
    })
}

/// A stored value's elements as raw tensor bytes: one for a scalar, as many as the list is long otherwise. A null, or a
/// field that is not there, is the type's zero, or no element of a list.
pub(crate) fn elements(stored: Option<&[u8]>, kind: &str) -> Vec<Vec<u8>> {
    let list = kind.ends_with("_LIST");
    let element = kind.trim_end_matches("_LIST");
    let Some((number, content)) = stored.and_then(|bytes| fields(bytes).into_iter().next()) else {
        return if list { Vec::new() } else { vec![zero(element)] };
    };
    assert_eq!(number, field_number(kind), "the dump's value is a {kind}");
    if !list {
        return vec![raw(element, &content)];
    }
    let Content::Bytes(message) = content else { panic!("a list is a message") };
    fields(&message).into_iter().flat_map(|(_, content)| unpack(element, content)).collect()
}

enum Content {
    Varint(u64),
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
}

/// A protobuf message's fields.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Content)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let content = match tag & 7 {
            0 => Content::Varint(varint(&mut bytes)),
            1 => Content::Fixed(take(&mut bytes, 8)),
            2 => {
                let length = varint(&mut bytes);
                Content::Bytes(take(&mut bytes, usize::try_from(length).expect("a length")))
            }
            5 => Content::Fixed(take(&mut bytes, 4)),
            other => panic!("wire type {other}"),
        };
        found.push((tag >> 3, content));
    }
    found
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    panic!("a varint of more than ten bytes")
}

fn take(bytes: &mut &[u8], count: usize) -> Vec<u8> {
    let (head, rest) = bytes.split_at(count);
    *bytes = rest;
    head.to_vec()
}

fn field_number(kind: &str) -> u64 {
    let scalars = ["BYTES", "STRING", "INT32", "INT64", "DOUBLE", "FLOAT", "BOOL", "UNIX_TIMESTAMP"];
    let scalar = scalars.iter().position(|name| *name == kind.trim_end_matches("_LIST")).expect("a known type");
    scalar as u64 + if kind.ends_with("_LIST") { 11 } else { 1 }
}

fn raw(element: &str, content: &Content) -> Vec<u8> {
    match (element, content) {
        ("INT32", Content::Varint(value)) => value.to_le_bytes()[..4].to_vec(),
        ("INT64" | "UNIX_TIMESTAMP", Content::Varint(value)) => value.to_le_bytes().to_vec(),
        ("BOOL", Content::Varint(value)) => vec![u8::from(*value != 0)],
        ("FLOAT" | "DOUBLE", Content::Fixed(bytes)) => bytes.clone(),
        ("BYTES" | "STRING", Content::Bytes(bytes)) => bytes_element(bytes),
        _ => panic!("a {element} does not look like that"),
    }
}

/// An element of a BYTES tensor: its length, then itself.
pub(crate) fn bytes_element(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("under 4 GiB");
    [&length.to_le_bytes(), bytes].concat()
}

fn unpack(element: &str, content: Content) -> Vec<Vec<u8>> {
    let packed = match content {
        Content::Bytes(bytes) if !matches!(element, "BYTES" | "STRING") => bytes,
        single => return vec![raw(element, &single)],
    };
    match element {
        "FLOAT" => packed.chunks(4).map(<[u8]>::to_vec).collect(),
        "DOUBLE" => packed.chunks(8).map(<[u8]>::to_vec).collect(),
        _ => {
            let (mut rest, mut found) = (packed.as_slice(), Vec::new());
            while !rest.is_empty() {
                found.push(raw(element, &Content::Varint(varint(&mut rest))));
            }
            found
        }
    }
}

fn zero(element: &str) -> Vec<u8> {
    vec![
        0;
        match element {
            "BOOL" => 1,
            "INT32" | "FLOAT" | "BYTES" | "STRING" => 4,
            _ => 8,
        }
    ]
}

fn timestamp_view(field: &str) -> Option<String> {
    let name = String::from_utf8(unhex(field)).ok()?;
    name.strip_prefix("_ts:").map(ToOwned::to_owned)
}

/// A JSON file of `tests/data`.
pub(crate) fn read_json(name: &str) -> Json {
    let text = std::fs::read(parts::data_file(name)).unwrap_or_else(|error| panic!("tests/data/{name}: {error}"));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("tests/data/{name}: {error}"))
}

/// Bytes written as hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(digit).collect()
}
