//! Every combination of protocol, join form, feature type, way of sending and batch, against `tests/data/grid.txt`.
//!
//! A cell says `ok` or `no: words`. Every `ok` cell builds a real request, decodes it, joins rows, and reads the body back with
//! parsers that share no code with the writers (`serde_json`, prost); every `no` cell must fail with exactly those words.

use std::{collections::HashMap, fmt::Write as _, sync::Arc};

use bytes::Bytes;

use super::{
    recipe::datatype_of,
    sample::{Sample, columns, matrix, model, view},
    testing::{Read, element, encode, read},
};
use crate::{
    config::View,
    infer::{Datatype, EntityType, EntityValue, Error, FeatureType, Protocol, Value, decoded::EntityColumn},
    ingress::decode::decode,
};

const BATCHES: [usize; 3] = [0, 1, 7];
const PROTOCOLS: [&str; 5] = ["v1", "v2 json", "v2 binary", "grpc contents", "grpc raw"];
const FORMS: [&str; 4] = ["tensor [n]", "tensor [n,1]", "instance key", "parameter"];
const WAYS: [&str; 2] = ["matrix", "columns"];

/// One combination.
#[derive(Clone, Copy)]
struct Cell {
    protocol: &'static str,
    form: &'static str,
    kind: FeatureType,
    way: &'static str,
    batch: usize,
}

fn table() -> HashMap<String, String> {
    let text = include_str!("../../tests/data/grid.txt");
    let mut cells = HashMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(fields.len(), 5 + BATCHES.len() - 1, "a row is protocol | form | type | way:0 | 1 | 7: {line}");
        for (batch, said) in BATCHES.iter().zip(&fields[4..]) {
            let key = format!("{} | {} | {} | {} | {batch}", fields[0], fields[1], fields[2], fields[3]);
            assert!(cells.insert(key.clone(), (*said).to_owned()).is_none(), "twice: {key}");
        }
    }
    cells
}

