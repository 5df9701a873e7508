//! A model's rule over its requests and joined features: the answer that needs no model. Pure.
//!
//! A name means a joined feature (`txn_count_1h`, or `user_stats.txn_count_1h` under the join's name), else what the request
//! carries under it: an input tensor, a key of every V1 instance, or a request parameter. Features go first, so that a caller
//! cannot set them. A tensor of shape `[n]` or `[n, 1]` is a value a row, a wider one a list.
//!
//! The rule's results fill an output that the config describes for one row: its datatype, its row's shape.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{recipe::Feature, value::each};
use crate::{
    config::{Config, Model, View},
    features::FeatureSet,
    infer::{
        Decoded, Error, Kind, ModelId, Output, Rule, Shape, Value,
        decoded::{Data, Elements, Layout, Scalar, Tensor, cell},
        rule::Variable,
    },
};

/// A rule whose names are bound to a model's features.
#[derive(Debug)]
pub struct BoundRule {
    rule: Rule,
    /// What each of the rule's names means, in their order.
    sources: Vec<Source>,
}

/// What a name means.
#[derive(Debug)]
enum Source {
    Feature(Feature),
    /// Several joins select a feature of that name.
    Ambiguous,
    Request,
}

impl BoundRule {
    /// Looks a rule's names up among what a model joins.
    #[must_use]
    pub fn new(rule: &Rule, config: &Config, model: ModelId) -> Self {
        Self::bind(rule, &config.models[model.index()], &config.features.views)
    }

    pub(super) fn bind(rule: &Rule, model: &Model, views: &[Arc<View>]) -> Self {
        let sources = rule.names().iter().map(|name| source(name, model, views)).collect();
        Self { rule: rule.clone(), sources }
    }

    /// Evaluates the rule for each of a request's `rows`, and fills `output`, which the config describes for one row: of shape
    /// `[1, …]`, or `[1]` for as many elements a row as the rule gives.
    ///
    /// # Errors
    /// A name is missing, a value is of the wrong type, a result does not fit the output; in words, with the row. The next lower
    /// level may answer.
    pub fn fill(
        &self,
        decoded: &Decoded,
        features: &FeatureSet,
        rows: usize,
        output: &Output,
    ) -> Result<Output, Error> {
        let results = self.results(decoded, features, rows)?;
        let shape = shape(output, &results).map_err(failed)?;
        let elements = results.iter().flat_map(|result| result.elements().unwrap_or_default());
        Output::new(output.name().into(), output.datatype(), shape, elements).map_err(failed)
    }

    fn results(&self, decoded: &Decoded, features: &FeatureSet, rows: usize) -> Result<Vec<Variable>, Error> {
        let mut columns = Vec::with_capacity(self.sources.len());
        for (name, source) in self.rule.names().iter().zip(&self.sources) {
            columns.push(column(name, source, (decoded, features), rows).map_err(failed)?);
        }
        let mut values = Vec::with_capacity(columns.len());
        let mut results = Vec::new();
        for row in 0..rows {
            values.clear();
            for column in &mut columns {
                values.push(column.next(row).map_err(|told| in_row(row, &told))?);
            }
            results.push(self.rule.evaluate(&values).map_err(|told| in_row(row, &told))?);
        }
        Ok(results)
    }
}

fn failed(told: String) -> Error {
    Error::new(Kind::BackendFailed, format!("the rule has no answer: {told}"))
}

fn in_row(row: usize, told: &str) -> Error {
    failed(format!("row {row}: {told}"))
}

fn source(name: &str, model: &Model, views: &[Arc<View>]) -> Source {
    let mut found = model.joins.iter().enumerate().flat_map(|(index, join)| {
        let view = &views[join.view.index()];
        join.select.iter().enumerate().filter_map(move |(select, &at)| {
            let declared = &view.features[at];
            let is_named = match name.split_once('.') {
                Some((label, feature)) => *join.label == *label && *declared.name == *feature,
                None => *declared.name == *name,
            };
            let label = format!("{}:{}", join.label, declared.name).into();
            let list = declared.kind.is_list();
            is_named.then_some(Feature { join: index, select, list, length: None, label })
        })
    });
    match (found.next(), found.next()) {
        (None, _) => Source::Request,
        (Some(feature), None) => Source::Feature(feature),
        (Some(_), Some(_)) => Source::Ambiguous,
    }
}

/// Where a name's next value comes from; rows are read in order.
struct Column<'a> {
    name: &'a str,
    cells: Cells<'a>,
}

