//! A model's answer back into outputs. The answer is somebody else's: whatever it holds, it is read or refused in words.
//!
//! V2 says every output's name, datatype and shape. V1 says only values: its outputs are named by their keys, or `predictions`,
//! and their datatype is the one that holds all their values exactly: BOOL, INT64, UINT64, FP64 or BYTES.

use std::sync::Arc;

use bytes::Bytes;

use super::{Output, dimension};
use crate::infer::{
    Datatype, Error, Kind, Protocol, Shape,
    decoded::{
        Data, Instances, Member, Place, Scalar, Side, Tensor,
        check::{NAME, unique},
        frame::unframe,
        json::{self, Scanner},
        shown,
        tensor_json::{Chunks, tensor},
        tensor_proto::{input, pair_raw, text, with_contents},
        wire::Fields,
    },
};

/// Reads an answer's body: in gRPC one frame, in V2 over HTTP JSON of `json_length` bytes with binary data behind it, where that
/// is known.
///
/// # Errors
/// The answer cannot be read, contradicts itself, or has its data elsewhere; the backend is to blame.
pub fn read(protocol: Protocol, body: &Bytes, json_length: Option<usize>) -> Result<Vec<Output>, Error> {
    let outputs = match protocol {
        // Ranges are 32 bits wide.
        _ if u32::try_from(body.len()).is_err() => Err(Error::invalid("it is over 4 GiB")),
        Protocol::V1 => v1(body),
        Protocol::V2Json | Protocol::V2Binary => v2(body, json_length),
        Protocol::Grpc => grpc(body),
    };
    outputs.map_err(|error| {
        Error::new(Kind::BackendFailed, format!("the model's answer cannot be read: {error}")).with_source(error)
    })
}

/// Walks the elements of an answer's member `name`, which must be an array: `visit` takes the scanner at its bracket.
fn member(json: &[u8], name: &str, mut visit: impl FnMut(&mut Scanner<'_>) -> Result<(), Error>) -> Result<(), Error> {
    json::utf8(json)?;
    let mut scanner = Scanner::new(json);
    let mut found = false;
    scanner.space();
    if scanner.peek() != Some(b'{') {
        scanner.value()?;
        return Err(Error::invalid("it is no JSON object"));
    }
    scanner.object(|scanner, key| {
        if !key.is(json, name) {
            return scanner.value().map(drop);
        }
        if std::mem::replace(&mut found, true) {
            return Err(Error::invalid(format!("duplicate key {name:?}")));
        }
        if scanner.peek() != Some(b'[') {
            scanner.value()?;
            return Err(Error::invalid(format!("{name:?} must be an array")));
        }
        visit(scanner)
    })?;
    scanner.end()?;
    if found { Ok(()) } else { Err(Error::invalid(format!("{name:?} is missing"))) }
}

fn v2(body: &Bytes, json_length: Option<usize>) -> Result<Vec<Output>, Error> {
    let (json, mut chunks) = match json_length {
        Some(length) => Chunks::behind(body, length)?,
        None => (&body[..], Chunks::none()),
    };
    let mut tensors = Vec::new();
    member(json, "outputs", |scanner| {
        let array = scanner.array(|scanner| {
            let place = Place(Side::Outputs, tensors.len());
            tensors.push(tensor(json, scanner, place, &mut chunks)?);
            Ok(())
        });
        array.map(drop)
    })?;
    chunks.end(Side::Outputs)?;
    outputs(body, &tensors)
}

fn grpc(body: &Bytes) -> Result<Vec<Output>, Error> {
    let message = unframe(body.clone(), None, u64::from(u32::MAX))?;
    let (mut fields, mut found, mut raw) = (Fields::all(&message), Vec::new(), Vec::new());
    while let Some(field) = fields.next()? {
        match field.number {
            5 => found.push(input(&message, &field, Place(Side::Outputs, found.len()))?),
            6 => raw.push((text(&field)?, field.span)),
            _ => {}
        }
    }
    let tensors: Vec<Tensor> = match raw.as_slice() {
        [] => found.into_iter().map(|output| with_contents(&message, output)).collect::<Result<_, _>>()?,
        raw => pair_raw(&message, Side::Outputs, found, raw)?,
    };
    outputs(&message, &tensors)
}

/// The tensors with their data taken out of the body.
fn outputs(body: &Bytes, tensors: &[Tensor]) -> Result<Vec<Output>, Error> {
    unique("tensor name", body, tensors.iter().map(|tensor| &tensor.name))?;
    tensors.iter().map(|tensor| output(body, tensor)).collect()
}

fn output(body: &Bytes, tensor: &Tensor) -> Result<Output, Error> {
    let name = Arc::from(tensor.name.get(body));
    let (datatype, shape) = (tensor.datatype, tensor.shape.clone());
    match tensor.data {
        Data::Raw { payload, .. } => Ok(Output { name, datatype, shape, data: body.slice(payload.range()) }),
        Data::Json(_) | Data::Contents(_) => {
            Output::new(name, datatype, shape, tensor.elements(body)).map_err(Error::invalid)
        }
        Data::Elsewhere => {
            Err(Error::invalid(format!("tensor {:?}: its data is in shared memory", shown(&name, NAME))))
        }
    }
}

fn v1(body: &[u8]) -> Result<Vec<Output>, Error> {
    let mut read = Instances::default();
    member(body, "predictions", |scanner| {
        read = Instances::read(scanner)?;
        Ok(())
    })?;
    if read.rows.iter().any(Option::is_some) {
        return objects(body, &read);
    }
    let (json, mut rows) = (read.span.of(body), Vec::with_capacity(read.rows.len()));
    Scanner::new(json).array(|scanner| {
        rows.push(scanner.span()?.of(json));
        Ok(())
    })?;
    Ok(vec![column("predictions", &rows)?])
}

/// An output a key; every prediction has the same ones.
fn objects(body: &[u8], read: &Instances) -> Result<Vec<Output>, Error> {
    if let Some(row) = read.rows.iter().position(Option::is_none) {
        return Err(Error::invalid(format!("prediction {row} is no object, as others are")));
    }
    let first = read.members(0).unwrap_or_default();
    unique("key of a prediction", body, first.iter().map(|member| &member.key))?;
    let names: Vec<_> = first.iter().map(|member| member.key.get(body)).collect();
    let mut columns = vec![Vec::with_capacity(read.rows.len()); names.len()];
    for row in 0..read.rows.len() {
        let members = read.members(row).filter(|members| members.len() == names.len());
        for (index, name) in names.iter().enumerate() {
            // As many members as distinct names, all of them found: none is there twice.
            let value = members
                .and_then(|members| value_of(body, members, name, index))
                .ok_or_else(|| Error::invalid(format!("prediction {row} has not the keys that prediction 0 has")))?;
            columns[index].push(value);
        }
    }
    names.iter().zip(&columns).map(|(name, rows)| column(name, rows)).collect()
}

/// The value of a key that is most likely the `index`th.
fn value_of<'a>(body: &'a [u8], members: &[Member], name: &str, index: usize) -> Option<&'a [u8]> {
    let likely = members.get(index).filter(|member| member.key.is(body, name));
    let found = likely.or_else(|| members.iter().find(|member| member.key.is(body, name)));
    found.map(|member| member.value.of(body))
}

