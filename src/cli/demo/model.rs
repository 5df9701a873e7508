//! The sample models: what they take, and how they score it.
//!
//! Scores are a logistic formula of the row alone, so the same row scores the same in every protocol and every run.
//! Nothing here knows a wire: `v2`, `http` and `grpc` turn their bytes into [`Model::infer`]'s rows and back.

/// The one element type that the sample models take and give.
pub(super) const DATATYPE: &str = "FP32";

/// The one output.
pub(super) const OUTPUT: &str = "score";

/// The one version.
pub(super) const VERSION: &str = "1";

/// A sample model: rows of `weights.len()` FP32 columns in, one score a row out.
#[derive(Debug, PartialEq)]
pub(super) struct Model {
    pub(super) name: &'static str,
    /// The tensor it reads. It ignores others, as a fallback is sent what the full model was asked.
    pub(super) input: &'static str,
    bias: f64,
    weights: &'static [f64],
}

/// Every sample model.
pub(super) static MODELS: [Model; 2] = [
    // amount, user_stats:txn_count_1h, user_stats:avg_amount_7d, merchant_stats:chargeback_rate
    Model { name: "fraud-detector", input: "input-0", bias: -4.0, weights: &[0.004, 0.25, -0.005, 20.0] },
    Model { name: "fraud-lite", input: "amount", bias: -3.0, weights: &[0.005] },
];

/// Why a request was not answered.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Refusal {
    /// No such model or version.
    #[error("{0}")]
    Unknown(String),
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
}

impl Model {
    /// The model of that name and version; no version means the only one.
    pub(super) fn find(name: &str, version: Option<&str>) -> Result<&'static Self, Refusal> {
        let model = MODELS.iter().find(|model| model.name == name);
        let model = model.ok_or_else(|| Refusal::Unknown(format!("model {name:?} does not exist")))?;
        match version {
            None | Some("" | VERSION) => Ok(model),
            Some(other) => {
                Err(Refusal::Unknown(format!("model {name:?} has no version {other:?}; there is {VERSION}")))
            }
        }
    }

    /// Columns of a row.
    pub(super) fn width(&self) -> usize {
        self.weights.len()
    }

    /// The input's shape as metadata tells it: the batch may be any.
    pub(super) fn input_shape(&self) -> Vec<i64> {
        match self.width() {
            1 => vec![-1],
            width => vec![-1, width as i64],
        }
    }

    /// Scores the rows of a tensor: `[n, width]`, and `[n]` too where a row has one column.
    pub(super) fn infer(&self, datatype: &str, shape: &[i64], data: &[f32]) -> Result<Vec<f32>, Refusal> {
        if datatype != DATATYPE {
            return Err(self.invalid(&format!("datatype is {DATATYPE}, got {datatype}")));
        }
        let width = self.width();
        let rows = match *shape {
            [rows] if width == 1 => rows,
            [rows, columns] if columns == width as i64 => rows,
            _ => return Err(self.invalid(&format!("shape is {:?}, got {shape:?}", self.input_shape()))),
        };
        if usize::try_from(rows).ok().and_then(|rows| rows.checked_mul(width)) != Some(data.len()) {
            return Err(self.invalid(&format!("shape {shape:?} does not hold {} elements", data.len())));
        }
        Ok(data.chunks_exact(width).map(|row| self.score(row)).collect())
    }

    /// Says what is wrong with the model's input.
    pub(super) fn invalid(&self, problem: &str) -> Refusal {
        Refusal::Invalid(format!("input {:?} of model {:?}: {problem}", self.input, self.name))
    }

    fn score(&self, row: &[f32]) -> f32 {
        let sum: f64 = row.iter().zip(self.weights).map(|(value, weight)| f64::from(*value) * weight).sum();
        (1.0 / (1.0 + (-self.bias - sum).exp())) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_rise_with_what_is_suspicious() {
        let model = Model::find("fraud-detector", None).unwrap();
        let scores = model.infer("FP32", &[2, 4], &[20.0, 1.0, 80.0, 0.01, 950.0, 11.0, 30.0, 0.07]).unwrap();
        assert!(scores[0] < 0.05, "{scores:?}");
        assert!(scores[1] > 0.95, "{scores:?}");
    }

    #[test]
    fn an_empty_batch_has_no_scores() {
        assert_eq!(Model::find("fraud-lite", Some("1")).unwrap().infer("FP32", &[0], &[]), Ok(vec![]));
    }

    #[test]
    fn what_does_not_fit_is_refused_in_words() {
        let model = Model::find("fraud-detector", None).unwrap();
        for (datatype, shape, expected) in [
            ("INT64", vec![1, 4], "datatype is FP32, got INT64"),
            ("FP32", vec![4], "shape is [-1, 4], got [4]"),
            ("FP32", vec![2, 4], "shape [2, 4] does not hold 4 elements"),
            ("FP32", vec![-1, 4], "shape [-1, 4] does not hold 4 elements"),
            ("FP32", vec![i64::MAX, 4], "does not hold 4 elements"),
        ] {
            let refusal = model.infer(datatype, &shape, &[0.0; 4]).unwrap_err();
            assert!(refusal.to_string().contains(expected), "{refusal}");
        }
        assert_eq!(Model::find("nope", None), Err(Refusal::Unknown("model \"nope\" does not exist".into())),);
        assert!(matches!(Model::find("fraud-lite", Some("2")), Err(Refusal::Unknown(_))));
    }
}
