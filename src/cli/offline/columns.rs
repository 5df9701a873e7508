//! Arrow columns into Feast values: what a parquet column may be for each declared type, and the words when it is not.
//!
//! Nothing is changed in silence but what Feast's own materialization changes too: doubles rounded to floats, times rounded down to
//! seconds, a null time made the least one, a scalar NaN made null, a null list element made the type's zero (NaN in lists of
//! floats). Whole numbers that pandas turned into doubles because of a null are taken back exactly, or refused.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, LargeBinaryArray, LargeListArray, LargeStringArray,
    PrimitiveArray,
    cast::AsArray,
    new_null_array,
    types::{Float32Type, Float64Type, Int32Type, Int64Type, TimestampNanosecondType},
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, TimeUnit};
use bytes::Bytes;

use crate::infer::{FeatureType, Value};

/// What Feast stores for a time that is null, alone or in a list.
const NULL_TIME: i64 = i64::MIN;

/// What is wrong with a column, and with which of its rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// From 0 within the array given; `None`: the whole column.
    pub(super) row: Option<usize>,
    pub(super) words: String,
}

impl Problem {
    fn column(words: String) -> Self {
        Self { row: None, words }
    }

    fn row(row: usize, words: String) -> Self {
        Self { row: Some(row), words }
    }
}

/// A column whose rows are values of one declared type.
#[derive(Debug)]
pub(super) enum Column {
    Bytes(LargeBinaryArray),
    String(LargeStringArray),
    Int32(PrimitiveArray<Int32Type>),
    Int64(PrimitiveArray<Int64Type>),
    Double(PrimitiveArray<Float64Type>),
    Float(PrimitiveArray<Float32Type>),
    Bool(BooleanArray),
    UnixTimestamp(PrimitiveArray<Int64Type>),
    /// The lists, and all their elements.
    List(LargeListArray, Box<Column>),
}

impl Column {
    /// Reads `array` as a column of `kind`.
    ///
    /// # Errors
    /// The array's type does not go with `kind`, or one of its values does not.
    pub(super) fn new(array: &ArrayRef, kind: FeatureType) -> Result<Self, Problem> {
        match kind.element() {
            Some(kind) => list(array, kind),
            None => scalar(array, kind),
        }
    }

    /// Whether a row of the file is null; a null time has a value all the same.
    pub(super) fn is_null(&self, row: usize) -> bool {
        let array: &dyn Array = match self {
            Self::Bytes(v) => v,
            Self::String(v) => v,
            Self::Int32(v) => v,
            Self::Int64(v) | Self::UnixTimestamp(v) => v,
            Self::Double(v) => v,
            Self::Float(v) => v,
            Self::Bool(v) => v,
            Self::List(v, _) => v,
        };
        array.is_null(row)
    }

    /// The value in a row.
    pub(super) fn value(&self, row: usize) -> Value {
        match self {
            Self::List(lists, elements) if lists.is_valid(row) => {
                let offsets = lists.value_offsets();
                // Arrow's offsets are never negative and rise.
                elements.list(offsets[row] as usize..offsets[row + 1] as usize)
            }
            Self::Bytes(v) if v.is_valid(row) => Value::Bytes(Bytes::copy_from_slice(v.value(row))),
            Self::String(v) if v.is_valid(row) => Value::String(v.value(row).into()),
            Self::Int32(v) if v.is_valid(row) => Value::Int32(v.value(row)),
            Self::Int64(v) if v.is_valid(row) => Value::Int64(v.value(row)),
            Self::Double(v) if v.is_valid(row) && !v.value(row).is_nan() => Value::Double(v.value(row)),
            Self::Float(v) if v.is_valid(row) && !v.value(row).is_nan() => Value::Float(v.value(row)),
            Self::Bool(v) if v.is_valid(row) => Value::Bool(v.value(row)),
            Self::UnixTimestamp(v) => Value::UnixTimestamp(if v.is_valid(row) { v.value(row) } else { NULL_TIME }),
            _ => Value::Null,
        }
    }

    fn list(&self, range: std::ops::Range<usize>) -> Value {
        match self {
            Self::Bytes(v) => Value::BytesList(
                range.map(|i| if v.is_valid(i) { Bytes::copy_from_slice(v.value(i)) } else { Bytes::new() }).collect(),
            ),
            Self::String(v) => {
                Value::StringList(range.map(|i| Arc::from(if v.is_valid(i) { v.value(i) } else { "" })).collect())
            }
            Self::Int32(v) => Value::Int32List(elements(v, range, 0)),
            Self::Int64(v) => Value::Int64List(elements(v, range, 0)),
            Self::Double(v) => Value::DoubleList(elements(v, range, f64::NAN)),
            Self::Float(v) => Value::FloatList(elements(v, range, f32::NAN)),
            Self::Bool(v) => Value::BoolList(range.map(|i| v.is_valid(i) && v.value(i)).collect()),
            Self::UnixTimestamp(v) => Value::UnixTimestampList(elements(v, range, NULL_TIME)),
            // Elements are made by `scalar`, which makes no lists.
            Self::List(..) => Value::Null,
        }
    }
}

