//! Tensors onto the wire: a [`Sink`] wraps the elements that a [`Writer`] takes into the tensor that the protocol wants.

use std::sync::Arc;

use super::{
    Side,
    scalar::contents_field,
    wire::{put_bytes, put_head, put_varint, record_length, varint_length},
    writer::{Encoding, Writer, put_json_text, put_number},
};
use crate::infer::{Datatype, Error};

/// The constant front of a tensor.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) name: Arc<str>,
    /// `{"name":"x","datatype":"FP32","shape":[`
    pub(crate) json: Box<[u8]>,
    /// `"x":`, for V1 instances.
    pub(crate) key: Box<[u8]>,
    /// Fields 1 and 2 of the tensor's message.
    pub(crate) proto: Box<[u8]>,
}

impl Head {
    pub(crate) fn new(name: &Arc<str>, datatype: Datatype) -> Self {
        let mut key = Vec::new();
        put_json_text(&mut key, name);
        let mut json = b"{\"name\":".to_vec();
        json.extend_from_slice(&key);
        json.extend_from_slice(b",\"datatype\":\"");
        json.extend_from_slice(datatype.name().as_bytes());
        json.extend_from_slice(b"\",\"shape\":[");
        key.push(b':');
        let mut proto = Vec::new();
        put_bytes(&mut proto, 1, name.as_bytes());
        put_bytes(&mut proto, 2, datatype.name().as_bytes());
        Self { name: Arc::clone(name), json: json.into(), key: key.into(), proto: proto.into() }
    }
}

/// How a tensor is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// A V2 JSON object with its data.
    Json,
    /// A V2 JSON object; its data goes behind the JSON.
    Binary,
    /// A tensor's record with `contents`.
    Contents,
    /// A tensor's record and one of raw contents.
    Raw,
}

/// Takes tensors.
pub(crate) struct Sink {
    pub(crate) out: Vec<u8>,
    /// Binary data that goes behind the JSON, or the data of the tensor being written.
    pub(crate) data: Vec<u8>,
    pub(crate) wire: Wire,
    side: Side,
    /// Whether a comma goes before the next JSON tensor.
    pub(crate) comma: bool,
}

impl Sink {
    pub(crate) fn new(side: Side, wire: Wire, capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity), data: Vec::new(), wire, side, comma: false }
    }

    /// Writes one tensor, whose elements `fill` puts.
    pub(crate) fn tensor(
        &mut self,
        head: &Head,
        datatype: Datatype,
        shape: &[usize],
        fill: impl FnOnce(&mut Writer<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match self.wire {
            Wire::Json => {
                self.json_head(head, shape);
                self.out.extend_from_slice(b"],\"data\":[");
                fill(&mut Writer { out: &mut self.out, encoding: Encoding::Json, datatype, comma: false })?;
                self.out.extend_from_slice(b"]}");
            }
            Wire::Binary => {
                let start = self.data.len();
                fill(&mut Writer { out: &mut self.data, encoding: Encoding::Raw, datatype, comma: false })?;
                self.json_head(head, shape);
                self.out.extend_from_slice(b"],\"parameters\":{\"binary_data_size\":");
                put_number(&mut self.out, self.data.len() - start);
                self.out.extend_from_slice(b"}}");
            }
            Wire::Contents | Wire::Raw => {
                self.data.clear();
                let encoding = if self.wire == Wire::Raw { Encoding::Raw } else { Encoding::Contents };
                fill(&mut Writer { out: &mut self.data, encoding, datatype, comma: false })?;
                self.proto(head, datatype, shape);
            }
        }
        Ok(())
    }

    fn json_head(&mut self, head: &Head, shape: &[usize]) {
        if self.comma {
            self.out.push(b',');
        }
        self.comma = true;
        self.out.extend_from_slice(&head.json);
        for (index, &dimension) in shape.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            put_number(&mut self.out, dimension);
        }
    }

    /// Lengths come before what they measure, so they are reckoned from the inside out.
    fn proto(&mut self, head: &Head, datatype: Datatype, shape: &[usize]) {
        let shape_length = shape.iter().map(|&dimension| varint_length(dimension as u64)).sum();
        // BYTES elements are records of their own already; everything else is one packed record.
        let packed = datatype != Datatype::Bytes;
        let contents = if packed { record_length(self.data.len()) } else { self.data.len() };
        let mut length = head.proto.len() + record_length(shape_length);
        if self.wire == Wire::Contents {
            length += record_length(contents);
        }
        put_head(&mut self.out, 5, length);
        self.out.extend_from_slice(&head.proto);
        put_head(&mut self.out, 3, shape_length);
        for &dimension in shape {
            put_varint(&mut self.out, dimension as u64);
        }
        if self.wire == Wire::Raw {
            put_bytes(&mut self.out, self.side.raw_field(), &self.data);
            return;
        }
        put_head(&mut self.out, 5, contents);
        match contents_field(datatype) {
            Some(field) if packed => put_bytes(&mut self.out, field, &self.data),
            _ => self.out.extend_from_slice(&self.data),
        }
    }
}
