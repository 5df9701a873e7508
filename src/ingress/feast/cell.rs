//! One cell of a request as what it is declared to be: a join key's value, a feature's value, a time.
//!
//! What Feast's Python coerces is coerced here: `"1001"`, `1001.0` and `true` are whole numbers, a number is text where text is
//! declared. A key with a fraction is refused, but where Feast's own answers are wanted. Beyond that, what the API writes it also reads: base64 for bytes, `"NaN"` and `"Infinity"` for what JSON has no
//! number for.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::{errors::repr, time};
use crate::{
    config::Compat,
    infer::{
        EntityType, EntityValue, FeatureType, Value,
        decoded::{
            json::Scanner,
            scalar::{Scalar, shown},
        },
    },
};

/// Why a cell is not what it is declared to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is null, or, where one value is declared, a list: Feast takes the one for the other.
    Null,
    /// Text that is no whole number.
    Literal(String),
    /// A number that does not fit; the number.
    Range(String),
    /// Text that is no time.
    Time(String),
    /// Of another type.
    Type,
}

impl Wrong {
    /// What Feast's server says of it.
    pub(super) fn python(&self) -> String {
        match self {
            Self::Null => "attribute name must be string, not 'NoneType'".into(),
            Self::Literal(text) => format!("invalid literal for int() with base 10: {}", repr(shown(text, 128))),
            Self::Range(number) => format!("Value out of range: {}", shown(number, 128)),
            Self::Time(_) | Self::Type => "bad argument type for built-in operation".into(),
        }
    }

    /// What it is, in words; `allowed` says what would do.
    pub(super) fn told(&self, kind: &str, allowed: &str) -> String {
        match self {
            Self::Null => format!("null or a list; allowed for {kind}: {allowed}"),
            Self::Literal(text) => format!("{:?} is no whole number; allowed for {kind}: {allowed}", shown(text, 64)),
            Self::Range(number) => format!("{} does not fit {kind}; allowed: {allowed}", shown(number, 64)),
            Self::Time(text) => format!("{:?} is no time; allowed for {kind}: {allowed}", shown(text, 64)),
            Self::Type => format!("of another type; allowed for {kind}: {allowed}"),
        }
    }
}

/// A cell as a join key's value. Feast's Python cuts fractions off, and so answers for another entity, or writes over it: that
/// is done only where its own answers are wanted.
pub(super) fn entity(kind: EntityType, cell: &Scalar<'_>, compat: Compat) -> Result<EntityValue, Wrong> {
    let whole = matches!(kind, EntityType::Int32 | EntityType::Int64 | EntityType::UnixTimestamp);
    if let (true, Compat::Truthful, Scalar::Number(text)) = (whole, compat, cell)
        && text.parse::<f64>().is_ok_and(|number| number.fract() != 0.0)
    {
        return Err(Wrong::Literal((*text).to_owned()));
    }
    Ok(match kind {
        EntityType::Int64 => EntityValue::Int64(integer(cell)?),
        EntityType::UnixTimestamp => EntityValue::UnixTimestamp(integer(cell)?),
        EntityType::Int32 => EntityValue::Int32(int32(cell)?),
        EntityType::String => EntityValue::String(text(cell)?.into_owned()),
        EntityType::Bytes => EntityValue::Bytes(bytes(cell)?),
    })
}

/// A cell as a feature's value.
pub(super) fn feature(kind: FeatureType, raw: &[u8]) -> Result<Value, Wrong> {
    let cell = Scalar::json(raw);
    if cell == Scalar::Null {
        return Ok(Value::Null);
    }
    Ok(match kind {
        FeatureType::Bytes => Value::Bytes(bytes(&cell)?.into()),
        FeatureType::String => Value::String(text(&cell)?.into()),
        FeatureType::Int32 => Value::Int32(int32(&cell)?),
        FeatureType::Int64 => Value::Int64(integer(&cell)?),
        FeatureType::Double => Value::Double(double(&cell)?),
        FeatureType::Float => Value::Float(single(&cell)?),
        FeatureType::Bool => Value::Bool(boolean(&cell)?),
        FeatureType::UnixTimestamp => Value::UnixTimestamp(seconds(&cell)?),
        FeatureType::BytesList => Value::BytesList(list(raw, |cell| bytes(cell).map(Bytes::from))?),
        FeatureType::StringList => Value::StringList(list(raw, |cell| text(cell).map(Arc::from))?),
        FeatureType::Int32List => Value::Int32List(list(raw, int32)?),
        FeatureType::Int64List => Value::Int64List(list(raw, integer)?),
        FeatureType::DoubleList => Value::DoubleList(list(raw, double)?),
        FeatureType::FloatList => Value::FloatList(list(raw, single)?),
        FeatureType::BoolList => Value::BoolList(list(raw, boolean)?),
        FeatureType::UnixTimestampList => Value::UnixTimestampList(list(raw, seconds)?),
        // Read as Feast stores it, not written.
        FeatureType::Opaque => return Err(Wrong::Type),
    })
}