fn elements<T: ArrowPrimitiveType>(
    array: &PrimitiveArray<T>,
    range: std::ops::Range<usize>,
    null: T::Native,
) -> Arc<[T::Native]> {
    range.map(|i| if array.is_valid(i) { array.value(i) } else { null }).collect()
}

const fn allowed(kind: FeatureType) -> &'static str {
    match kind {
        FeatureType::Bytes => "binary",
        FeatureType::String => "string",
        FeatureType::Int32 | FeatureType::Int64 => {
            "integers, decimals without fraction, floating-point columns of whole numbers"
        }
        FeatureType::Double | FeatureType::Float => "floating-point numbers, integers, decimals",
        FeatureType::Bool => "booleans",
        FeatureType::UnixTimestamp => "timestamps, dates, integers (seconds)",
        FeatureType::Opaque => "none: such features are read from the online store only",
        _ => "lists of the element's type",
    }
}

fn list(array: &ArrayRef, kind: FeatureType) -> Result<Column, Problem> {
    let array = plain(array)?;
    let of = match array.data_type() {
        DataType::Null => DataType::Null,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field) => field.data_type().clone(),
        DataType::FixedSizeList(field, _) => field.data_type().clone(),
        other => return Err(Problem::column(format!("is {other}; allowed: lists of {}", allowed(kind)))),
    };
    let target = DataType::LargeList(Arc::new(Field::new_list_field(of, true)));
    let lists = checked_cast(&array, &target, kind)?.as_list::<i64>().clone();
    let elements = scalar(lists.values(), kind).map_err(|problem| in_list(problem, &lists))?;
    Ok(Column::List(lists, Box::new(elements)))
}

/// The row of the list that an element is in.
fn in_list(problem: Problem, lists: &LargeListArray) -> Problem {
    let words = format!("in a list: {}", problem.words);
    let row = problem.row.map(|at| lists.value_offsets()[1..].partition_point(|&end| end as usize <= at));
    Problem { row, words }
}

fn scalar(array: &ArrayRef, kind: FeatureType) -> Result<Column, Problem> {
    let array = plain(array)?;
    if *array.data_type() == DataType::Null {
        return Ok(typed(&new_null_array(&target(kind), array.len()), kind));
    }
    let fits = match (kind, array.data_type()) {
        (FeatureType::Bytes, DataType::Binary | DataType::LargeBinary | DataType::BinaryView) => true,
        (FeatureType::Bytes, DataType::FixedSizeBinary(_)) => true,
        (FeatureType::String, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => true,
        (FeatureType::Bool, DataType::Boolean) => true,
        (FeatureType::UnixTimestamp, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64) => {
            return seconds(&array).map(Column::UnixTimestamp);
        }
        (FeatureType::Int32 | FeatureType::Int64, from) if from.is_floating() => {
            return whole_numbers(&array).and_then(|whole| scalar(&whole, kind));
        }
        (FeatureType::Int32 | FeatureType::Int64, DataType::Decimal128(_, 0) | DataType::Decimal256(_, 0)) => true,
        (FeatureType::Double | FeatureType::Float, DataType::Decimal128(..) | DataType::Decimal256(..)) => true,
        (FeatureType::Double | FeatureType::Float, from) => from.is_numeric(),
        (FeatureType::Int32 | FeatureType::Int64 | FeatureType::UnixTimestamp, from) => from.is_integer(),
        _ => false,
    };
    if !fits {
        return Err(Problem::column(format!("is {}, declared {kind}; allowed: {}", array.data_type(), allowed(kind))));
    }
    if kind == FeatureType::Float {
        return floats(&array).map(Column::Float);
    }
    Ok(typed(&checked_cast(&array, &target(kind), kind)?, kind))
}

/// Without dictionary or run-end encoding.
fn plain(array: &ArrayRef) -> Result<ArrayRef, Problem> {
    match array.data_type() {
        DataType::Dictionary(_, values) => checked_cast(array, values, FeatureType::String),
        DataType::RunEndEncoded(_, values) => checked_cast(array, values.data_type(), FeatureType::String),
        _ => Ok(array.clone()),
    }
}

const fn target(kind: FeatureType) -> DataType {
    match kind {
        FeatureType::Bytes => DataType::LargeBinary,
        FeatureType::String => DataType::LargeUtf8,
        FeatureType::Int32 => DataType::Int32,
        FeatureType::Double => DataType::Float64,
        FeatureType::Float => DataType::Float32,
        FeatureType::Bool => DataType::Boolean,
        _ => DataType::Int64,
    }
}

fn typed(array: &ArrayRef, kind: FeatureType) -> Column {
    match kind {
        FeatureType::Bytes => Column::Bytes(array.as_binary().clone()),
        FeatureType::String => Column::String(array.as_string().clone()),
        FeatureType::Int32 => Column::Int32(array.as_primitive().clone()),
        FeatureType::Double => Column::Double(array.as_primitive().clone()),
        FeatureType::Float => Column::Float(array.as_primitive().clone()),
        FeatureType::Bool => Column::Bool(array.as_boolean().clone()),
        FeatureType::UnixTimestamp => Column::UnixTimestamp(array.as_primitive().clone()),
        _ => Column::Int64(array.as_primitive().clone()),
    }
}

/// Casts, and refuses where a value would be lost.
fn checked_cast(array: &ArrayRef, to: &DataType, kind: FeatureType) -> Result<ArrayRef, Problem> {
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let cast = cast_with_options(array, to, &options)
        .map_err(|_| Problem::column(format!("is {}; allowed: {}", array.data_type(), allowed(kind))))?;
    if cast.null_count() > array.logical_null_count() {
        let lost = (0..array.len()).find(|&row| cast.is_null(row) && array.is_valid(row));
        return Err(Problem { row: lost, words: format!("the number does not fit {kind}") });
    }
    Ok(cast)
}

/// Doubles that stand for integers, as pandas writes an integer column with nulls. Over 2^53 they may have been rounded already.
fn whole_numbers(array: &ArrayRef) -> Result<ArrayRef, Problem> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let doubles = checked_cast(array, &DataType::Float64, FeatureType::Int64)?;
    let doubles = doubles.as_primitive::<Float64Type>();
    let mut whole = Vec::with_capacity(doubles.len());
    for (row, double) in doubles.iter().enumerate() {
        whole.push(match double.filter(|double| !double.is_nan()) {
            None => None,
            Some(double) if double.fract() != 0.0 => {
                return Err(Problem::row(row, format!("{double} is not a whole number; allowed: whole numbers")));
            }
            Some(double) if double.abs() >= EXACT => {
                let words = format!(
                    "{double} is too large to be exact: the column holds doubles (as pandas makes of integers with nulls); \
                     allowed: below 2^53, or write the column as integers (pandas: Int64)"
                );
                return Err(Problem::row(row, words));
            }
            // In range and whole.
            Some(double) => Some(double as i64),
        });
    }
    Ok(Arc::new(PrimitiveArray::<Int64Type>::from(whole)))
}

