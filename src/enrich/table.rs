//! Joined values as a table: how wide it is, and its rows, a cell at a time.
//!
//! A matrix takes its columns in the recipe's order, wherever they come from; `columns` is one narrow table a feature. Every
//! row of a list feature is as long as the first, or the request fails: padding would be a guess. Only where neither a length
//! nor a default is configured does a row without the list get zeros, as many as the others have elements: the type's zero.

use smallvec::SmallVec;

use super::{
    Join,
    recipe::{Feature, Joined, Matrix, Output, Source},
    value::each,
};
use crate::{
    features::FeatureSet,
    infer::{
        Datatype, Decoded, Error, Kind,
        decoded::{Data, Elements, Layout, Scalar, Tensor, cell::Misfit, sink::Sink, writer::Writer},
    },
};

/// Appends every joined tensor.
pub(super) fn append(join: &Join<'_>, sink: &mut Sink) -> Result<(), Error> {
    match &join.recipe.output {
        Output::Nothing => Ok(()),
        Output::Matrix(matrix) => {
            let rows = join.rows()?;
            let mut table = Table::new(join, matrix, rows)?;
            let shape = [rows, table.width()];
            sink.tensor(&matrix.head, matrix.datatype, &shape, |writer| {
                (0..rows).try_for_each(|row| table.row(writer, row))
            })
        }
        Output::Columns(columns) => {
            let rows = join.rows()?;
            let narrow = keeps_narrow_form(join);
            columns.iter().try_for_each(|column| append_column(join, sink, column, rows, narrow))
        }
    }
}

fn append_column(join: &Join<'_>, sink: &mut Sink, column: &Joined, rows: usize, form: Narrow) -> Result<(), Error> {
    let feature = &column.feature;
    let width = width(join.features, feature, rows)?;
    let shape: SmallVec<[usize; 2]> = match (feature.list, form) {
        (true, _) => SmallVec::from_slice(&[rows, width]),
        (false, Narrow::Matrix) => SmallVec::from_slice(&[rows, 1]),
        (false, Narrow::Vector) => SmallVec::from_slice(&[rows]),
    };
    if let Some(tensor) = join.decoded.tensor(&column.head.name)
        && !join.drops(tensor.name)
    {
        return Err(taken(&column.head.name));
    }
    sink.tensor(&column.head, column.datatype, &shape, |writer| {
        (0..rows).try_for_each(|row| put_feature(writer, join.features, feature, (row, width)))
    })
}

/// The request already has a tensor or key under a joined one's name.
pub(super) fn taken(name: &str) -> Error {
    Error::invalid(format!("duplicate tensor name {name:?}: a joined tensor has that name, the request must not"))
}

/// The shape of a joined scalar.
#[derive(Clone, Copy)]
enum Narrow {
    /// `[n]`
    Vector,
    /// `[n, 1]`
    Matrix,
}

/// `[n, 1]` where every entity tensor of the request has that form.
fn keeps_narrow_form(join: &Join<'_>) -> Narrow {
    let mut tensors = join.recipe.sources.iter().filter_map(|source| join.decoded.tensor(source)).peekable();
    if tensors.peek().is_some() && tensors.all(|tensor| tensor.shape.len() == 2) {
        Narrow::Matrix
    } else {
        Narrow::Vector
    }
}

/// How many elements each row of a feature has.
pub(super) fn width(features: &FeatureSet, feature: &Feature, rows: usize) -> Result<usize, Error> {
    if !feature.list {
        return Ok(1);
    }
    let length = |row| features.value(feature.join, feature.select, row).length().unwrap_or(0);
    let mut fixed = (0..rows).filter(|&row| !takes_zeros(features, feature, row)).peekable();
    let (expected, whose) = match (feature.length, fixed.peek()) {
        (Some(length), _) => (length, "its length in the config is".to_owned()),
        (None, Some(&first)) => (length(first), format!("row {first} has")),
        (None, None) => (0, String::new()),
    };
    match fixed.find(|&row| length(row) != expected) {
        None => Ok(expected),
        Some(row) => Err(Error::new(
            Kind::BackendFailed,
            format!(
                "{}: row {row} has {} elements, {whose} {expected}; the rows of a list feature must be equally long, also a missing row's default",
                feature.label,
                length(row),
            ),
        )),
    }
}