enum Cells<'a> {
    Feature(&'a Feature, &'a FeatureSet),
    Tensor(&'a Tensor, Elements<'a>),
    Key(&'a Decoded),
    /// The same in every row.
    Same(Variable),
}

fn column<'a>(
    name: &'a str,
    source: &'a Source,
    (decoded, features): (&'a Decoded, &'a FeatureSet),
    rows: usize,
) -> Result<Column<'a>, String> {
    let cells = match source {
        Source::Feature(feature) if features.rows() == Some(rows) => Cells::Feature(feature, features),
        Source::Feature(feature) => return Err(format!("{} was not looked up", feature.label)),
        Source::Ambiguous => {
            return Err(format!("{name} is a feature of several views; allowed: view.{name}"));
        }
        Source::Request => request(name, decoded, rows)?,
    };
    Ok(Column { name, cells })
}

fn request<'a>(name: &str, decoded: &'a Decoded, rows: usize) -> Result<Cells<'a>, String> {
    if let Some(tensor) = decoded.tensor(name) {
        if tensor.rows() != rows {
            return Err(format!("tensor {name:?} has {} rows, the request has {rows}", tensor.rows()));
        }
        if matches!(tensor.data, Data::Elsewhere) {
            return Err(format!("tensor {name:?}: its data is in shared memory"));
        }
        return Ok(Cells::Tensor(tensor, tensor.elements(&decoded.body)));
    }
    if decoded.in_rows(name) || rows == 0 {
        return Ok(Cells::Key(decoded));
    }
    let missing = || format!("{name} is neither a joined feature nor in the request");
    let parameter = decoded.parameter(name).ok_or_else(missing)?;
    Variable::new(&decoded.parameter_value(parameter)).map(Cells::Same).ok_or_else(|| no_value(name))
}

fn no_value(name: &str) -> String {
    format!("{name} is an object; allowed: a number, a boolean, a string or a list")
}

impl Column<'_> {
    fn next(&mut self, row: usize) -> Result<Variable, String> {
        let variable = match &mut self.cells {
            Cells::Same(variable) => Some(variable.clone()),
            Cells::Feature(feature, features) => stored(features.value(feature.join, feature.select, row)),
            Cells::Tensor(tensor, elements) => return typed(self.name, tensor, elements),
            Cells::Key(decoded) => key(self.name, decoded, row)?,
        };
        variable.ok_or_else(|| no_value(self.name))
    }
}

fn stored(value: &Value) -> Option<Variable> {
    let mut scalars = SmallVec::<[Scalar<'_>; 1]>::new();
    let collected: Result<(), std::convert::Infallible> = each(value, |scalar| {
        scalars.push(scalar);
        Ok(())
    });
    collected.ok()?;
    if value.length().is_some() { Variable::list(scalars) } else { Variable::new(scalars.first()?) }
}

/// A tensor's next row, in its own datatype: JSON writes 1 where a float is meant.
fn typed(name: &str, tensor: &Tensor, elements: &mut Elements<'_>) -> Result<Variable, String> {
    let width = tensor.shape.iter().skip(1).map(|&dimension| usize::try_from(dimension).unwrap_or(0)).product();
    let datatype = tensor.datatype;
    let convert = |scalar: &Scalar<'_>| {
        let cell =
            cell::cell(scalar, datatype).map_err(|misfit| format!("{name}: {}", misfit.told(scalar, datatype)))?;
        Variable::new(&cell.into()).ok_or_else(|| no_value(name))
    };
    if width == 1 && tensor.shape.len() <= 2 {
        return convert(&elements.next().unwrap_or(Scalar::Null));
    }
    let list: Result<Vec<Variable>, String> = elements.take(width).map(|scalar| convert(&scalar)).collect();
    Ok(Variable::of(list?))
}

/// The value of a V1 instance's key.
fn key(name: &str, decoded: &Decoded, row: usize) -> Result<Option<Variable>, String> {
    let Layout::V1 { instances, .. } = &decoded.layout else { return Ok(None) };
    let value = instances.get(&decoded.body, row, name).map_err(|error| error.to_string())?;
    let raw = value.ok_or_else(|| format!("{name} is missing"))?.of(&decoded.body);
    if raw.starts_with(b"[") { Ok(Variable::list(Elements::json(raw))) } else { Ok(Variable::new(&Scalar::json(raw))) }
}