fn floats(array: &ArrayRef) -> Result<PrimitiveArray<Float32Type>, Problem> {
    let doubles = checked_cast(array, &DataType::Float64, FeatureType::Float)?;
    let doubles = doubles.as_primitive::<Float64Type>();
    let over = |double: f64| double.is_finite() && (double as f32).is_infinite();
    if let Some(row) = doubles.iter().position(|double| double.is_some_and(over)) {
        return Err(Problem::row(row, format!("{} does not fit FLOAT", doubles.value(row))));
    }
    Ok(doubles.unary(|double| double as f32))
}

/// Seconds since the epoch, rounded down.
fn seconds(array: &ArrayRef) -> Result<PrimitiveArray<Int64Type>, Problem> {
    let (ticks, unit) = ticks(array)?;
    Ok(ticks.unary(|tick| match unit {
        Tick::Day => tick.saturating_mul(86_400),
        Tick::Of(per_second) => tick.div_euclid(per_second),
    }))
}

/// Nanoseconds since the epoch, of a timestamp or date column. Without a zone it is UTC.
///
/// # Errors
/// The column is neither, or a time is out of the range of nanoseconds (1677 to 2262).
pub(super) fn nanoseconds(array: &ArrayRef) -> Result<PrimitiveArray<TimestampNanosecondType>, Problem> {
    let array = plain(array)?;
    let (ticks, unit) = ticks(&array)?;
    let per_tick = match unit {
        Tick::Day => 86_400 * 1_000_000_000,
        Tick::Of(per_second) => 1_000_000_000 / per_second,
    };
    let out_of_range = |tick: i64| tick.checked_mul(per_tick).is_none();
    if let Some(row) = ticks.iter().position(|tick| tick.is_some_and(out_of_range)) {
        return Err(Problem::row(row, "the time is out of range; allowed: years 1678 to 2261".into()));
    }
    Ok(ticks.unary(|tick| tick.wrapping_mul(per_tick)))
}

#[derive(Clone, Copy)]
enum Tick {
    Day,
    /// So many a second.
    Of(i64),
}

fn ticks(array: &ArrayRef) -> Result<(PrimitiveArray<Int64Type>, Tick), Problem> {
    let unit = match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => Tick::Of(1),
        DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date64 => Tick::Of(1_000),
        DataType::Timestamp(TimeUnit::Microsecond, _) => Tick::Of(1_000_000),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Tick::Of(1_000_000_000),
        DataType::Date32 => Tick::Day,
        other => return Err(Problem::column(format!("is {other}; allowed: timestamps (without a zone: UTC), dates"))),
    };
    // A date's days go by way of its own width.
    let array = match unit {
        Tick::Day => checked_cast(array, &DataType::Int32, FeatureType::UnixTimestamp)?,
        Tick::Of(_) => array.clone(),
    };
    let ticks = checked_cast(&array, &DataType::Int64, FeatureType::UnixTimestamp)?;
    Ok((ticks.as_primitive().clone(), unit))
}

#[cfg(test)]
mod tests;
