//! The entities a request names, read from a tensor, from a key of each V1 instance, or from a request parameter.
//!
//! An entity is read exactly or refused: a rounded key would join somebody else's row.

use super::{Decoded, Layout, Scalar, Tensor};
use crate::infer::{Datatype, EntityType, EntityValue, Error};

/// One join key's values, a value a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntityColumn {
    /// From a tensor `[n]` or `[n, 1]`, or from each V1 instance.
    Rows(Vec<EntityValue>),
    /// From a request parameter: the same for every row.
    Same(EntityValue),
}

impl EntityColumn {
    /// The value of a row; `None` past the last.
    #[must_use]
    pub fn get(&self, row: usize) -> Option<&EntityValue> {
        match self {
            Self::Rows(rows) => rows.get(row),
            Self::Same(value) => Some(value),
        }
    }
}

impl Decoded {
    /// The values of the join key that the request carries as `source`: a tensor or instance key of that name, else a
    /// parameter.
    ///
    /// # Errors
    /// The request has no such thing, or its type, shape or a value cannot be a key of `kind`; the message names the source,
    /// the row and what is allowed.
    pub fn entities(&self, source: &str, kind: EntityType) -> Result<EntityColumn, Error> {
        if let Some(tensor) = self.tensor(source) {
            return self.tensor_entities(source, kind, tensor).map(EntityColumn::Rows);
        }
        if let Some(rows) = self.instance_entities(source, kind)? {
            return Ok(EntityColumn::Rows(rows));
        }
        match self.parameter(source) {
            Some(parameter) => {
                let scalar = self.parameter_value(parameter);
                let value = entity(kind, &scalar).map_err(|wrong| {
                    Error::invalid(format!("entity {source:?} (request parameter): {}", told(kind, &scalar, wrong)))
                })?;
                Ok(EntityColumn::Same(value))
            }
            None if self.no_instances() => Ok(EntityColumn::Rows(Vec::new())),
            None => Err(self.missing(source)),
        }
    }

    fn no_instances(&self) -> bool {
        matches!(&self.layout, Layout::V1 { instances, .. } if instances.rows.is_empty())
    }

    fn missing(&self, source: &str) -> Error {
        let where_to = if matches!(self.layout, Layout::V1 { .. }) {
            "a key of every instance, or a member of \"parameters\""
        } else {
            "an input tensor of shape [n] or [n, 1], or a request parameter"
        };
        Error::invalid(format!("missing entity {source:?}: the request must carry it as {where_to}"))
    }

    fn tensor_entities(&self, source: &str, kind: EntityType, tensor: &Tensor) -> Result<Vec<EntityValue>, Error> {
        if !matches!(tensor.shape.as_slice(), [_] | [_, 1]) {
            let shape = &tensor.shape;
            return Err(Error::invalid(format!("entity {source:?}: shape {shape:?}; allowed: [n] or [n, 1]")));
        }
        if !carries(tensor.datatype, kind) {
            let (datatype, allowed) = (tensor.datatype, tensors(kind));
            return Err(Error::invalid(format!(
                "entity {source:?}: a {datatype} tensor cannot name a {kind} key; allowed: {allowed}"
            )));
        }
        if matches!(tensor.data, super::Data::Elsewhere) {
            return Err(Error::invalid(format!(
                "entity {source:?}: its data is in shared memory; allowed: in the request"
            )));
        }
        let mut values = Vec::with_capacity(tensor.rows());
        for (row, scalar) in tensor.elements(&self.body).enumerate() {
            values.push(entity(kind, &scalar).map_err(|wrong| refused(source, row, kind, &scalar, wrong))?);
        }
        Ok(values)
    }

    /// `None` where the instances do not carry it: the first one decides.
    fn instance_entities(&self, source: &str, kind: EntityType) -> Result<Option<Vec<EntityValue>>, Error> {
        let Layout::V1 { instances, .. } = &self.layout else { return Ok(None) };
        if !self.in_rows(source) {
            return Ok(None);
        }
        let mut values = Vec::with_capacity(instances.rows.len());
        for row in 0..instances.rows.len() {
            let Some(span) = instances.get(&self.body, row, source)? else {
                return Err(Error::invalid(format!(
                    "missing entity {source:?} in instance {row}: every instance must have that key where the first has it"
                )));
            };
            let scalar = Scalar::json(span.of(&self.body));
            values.push(entity(kind, &scalar).map_err(|wrong| refused(source, row, kind, &scalar, wrong))?);
        }
        Ok(Some(values))
    }
}

/// Why a value cannot be a key.
enum Wrong {
    Type,
    Range,
    Utf8,
}

#[cold]
fn refused(source: &str, row: usize, kind: EntityType, scalar: &Scalar<'_>, wrong: Wrong) -> Error {
    Error::invalid(format!("entity {source:?}, row {row}: {}", told(kind, scalar, wrong)))
}

fn told(kind: EntityType, scalar: &Scalar<'_>, wrong: Wrong) -> String {
    match wrong {
        Wrong::Type => format!("{scalar} cannot be a {kind} key; allowed: {}", values(kind)),
        Wrong::Range => format!("{scalar} does not fit {kind}; allowed: {}", values(kind)),
        Wrong::Utf8 => format!("not valid UTF-8; a {kind} key is text"),
    }
}

const fn values(kind: EntityType) -> &'static str {
    match kind {
        EntityType::Bytes | EntityType::String => "a string",
        EntityType::Int32 => "an integer from -2147483648 to 2147483647",
        EntityType::Int64 => "an integer from -9223372036854775808 to 9223372036854775807",
        EntityType::UnixTimestamp => "an integer, in seconds since the epoch",
    }
}

const fn tensors(kind: EntityType) -> &'static str {
    match kind {
        EntityType::Bytes | EntityType::String => "BYTES",
        _ => "INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64",
    }
}

const fn carries(datatype: Datatype, kind: EntityType) -> bool {
    match datatype {
        Datatype::Bytes => matches!(kind, EntityType::Bytes | EntityType::String),
        Datatype::Bool | Datatype::Fp16 | Datatype::Fp32 | Datatype::Fp64 | Datatype::Bf16 => false,
        _ => !matches!(kind, EntityType::Bytes | EntityType::String),
    }
}

fn entity(kind: EntityType, scalar: &Scalar<'_>) -> Result<EntityValue, Wrong> {
    Ok(match kind {
        EntityType::Int64 => EntityValue::Int64(integer(scalar)?),
        EntityType::UnixTimestamp => EntityValue::UnixTimestamp(integer(scalar)?),
        EntityType::Int32 => EntityValue::Int32(integer(scalar)?.try_into().map_err(|_| Wrong::Range)?),
        EntityType::String => EntityValue::String(match scalar {
            Scalar::Text(text) => text.clone().into_owned(),
            Scalar::Bytes(bytes) => std::str::from_utf8(bytes).map_err(|_| Wrong::Utf8)?.to_owned(),
            _ => return Err(Wrong::Type),
        }),
        EntityType::Bytes => EntityValue::Bytes(match scalar {
            Scalar::Text(text) => text.as_bytes().to_vec(),
            Scalar::Bytes(bytes) => bytes.to_vec(),
            _ => return Err(Wrong::Type),
        }),
    })
}

fn integer(scalar: &Scalar<'_>) -> Result<i64, Wrong> {
    match scalar {
        Scalar::Int(value) => Ok(*value),
        Scalar::Uint(value) => i64::try_from(*value).map_err(|_| Wrong::Range),
        Scalar::Number(text) if text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) => {
            text.parse().map_err(|_| Wrong::Range)
        }
        _ => Err(Wrong::Type),
    }
}