/// The shape of a batch of results: a row's as configured, or as wide as the rule's where the config leaves that open.
fn shape(output: &Output, results: &[Variable]) -> Result<Shape, String> {
    let dimensions = match output.shape() {
        [] => &[][..],
        [1, rest @ ..] => rest,
        other => return Err(format!("output {:?} has shape {other:?}; a rule fills [1, …], a row", output.name())),
    };
    let expected: i64 = dimensions.iter().product();
    let mut shape: Shape = [count(results.len())].into_iter().chain(dimensions.iter().copied()).collect();
    let mut width = None;
    for (row, result) in results.iter().enumerate() {
        let elements = result
            .elements()
            .ok_or_else(|| format!("row {row}: the result is no number, boolean or string, and no list of them"))?;
        let found = count(elements.len());
        if *width.get_or_insert(found) != found {
            return Err(format!("row {row} gives {found} elements, row 0 {}", width.unwrap_or(0)));
        }
    }
    match width {
        Some(width) if width != expected && dimensions.is_empty() => shape.push(width),
        Some(width) if width != expected => {
            return Err(format!("it gives {width} elements a row, output {:?} has {expected}", output.name()));
        }
        _ => {}
    }
    Ok(shape)
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::{
        enrich::sample::{matrix, model, view},
        infer::{Datatype, EntityType, FeatureType, Protocol, Value},
        ingress::decode::decode,
    };

    fn output(datatype: Datatype, shape: &[i64]) -> Output {
        let count = shape.iter().product::<i64>() as usize;
        let element = if datatype == Datatype::Bytes { Scalar::Bytes(b"") } else { Scalar::Int(0) };
        Output::new("score".into(), datatype, shape.into(), std::iter::repeat_n(element, count)).unwrap()
    }

    /// A rule over two users' features, `txns` a count and `last` a list.
    fn filled(rule: &str, protocol: Protocol, body: &str, output: &Output) -> Result<Output, String> {
        let declared = [
            ("txns", FeatureType::Int64, Value::Int64(0)),
            ("last", FeatureType::DoubleList, Value::DoubleList(Arc::from([]))),
        ];
        let view = view(("user_id", EntityType::Int64), &declared);
        let model = model(&view, "fraud", Some(matrix(Datatype::Fp32, &[], 2)));
        let row = |txns, last: &[f64]| Some(vec![Value::Int64(txns), Value::DoubleList(last.into())]);
        let features = FeatureSet::sample(Arc::clone(&view), &[0, 1], vec![row(7, &[0.5, 1.5]), row(100, &[2.5])]);
        let decoded = decode(protocol, Bytes::copy_from_slice(body.as_bytes()), None).unwrap();
        let rule = BoundRule::bind(&Rule::compile(rule).unwrap(), &model, &[view]);
        rule.fill(&decoded, &features, 2, output).map_err(|error| {
            assert_eq!(error.kind(), Kind::BackendFailed);
            error.to_string().strip_prefix("the rule has no answer: ").unwrap().to_owned()
        })
    }

    fn elements(output: &Output) -> Vec<String> {
        output.elements().map(|scalar| scalar.to_string()).collect()
    }

    const V1: &str = r#"{"instances":[{"user_id":1,"amount":1200,"tags":["a","b"]},{"user_id":2,"amount":10.5,"tags":[]}],"parameters":{"floor":0.25}}"#;
    const V2: &str = r#"{"inputs":[{"name":"amount","datatype":"FP32","shape":[2,1],"data":[1200,10.5]},{"name":"pair","datatype":"INT8","shape":[2,2],"data":[1,2,3,4]},{"name":"country","datatype":"BYTES","shape":[2],"data":["FR","DE"]}],"parameters":{"floor":0.25}}"#;

    #[test]
    fn inputs_and_features_are_read_row_by_row() {
        for (rule, protocol, body, expected) in [
            ("amount > 1000.0 ? 0.9 : 0.1", Protocol::V1, V1, ["0.9", "0.1"]),
            ("amount > 1000.0 ? 0.9 : 0.1", Protocol::V2Json, V2, ["0.9", "0.1"]),
            ("amount * 0.5 + floor", Protocol::V1, V1, ["600.25", "5.5"]),
            ("amount * 0.5 + floor", Protocol::V2Json, V2, ["600.25", "5.5"]),
            ("size(tags)", Protocol::V1, V1, ["2.0", "0.0"]),
            ("pair[1] - pair[0] + txns", Protocol::V2Json, V2, ["8.0", "101.0"]),
            ("country == 'FR' ? floor : 1.0", Protocol::V2Json, V2, ["0.25", "1.0"]),
            ("user_stats.txns > 50", Protocol::V1, V1, ["0.0", "1.0"]),
            ("last[0]", Protocol::V1, V1, ["0.5", "2.5"]),
            ("user_stats.last.exists(x, x > 2.0) ? 1 : 0", Protocol::V1, V1, ["0.0", "1.0"]),
        ] {
            let filled = filled(rule, protocol, body, &output(Datatype::Fp32, &[1])).expect(rule);
            assert_eq!((elements(&filled), filled.shape()), (expected.map(str::to_owned).to_vec(), &[2][..]), "{rule}");
        }
    }

    #[test]
    fn a_feature_goes_before_what_the_caller_sends() {
        let body = r#"{"instances":[{"txns":1000000},{"txns":1000000}]}"#;
        let filled = filled("txns", Protocol::V1, body, &output(Datatype::Int64, &[1])).unwrap();
        assert_eq!(elements(&filled), ["7", "100"]);
    }

    #[test]
    fn results_take_the_output_s_datatype_and_shape() {
        for (rule, datatype, configured, shape, expected) in [
            ("txns", Datatype::Int8, &[1, 1][..], &[2, 1][..], &["7", "100"][..]),
            ("txns > 50", Datatype::Bool, &[1], &[2], &["false", "true"]),
            ("txns > 50 ? 'high' : 'low'", Datatype::Bytes, &[1], &[2], &["3 bytes", "4 bytes"]),
            ("[txns, 0]", Datatype::Int64, &[1, 2], &[2, 2], &["7", "0", "100", "0"]),
            ("[txns, 0]", Datatype::Int64, &[1], &[2, 2], &["7", "0", "100", "0"]),
            ("[txns]", Datatype::Int64, &[], &[2], &["7", "100"]),
        ] {
            let filled = filled(rule, Protocol::V1, V1, &output(datatype, configured)).expect(rule);
            assert_eq!(
                (filled.shape(), elements(&filled).as_slice()),
                (shape, &*expected.iter().map(|&e| e.to_owned()).collect::<Vec<_>>()),
                "{rule}"
            );
        }
    }

    #[test]
    fn what_a_rule_cannot_answer_is_told_with_the_row() {
        let one_missing = r#"{"instances":[{"amount":1},{"other":2}]}"#;
        for (rule, body, datatype, configured, told) in [
            ("nothing", V1, Datatype::Fp32, &[1][..], "nothing is neither a joined feature nor in the request"),
            ("amount", one_missing, Datatype::Fp32, &[1], "row 1: amount is missing"),
            ("amount > 'x'", V1, Datatype::Fp32, &[1], "row 0: "),
            ("1 / (txns - 7)", V1, Datatype::Fp32, &[1], "row 0: Division by zero"),
            ("txns", V1, Datatype::Fp32, &[1, 2], "it gives 1 elements a row, output \"score\" has 2"),
            ("last", V1, Datatype::Fp32, &[1], "row 1 gives 1 elements, row 0 2"),
            ("txns", V1, Datatype::Fp32, &[2], "output \"score\" has shape [2]; a rule fills [1, …], a row"),
            ("amount", V1, Datatype::Int8, &[1], "tensor \"score\": element 0: 1200.0 is out of range for INT8"),
            (
                "{'a': 1}",
                V1,
                Datatype::Fp32,
                &[1],
                "row 0: the result is no number, boolean or string, and no list of them",
            ),
        ] {
            let error = filled(rule, Protocol::V1, body, &output(datatype, configured)).unwrap_err();
            assert!(error.starts_with(told), "{rule}: {error}");
        }
        let three = V2.replace("\"shape\":[2,1],\"data\":[1200,10.5]", "\"shape\":[3,1],\"data\":[1,2,3]");
        let error = filled("amount", Protocol::V2Json, &three, &output(Datatype::Fp32, &[1])).unwrap_err();
        assert_eq!(error, "tensor \"amount\" has 3 rows, the request has 2");
    }

    #[test]
    fn features_that_were_not_looked_up_are_not_made_up() {
        let view = view(("user_id", EntityType::Int64), &[("txns", FeatureType::Int64, Value::Int64(0))]);
        let model = model(&view, "fraud", Some(matrix(Datatype::Fp32, &[], 1)));
        let rule = BoundRule::bind(&Rule::compile("txns").unwrap(), &model, &[view]);
        let decoded = decode(Protocol::V1, Bytes::copy_from_slice(V1.as_bytes()), None).unwrap();
        let error = rule.fill(&decoded, &FeatureSet::default(), 2, &output(Datatype::Fp32, &[1])).unwrap_err();
        assert_eq!(error.to_string(), "the rule has no answer: user_stats:txns was not looked up");
    }
}
