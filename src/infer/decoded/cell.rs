//! One value into one element of a datatype: exact where the type is the same, rounded only between floats or from an
//! integer to a float, refused where it would become another value.

use super::{Scalar, half};
use crate::infer::Datatype;

/// An element of some datatype, in that datatype's range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Single(f32),
    Double(f64),
    Bytes(&'a [u8]),
}

impl<'a> From<Cell<'a>> for Scalar<'a> {
    fn from(cell: Cell<'a>) -> Self {
        match cell {
            Cell::Bool(value) => Self::Bool(value),
            Cell::Int(value) => Self::Int(value),
            Cell::Uint(value) => Self::Uint(value),
            Cell::Single(value) => Self::Float(value),
            Cell::Double(value) => Self::Double(value),
            Cell::Bytes(bytes) => Self::Bytes(bytes),
        }
    }
}

/// Why a value cannot be an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// Another kind of thing altogether.
    Type,
    /// A number out of range.
    Range,
    /// A fraction, for a whole number.
    Fraction,
    /// NaN or an infinity, for JSON or a whole number.
    NotFinite,
    /// Bytes that are no text, for JSON.
    NotText,
    /// A 16-bit float, for gRPC's typed contents.
    NoContents,
}

impl Misfit {
    /// In words, after the column and the row.
    pub(crate) fn told(self, scalar: &Scalar<'_>, datatype: Datatype) -> String {
        match self {
            Self::Type => format!("{scalar} cannot be {datatype}; allowed: {}", allowed(datatype)),
            Self::Range => format!("{scalar} is out of range for {datatype}"),
            Self::Fraction => format!("{scalar} is not a whole number; {datatype} takes whole numbers"),
            Self::NotFinite => {
                format!("{scalar} cannot be sent as {datatype} in this protocol; allowed: finite numbers")
            }
            Self::NotText => "bytes that are not UTF-8 cannot be sent in JSON; V2 binary and gRPC can".to_owned(),
            Self::NoContents => {
                format!("{datatype} has no field in gRPC's typed contents; raw_input_contents can carry it")
            }
        }
    }
}

const fn allowed(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bytes => "a string or bytes",
        _ => "a number, a bool or a timestamp",
    }
}

/// Converts a value to an element of `datatype`.
pub(crate) fn cell<'s>(scalar: &'s Scalar<'_>, datatype: Datatype) -> Result<Cell<'s>, Misfit> {
    match datatype {
        Datatype::Bytes => match scalar {
            Scalar::Text(text) => Ok(Cell::Bytes(text.as_bytes())),
            Scalar::Bytes(bytes) => Ok(Cell::Bytes(bytes)),
            _ => Err(Misfit::Type),
        },
        Datatype::Fp64 => double(scalar).map(Cell::Double),
        Datatype::Fp32 => single(scalar).map(Cell::Single),
        Datatype::Fp16 => single(scalar).and_then(|v| finite(v, half::from_fp16(half::to_fp16(v)))).map(Cell::Single),
        Datatype::Bf16 => single(scalar).and_then(|v| finite(v, half::from_bf16(half::to_bf16(v)))).map(Cell::Single),
        Datatype::Bool => match scalar {
            Scalar::Bool(value) => Ok(Cell::Bool(*value)),
            _ => match whole(scalar)? {
                0 => Ok(Cell::Bool(false)),
                1 => Ok(Cell::Bool(true)),
                _ => Err(Misfit::Range),
            },
        },
        Datatype::Uint8 => unsigned(scalar, u64::from(u8::MAX)),
        Datatype::Uint16 => unsigned(scalar, u64::from(u16::MAX)),
        Datatype::Uint32 => unsigned(scalar, u64::from(u32::MAX)),
        Datatype::Uint64 => unsigned(scalar, u64::MAX),
        Datatype::Int8 => signed(scalar, i64::from(i8::MIN), i64::from(i8::MAX)),
        Datatype::Int16 => signed(scalar, i64::from(i16::MIN), i64::from(i16::MAX)),
        Datatype::Int32 => signed(scalar, i64::from(i32::MIN), i64::from(i32::MAX)),
        Datatype::Int64 => signed(scalar, i64::MIN, i64::MAX),
    }
}

/// A finite value that narrowing made infinite is out of range.
const fn finite(before: f32, after: f32) -> Result<f32, Misfit> {
    if before.is_finite() && !after.is_finite() { Err(Misfit::Range) } else { Ok(after) }
}

fn double(scalar: &Scalar<'_>) -> Result<f64, Misfit> {
    match scalar {
        Scalar::Double(value) => Ok(*value),
        Scalar::Float(value) => Ok(f64::from(*value)),
        Scalar::Int(value) => Ok(*value as f64),
        Scalar::Uint(value) => Ok(*value as f64),
        Scalar::Bool(value) => Ok(f64::from(u8::from(*value))),
        Scalar::Number(text) => text.parse::<f64>().ok().filter(|value| value.is_finite()).ok_or(Misfit::Range),
        _ => Err(Misfit::Type),
    }
}

fn single(scalar: &Scalar<'_>) -> Result<f32, Misfit> {
    match scalar {
        Scalar::Float(value) => Ok(*value),
        Scalar::Int(value) => Ok(*value as f32),
        Scalar::Uint(value) => Ok(*value as f32),
        // Straight from the text: by way of a double it would be rounded twice.
        Scalar::Number(text) => text.parse::<f32>().ok().filter(|value| value.is_finite()).ok_or(Misfit::Range),
        _ => {
            let value = double(scalar)?;
            let narrow = value as f32;
            if value.is_finite() && !narrow.is_finite() { Err(Misfit::Range) } else { Ok(narrow) }
        }
    }
}

fn signed<'a>(scalar: &Scalar<'_>, least: i64, most: i64) -> Result<Cell<'a>, Misfit> {
    let value = i64::try_from(whole(scalar)?).map_err(|_| Misfit::Range)?;
    if (least..=most).contains(&value) { Ok(Cell::Int(value)) } else { Err(Misfit::Range) }
}

fn unsigned<'a>(scalar: &Scalar<'_>, most: u64) -> Result<Cell<'a>, Misfit> {
    let value = u64::try_from(whole(scalar)?).map_err(|_| Misfit::Range)?;
    if value <= most { Ok(Cell::Uint(value)) } else { Err(Misfit::Range) }
}

/// The whole number that a value is exactly.
fn whole(scalar: &Scalar<'_>) -> Result<i128, Misfit> {
    match scalar {
        Scalar::Int(value) => Ok(i128::from(*value)),
        Scalar::Uint(value) => Ok(i128::from(*value)),
        Scalar::Bool(value) => Ok(i128::from(*value)),
        Scalar::Number(text) => {
            if let Ok(value) = text.parse::<i64>() {
                return Ok(i128::from(value));
            }
            if let Ok(value) = text.parse::<u64>() {
                return Ok(i128::from(value));
            }
            if text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) {
                return Err(Misfit::Range);
            }
            exact(double(scalar)?)
        }
        Scalar::Float(_) | Scalar::Double(_) => exact(double(scalar)?),
        _ => Err(Misfit::Type),
    }
}

fn exact(value: f64) -> Result<i128, Misfit> {
    if !value.is_finite() {
        return Err(Misfit::NotFinite);
    }
    if value.fract() != 0.0 {
        return Err(Misfit::Fraction);
    }
    if value.abs() >= 2f64.powi(64) { Err(Misfit::Range) } else { Ok(value as i128) }
}