/// Whether the row has no such list, and the config does not say how long one is.
fn takes_zeros(features: &FeatureSet, feature: &Feature, row: usize) -> bool {
    let (join, select) = (feature.join, feature.select);
    feature.list
        && feature.length.is_none()
        && features.stored(join, select, row).is_none()
        && features.value(join, select, row).length() == Some(0)
}

const fn zero(datatype: Datatype) -> Scalar<'static> {
    match datatype {
        Datatype::Bytes => Scalar::Bytes(b""),
        Datatype::Bool => Scalar::Bool(false),
        _ => Scalar::Int(0),
    }
}

/// Writes one row of a feature, of `width` elements.
pub(super) fn put_feature(
    writer: &mut Writer<'_>,
    features: &FeatureSet,
    feature: &Feature,
    (row, width): (usize, usize),
) -> Result<(), Error> {
    let value = features.value(feature.join, feature.select, row);
    if value.length().is_some() != feature.list {
        let (declared, stored) = if feature.list { ("a list", "a single value") } else { ("a single value", "a list") };
        let label = &feature.label;
        return Err(Error::new(
            Kind::BackendFailed,
            format!("{label}, row {row}: {stored} is stored where {declared} is declared"),
        ));
    }
    let zero = zero(writer.datatype);
    let mut put = |scalar| {
        writer.put(&scalar).map_err(|misfit| unsendable(&feature.label, row, &scalar, misfit, writer.datatype))
    };
    if takes_zeros(features, feature, row) {
        return (0..width).try_for_each(|_| put(zero.clone()));
    }
    each(value, put)
}

#[cold]
fn unsendable(label: &str, row: usize, scalar: &Scalar<'_>, misfit: Misfit, datatype: Datatype) -> Error {
    Error::new(Kind::BackendFailed, format!("{label}, row {row}: {}", misfit.told(scalar, datatype)))
}

/// A matrix being written, top to bottom.
pub(super) struct Table<'a> {
    features: &'a FeatureSet,
    columns: SmallVec<[Column<'a>; 12]>,
}

struct Column<'a> {
    width: usize,
    cells: Cells<'a>,
}

/// Where a column's next cells come from.
enum Cells<'a> {
    Feature(&'a Feature),
    /// A tensor of the request, read along.
    Tensor(&'a str, Elements<'a>),
    /// A parameter: the same in every row.
    Same(&'a str, Scalar<'a>),
    /// A key of every V1 instance.
    Key(&'a str, &'a Decoded),
}

impl<'a> Table<'a> {
    pub(super) fn new(join: &'a Join<'_>, matrix: &'a Matrix, rows: usize) -> Result<Self, Error> {
        if let Some(tensor) = join.decoded.tensor(&matrix.head.name)
            && !join.drops(tensor.name)
        {
            return Err(taken(&matrix.head.name));
        }
        let mut columns = SmallVec::with_capacity(matrix.columns.len());
        for source in &matrix.columns {
            columns.push(match source {
                Source::Feature(feature) => {
                    Column { width: width(join.features, feature, rows)?, cells: Cells::Feature(feature) }
                }
                Source::Request(name) => request_column(join.decoded, name, rows)?,
            });
        }
        Ok(Self { features: join.features, columns })
    }

    /// How many cells a row has.
    pub(super) fn width(&self) -> usize {
        self.columns.iter().map(|column| column.width).sum()
    }

