//! One parquet file into rows: which of its columns are the view's, and the row that each line makes.
//!
//! Columns are found by name, in the file or in the `column=value` folders above it; the rest is not read. A line without its join key
//! or event time is an error, not a row left out.

use std::{fs::File, sync::Arc};

use anyhow::{Context, anyhow, bail};
use arrow_array::{
    Array, ArrayRef, Int64Array, PrimitiveArray, RecordBatch, StringArray, new_null_array,
    types::TimestampNanosecondType,
};
use arrow_schema::{DataType, Schema};
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
};

use super::{
    columns::{self, Column, Problem},
    source::Source,
};
use crate::{
    config::View,
    features::Row,
    infer::{EntityKey, EntityType, EntityValue, FeatureType, Value},
};

const BATCH_ROWS: usize = 4096;
/// The join key of views without entities, which Feast gives the value "".
const NO_ENTITY: &str = "__dummy_id";
const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// What the columns with times are called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub(super) timestamp: &'a str,
    /// `None`: `created`, where there is one.
    pub(super) created: Option<&'a str>,
}

/// Reads a file batch by batch.
pub(super) struct RowReader<'a> {
    batches: ParquetRecordBatchReader,
    source: &'a Source,
    view: &'a View,
    timestamp: &'a str,
    created: Option<&'a str>,
    /// Rows in the batches before.
    before: usize,
}

impl<'a> RowReader<'a> {
    /// Finds the view's columns in a parquet file.
    ///
    /// # Errors
    /// It is not parquet, or a column is missing: all that are missing are told.
    pub(super) fn open(source: &'a Source, file: File, view: &'a View, names: Names<'a>) -> anyhow::Result<Self> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)
            .with_context(|| format!("{}: not a parquet file that can be read", source.name))?;
        let has = |name: &str| has_column(builder.schema(), source, name);
        let created = names.created.or_else(|| Some("created").filter(|name| has(name)));
        let entities =
            view.entities.iter().map(|(name, _)| name.as_ref()).filter(|name| *name != NO_ENTITY || has(name));
        let features = view.features.iter().map(|feature| feature.name.as_ref());
        let needed: Vec<&str> = entities.chain(features).chain([names.timestamp]).chain(created).collect();
        let missing: Vec<_> = needed.iter().copied().filter(|name| !has(name)).collect();
        if !missing.is_empty() {
            let hint = if missing.contains(&names.timestamp) {
                "; --timestamp-field names the column with the event time"
            } else {
                ""
            };
            bail!(
                "{}: missing {}; the file has {}{hint}",
                source.name,
                quoted(&missing),
                quoted(&columns_of(builder.schema(), source))
            );
        }
        let fields = builder.schema().fields().iter().enumerate();
        let wanted = fields.filter(|(_, field)| needed.contains(&field.name().as_str())).map(|(at, _)| at);
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        let batches = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build()?;
        Ok(Self { batches, source, view, timestamp: names.timestamp, created, before: 0 })
    }

    fn batch(&self, batch: &RecordBatch) -> anyhow::Result<Batch<'a>> {
        let place = Place { source: self.source, before: self.before };
        let columns = Columns { batch, place };
        let keys = self.view.entities.iter().map(|(name, kind)| match columns.array(name, feature_type(*kind)) {
            None => Ok(None),
            Some(array) => columns.typed(name, &array, feature_type(*kind)).map(Some),
        });
        let features = self.view.features.iter().map(|feature| {
            let array = columns.array(&feature.name, feature.kind).context("a column went missing")?;
            columns.typed(&feature.name, &array, feature.kind)
        });
        Ok(Batch {
            keys: keys.collect::<anyhow::Result<_>>()?,
            features: features.collect::<anyhow::Result<_>>()?,
            times: columns.times(self.timestamp)?,
            created: self.created.map(|name| columns.times(name)).transpose()?,
            view: self.view,
            timestamp: self.timestamp,
            rows: batch.num_rows(),
            place,
        })
    }
}

impl<'a> Iterator for RowReader<'a> {
    type Item = anyhow::Result<Batch<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.batches.next()? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(anyhow!(error).context(format!("reading {}", self.source.name)))),
        };
        let read = self.batch(&batch);
        self.before += batch.num_rows();
        Some(read)
    }
}

/// Some lines of a file, its columns converted.
pub(super) struct Batch<'a> {
    /// `None`: the constant key of a view without entities.
    keys: Vec<Option<Column>>,
    features: Vec<Column>,
    times: PrimitiveArray<TimestampNanosecondType>,
    created: Option<PrimitiveArray<TimestampNanosecondType>>,
    view: &'a View,
    timestamp: &'a str,
    rows: usize,
    place: Place<'a>,
}