#[test]
fn every_cell_of_the_grid() {
    let mut said = table();
    let (mut ok, mut no, mut wrong) = (0, 0, String::new());
    for protocol in PROTOCOLS {
        for form in FORMS {
            for &kind in FeatureType::ALL {
                for way in WAYS {
                    for batch in BATCHES {
                        let cell = Cell { protocol, form, kind, way, batch };
                        let key = format!("{protocol} | {form} | {kind} | {way} | {batch}");
                        let expected = said.remove(&key).unwrap_or_default();
                        match (cell.run(), expected.as_str()) {
                            (_, "") => writeln!(wrong, "{key}: empty"),
                            (Ok(()), "ok") => {
                                ok += 1;
                                Ok(())
                            }
                            (Err(error), no_words) if Some(error.as_str()) == no_words.strip_prefix("no: ") => {
                                no += 1;
                                Ok(())
                            }
                            (found, expected) => writeln!(wrong, "{key}: expected {expected:?}, found {found:?}"),
                        }
                        .expect("a string takes anything");
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(said.is_empty(), "cells of no combination: {said:?}");
    assert_eq!(ok + no, PROTOCOLS.len() * FORMS.len() * FeatureType::ALL.len() * WAYS.len() * BATCHES.len());
    println!("grid: {} cells run, {ok} ok, {no} impossible", ok + no);
}

impl Cell {
    fn protocol(self) -> Protocol {
        match self.protocol {
            "v1" => Protocol::V1,
            "v2 json" => Protocol::V2Json,
            "v2 binary" => Protocol::V2Binary,
            _ => Protocol::Grpc,
        }
    }

    fn datatype(self) -> Datatype {
        datatype_of(self.kind)
    }

    fn run(self) -> Result<(), String> {
        let view = view(("user_id", EntityType::Int64), &[("feature", self.kind, stored(self.kind, 99, self.exact()))]);
        let (body, json_length) = self.request();
        let decoded = decode(self.protocol(), body, json_length).map_err(words)?;
        let sources: &[&str] = if self.way == "matrix" { &["user_id", "extra"] } else { &["user_id"] };
        let rows = decoded.rows(sources).map_err(words)?;
        let entities = decoded.entities("user_id", EntityType::Int64).map_err(words)?;
        assert_eq!(rows, self.batch);
        assert_eq!(entities, self.entities());
        let (sample, values) = self.sample(&view);
        let (body, json_length) = sample.body(self.protocol(), decoded).map_err(words)?;
        self.check(&read(self.protocol, &body, json_length), &values);
        Ok(())
    }

    /// Whether values need not be readable in JSON.
    fn exact(self) -> bool {
        !matches!(self.protocol, "v1" | "v2 json")
    }

    fn entities(self) -> EntityColumn {
        if self.form == "parameter" {
            return EntityColumn::Same(EntityValue::Int64(7));
        }
        EntityColumn::Rows((0..self.batch).map(|row| EntityValue::Int64(user(row))).collect())
    }

    /// The model and its rows; the third row of seven is missing, so that the default stands in.
    fn sample(self, view: &Arc<View>) -> (Sample, Vec<Value>) {
        let inputs = match self.way {
            "matrix" => matrix(self.datatype(), &["extra"], 1),
            _ => columns(&[], view),
        };
        let missing = |row| row == 2;
        let value =
            |row| if missing(row) { view.features[0].default.clone() } else { stored(self.kind, row, self.exact()) };
        let rows = (0..self.batch).map(|row| (!missing(row)).then(|| vec![value(row)])).collect();
        (Sample::new(view, model(view, "fraud", Some(inputs)), rows), (0..self.batch).map(value).collect())
    }

    /// A request with an entity, a column of the feature's datatype, an id, an output and a parameter to keep.
    fn request(self) -> (Bytes, Option<usize>) {
        let users: Vec<Value> = (0..self.batch).map(|row| Value::Int64(user(row))).collect();
        let extra: Vec<Value> = (0..self.batch).map(|row| self.extra(row)).collect();
        encode(self.protocol, self.form, &users, (self.datatype(), &extra))
    }

    /// The request's own column, as scalars of the feature's datatype.
    fn extra(self, row: usize) -> Value {
        stored(self.kind.element().unwrap_or(self.kind), row + 40, self.exact())
    }

    fn check(self, found: &Read, values: &[Value]) {
        assert_eq!(found.kept, ["id", "outputs", "parameter keep"], "what is kept");
        let extra: Vec<_> = (0..self.batch).map(|row| element(&self.extra(row), 0)).collect();
        let joined: Vec<Vec<_>> =
            values.iter().map(|value| (0..length(value)).map(|i| element(value, i)).collect()).collect();
        let width = joined.first().map_or(usize::from(!self.kind.is_list()), Vec::len);
        if self.protocol == "v1" {
            let rows: Vec<_> = extra.into_iter().zip(joined).collect();
            return found.check_instances(self.way, self.kind.is_list(), self.datatype(), rows);
        }
        if self.way == "matrix" {
            let cells = extra.into_iter().zip(joined).flat_map(|(extra, joined)| std::iter::once(extra).chain(joined));
            found.check_tensor(0, "input-0", self.datatype(), &[self.batch, 1 + width], cells.collect());
            assert_eq!(found.tensors.len(), 1);
            return;
        }
        let shape = match (self.kind.is_list(), self.form) {
            (true, _) => vec![self.batch, width],
            (false, "tensor [n,1]") => vec![self.batch, 1],
            (false, _) => vec![self.batch],
        };
        found.check_tensor(0, "extra", self.datatype(), &[self.batch], extra);
        found.check_tensor(1, "feature", self.datatype(), &shape, joined.into_iter().flatten().collect());
        assert_eq!(found.tensors.len(), 2);
    }
}

fn words(error: Error) -> String {
    error.to_string()
}

fn user(row: usize) -> i64 {
    [1001, -1, i64::MAX, i64::MIN, 0, 42, 7][row]
}

fn length(value: &Value) -> usize {
    value.length().unwrap_or(1)
}

/// A value of a type that differs by row, with each type's corners; `exact`: also what JSON cannot say. Lists have three.
fn stored(kind: FeatureType, row: usize, exact: bool) -> Value {
    let ints = [0, 1, -1, i64::MAX, i64::MIN, 1_700_000_000, (1 << 53) + 1];
    let int = |i: usize| ints[(row + i) % 7];
    let doubles = [0.1, -0.0, 1e300, f64::MIN_POSITIVE, 5e-324, if exact { f64::NAN } else { 2.5 }, 1.0 / 3.0];
    let double = |i: usize| if exact && (row + i) % 7 == 3 { f64::NEG_INFINITY } else { doubles[(row + i) % 7] };
    let floats =
        [0.1f32, -0.0, 3.4e38, f32::MIN_POSITIVE, 1e-45, if exact { f32::INFINITY } else { 16_777_217.0 }, 1.0 / 3.0];
    let float = |i: usize| floats[(row + i) % 7];
    let texts = ["", "a", "\"quoted\\\"", "line\nbreak\u{1}", "ünï©ode 🦀", "\u{7f}", "plain text"];
    let text = |i: usize| Arc::<str>::from(texts[(row + i) % 7]);
    let raw = |i: usize| {
        if exact { Bytes::from(vec![0xff, 0xfe, (row + i) as u8, 0]) } else { Bytes::from(texts[(row + i) % 7]) }
    };
    match kind {
        FeatureType::Bytes => Value::Bytes(raw(0)),
        FeatureType::String => Value::String(text(0)),
        FeatureType::Int32 => Value::Int32(int(0) as i32),
        FeatureType::Int64 => Value::Int64(int(0)),
        FeatureType::Double => Value::Double(double(0)),
        FeatureType::Float => Value::Float(float(0)),
        FeatureType::Bool => Value::Bool(row.is_multiple_of(2)),
        FeatureType::UnixTimestamp => Value::UnixTimestamp(int(0)),
        FeatureType::BytesList => Value::BytesList((0..3).map(raw).collect()),
        FeatureType::StringList => Value::StringList((0..3).map(text).collect()),
        FeatureType::Int32List => Value::Int32List((0..3).map(|i| int(i) as i32).collect()),
        FeatureType::Int64List => Value::Int64List((0..3).map(int).collect()),
        FeatureType::DoubleList => Value::DoubleList((0..3).map(double).collect()),
        FeatureType::FloatList => Value::FloatList((0..3).map(float).collect()),
        FeatureType::BoolList => Value::BoolList((0..3).map(|i| (row + i).is_multiple_of(2)).collect()),
        FeatureType::UnixTimestampList => Value::UnixTimestampList((0..3).map(int).collect()),
        FeatureType::Opaque => unreachable!("no tensor holds one"),
    }
}
