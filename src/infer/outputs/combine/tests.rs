//! Means and votes against what they are by definition, answers that cannot be combined, and what no mean may do.

use proptest::{collection::vec, prelude::*};

use super::*;

fn output(name: &str, datatype: Datatype, shape: &[i64], elements: &[Scalar<'_>]) -> Output {
    Output::new(name.into(), datatype, shape.into(), elements.iter().cloned()).unwrap()
}

fn floats(datatype: Datatype, elements: &[f64]) -> Vec<Output> {
    let elements: Vec<_> = elements.iter().copied().map(Scalar::Double).collect();
    vec![output("score", datatype, &[elements.len() as i64], &elements)]
}

fn ints(datatype: Datatype, elements: &[i64]) -> Vec<Output> {
    let elements: Vec<_> = elements.iter().copied().map(Scalar::Int).collect();
    vec![output("score", datatype, &[elements.len() as i64], &elements)]
}

fn words(elements: &[&'static str]) -> Vec<Output> {
    let elements: Vec<_> = elements.iter().map(|word| Scalar::Bytes(word.as_bytes())).collect();
    vec![output("label", Datatype::Bytes, &[elements.len() as i64], &elements)]
}

fn of(how: Combine, protocol: Protocol, answers: &[(f64, Vec<Output>)]) -> Combined {
    let ballots: Vec<_> = answers.iter().map(|(weight, outputs)| Ballot { weight: *weight, outputs }).collect();
    combine(how, protocol, &ballots).unwrap()
}

/// Of answers that all become one.
fn one(how: Combine, protocol: Protocol, answers: &[(f64, Vec<Output>)]) -> Vec<Output> {
    let Combined { outputs, apart } = of(how, protocol, answers);
    assert!(apart.iter().all(Option::is_none), "{apart:?}");
    outputs
}

fn alike(answers: &[Vec<Output>]) -> Vec<(f64, Vec<Output>)> {
    answers.iter().map(|outputs| (1.0, outputs.clone())).collect()
}

#[test]
fn a_mean_is_of_each_element_and_by_weight() {
    use Datatype::{Bf16, Fp16, Fp32, Fp64};
    for datatype in [Bf16, Fp16, Fp32, Fp64] {
        let answers = [(3.0, floats(datatype, &[1.0, 0.5])), (1.0, floats(datatype, &[3.0, 0.5]))];
        assert_eq!(one(Combine::Mean, Protocol::Grpc, &answers), floats(datatype, &[1.5, 0.5]), "{datatype}");
    }
}

#[test]
fn whole_numbers_are_rounded_halves_away_from_zero() {
    let mean = |datatype, a, b| one(Combine::Mean, Protocol::Grpc, &alike(&[ints(datatype, a), ints(datatype, b)]));
    assert_eq!(mean(Datatype::Int32, &[1, -1, 1], &[2, -2, 4]), ints(Datatype::Int32, &[2, -2, 3]));
    assert_eq!(mean(Datatype::Uint8, &[255, 0], &[254, 1]), ints(Datatype::Uint8, &[255, 1]));
    assert_eq!(mean(Datatype::Int64, &[i64::MAX], &[i64::MAX - 1]), ints(Datatype::Int64, &[i64::MAX]));
    let exact = (1 << 53) + 1;
    assert_eq!(
        mean(Datatype::Int64, &[exact], &[exact]),
        ints(Datatype::Int64, &[exact]),
        "equal values keep all digits"
    );
}

#[test]
fn datatypes_may_differ_in_a_mean_and_the_first_is_written() {
    let answers = alike(&[floats(Datatype::Fp32, &[0.5]), floats(Datatype::Fp64, &[1.0]), ints(Datatype::Int64, &[3])]);
    assert_eq!(one(Combine::Mean, Protocol::Grpc, &answers), floats(Datatype::Fp32, &[1.5]));
    let answers = alike(&[floats(Datatype::Fp32, &[0.5]), floats(Datatype::Fp64, &[1e300])]);
    let ballots: Vec<_> = answers.iter().map(|(weight, outputs)| Ballot { weight: *weight, outputs }).collect();
    let error = combine(Combine::Mean, Protocol::Grpc, &ballots).unwrap_err();
    assert_eq!(error.kind(), Kind::BackendFailed);
    assert!(error.to_string().contains("is out of range for FP32"), "{error}");
}

#[test]
fn what_is_no_number_makes_the_mean_none() {
    const INF: f64 = f64::INFINITY;
    let mean = |a: f64, b: f64| {
        let outputs =
            one(Combine::Mean, Protocol::Grpc, &alike(&[floats(Datatype::Fp64, &[a]), floats(Datatype::Fp64, &[b])]));
        let Some(Scalar::Double(mean)) = outputs[0].elements().next() else { panic!("a double") };
        mean
    };
    assert!(mean(f64::NAN, 1.0).is_nan() && mean(1.0, f64::NAN).is_nan() && mean(f64::NAN, INF).is_nan());
    assert!(mean(INF, -INF).is_nan());
    for (a, b, expected) in
        [(INF, 1.0, INF), (-1.0, -INF, -INF), (INF, INF, INF), (f64::MAX, f64::MAX / 2.0, f64::MAX * 0.75)]
    {
        assert!(mean(a, b) == expected, "{a} {b}");
    }
    assert!(mean(f64::MAX, -f64::MAX) == 0.0);
}

#[test]
fn text_and_booleans_have_no_mean() {
    let answers = alike(&[words(&["a", "b"]), words(&["c", "d"])]);
    assert_eq!(one(Combine::Mean, Protocol::V2Json, &answers), words(&["a", "b"]));
    let bools = |value| vec![output("ok", Datatype::Bool, &[1], &[Scalar::Bool(value)])];
    assert_eq!(one(Combine::Mean, Protocol::V2Json, &alike(&[bools(true), bools(false)])), bools(true));
}

#[test]
fn a_vote_is_won_by_weight_and_a_tie_by_the_earliest() {
    let vote = |answers: &[(f64, &[&'static str])]| {
        let answers: Vec<_> = answers.iter().map(|(weight, said)| (*weight, words(said))).collect();
        one(Combine::Vote, Protocol::Grpc, &answers)
    };
    assert_eq!(vote(&[(1.0, &["a", "x"]), (1.0, &["b", "y"]), (1.0, &["b", "x"])]), words(&["b", "x"]));
    assert_eq!(vote(&[(1.0, &["a"]), (1.0, &["b"])]), words(&["a"]));
    assert_eq!(vote(&[(1.0, &["a"]), (1.5, &["b"])]), words(&["b"]));
    assert_eq!(vote(&[(1.0, &["a"]), (1.5, &["b"]), (1.0, &["a"])]), words(&["a"]));
    assert_eq!(vote(&[(1.0, &["c"]), (1.0, &["a"]), (1.0, &["b"]), (1.0, &["b"]), (1.0, &["a"])]), words(&["a"]));
}

#[test]
fn in_a_vote_nans_are_equal_and_whole_numbers_exact() {
    let vote = |answers: &[Vec<Output>]| one(Combine::Vote, Protocol::Grpc, &alike(answers));
    let nan = vote(&[
        floats(Datatype::Fp32, &[1.0]),
        floats(Datatype::Fp32, &[f64::NAN]),
        floats(Datatype::Fp32, &[f64::NAN]),
    ]);
    assert!(matches!(nan[0].elements().next(), Some(Scalar::Float(value)) if value.is_nan()));
    let exact = (1 << 53) + 1;
    let voted =
        vote(&[ints(Datatype::Int64, &[exact - 1]), ints(Datatype::Int64, &[exact]), ints(Datatype::Int64, &[exact])]);
    assert_eq!(voted, ints(Datatype::Int64, &[exact]));
}

#[test]
fn v1_has_numbers_of_one_kind() {
    let v1 = |how, answers: &[Vec<Output>]| one(how, Protocol::V1, &alike(answers));
    let (int, double) = (Datatype::Int64, Datatype::Fp64);
    assert_eq!(
        v1(Combine::Mean, &[ints(int, &[1]), ints(int, &[0])]),
        floats(double, &[0.5]),
        "1 may be a float there"
    );
    assert_eq!(v1(Combine::Mean, &[ints(int, &[1, 3]), ints(int, &[1, 5])]), ints(int, &[1, 4]));
    assert_eq!(v1(Combine::Mean, &[ints(int, &[1]), floats(double, &[0.5])]), floats(double, &[0.75]));
    assert_eq!(
        v1(Combine::Vote, &[floats(double, &[0.5]), ints(int, &[1]), floats(double, &[1.0])]),
        floats(double, &[1.0])
    );
    assert_eq!(v1(Combine::Vote, &[ints(int, &[2]), ints(int, &[1]), ints(int, &[1])]), ints(int, &[1]));
}

#[test]
fn outputs_are_matched_by_name() {
    let (a, b) = (floats(Datatype::Fp32, &[1.0]), words(&["x"]));
    let both = |first: &[Output], second: &[Output]| [first, second].concat();
    let answers = alike(&[both(&a, &b), both(&b, &floats(Datatype::Fp32, &[2.0]))]);
    assert_eq!(one(Combine::Mean, Protocol::Grpc, &answers), both(&floats(Datatype::Fp32, &[1.5]), &b));
}

#[test]
fn what_differs_is_told_apart() {
    let (fp32, int) = (Datatype::Fp32, Datatype::Int64);
    let other = vec![output("other", fp32, &[1], &[Scalar::Double(1.0)])];
    let column = vec![output("score", fp32, &[1, 1], &[Scalar::Double(1.0)])];
    let text = vec![output("score", Datatype::Bytes, &[1], &[Scalar::Bytes(b"1")])];
    let two = [floats(fp32, &[1.0]), other.clone()].concat();
    for (how, odd, told) in [
        (Combine::Mean, other, "it has no output \"score\""),
        (Combine::Mean, column, "its output \"score\" has shape [1, 1], others' [1]"),
        (Combine::Mean, text, "its output \"score\" is BYTES, others' FP32"),
        (Combine::Mean, two, "it has 2 outputs, others 1"),
        (Combine::Mean, Vec::new(), "it has 0 outputs, others 1"),
        (Combine::Vote, ints(int, &[1]), "its output \"score\" is INT64, others' FP32"),
    ] {
        // Wherever it stands: most of them count, not the first.
        for at in 0..3 {
            let mut answers = alike(&[floats(fp32, &[0.5]), floats(fp32, &[0.5])]);
            answers.insert(at, (1.0, odd.clone()));
            let Combined { outputs, apart } = of(how, Protocol::Grpc, &answers);
            let expected: Vec<_> = (0..3).map(|i| (i == at).then(|| told.to_owned())).collect();
            assert_eq!((outputs, apart), (floats(fp32, &[0.5]), expected));
        }
    }
}

#[test]
fn of_two_that_differ_the_heavier_counts_else_the_first() {
    let (a, b) = (floats(Datatype::Fp32, &[1.0]), floats(Datatype::Fp32, &[2.0, 3.0]));
    for (weights, expected) in [((1.0, 1.0), &a), ((1.0, 2.0), &b), ((2.0, 1.0), &a)] {
        let Combined { outputs, apart } =
            of(Combine::Mean, Protocol::V1, &[(weights.0, a.clone()), (weights.1, b.clone())]);
        assert_eq!((&outputs, apart.iter().flatten().count()), (expected, 1), "{weights:?}");
    }
}

#[test]
fn one_alone_is_left_as_it_is_and_none_is_nothing() {
    let only = [ints(Datatype::Uint64, &[7]), words(&["x"])].concat();
    for how in [Combine::Mean, Combine::Vote] {
        assert_eq!(one(how, Protocol::V1, &[(2.0, only.clone())]), only);
        assert!(one(how, Protocol::V1, &[]).is_empty());
    }
    let empty = vec![output("score", Datatype::Fp32, &[0, 3], &[])];
    assert_eq!(one(Combine::Mean, Protocol::Grpc, &alike(&[empty.clone(), empty.clone()])), empty);
}

/// Members, their weights, and values a member.
fn ensembles() -> impl Strategy<Value = (Vec<f64>, Vec<Vec<f64>>)> {
    (1usize..6, 1usize..5).prop_flat_map(|(members, width)| {
        // Few values, so that some are equal.
        let value = prop_oneof![4 => (-3i8..3).prop_map(f64::from), 1 => any::<f64>()];
        (vec(0.01..100.0, members), vec(vec(value, width), members))
    })
}

fn answers(weights: &[f64], values: &[Vec<f64>]) -> Vec<(f64, Vec<Output>)> {
    weights.iter().zip(values).map(|(weight, values)| (*weight, floats(Datatype::Fp64, values))).collect()
}

fn doubles(outputs: &[Output]) -> Vec<f64> {
    outputs[0].elements().map(|scalar| number(&scalar)).collect()
}

proptest! {
    #[test]
    fn a_mean_is_the_weighted_sum_and_lies_between((weights, values) in ensembles()) {
        let means = doubles(&one(Combine::Mean, Protocol::Grpc, &answers(&weights, &values)));
        let all: f64 = weights.iter().sum();
        for (at, mean) in means.into_iter().enumerate() {
            let column: Vec<f64> = values.iter().map(|values| values[at]).collect();
            if column.iter().any(|value| !value.is_finite()) {
                prop_assert!(!mean.is_finite());
                continue;
            }
            let (least, greatest) = column.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
            prop_assert!((least..=greatest).contains(&mean), "{mean} {column:?}");
            let expected: f64 = column.iter().zip(&weights).map(|(value, weight)| value * (weight / all)).sum();
            let scale = least.abs().max(greatest.abs());
            prop_assert!((mean - expected).abs() <= scale * 1e-14 || !expected.is_finite(), "{mean} {expected}");
        }
    }

    #[test]
    fn nothing_outweighs_what_wins_a_vote((weights, values) in ensembles()) {
        let won = doubles(&one(Combine::Vote, Protocol::Grpc, &answers(&weights, &values)));
        for (at, won) in won.into_iter().enumerate() {
            let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
            let behind = |value: f64| -> f64 {
                values.iter().zip(&weights).filter(|(values, _)| same(values[at], value)).map(|(_, weight)| weight).sum()
            };
            let most = values.iter().map(|values| behind(values[at])).fold(0.0, f64::max);
            let first = values.iter().map(|values| values[at]).find(|value| behind(*value) == most).expect("somebody");
            prop_assert!(same(won, first), "{won} {first}");
        }
    }

    /// Whatever members say, of whatever shapes: never a panic, and the answer is shaped as those that are in it.
    #[test]
    fn any_answers_become_one(
        lengths in vec(0usize..3, 0..5),
        weighted in any::<bool>(),
        how in prop_oneof![Just(Combine::Mean), Just(Combine::Vote)],
    ) {
        let given: Vec<_> = lengths.iter().enumerate().map(|(index, length)| {
            let weight = if weighted { index as f64 + 1.0 } else { 1.0 };
            (weight, floats(Datatype::Fp32, &vec![index as f64; *length]))
        }).collect();
        let Combined { outputs, apart } = of(how, Protocol::V2Json, &given);
        prop_assert_eq!(apart.len(), given.len());
        for ((_, said), apart) in given.iter().zip(&apart) {
            prop_assert_eq!(apart.is_none(), said[0].shape() == outputs[0].shape());
        }
    }
}