/// A cell as the time of an event, in nanoseconds: ISO 8601, or a number of nanoseconds.
pub(super) fn event_time(cell: &Scalar<'_>) -> Result<i64, Wrong> {
    match cell {
        Scalar::Text(text) => time::parse(text).ok_or_else(|| Wrong::Time(text.clone().into_owned())),
        Scalar::Number(_) => integer(cell),
        Scalar::Null => Err(Wrong::Null),
        _ => Err(Wrong::Type),
    }
}

fn list<T>(raw: &[u8], item: impl Fn(&Scalar<'_>) -> Result<T, Wrong>) -> Result<Arc<[T]>, Wrong> {
    if raw.first() != Some(&b'[') {
        return Err(Wrong::Type);
    }
    let (mut items, mut wrong) = (Vec::new(), None);
    let walked = Scanner::new(raw).array(|scanner| {
        let cell = Scalar::json(scanner.span()?.of(raw));
        match item(&cell) {
            Ok(item) if wrong.is_none() => items.push(item),
            Ok(_) => {}
            Err(error) => wrong = wrong.take().or(Some(error)),
        }
        Ok(())
    });
    match (walked, wrong) {
        (Ok(_), None) => Ok(items.into()),
        (_, Some(wrong)) => Err(wrong),
        (Err(_), None) => Err(Wrong::Type),
    }
}

fn int32(cell: &Scalar<'_>) -> Result<i32, Wrong> {
    let value = integer(cell)?;
    i32::try_from(value).map_err(|_| Wrong::Range(value.to_string()))
}

/// Python's `int()`.
fn integer(cell: &Scalar<'_>) -> Result<i64, Wrong> {
    match cell {
        Scalar::Number(text) => text.parse().or_else(|_| truncated(text)),
        Scalar::Bool(truth) => Ok(i64::from(*truth)),
        Scalar::Text(text) => of_text(text),
        Scalar::Null | Scalar::Other => Err(Wrong::Null),
        _ => Err(Wrong::Type),
    }
}

/// A number that is not written as a whole one of 64 bits.
#[cold]
fn truncated(text: &str) -> Result<i64, Wrong> {
    if text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) {
        return Err(Wrong::Range(text.into()));
    }
    let number: f64 = text.parse().map_err(|_| Wrong::Type)?;
    let whole = number.trunc();
    // The bounds are exact in a double; the upper one is the first that does not fit.
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&whole) {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and within the bounds")]
        return Ok(whole as i64);
    }
    Err(Wrong::Range(format!("{whole:.0}")))
}

#[cold]
fn of_text(text: &str) -> Result<i64, Wrong> {
    let trimmed = text.trim();
    let plain = trimmed.strip_prefix('+').unwrap_or(trimmed);
    let digits = plain.strip_prefix('-').unwrap_or(plain);
    let grouped = digits.replace('_', "");
    let well_grouped = !digits.starts_with('_') && !digits.ends_with('_') && !digits.contains("__");
    if grouped.is_empty() || !well_grouped || !grouped.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Wrong::Literal(text.into()));
    }
    let number = if plain.starts_with('-') { format!("-{grouped}") } else { grouped };
    number.parse().map_err(|_| Wrong::Range(number))
}

/// Python's `str()`.
fn text<'a>(cell: &Scalar<'a>) -> Result<Cow<'a, str>, Wrong> {
    match cell {
        Scalar::Text(text) => Ok(text.clone()),
        Scalar::Number(text) if text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) => {
            // There is no negative zero among whole numbers.
            Ok(Cow::Borrowed(if *text == "-0" { "0" } else { text }))
        }
        Scalar::Number(text) => text.parse().map(|number| Cow::Owned(float_text(number))).map_err(|_| Wrong::Type),
        Scalar::Bool(truth) => Ok(Cow::Borrowed(if *truth { "True" } else { "False" })),
        Scalar::Null | Scalar::Other => Err(Wrong::Null),
        _ => Err(Wrong::Type),
    }
}

