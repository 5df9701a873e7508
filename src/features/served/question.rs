//! What is asked: the body of `POST /get-online-features` for the keys of one view.

use std::sync::Arc;

use super::{Answer, answer::RequestedFeature, entity};
use crate::{
    config::{Feature, View},
    features::{
        feast::Malformed,
        l2::{Ask, Error},
    },
    infer::EntityKey,
};

/// Most keys of one question: what a server answers in a moment, and few enough for any `listen.max_rows`.
const MOST: usize = 128;

/// Keys of one view.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) view: &'a Arc<View>,
    /// Where its keys are among those asked for.
    pub(super) places: Vec<usize>,
    /// For each of the view's join keys the values as JSON, separated by commas.
    columns: Vec<Vec<u8>>,
}

/// The questions for what is asked, and what is answered already: keys that are none.
pub(super) fn of(asks: &[Ask]) -> (Vec<Question<'_>>, Vec<Option<Answer>>) {
    let mut questions = Vec::<Question<'_>>::new();
    let mut answers = Vec::with_capacity(asks.len());
    for (place, ask) in asks.iter().enumerate() {
        let has_room = |question: &Question<'_>| question.view.id == ask.view.id && question.places.len() < MOST;
        let at = questions.iter().rposition(has_room).unwrap_or_else(|| {
            questions.push(Question::about(&ask.view));
            questions.len() - 1
        });
        let added = questions[at].add(place, &ask.key);
        let malformed = |source| Error::Malformed { view: Arc::clone(&ask.view.name), source };
        answers.push(added.err().map(|wrong| Err(malformed(wrong))));
    }
    questions.retain(|question| !question.places.is_empty());
    (questions, answers)
}

impl<'a> Question<'a> {
    fn about(view: &'a Arc<View>) -> Self {
        Self { view, places: Vec::new(), columns: vec![Vec::new(); view.entities.len()] }
    }

    fn add(&mut self, place: usize, key: &EntityKey) -> Result<(), Malformed> {
        let pairs = entity::pairs(key.as_bytes())?;
        let names = self.view.entities.iter().map(|(name, _)| &**name);
        if !names.eq(pairs.iter().map(|pair| pair.name)) {
            return Err(Malformed::Served("the key"));
        }
        for (column, pair) in self.columns.iter_mut().zip(&pairs) {
            if !column.is_empty() {
                column.push(b',');
            }
            pair.value.write(column);
        }
        self.places.push(place);
        Ok(())
    }
}

/// What all questions about a view have in common.
#[derive(Debug)]
pub(super) struct Form {
    /// Up to the entities.
    head: Vec<u8>,
    /// The view's features, in their order.
    features: Box<[RequestedFeature]>,
}

impl Form {
    pub(super) fn of(view: &View) -> Self {
        let mut head = b"{\"features\":[".to_vec();
        for (at, feature) in view.features.iter().enumerate() {
            if at > 0 {
                head.push(b',');
            }
            entity::quote(&mut head, &format!("{}:{}", view.name, feature.name));
        }
        head.extend_from_slice(b"],\"full_feature_names\":true,\"entities\":{");
        // One view is asked about at a time, so that no two columns have one name.
        let asked = |feature: &Feature| RequestedFeature {
            name: format!("{}__{}", view.name, feature.name),
            kind: feature.kind,
        };
        Self { head, features: view.features.iter().map(asked).collect() }
    }

    /// What is asked for, in the order of the view's features.
    pub(super) fn features(&self) -> &[RequestedFeature] {
        &self.features
    }

    /// The body.
    pub(super) fn body(&self, question: &Question<'_>) -> Vec<u8> {
        let values: usize = question.columns.iter().map(Vec::len).sum();
        let mut out = Vec::with_capacity(self.head.len() + values + question.columns.len() * 32);
        out.extend_from_slice(&self.head);
        for (at, ((name, _), column)) in question.view.entities.iter().zip(&question.columns).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            entity::quote(&mut out, name);
            out.extend_from_slice(b":[");
            out.extend_from_slice(column);
            out.push(b']');
        }
        out.extend_from_slice(b"}}");
        out
    }
}
