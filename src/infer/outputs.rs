//! A model's output tensors, whatever protocol they travel in: configured, ruled, combined, or read from a model's answer.
//!
//! An [`Output`] keeps its elements as raw contents are, little-endian: every value exact, a NaN with its bits. [`write()`] says
//! outputs as a protocol's answer, [`read()`] takes them out of one, [`combine()`] makes one answer of several, and [`RequestedOutputs`] is what a
//! request wants of its answer. Pure: no model is asked here, nothing is decided.

mod combine;
mod read;
mod requested;
mod sound;
#[cfg(test)]
mod tests;
mod write;

use std::{fmt, sync::Arc};

use bytes::Bytes;

pub(crate) use self::sound::{is_answer, may_be_answer};
pub use self::{
    combine::{Ballot, Combine, Combined, combine},
    read::read,
    requested::RequestedOutputs,
    write::{Head, Written, write},
};
use super::{
    Datatype, Error, Kind, Shape,
    decoded::{
        Elements, Scalar,
        check::check_count,
        writer::{Encoding, Writer},
    },
};

/// The longest data that a row's output is repeated to. Rows are cheap for a caller (a byte each), and an output is as long as
/// the config made it.
const LARGEST: usize = 64 << 20;

/// One output tensor: as many elements as its shape says.
#[derive(Clone, PartialEq, Eq)]
pub struct Output {
    name: Arc<str>,
    datatype: Datatype,
    shape: Shape,
    /// Little-endian; `BYTES` elements behind their length in four bytes.
    data: Bytes,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({:?}, {}, {:?}, {} bytes)", self.name, self.datatype, self.shape, self.data.len())
    }
}

impl Output {
    /// An output of these elements, row-major, each converted to `datatype`: exact where the type is the same, rounded only
    /// between floats or from an integer to a float.
    ///
    /// # Errors
    /// An element would become another value, or their count is not the shape's; in words, beginning with the tensor's name.
    pub(crate) fn new<'s>(
        name: Arc<str>,
        datatype: Datatype,
        shape: Shape,
        elements: impl IntoIterator<Item = Scalar<'s>>,
    ) -> Result<Self, String> {
        let (mut data, mut count) = (Vec::new(), 0);
        let mut writer = Writer { out: &mut data, encoding: Encoding::Raw, datatype, comma: false };
        for scalar in elements {
            let wrong = |told| format!("tensor {name:?}: element {count}: {told}");
            writer.put(&scalar).map_err(|misfit| wrong(misfit.told(&scalar, datatype)))?;
            count += 1;
        }
        check_count(&name, datatype, &shape, count).map_err(|error| error.to_string())?;
        Ok(Self { name, datatype, shape, data: data.into() })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its elements.
    #[must_use]
    pub const fn datatype(&self) -> Datatype {
        self.datatype
    }

    /// Its shape, outermost dimension first.
    #[must_use]
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Its elements, row-major.
    pub(crate) fn elements(&self) -> Elements<'_> {
        Elements::raw(self.datatype, &self.data)
    }

    /// The output of `rows` instances, where this one is configured for one: a first dimension of 1 becomes `rows`, and a scalar
    /// becomes `[rows]`, with the data repeated for each. Any other first dimension says that the output is none a row: it is
    /// answered as it is, whatever the request holds.
    ///
    /// # Errors
    /// It would be longer than 64 MiB.
    pub fn batched(&self, rows: usize) -> Result<Self, Error> {
        let mut shape = self.shape.clone();
        match shape.first_mut() {
            Some(1) => shape[0] = dimension(rows),
            None => shape.push(dimension(rows)),
            Some(_) => return Ok(self.clone()),
        }
        match self.data.len().checked_mul(rows) {
            Some(length) if length <= LARGEST => {
                Ok(Self { shape, data: self.data.repeat(rows).into(), ..self.clone() })
            }
            _ => Err(Error::new(
                Kind::Unavailable,
                format!("output {:?} for {rows} rows is over {LARGEST} bytes, more than is made up", self.name),
            )),
        }
    }
}

fn dimension(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
