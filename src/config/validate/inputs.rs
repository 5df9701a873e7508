//! What a model with joins receives: columns that exist, fit and have names of their own.

use crate::{
    config::{
        Column, Features, Inputs, Join, NamedColumn,
        problems::Path,
        raw::{self, Form},
    },
    infer::{Datatype, FeatureType},
};

use super::{Check, joins::Unsure};

/// What one model joined, for looking columns up.
pub(super) struct Joined<'a> {
    pub(super) joins: &'a [Join],
    pub(super) features: &'a Features,
    pub(super) unsure: Unsure,
}

impl<'a> Joined<'a> {
    fn view(&self, join: &Join) -> &'a str {
        &self.features.views[join.view.index()].name
    }

    fn feature(&self, join: &Join, select: usize) -> &'a crate::config::Feature {
        &self.features.views[join.view.index()].features[join.select[select]]
    }

    fn kind(&self, column: &Column) -> Option<FeatureType> {
        match column {
            Column::Request(_) => None,
            Column::Feature { join, select } => Some(self.feature(&self.joins[*join], *select).kind),
        }
    }

    /// Every selected feature in order, as `view`, name and column.
    fn all(&self) -> impl Iterator<Item = (&'a str, &'a str, Column)> {
        self.joins.iter().enumerate().flat_map(move |(i, join)| {
            (0..join.select.len()).map(move |select| {
                (&*join.label, &*self.feature(join, select).name, Column::Feature { join: i, select })
            })
        })
    }

    fn listed(&self) -> String {
        let names: Vec<_> = self.all().map(|(view, name, _)| format!("{view}:{name}")).collect();
        if names.is_empty() { "features that `features` selects (none yet)".into() } else { names.join(", ") }
    }
}

