//! Stored values as the API's JSON: whole numbers exactly, single floats widened, what JSON has no number for as text, bytes as
//! base64, maps and sets as objects and arrays.
//!
//! **Source:** Feast 0.67, `feature_server_utils.convert_response_to_dict`.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::time;
use crate::infer::{
    Value,
    decoded::wire::{Fields, Wire},
};

/// Deeper maps than anybody stores.
const DEPTH: u32 = 64;

/// The stored bytes are no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

type Written = Result<(), Unreadable>;

/// Appends a value.
pub(super) fn write(out: &mut Vec<u8>, value: &Value) -> Written {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bytes(bytes) => base64(out, bytes),
        Value::String(text) => string(out, text),
        Value::Int32(number) => integer(out, i64::from(*number)),
        Value::Int64(number) | Value::UnixTimestamp(number) => integer(out, *number),
        Value::Double(number) => float(out, *number),
        Value::Float(number) => float(out, f64::from(*number)),
        Value::Bool(truth) => boolean(out, *truth),
        Value::BytesList(list) => array(out, list.iter(), |out, bytes| base64(out, bytes)),
        Value::StringList(list) => array(out, list.iter(), |out, text| string(out, text)),
        Value::Int32List(list) => array(out, list.iter(), |out, number| integer(out, i64::from(*number))),
        Value::Int64List(list) | Value::UnixTimestampList(list) => {
            array(out, list.iter(), |out, number| integer(out, *number));
        }
        Value::DoubleList(list) => array(out, list.iter(), |out, number| float(out, *number)),
        Value::FloatList(list) => array(out, list.iter(), |out, number| float(out, f64::from(*number))),
        Value::BoolList(list) => array(out, list.iter(), |out, truth| boolean(out, *truth)),
        Value::Opaque(message) => return opaque(out, message, 0),
    }
    Ok(())
}

fn array<T>(out: &mut Vec<u8>, items: impl Iterator<Item = T>, write: impl Fn(&mut Vec<u8>, T)) {
    out.push(b'[');
    let start = out.len();
    for item in items {
        if out.len() > start {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

pub(super) fn integer(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

pub(super) fn float(out: &mut Vec<u8>, number: f64) {
    if number.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(number).as_bytes());
    } else if number.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else if number > 0.0 {
        out.extend_from_slice(b"\"Infinity\"");
    } else {
        out.extend_from_slice(b"\"-Infinity\"");
    }
}

fn boolean(out: &mut Vec<u8>, truth: bool) {
    out.extend_from_slice(if truth { b"true" } else { b"false" });
}

pub(super) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("room was made for it");
    out.truncate(start + written);
    out.push(b'"');
}

/// Which bytes JSON wants escaped.
static ESCAPED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

/// Text in quotes, UTF-8 as it is.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| ESCAPED[usize::from(*byte)]) {
        out.extend_from_slice(&rest[..at]);
        escape(out, rest[at]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x0c => out.extend_from_slice(b"\\f"),
        _ => {
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]])
        }
    }
}

/// A serialized `feast.types.Value`, of a type that no tensor holds: the last member of its oneof counts.
fn opaque(out: &mut Vec<u8>, message: &[u8], depth: u32) -> Written {
    if depth > DEPTH {
        return Err(Unreadable);
    }
    let mut last = None;
    let mut fields = Fields::all(message);
    while let Some(field) = fields.next().map_err(|_| Unreadable)? {
        last = Some((field.number, field.value));
    }
    match last {
        None | Some((19, _)) => {
            out.extend_from_slice(b"null");
            Ok(())
        }
        Some((number, value)) => member(out, message, (number, value), depth),
    }
}