/// A float as Python writes it: `1e+16`, `1e-05`, `0.0001`, `100.0`.
fn float_text(number: f64) -> String {
    if !number.is_finite() {
        return if number > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent @ (..-4 | 16..)) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => format!("{number:?}"),
    }
}

fn double(cell: &Scalar<'_>) -> Result<f64, Wrong> {
    match cell {
        Scalar::Number(text) => text.parse().map_err(|_| Wrong::Type),
        Scalar::Text(text) => match &**text {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            _ => Err(Wrong::Type),
        },
        Scalar::Null => Err(Wrong::Null),
        _ => Err(Wrong::Type),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounded to the nearest float, as Feast does")]
fn single(cell: &Scalar<'_>) -> Result<f32, Wrong> {
    match cell {
        // Python's `float()` takes text.
        Scalar::Text(text) => text.trim().parse::<f64>().map(|number| number as f32).map_err(|_| Wrong::Type),
        Scalar::Bool(truth) => Ok(f32::from(u8::from(*truth))),
        _ => double(cell).map(|number| number as f32),
    }
}

fn boolean(cell: &Scalar<'_>) -> Result<bool, Wrong> {
    match cell {
        Scalar::Bool(truth) => Ok(*truth),
        Scalar::Number(text) => text.parse::<i64>().map(|number| number != 0).map_err(|_| Wrong::Type),
        Scalar::Null => Err(Wrong::Null),
        _ => Err(Wrong::Type),
    }
}

/// Seconds since the epoch, as a number or as a time.
fn seconds(cell: &Scalar<'_>) -> Result<i64, Wrong> {
    match cell {
        Scalar::Text(text) => {
            of_text(text).or_else(|wrong| time::parse(text).map(|nanos| nanos.div_euclid(1_000_000_000)).ok_or(wrong))
        }
        _ => integer(cell),
    }
}

fn bytes(cell: &Scalar<'_>) -> Result<Vec<u8>, Wrong> {
    match cell {
        Scalar::Text(text) => STANDARD.decode(&**text).map_err(|_| Wrong::Type),
        Scalar::Null | Scalar::Other => Err(Wrong::Null),
        _ => Err(Wrong::Type),
    }
}

/// What a feature's cell may be.
pub(super) const fn feature_cells(kind: FeatureType) -> &'static str {
    match kind {
        FeatureType::Bytes => "base64 text",
        FeatureType::String => "text",
        FeatureType::Int32 => "a whole number of 32 bits",
        FeatureType::Int64 => "a whole number of 64 bits",
        FeatureType::Double | FeatureType::Float => "a number, \"NaN\", \"Infinity\", \"-Infinity\"",
        FeatureType::Bool => "true, false",
        FeatureType::UnixTimestamp => "whole seconds since 1970, or a time in ISO 8601",
        FeatureType::BytesList => "a list of base64 text",
        FeatureType::StringList => "a list of text",
        FeatureType::Int32List => "a list of whole numbers of 32 bits",
        FeatureType::Int64List => "a list of whole numbers of 64 bits",
        FeatureType::DoubleList | FeatureType::FloatList => "a list of numbers",
        FeatureType::BoolList => "a list of true and false",
        FeatureType::UnixTimestampList => "a list of whole seconds since 1970",
        FeatureType::Opaque => "null: values of this type are read, not written",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_time_is_quoted() {
        let wrong = event_time(&Scalar::json(br#""yesterday""#)).unwrap_err();
        assert_eq!(wrong.told("a time", "ISO 8601"), "\"yesterday\" is no time; allowed for a time: ISO 8601");
        assert_eq!(wrong.python(), Wrong::Type.python(), "what Feast's server says of it");
        assert_eq!(
            event_time(&Scalar::json(b"[1]")).unwrap_err().told("a time", "x").split(';').next(),
            Some("of another type")
        );
    }

    fn key(kind: EntityType, json: &str) -> Result<EntityValue, Wrong> {
        entity(kind, &Scalar::json(json.as_bytes()), Compat::FeastPython)
    }

    #[test]
    fn a_fraction_of_a_key_is_no_other_key() {
        for (json, expected) in [
            ("1001", Ok(1001)),
            ("1001.0", Ok(1001)),
            ("1e3", Ok(1000)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("\"1001\"", Ok(1001)),
            ("1001.5", Err(Wrong::Literal("1001.5".into()))),
            ("-1e-3", Err(Wrong::Literal("-1e-3".into()))),
        ] {
            let key = entity(EntityType::Int64, &Scalar::json(json.as_bytes()), Compat::Truthful);
            assert_eq!(key, expected.map(EntityValue::Int64), "{json}");
        }
    }

    #[test]
    fn keys_are_coerced_as_python_does() {
        for (json, expected) in [
            ("1001", Ok(1001)),
            ("\"1001\"", Ok(1001)),
            ("\" -1_001 \"", Ok(-1001)),
            ("\"+5\"", Ok(5)),
            ("1001.9", Ok(1001)),
            ("-1.5e3", Ok(-1500)),
            ("true", Ok(1)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("9223372036854775808", Err(Wrong::Range("9223372036854775808".into()))),
            ("1e30", Err(Wrong::Range("1000000000000000019884624838656".into()))),
            ("\"abc\"", Err(Wrong::Literal("abc".into()))),
            ("\"\"", Err(Wrong::Literal(String::new()))),
            ("\"1__0\"", Err(Wrong::Literal("1__0".into()))),
            ("null", Err(Wrong::Null)),
            ("[1]", Err(Wrong::Null)),
        ] {
            assert_eq!(key(EntityType::Int64, json), expected.map(EntityValue::Int64), "{json}");
        }
        assert_eq!(key(EntityType::Int32, "3000000000"), Err(Wrong::Range("3000000000".into())));
        for (json, expected) in [
            ("\"u1\"", "u1"),
            ("1", "1"),
            ("1.0", "1.0"),
            ("1e16", "1e+16"),
            ("0.00001", "1e-05"),
            ("0.0001", "0.0001"),
            ("true", "True"),
        ] {
            assert_eq!(key(EntityType::String, json), Ok(EntityValue::String(expected.into())), "{json}");
        }
        assert_eq!(key(EntityType::Bytes, "\"AAH/\""), Ok(EntityValue::Bytes(vec![0, 1, 255])));
    }

    #[test]
    fn features_are_read_as_they_are_written() {
        let values = [
            (FeatureType::Int32, Value::Int32(-7)),
            (FeatureType::Int64, Value::Int64(i64::MIN)),
            (FeatureType::Double, Value::Double(5e-324)),
            (FeatureType::Double, Value::Double(f64::NEG_INFINITY)),
            (FeatureType::Float, Value::Float(0.51)),
            (FeatureType::Bool, Value::Bool(true)),
            (FeatureType::String, Value::String("a\"ü".into())),
            (FeatureType::Bytes, Value::Bytes(Bytes::from_static(b"\x00\xff"))),
            (FeatureType::UnixTimestamp, Value::UnixTimestamp(i64::MIN)),
            (FeatureType::Int64List, Value::Int64List([1, i64::MAX].into())),
            (FeatureType::FloatList, Value::FloatList([0.1, -0.0].into())),
            (FeatureType::StringList, Value::StringList([Arc::from("a"), Arc::from("")].into())),
            (FeatureType::BytesList, Value::BytesList([Bytes::from_static(b"x")].into())),
            (FeatureType::BoolList, Value::BoolList([].into())),
            (FeatureType::String, Value::Null),
        ];
        for (kind, value) in values {
            let mut out = Vec::new();
            super::super::value::write(&mut out, &value).expect("readable");
            assert_eq!(feature(kind, &out), Ok(value), "{}", String::from_utf8_lossy(&out));
        }
        assert_eq!(feature(FeatureType::Int32, b"\"7\""), Ok(Value::Int32(7)));
        assert_eq!(feature(FeatureType::Double, b"\"7\""), Err(Wrong::Type));
        assert_eq!(feature(FeatureType::Int64List, b"[1,null]"), Err(Wrong::Null));
        assert_eq!(feature(FeatureType::UnixTimestamp, b"\"1970-01-01T00:01:00Z\""), Ok(Value::UnixTimestamp(60)));
    }
}
