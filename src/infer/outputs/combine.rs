//! Several models' answers as one: the mean of each element, or the value that most of them give. Pure.
//!
//! Only answers with the same outputs in the same shapes become one: those with the most weight together, of equals the earliest's.
//! The others are told apart in words. One that is alone is left as it is.
//!
//! A mean is taken in double precision, lies between the least and the greatest value, and is one of them where all are equal; it
//! is written in the first answer's datatype, whole numbers rounded, halves away from zero. A NaN among the values makes it NaN, and
//! so do infinities of both signs. Text and booleans have none: the first answer's are taken. In a vote values are equal that are
//! the same number, NaNs among themselves, or the same bytes; of two with equal weight the earliest answer's wins.
//!
//! V1 says no datatypes: its numbers are of one kind, written as whole numbers where all are.

use smallvec::SmallVec;

use super::Output;
use crate::infer::{
    Datatype, Error, Kind, Protocol,
    decoded::{Elements, Scalar},
};

/// How answers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// The (weighted) mean of each element.
    Mean,
    /// The value that most give, each element on its own.
    Vote,
}

/// One model's answer.
#[derive(Clone, Copy, Debug)]
pub struct Ballot<'a> {
    /// What it counts; positive.
    pub weight: f64,
    /// What it says.
    pub outputs: &'a [Output],
}

/// What became of the answers.
#[derive(Debug)]
pub struct Combined {
    /// The one answer.
    pub outputs: Vec<Output>,
    /// By answer: how it differs from those that became one; `None`: it is one of them.
    pub apart: Vec<Option<String>>,
}

/// The elements at one place, an answer each.
type Values<'a> = SmallVec<[Scalar<'a>; 8]>;

/// Makes one answer of several, given in the models' order.
///
/// # Errors
/// A mean is out of the datatype's range; the models are to blame.
pub fn combine(how: Combine, protocol: Protocol, ballots: &[Ballot<'_>]) -> Result<Combined, Error> {
    let apart = apart(how, protocol, ballots);
    let together: Vec<_> =
        ballots.iter().zip(&apart).filter(|(_, apart)| apart.is_none()).map(|(one, _)| one).collect();
    let outputs = match together.as_slice() {
        [] => Vec::new(),
        [only] => only.outputs.to_vec(),
        [first, ..] => {
            let one = |output: &Output| how.one(protocol, &same_named(&together, output));
            let outputs: Result<_, _> = first.outputs.iter().map(one).collect();
            outputs
                .map_err(|told| Error::new(Kind::BackendFailed, format!("the answers cannot be combined: {told}")))?
        }
    };
    Ok(Combined { outputs, apart })
}

/// How each answer differs from those with the most weight together.
fn apart(how: Combine, protocol: Protocol, ballots: &[Ballot<'_>]) -> Vec<Option<String>> {
    let from = |leader: &Ballot<'_>| -> Vec<Option<String>> {
        ballots.iter().map(|ballot| difference(how, protocol, leader.outputs, ballot.outputs)).collect()
    };
    let mut best: Option<(f64, Vec<Option<String>>)> = None;
    for leader in ballots {
        let apart = from(leader);
        if apart.iter().all(Option::is_none) {
            return apart;
        }
        let weight = ballots.iter().zip(&apart).filter(|(_, apart)| apart.is_none()).map(|(one, _)| one.weight).sum();
        if best.as_ref().is_none_or(|(most, _)| weight > *most) {
            best = Some((weight, apart));
        }
    }
    best.map_or_else(Vec::new, |(_, apart)| apart)
}

/// Why two answers cannot become one.
fn difference(how: Combine, protocol: Protocol, ours: &[Output], theirs: &[Output]) -> Option<String> {
    if ours.len() != theirs.len() {
        return Some(format!("it has {} outputs, others {}", theirs.len(), ours.len()));
    }
    let mixes = how == Combine::Mean || protocol == Protocol::V1;
    ours.iter().find_map(|our| {
        let name = our.name();
        let Some(their) = theirs.iter().find(|their| their.name() == name) else {
            return Some(format!("it has no output {name:?}"));
        };
        if our.shape() != their.shape() {
            return Some(format!("its output {name:?} has shape {:?}, others' {:?}", their.shape(), our.shape()));
        }
        let (our, their) = (our.datatype(), their.datatype());
        let fits = our == their || (mixes && is_number(our) && is_number(their));
        (!fits).then(|| format!("its output {name:?} is {their}, others' {our}"))
    })
}

const fn is_number(datatype: Datatype) -> bool {
    !matches!(datatype, Datatype::Bool | Datatype::Bytes)
}

const fn is_float(datatype: Datatype) -> bool {
    matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64)
}

/// An output of all answers, with what each counts.
fn same_named<'a>(ballots: &[&Ballot<'a>], output: &Output) -> Vec<(f64, &'a Output)> {
    let of = |ballot: &&Ballot<'a>| {
        let found = ballot.outputs.iter().find(|other| other.name() == output.name())?;
        Some((ballot.weight, found))
    };
    ballots.iter().filter_map(of).collect()
}