fn member(out: &mut Vec<u8>, message: &[u8], (number, value): (u32, Wire), depth: u32) -> Written {
    match (number, value) {
        (3, Wire::Varint(v)) => integer(out, i64::from(v as i32)),
        (4 | 8, Wire::Varint(v)) => integer(out, v as i64),
        (5, Wire::Fixed64(bits)) => float(out, f64::from_bits(bits)),
        (6, Wire::Fixed32(bits)) => float(out, f64::from(f32::from_bits(bits))),
        (7, Wire::Varint(v)) => boolean(out, v != 0),
        (1, Wire::Bytes(span)) => base64(out, span.of(message)),
        (2 | 32 | 36 | 37 | 44, Wire::Bytes(span)) => string(out, text(span.of(message))?),
        (20 | 34, Wire::Bytes(span)) => return map(out, span.of(message), depth),
        (21 | 35, Wire::Bytes(span)) => return each(out, span.of(message), |out, item| map(out, item, depth + 1)),
        (42 | 43, Wire::Bytes(span)) => return each(out, span.of(message), |out, item| opaque(out, item, depth + 1)),
        (11 | 22, Wire::Bytes(span)) => {
            return each(out, span.of(message), |out, item| {
                base64(out, item);
                Ok(())
            });
        }
        (12 | 23 | 33 | 38..=41 | 45 | 46, Wire::Bytes(span)) => {
            return each(out, span.of(message), |out, item| {
                string(out, text(item)?);
                Ok(())
            });
        }
        (13..=18 | 24..=29, Wire::Bytes(span)) => return numbers(out, number, span.of(message)),
        (48, Wire::Bytes(span)) => return zoned(out, span.of(message)),
        // Feast's own server has no JSON for a map of scalars, nor has Weir for what a later Feast adds.
        _ => out.extend_from_slice(b"null"),
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, Unreadable> {
    std::str::from_utf8(bytes).map_err(|_| Unreadable)
}

/// `repeated message val = 1`.
fn each(out: &mut Vec<u8>, list: &[u8], write: impl Fn(&mut Vec<u8>, &[u8]) -> Written) -> Written {
    out.push(b'[');
    let start = out.len();
    let mut fields = Fields::all(list);
    while let Some(field) = fields.next().map_err(|_| Unreadable)? {
        let (1, Wire::Bytes(span)) = (field.number, field.value) else { continue };
        if out.len() > start {
            out.push(b',');
        }
        write(out, span.of(list))?;
    }
    out.push(b']');
    Ok(())
}

/// `map<string, Value> val = 1`.
fn map(out: &mut Vec<u8>, message: &[u8], depth: u32) -> Written {
    out.push(b'{');
    let start = out.len();
    let mut fields = Fields::all(message);
    while let Some(field) = fields.next().map_err(|_| Unreadable)? {
        let (1, Wire::Bytes(span)) = (field.number, field.value) else { continue };
        let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
        let entry = span.of(message);
        let mut members = Fields::all(entry);
        while let Some(member) = members.next().map_err(|_| Unreadable)? {
            match (member.number, member.value) {
                (1, Wire::Bytes(span)) => key = span.of(entry),
                (2, Wire::Bytes(span)) => value = span.of(entry),
                _ => {}
            }
        }
        if out.len() > start {
            out.push(b',');
        }
        string(out, text(key)?);
        out.push(b':');
        opaque(out, value, depth + 1)?;
    }
    out.push(b'}');
    Ok(())
}

/// `repeated x val = 1` of numbers, packed or not; `number` is the member's, of a list (13…18) or a set (24…29).
fn numbers(out: &mut Vec<u8>, number: u32, list: &[u8]) -> Written {
    let kind = if number >= 24 { number - 11 } else { number };
    out.push(b'[');
    let start = out.len();
    let mut fields = Fields::all(list);
    while let Some(field) = fields.next().map_err(|_| Unreadable)? {
        if field.number != 1 {
            continue;
        }
        let Wire::Bytes(span) = field.value else {
            number_of(out, start, kind, field.value)?;
            continue;
        };
        let mut packed = span.of(list);
        while !packed.is_empty() {
            number_of(out, start, kind, unpack(kind, &mut packed)?)?;
        }
    }
    out.push(b']');
    Ok(())
}

fn unpack(kind: u32, packed: &mut &[u8]) -> Result<Wire, Unreadable> {
    match kind {
        15 => {
            let (bits, rest) = packed.split_first_chunk::<8>().ok_or(Unreadable)?;
            *packed = rest;
            Ok(Wire::Fixed64(u64::from_le_bytes(*bits)))
        }
        16 => {
            let (bits, rest) = packed.split_first_chunk::<4>().ok_or(Unreadable)?;
            *packed = rest;
            Ok(Wire::Fixed32(u32::from_le_bytes(*bits)))
        }
        _ => {
            let (value, length) = crate::infer::decoded::wire::varint(packed).map_err(|_| Unreadable)?;
            *packed = &packed[length..];
            Ok(Wire::Varint(value))
        }
    }
}

fn number_of(out: &mut Vec<u8>, start: usize, kind: u32, value: Wire) -> Written {
    if out.len() > start {
        out.push(b',');
    }
    match (kind, value) {
        (13, Wire::Varint(v)) => integer(out, i64::from(v as i32)),
        (14 | 18, Wire::Varint(v)) => integer(out, v as i64),
        (15, Wire::Fixed64(bits)) => float(out, f64::from_bits(bits)),
        (16, Wire::Fixed32(bits)) => float(out, f64::from(f32::from_bits(bits))),
        (17, Wire::Varint(v)) => boolean(out, v != 0),
        _ => return Err(Unreadable),
    }
    Ok(())
}

/// `ZonedTimestamp {int64 unix_timestamp = 1; string zone = 2}`.
fn zoned(out: &mut Vec<u8>, message: &[u8]) -> Written {
    let (mut seconds, mut zone) = (0, "");
    let mut fields = Fields::all(message);
    while let Some(field) = fields.next().map_err(|_| Unreadable)? {
        match (field.number, field.value) {
            (1, Wire::Varint(v)) => seconds = v as i64,
            (2, Wire::Bytes(span)) => zone = text(span.of(message))?,
            _ => {}
        }
    }
    match time::zoned(seconds, zone) {
        Some(text) => string(out, &text),
        None => out.extend_from_slice(b"null"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::feast::decode_value;

    #[derive(serde::Deserialize)]
    struct Vectors {
        values: Vec<Vector>,
    }

    #[derive(serde::Deserialize)]
    struct Vector {
        hex: String,
        http_json: serde_json::Value,
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn every_recorded_value_is_written_as_feast_writes_it() {
        let vectors: Vectors =
            serde_json::from_str(include_str!("../../../tests/data/feast/values.json")).expect("values");
        let mut out = Vec::new();
        for vector in &vectors.values {
            let stored = unhex(&vector.hex);
            out.clear();
            write(&mut out, &decode_value(&stored).expect("a value")).expect("readable");
            let told: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            assert_eq!(told, vector.http_json, "{} gave {}", vector.hex, String::from_utf8_lossy(&out));
            // A value that no tensor holds may be of any type inside.
            out.clear();
            opaque(&mut out, &stored, 0).expect("readable");
            let told: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            assert_eq!(told, vector.http_json, "{} gave {}", vector.hex, String::from_utf8_lossy(&out));
        }
        println!("{} recorded values", vectors.values.len());
        assert_eq!(vectors.values.len(), 64);
    }

    #[test]
    fn text_is_escaped_where_it_must_be() {
        let text = "a\"b\\c\n\r\t\u{8}\u{c}\u{1}\u{7f}ü\u{2028}";
        let mut out = Vec::new();
        string(&mut out, text);
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }

    #[test]
    fn bytes_that_are_no_value_are_refused() {
        let mut out = Vec::new();
        assert_eq!(opaque(&mut out, &[0xa2, 0x01, 0x05, 0x0a], 0), Err(Unreadable));
        let mut nested = Vec::new();
        for _ in 0..200 {
            let mut outer = Vec::new();
            crate::infer::decoded::wire::put_bytes(&mut outer, 1, &nested);
            nested = Vec::new();
            crate::infer::decoded::wire::put_bytes(&mut nested, 42, &outer);
        }
        assert_eq!(opaque(&mut out, &nested, 0), Err(Unreadable));
    }
}