    /// Writes the next row; rows are written in order.
    pub(super) fn row(&mut self, writer: &mut Writer<'_>, row: usize) -> Result<(), Error> {
        for column in &mut self.columns {
            match &mut column.cells {
                Cells::Feature(feature) => put_feature(writer, self.features, feature, (row, column.width))?,
                Cells::Same(name, scalar) => put_request(writer, name, row, scalar)?,
                Cells::Tensor(name, elements) => {
                    for scalar in elements.take(column.width) {
                        put_request(writer, name, row, &scalar)?;
                    }
                }
                Cells::Key(name, decoded) => put_key(writer, decoded, name, row, column.width)?,
            }
        }
        Ok(())
    }
}

fn put_request(writer: &mut Writer<'_>, name: &str, row: usize, scalar: &Scalar<'_>) -> Result<(), Error> {
    let datatype = writer.datatype;
    writer
        .put(scalar)
        .map_err(|misfit| Error::invalid(format!("column {name:?}, row {row}: {}", misfit.told(scalar, datatype))))
}

/// The elements of a key's value in a V1 instance.
fn key_elements<'a>(decoded: &'a Decoded, name: &str, row: usize) -> Result<Elements<'a>, Error> {
    let body = &decoded.body;
    let value = match &decoded.layout {
        Layout::V1 { instances, .. } => instances.get(body, row, name)?,
        _ => None,
    };
    let missing =
        || Error::invalid(format!("missing column {name:?} in instance {row}: the model's matrix is built from it"));
    value.map(|span| Elements::json(span.of(body))).ok_or_else(missing)
}

fn put_key(writer: &mut Writer<'_>, decoded: &Decoded, name: &str, row: usize, width: usize) -> Result<(), Error> {
    let mut found = 0;
    for scalar in key_elements(decoded, name, row)? {
        put_request(writer, name, row, &scalar)?;
        found += 1;
    }
    if found == width {
        return Ok(());
    }
    Err(Error::invalid(format!("column {name:?}: row {row} has {found} elements, row 0 has {width}")))
}

fn request_column<'a>(decoded: &'a Decoded, name: &'a str, rows: usize) -> Result<Column<'a>, Error> {
    if let Some(tensor) = decoded.tensor(name) {
        return tensor_column(decoded, tensor, name, rows);
    }
    if decoded.in_rows(name) {
        let width = key_elements(decoded, name, 0)?.count();
        return Ok(Column { width, cells: Cells::Key(name, decoded) });
    }
    if let Some(parameter) = decoded.parameter(name) {
        return Ok(Column { width: 1, cells: Cells::Same(name, decoded.parameter_value(parameter)) });
    }
    if rows == 0 && matches!(decoded.layout, Layout::V1 { .. }) {
        return Ok(Column { width: 0, cells: Cells::Key(name, decoded) });
    }
    let place = if matches!(decoded.layout, Layout::V1 { .. }) { "a key of every instance" } else { "an input tensor" };
    Err(Error::invalid(format!(
        "missing column {name:?}: the model's matrix is built from it; allowed: {place}, or a request parameter"
    )))
}

fn tensor_column<'a>(decoded: &'a Decoded, tensor: &Tensor, name: &'a str, rows: usize) -> Result<Column<'a>, Error> {
    let shape = &tensor.shape;
    if shape.len() > 2 {
        return Err(Error::invalid(format!("column {name:?}: shape {shape:?}; allowed: [n] or [n, k]")));
    }
    if tensor.rows() != rows {
        let found = tensor.rows();
        return Err(Error::invalid(format!(
            "unequal rows: column {name:?} has {found}, the request's entities have {rows}"
        )));
    }
    if matches!(tensor.data, Data::Elsewhere) {
        return Err(Error::invalid(format!("column {name:?}: its data is in shared memory; allowed: in the request")));
    }
    let width = shape.get(1).map_or(1, |&width| usize::try_from(width).unwrap_or(0));
    Ok(Column { width, cells: Cells::Tensor(name, tensor.elements(&decoded.body)) })
}