impl Combine {
    fn one(self, protocol: Protocol, outputs: &[(f64, &Output)]) -> Result<Output, String> {
        let Some((_, first)) = outputs.first() else { return Err("nobody answered".to_owned()) };
        let are_same = outputs.iter().all(|(_, output)| output.datatype == first.datatype);
        let weights: SmallVec<[f64; 8]> = outputs.iter().map(|(weight, _)| *weight).collect();
        match self {
            Self::Mean if !is_number(first.datatype) => Ok((*first).clone()),
            // Where the means are whole they stay so, though nobody said what they are.
            Self::Mean if protocol == Protocol::V1 => {
                let means = || side_by_side(outputs).map(|values| mean(&values, &weights));
                let whole = (!is_float(first.datatype)).then(|| first.with(first.datatype, means()));
                whole.and_then(Result::ok).map_or_else(|| first.with(Datatype::Fp64, means()), Ok)
            }
            Self::Mean => {
                let datatype = first.datatype;
                first.with(datatype, side_by_side(outputs).map(|values| round(mean(&values, &weights), datatype)))
            }
            Self::Vote => {
                let datatype = if are_same { first.datatype } else { Datatype::Fp64 };
                first.with(datatype, side_by_side(outputs).map(|values| elected(values, &weights)))
            }
        }
    }
}

impl Output {
    /// An output like this one with other elements.
    fn with<'s>(&self, datatype: Datatype, elements: impl Iterator<Item = Scalar<'s>>) -> Result<Self, String> {
        Self::new(self.name.clone(), datatype, self.shape.clone(), elements)
    }
}

/// Walks outputs of one shape element by element.
fn side_by_side<'a>(outputs: &[(f64, &'a Output)]) -> impl Iterator<Item = Values<'a>> + use<'a> {
    let mut all: SmallVec<[Elements<'a>; 8]> = outputs.iter().map(|(_, output)| output.elements()).collect();
    std::iter::from_fn(move || all.iter_mut().map(Iterator::next).collect())
}

/// Of equal values that value, with all its digits.
fn mean<'a>(values: &[Scalar<'a>], weights: &[f64]) -> Scalar<'a> {
    match values {
        [first, others @ ..] if others.iter().all(|other| other == first) => first.clone(),
        _ => Scalar::Double(weighted(values.iter().map(number).zip(weights.iter().copied()))),
    }
}

fn weighted(values: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    if values.clone().any(|(value, _)| !value.is_finite()) {
        // An infinity, or NaN; only which one matters.
        return values.map(|(value, _)| if value.is_finite() { 0.0 } else { value }).sum();
    }
    // A running mean: a sum of the greatest doubles would not be finite.
    let (mut mean, mut sum) = (0.0, 0.0);
    let (mut least, mut greatest) = (f64::INFINITY, f64::NEG_INFINITY);
    for (value, weight) in values {
        (least, greatest) = (value.min(least), value.max(greatest));
        sum += weight;
        let share = weight / sum;
        mean = mean * (1.0 - share) + value * share;
    }
    mean.clamp(least, greatest)
}

/// A whole number for a datatype that holds no other.
fn round(scalar: Scalar<'_>, datatype: Datatype) -> Scalar<'_> {
    match scalar {
        // A mean of whole numbers is never out of their range, but for what a double rounds.
        Scalar::Double(mean) if datatype == Datatype::Uint64 => Scalar::Uint(mean.round() as u64),
        Scalar::Double(mean) if !is_float(datatype) => Scalar::Int(mean.round() as i64),
        other => other,
    }
}

/// The value with the most weight.
fn elected<'a>(mut values: Values<'a>, weights: &[f64]) -> Scalar<'a> {
    let behind = |value: &Scalar<'_>| -> f64 {
        values.iter().zip(weights).filter(|(other, _)| are_equal(value, other)).map(|(_, weight)| weight).sum()
    };
    let (mut winner, mut most) = (0, 0.0);
    for (index, value) in values.iter().enumerate() {
        let weight = behind(value);
        if weight > most {
            (winner, most) = (index, weight);
        }
    }
    values.swap_remove(winner)
}

fn are_equal(a: &Scalar<'_>, b: &Scalar<'_>) -> bool {
    match (a, b) {
        (Scalar::Int(_) | Scalar::Uint(_) | Scalar::Bool(_) | Scalar::Bytes(_), _)
            if std::mem::discriminant(a) == std::mem::discriminant(b) =>
        {
            a == b
        }
        (Scalar::Bytes(_), _) | (_, Scalar::Bytes(_)) => false,
        _ => {
            let (a, b) = (number(a), number(b));
            a == b || (a.is_nan() && b.is_nan())
        }
    }
}

/// An element of raw data as a double.
fn number(scalar: &Scalar<'_>) -> f64 {
    match scalar {
        Scalar::Int(value) => *value as f64,
        Scalar::Uint(value) => *value as f64,
        Scalar::Float(value) => f64::from(*value),
        Scalar::Double(value) => *value,
        Scalar::Bool(value) => f64::from(u8::from(*value)),
        Scalar::Number(_) | Scalar::Text(_) | Scalar::Bytes(_) | Scalar::Null | Scalar::Other => f64::NAN,
    }
}

#[cfg(test)]
mod tests;
