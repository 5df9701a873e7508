//! V1: joined values go into the instances. A matrix makes every instance a row array; `columns` adds a key a feature.
//!
//! A row array has no place for other keys: what the matrix does not list is not sent.

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    Join,
    recipe::{Joined, Output},
    table::{Table, put_feature, taken, width},
};
use crate::infer::{
    Datatype, Error, Kind,
    decoded::{
        Instances, Member, Span,
        writer::{Encoding, Writer},
    },
};

/// The spliced body.
pub(super) fn write(join: &Join<'_>, instances: &Instances, parameters: Option<Span>) -> Result<Bytes, Error> {
    let body = &join.decoded.body;
    let rows = join.rows()?;
    if rows != instances.rows.len() {
        let found = instances.rows.len();
        return Err(Error::new(Kind::Internal, format!("{rows} joined rows for {found} instances")));
    }
    let mut out = Vec::with_capacity(body.len() + join.estimate());
    join.copy(&mut out, 0..instances.span.start(), parameters);
    out.push(b'[');
    match &join.recipe.output {
        Output::Matrix(matrix) => {
            let mut table = Table::new(join, matrix, rows)?;
            for row in 0..rows {
                open(&mut out, row);
                members(instances, row)?;
                out.push(b'[');
                table.row(&mut writer(&mut out, matrix.datatype), row)?;
                out.push(b']');
            }
        }
        Output::Columns(columns) => {
            let wide = columns.iter().map(|column| Ok((column, width(join.features, &column.feature, rows)?)));
            let columns = wide.collect::<Result<SmallVec<[_; 12]>, Error>>()?;
            for row in 0..rows {
                open(&mut out, row);
                put_instance(join, &mut out, members(instances, row)?, &columns, row)?;
            }
        }
        Output::Nothing => {}
    }
    out.push(b']');
    join.copy(&mut out, instances.span.end()..body.len(), parameters);
    Ok(out.into())
}

fn open(out: &mut Vec<u8>, row: usize) {
    if row > 0 {
        out.push(b',');
    }
}

const fn writer(out: &mut Vec<u8>, datatype: Datatype) -> Writer<'_> {
    Writer { out, encoding: Encoding::Json, datatype, comma: false }
}

fn members(instances: &Instances, row: usize) -> Result<&[Member], Error> {
    instances.members(row).ok_or_else(|| {
        Error::invalid(format!("instance {row} is not an object: features can only be joined to objects"))
    })
}

/// An instance without its dropped keys, with a key for each joined feature; each goes with its width.
fn put_instance(
    join: &Join<'_>,
    out: &mut Vec<u8>,
    members: &[Member],
    columns: &[(&Joined, usize)],
    row: usize,
) -> Result<(), Error> {
    let body = &join.decoded.body;
    let mut comma = false;
    out.push(b'{');
    for member in members {
        // A key goes where the rows carry the entity; where a parameter does, a key of that name is none of ours.
        if join.drops(member.key) {
            continue;
        }
        if let Some((column, _)) = columns.iter().find(|(column, _)| member.key.is(body, &column.head.name)) {
            return Err(taken(&column.head.name));
        }
        if comma {
            out.push(b',');
        }
        comma = true;
        out.extend_from_slice(member.span.of(body));
    }
    for &(column, width) in columns {
        if comma {
            out.push(b',');
        }
        comma = true;
        out.extend_from_slice(&column.head.key);
        if column.feature.list {
            out.push(b'[');
        }
        put_feature(&mut writer(out, column.datatype), join.features, &column.feature, (row, width))?;
        if column.feature.list {
            out.push(b']');
        }
    }
    out.push(b'}');
    Ok(())
}