impl Batch<'_> {
    /// Each line's key, row and `created`.
    pub(super) fn rows(&self) -> impl Iterator<Item = anyhow::Result<(EntityKey, Row, Option<i64>)>> {
        (0..self.rows).map(|row| self.row(row))
    }

    fn row(&self, row: usize) -> anyhow::Result<(EntityKey, Row, Option<i64>)> {
        if self.times.is_null(row) {
            return Err(self.place.error(self.timestamp, null(row, "an event time")));
        }
        let values = self.features.iter().map(|column| Some(column.value(row))).collect();
        let created = self.created.as_ref().filter(|created| created.is_valid(row)).map(|created| created.value(row));
        Ok((self.key(row)?, Row::new(Some(self.times.value(row)), values), created))
    }

    fn key(&self, row: usize) -> anyhow::Result<EntityKey> {
        let mut values = smallvec::SmallVec::<[(&str, EntityValue); 4]>::new();
        for ((name, _), column) in self.view.entities.iter().zip(&self.keys) {
            let value = match column.as_ref().map(|column| (!column.is_null(row)).then(|| column.value(row))) {
                None => EntityValue::String(String::new()),
                Some(value) => {
                    value.and_then(entity_value).ok_or_else(|| self.place.error(name, null(row, "a join key")))?
                }
            };
            values.push((name, value));
        }
        if values.is_empty() {
            values.push((NO_ENTITY, EntityValue::String(String::new())));
        }
        Ok(EntityKey::new(values.iter().map(|(name, value)| (*name, value))))
    }
}

fn null(row: usize, what: &str) -> Problem {
    Problem { row: Some(row), words: format!("is null; {what} must be there") }
}

fn entity_value(value: Value) -> Option<EntityValue> {
    Some(match value {
        Value::Bytes(v) => EntityValue::Bytes(v.to_vec()),
        Value::String(v) => EntityValue::String(v.as_ref().into()),
        Value::Int32(v) => EntityValue::Int32(v),
        Value::Int64(v) => EntityValue::Int64(v),
        Value::UnixTimestamp(v) => EntityValue::UnixTimestamp(v),
        _ => return None,
    })
}

const fn feature_type(kind: EntityType) -> FeatureType {
    match kind {
        EntityType::Bytes => FeatureType::Bytes,
        EntityType::String => FeatureType::String,
        EntityType::Int32 => FeatureType::Int32,
        EntityType::Int64 => FeatureType::Int64,
        EntityType::UnixTimestamp => FeatureType::UnixTimestamp,
    }
}

/// Where a batch is, for messages.
#[derive(Clone, Copy)]
struct Place<'a> {
    source: &'a Source,
    before: usize,
}

impl Place<'_> {
    fn error(&self, column: &str, problem: Problem) -> anyhow::Error {
        let row = problem.row.map(|row| format!(", row {} (from 0)", self.before + row)).unwrap_or_default();
        anyhow!("{}: column {column:?}{row}: {}", self.source.name, problem.words)
    }
}

/// A batch's columns by name, the folders' among them.
struct Columns<'a, 'b> {
    batch: &'b RecordBatch,
    place: Place<'a>,
}

impl Columns<'_, '_> {
    fn array(&self, name: &str, kind: FeatureType) -> Option<ArrayRef> {
        if let Some(array) = self.batch.column_by_name(name) {
            return Some(array.clone());
        }
        let (_, text) = self.place.source.hive.iter().find(|(column, _)| column == name)?;
        Some(constant(text, kind, self.batch.num_rows()))
    }

    fn typed(&self, name: &str, array: &ArrayRef, kind: FeatureType) -> anyhow::Result<Column> {
        Column::new(array, kind).map_err(|problem| self.place.error(name, problem))
    }

    fn times(&self, name: &str) -> anyhow::Result<PrimitiveArray<TimestampNanosecondType>> {
        let array = self.array(name, FeatureType::String).context("a column went missing")?;
        columns::nanoseconds(&array).map_err(|problem| self.place.error(name, problem))
    }
}

/// A folder's value on every row: a number where the declared type is not text and it reads as one.
fn constant(text: &str, kind: FeatureType, rows: usize) -> ArrayRef {
    if text == HIVE_NULL {
        return new_null_array(&DataType::Null, rows);
    }
    match text.parse::<i64>() {
        Ok(number) if kind != FeatureType::String => Arc::new(Int64Array::from_value(number, rows)),
        _ => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows))),
    }
}

fn has_column(schema: &Schema, source: &Source, name: &str) -> bool {
    schema.column_with_name(name).is_some() || source.hive.iter().any(|(column, _)| column == name)
}

fn columns_of<'a>(schema: &'a Schema, source: &'a Source) -> Vec<&'a str> {
    let hive = source.hive.iter().map(|(column, _)| column.as_str());
    schema.fields().iter().map(|field| field.name().as_str()).chain(hive).collect()
}

fn quoted(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    quoted.join(", ")
}