impl Check<'_> {
    pub(super) fn inputs(&mut self, path: &Path, raw: &raw::Model, joined: &Joined<'_>) -> Option<Inputs> {
        if joined.joins.is_empty() && joined.unsure.is_none() {
            if raw.inputs.is_some() {
                self.wrong(path, "inputs of a model that joins nothing", "inputs beside `features` only");
            }
            return None;
        }
        match &raw.inputs {
            // What goes with it depends on the form.
            Some(_) if self.is_broken(&path.key("as")) => None,
            Some(inputs) if inputs.form == Form::Matrix => self.matrix(path, inputs, joined),
            Some(inputs) => self.columns(path, inputs, joined),
            None => {
                let features = path.parent().unwrap_or_default().key("features");
                Some(self.all_columns(&features, joined))
            }
        }
    }

    fn matrix(&mut self, path: &Path, raw: &raw::Inputs, joined: &Joined<'_>) -> Option<Inputs> {
        let given = [raw.name.is_some(), raw.datatype.is_some(), raw.columns.is_some()];
        for (key, _) in ["name", "datatype", "columns"].iter().zip(given).filter(|(_, given)| !given) {
            self.wrong(&path.key(key), "missing", "a matrix has name, datatype and columns");
        }
        let datatype = raw.datatype.as_ref().map(|text| self.datatype(&path.key("datatype"), text));
        let datatype = datatype.flatten();
        let columns = self.matrix_columns(&path.key("columns"), raw.columns.as_deref()?, datatype, joined);
        Some(Inputs::Matrix { name: raw.name.as_deref()?.into(), datatype: datatype?, columns })
    }

    fn matrix_columns(
        &mut self,
        path: &Path,
        items: &[raw::Column],
        datatype: Option<Datatype>,
        joined: &Joined<'_>,
    ) -> Vec<Column> {
        if items.is_empty() {
            self.wrong(path, "no column", "at least one");
        }
        let mut columns = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let at = path.item(i);
            let raw::Column::From(from) = item else {
                self.wrong(&at, "a name for a matrix column", "view:feature, or a tensor's name, alone");
                continue;
            };
            let Some(column) = self.column(&at, from, joined) else { continue };
            if let (Some(kind), Some(datatype)) = (joined.kind(&column), datatype)
                && is_text(kind) != (datatype == Datatype::Bytes)
            {
                let allowed = if is_text(kind) { "a matrix of BYTES" } else { "a matrix of any datatype but BYTES" };
                let wrong = format!("a feature of type {kind} does not fit a matrix of {datatype}");
                self.wrong(&at, wrong, format_args!("{allowed}, or as: columns"));
            }
            self.width(&at, &column, joined);
            columns.push(column);
        }
        columns
    }

    /// A matrix is as wide for a user nobody knows, whose row is the default, as for every other.
    fn width(&mut self, at: &Path, column: &Column, joined: &Joined<'_>) {
        let Column::Feature { join, select } = column else { return };
        let (view, feature) = (joined.view(&joined.joins[*join]), joined.feature(&joined.joins[*join], *select));
        let path = Path::of("features").key("views").key(view).key("features").key(&feature.name);
        if feature.kind.is_list() && feature.length.is_none() && !self.is_broken(&path) {
            let wrong =
                "a list of unknown length, and a model's matrix needs it: a missing row would have another width";
            if joined.features.registry.is_some() {
                // The registry has no key for it.
                return self.wrong(at, wrong, "as: columns, or a view in `features.views` with its length");
            }
            self.wrong(&path, wrong, "length, or a default of as many elements");
        }
    }

    fn columns(&mut self, path: &Path, raw: &raw::Inputs, joined: &Joined<'_>) -> Option<Inputs> {
        for (key, set) in [("name", raw.name.is_some()), ("datatype", raw.datatype.is_some())] {
            if set {
                self.wrong(&path.key(key), "of a matrix only", "as: matrix, or leave the key out");
            }
        }
        let at = path.key("columns");
        let Some(items) = &raw.columns else { return Some(self.all_columns(path, joined)) };
        let mut columns: Vec<NamedColumn> = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let at = at.item(i);
            let (from, name) = match item {
                raw::Column::From(from) => (from, None),
                raw::Column::Renamed(renamed) => (&renamed.from, Some(renamed.name.as_str())),
            };
            let place = if name.is_some() { at.key("from") } else { at.clone() };
            let Some(column) = self.column(&place, from, joined) else { continue };
            let name = name.unwrap_or_else(|| own_name(from, &column));
            self.unique(&at, &columns, name, from);
            columns.push(NamedColumn { name: name.into(), column });
        }
        Some(Inputs::Columns { columns })
    }

    fn all_columns(&mut self, path: &Path, joined: &Joined<'_>) -> Inputs {
        let mut columns = Vec::new();
        for (view, name, column) in joined.all() {
            self.unique(path, &columns, name, &format!("{view}:{name}"));
            columns.push(NamedColumn { name: name.into(), column });
        }
        Inputs::Columns { columns }
    }

    fn unique(&mut self, path: &Path, columns: &[NamedColumn], name: &str, from: &str) {
        if name.is_empty() {
            self.wrong(path, "a tensor without a name", "a name");
        }
        if columns.iter().any(|column| *column.name == *name) {
            let wrong = format!("two tensors named {name}");
            self.wrong(
                path,
                wrong,
                format_args!("another name, written in inputs.columns as {{name: …, from: {from:?}}}"),
            );
        }
    }

    /// `view:feature`, or the name of a tensor of the request. A number after the colon is a tensor's (`input:0`).
    fn column(&mut self, path: &Path, from: &str, joined: &Joined<'_>) -> Option<Column> {
        let reference = from.split_once(':').filter(|(_, name)| !name.bytes().all(|b| b.is_ascii_digit()));
        let Some((view, name)) = reference else {
            if from.is_empty() {
                self.wrong(path, "empty", "view:feature, or the name of a tensor of the request");
                return None;
            }
            return Some(Column::Request(from.into()));
        };
        let found = joined.all().find(|(v, n, _)| *v == view && *n == name);
        if found.is_none() && !joined.unsure.includes(view) {
            self.wrong(path, "not a selected feature", format_args!("{}, or a tensor of the request", joined.listed()));
        }
        found.map(|(_, _, column)| column)
    }
}

fn own_name<'n>(from: &'n str, column: &Column) -> &'n str {
    match column {
        Column::Request(_) => from,
        Column::Feature { .. } => from.split_once(':').map_or(from, |(_, name)| name),
    }
}

fn is_text(kind: FeatureType) -> bool {
    matches!(kind, FeatureType::Bytes | FeatureType::String | FeatureType::BytesList | FeatureType::StringList)
}