/// The output of a value a row; every row has the dimensions of the first.
fn column(name: &str, rows: &[&[u8]]) -> Result<Output, Error> {
    let (mut shape, mut scalars) = (Shape::new(), Vec::new());
    shape.push(dimension(rows.len()));
    if let Some(first) = rows.first() {
        dimensions(first, &mut shape)?;
    }
    for (row, raw) in rows.iter().enumerate() {
        let mut read = Row { name, row, raw, scalars: &mut scalars };
        read.collect(&mut Scanner::new(raw), &shape[1..])?;
    }
    let datatype = datatype(&scalars)
        .ok_or_else(|| Error::invalid(format!("{:?} mixes numbers, booleans and strings", shown(name, NAME))))?;
    Output::new(name.into(), datatype, shape, scalars).map_err(Error::invalid)
}

/// Appends how long the arrays at the front of each level are.
fn dimensions(raw: &[u8], shape: &mut Shape) -> Result<(), Error> {
    let mut scanner = Scanner::new(raw);
    while scanner.peek() == Some(b'[') {
        let (mut ahead, mut length) = (scanner, 0);
        ahead.array(|scanner| {
            length += 1;
            scanner.value().map(drop)
        })?;
        shape.push(dimension(length));
        scanner.bump();
        scanner.space();
    }
    Ok(())
}

/// One row's values being collected.
struct Row<'a, 's> {
    name: &'s str,
    row: usize,
    raw: &'a [u8],
    scalars: &'s mut Vec<Scalar<'a>>,
}

impl Row<'_, '_> {
    fn collect(&mut self, scanner: &mut Scanner<'_>, dimensions: &[i64]) -> Result<(), Error> {
        let Some((&first, inner)) = dimensions.split_first() else {
            let scalar = Scalar::json(scanner.span()?.of(self.raw));
            if matches!(scalar, Scalar::Null | Scalar::Other) {
                return Err(self.wrong(&format!("{scalar} where a number, a boolean or a string is expected")));
            }
            self.scalars.push(scalar);
            return Ok(());
        };
        let mut length = 0;
        let is_list = scanner.peek() == Some(b'[');
        if is_list {
            scanner.array(|scanner| {
                length += 1;
                self.collect(scanner, inner)
            })?;
        }
        if is_list && length == first { Ok(()) } else { Err(self.wrong("it is not nested as row 0 is")) }
    }

    fn wrong(&self, what: &str) -> Error {
        Error::invalid(format!("{:?}, row {}: {what}", shown(self.name, NAME), self.row))
    }
}

/// The datatype that holds all values exactly, or FP64 where none does; `None` where they are of different kinds.
fn datatype(scalars: &[Scalar<'_>]) -> Option<Datatype> {
    let all =
        |test: fn(&str) -> bool| scalars.iter().all(|scalar| matches!(scalar, Scalar::Number(text) if test(text)));
    match scalars {
        [] => Some(Datatype::Fp64),
        _ if all(|text| text.parse::<i64>().is_ok()) => Some(Datatype::Int64),
        _ if all(|text| text.parse::<u64>().is_ok()) => Some(Datatype::Uint64),
        _ if all(|_| true) => Some(Datatype::Fp64),
        _ if scalars.iter().all(|scalar| matches!(scalar, Scalar::Bool(_))) => Some(Datatype::Bool),
        _ if scalars.iter().all(|scalar| matches!(scalar, Scalar::Text(_))) => Some(Datatype::Bytes),
        _ => None,
    }
}
