//! What a model has below its full answer: fallbacks, ensembles and prediction caches that name what exists and end somewhere.

use std::sync::Arc;

use http::HeaderName;

use crate::{
    config::{
        Ensemble, Fallback, Features, Join, L2, Model, PredictionCache, Predictions, Redis, SharedPredictions,
        problems::Path,
        raw::{self, Loose},
    },
    infer::{Datatype, ModelId, Output, Rule, decoded::Scalar, outputs::Combine, rule::Variable},
};

use super::{Check, index, inputs::Joined};

impl Check<'_> {
    pub(super) fn fallback(
        &mut self,
        path: &Path,
        (name, model): (&str, &raw::Model),
        joined: &Joined<'_>,
    ) -> Option<Fallback> {
        let raw = model.fallback.as_ref()?;
        let outputs = raw.default.as_ref().map_or(&[][..], |default| &default.outputs);
        let rule = raw.rule.as_deref().and_then(|rule| self.rule(&path.key("rule"), rule));
        if raw.rule.is_some() {
            self.filled(path, outputs);
        }
        let default = self.outputs(&path.key("default").key("outputs"), outputs);
        if let Some(rule) = &rule {
            self.unambiguous(&path.key("rule"), rule, joined);
            if let Some(output) = default.first() {
                self.fits(&path.key("rule"), rule, output);
            }
        }
        let model = self.fallback_model(&path.key("model"), name, raw);
        Some(Fallback { model, rule, reserve: raw.reserve.0, default })
    }

    /// Checks the output that a rule fills, a row of it for each of the request's.
    fn filled(&mut self, path: &Path, outputs: &[raw::Output]) {
        match outputs.first().map(|output| &*output.shape) {
            None => self.wrong(&path.key("rule"), "a rule without an output to fill", "a rule beside default.outputs"),
            Some([] | [1, ..]) => {}
            Some(_) => {
                let shape = path.key("default").key("outputs").item(0).key("shape");
                self.wrong(&shape, "no row's, and the rule fills one a row", "[], [1] or [1, …] for the first output");
            }
        }
    }

    /// Checks that a rule's names say which view they mean.
    fn unambiguous(&mut self, path: &Path, rule: &Rule, joined: &Joined<'_>) {
        for name in rule.names().iter().filter(|name| !name.contains('.')) {
            let selects = |join: &&Join| {
                let view = &joined.features.views[join.view.index()];
                join.select.iter().any(|feature| *view.features[*feature].name == **name)
            };
            let views: Vec<_> =
                joined.joins.iter().filter(selects).map(|join| format!("{}.{name}", join.label)).collect();
            if views.len() > 1 && joined.unsure.is_none() {
                self.wrong(path, format_args!("{name} is a feature of several views"), views.join(", "));
            }
        }
    }

    /// Checks that the output which a rule fills takes what it is known to come to.
    fn fits(&mut self, path: &Path, rule: &Rule, output: &Output) {
        let misfit = |constant: &Variable| {
            let Some(elements) = constant.elements() else { return Some("null is no element".to_owned()) };
            let shape = [elements.len() as i64];
            Output::new(output.name().into(), output.datatype(), shape[..].into(), elements).err()
        };
        if let Some(wrong) = rule.constants().iter().find_map(misfit) {
            let allowed = format_args!("answers that are {}", kind_of(output.datatype()));
            self.wrong(path, format_args!("does not fit the output that it fills: {wrong}"), allowed);
        }
    }

    fn rule(&mut self, path: &Path, text: &str) -> Option<Rule> {
        const ALLOWED: &str = "a CEL expression";
        if text.trim().is_empty() {
            self.wrong(path, "empty", ALLOWED);
            return None;
        }
        Rule::compile(text).map_err(|wrong| self.wrong(path, wrong, ALLOWED)).ok()
    }

    fn outputs(&mut self, path: &Path, raw: &[raw::Output]) -> Vec<Output> {
        let mut outputs = Vec::with_capacity(raw.len());
        for (i, output) in raw.iter().enumerate() {
            let at = path.item(i);
            outputs.extend(self.output(&at, output));
            if raw[..i].iter().any(|other| other.name == output.name) {
                self.wrong(&at.key("name"), "two tensors of one name", "each name once");
            }
        }
        outputs
    }

    fn fallback_model(&mut self, path: &Path, name: &str, fallback: &raw::Fallback) -> Option<ModelId> {
        let next = fallback.model.as_deref()?;
        let raw = self.raw;
        let names: Vec<_> = raw.models.names().collect();
        let found = self.find(path, "model", next, names.iter().copied())?;
        // Walks the chain once: a model that meets itself would fall back for ever.
        let mut at = next;
        for _ in 0..names.len() {
            if at == name {
                self.wrong(path, "falls back to itself in the end", "a model whose fallbacks end elsewhere");
                return None;
            }
            let following = raw.models.get(at).and_then(|m| m.fallback.as_ref()).and_then(|f| f.model.as_deref());
            let Some(following) = following else { break };
            at = following;
        }
        Some(ModelId(index(found)))
    }

    pub(super) fn cache(&mut self, path: &Path, model: &raw::Model) -> Option<PredictionCache> {
        let raw = model.cache.as_ref()?;
        if raw.keep_for < raw.ttl {
            let wrong = format!("less than ttl ({})", raw.ttl);
            self.wrong(&path.key("keep_for"), wrong, format_args!("at least {}", raw.ttl));
        }
        if !model.idempotent {
            self.wrong(path, "beside `idempotent: false`", "a cache only where asking twice changes nothing");
        }
        Some(PredictionCache {
            ttl: self.positive(&path.key("ttl"), raw.ttl),
            keep_for: raw.keep_for.0,
            entity: raw.entity.as_deref().map(Into::into),
            headers: self.header_names(&path.key("headers"), &raw.headers),
        })
    }

    fn header_names(&mut self, path: &Path, raw: &[String]) -> Vec<HeaderName> {
        let mut names = Vec::with_capacity(raw.len());
        for (i, name) in raw.iter().enumerate() {
            match name.parse() {
                Ok(name) => names.push(name),
                Err(_) => self.wrong(&path.item(i), "not a header's name", "letters, digits and -, as in x-tenant"),
            }
        }
        names
    }

    pub(super) fn predictions(&self, features: &Features, models: &[Model]) -> Predictions {
        let raw = &self.raw.predictions;
        let wanted = raw.l2 && models.iter().any(|model| model.cache.is_some());
        let shared = |redis: &Redis| SharedPredictions {
            redis: redis.clone(),
            breaker: features.breaker.clone(),
            project: Arc::clone(&features.project),
        };
        let l2 = match &features.l2 {
            L2::Redis(redis) if wanted => Some(shared(redis)),
            _ => None,
        };
        Predictions { capacity: raw.capacity.0, l2 }
    }

    pub(super) fn ensemble(&mut self, path: &Path, name: &str, model: &raw::Model) -> Option<Ensemble> {
        let raw = model.ensemble.as_ref()?;
        self.members_have(&path.parent().unwrap_or_default(), model);
        let at = path.key("members");
        if raw.members.is_empty() {
            self.wrong(&at, "no member", "at least one model");
        }
        let others: Vec<_> = self.raw.models.names().filter(|other| *other != name).collect();
        let mut members = Vec::with_capacity(raw.members.len());
        for (i, member) in raw.members.iter().enumerate() {
            let found = self.find(&at.item(i), "other model", member, others.iter().copied());
            if found.is_some() && self.raw.models.get(member).is_some_and(|member| member.ensemble.is_some()) {
                self.wrong(&at.item(i), "an ensemble itself", "a model that is none");
            }
            if raw.members[..i].contains(member) {
                self.wrong(&at.item(i), "a member already", "each model once; combine: weighted lets one count more");
            }
            members.extend(self.raw.models.names().position(|other| other == member).map(|at| ModelId(index(at))));
        }
        Some(Ensemble { members, weights: self.weights(path, raw), combine: combined(raw.combine) })
    }

    /// Records what an ensemble is said to have and only its members can.
    fn members_have(&mut self, path: &Path, model: &raw::Model) {
        let joins = !matches!(&model.features, raw::Joined::Views(views) if views.is_empty());
        for (key, is_set) in [
            ("pool", model.pool.is_some()),
            ("upstream_model", model.upstream_model.is_some()),
            ("features", joins),
            ("inputs", model.inputs.is_some()),
            ("explainer", model.explainer.is_some()),
            ("cache", model.cache.is_some()),
            ("idempotent", !model.idempotent),
        ] {
            if is_set {
                self.wrong(&path.key(key), "set for an ensemble, which asks its members", "the key at its members");
            }
        }
    }

    fn weights(&mut self, path: &Path, raw: &raw::Ensemble) -> Vec<f64> {
        let (at, members) = (path.key("weights"), raw.members.len());
        let weighs = !matches!(raw.combine, raw::Combine::Mean);
        let needed = matches!(raw.combine, raw::Combine::Weighted) || !raw.weights.is_empty();
        if weighs && needed && raw.weights.len() != members {
            let wrong = format!("{} weights for {members} members", raw.weights.len());
            self.wrong(&at, wrong, "one a member");
        }
        if !weighs && !raw.weights.is_empty() {
            self.wrong(&at, "weights that combine does not use", "combine: weighted or vote, or no weights");
        }
        for (i, weight) in raw.weights.iter().enumerate() {
            if !(weight.is_finite() && *weight > 0.0) {
                self.wrong(&at.item(i), "not a weight", "a number above 0");
            }
        }
        if weighs && needed { raw.weights.clone() } else { vec![1.0; members] }
    }

    fn output(&mut self, path: &Path, output: &raw::Output) -> Option<Output> {
        let datatype = self.datatype(&path.key("datatype"), &output.datatype)?;
        let count = output.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d as usize));
        if count != Some(output.data.len()) {
            let shape: Vec<_> = output.shape.iter().map(u32::to_string).collect();
            let wrong = format!("{} elements for shape [{}]", output.data.len(), shape.join(", "));
            self.wrong(&path.key("data"), wrong, "as many as the shape's dimensions multiply to");
        }
        for (i, element) in output.data.iter().enumerate() {
            if !holds(datatype, element) {
                self.wrong(&path.key("data").item(i), format_args!("does not fit {datatype}"), kind_of(datatype));
            }
        }
        let shape = output.shape.iter().map(|&dimension| i64::from(dimension)).collect();
        // What does not fit was told just now.
        Output::new(output.name.as_str().into(), datatype, shape, output.data.iter().map(scalar)).ok()
    }
}

const fn combined(raw: raw::Combine) -> Combine {
    match raw {
        raw::Combine::Mean | raw::Combine::Weighted => Combine::Mean,
        raw::Combine::Vote => Combine::Vote,
    }
}

fn scalar(element: &Loose) -> Scalar<'_> {
    match element {
        Loose::Bool(value) => Scalar::Bool(*value),
        Loose::Int(value) => Scalar::Int(*value),
        Loose::Float(value) => Scalar::Double(*value),
        Loose::Text(text) => Scalar::Text(text.as_str().into()),
        Loose::List(_) => Scalar::Other,
    }
}

fn holds(datatype: Datatype, element: &Loose) -> bool {
    match (datatype, element) {
        (Datatype::Bool, Loose::Bool(_)) | (Datatype::Bytes, Loose::Text(_)) => true,
        (Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64, Loose::Int(_) | Loose::Float(_)) => true,
        (Datatype::Uint8, Loose::Int(v)) => u8::try_from(*v).is_ok(),
        (Datatype::Uint16, Loose::Int(v)) => u16::try_from(*v).is_ok(),
        (Datatype::Uint32, Loose::Int(v)) => u32::try_from(*v).is_ok(),
        (Datatype::Uint64, Loose::Int(v)) => u64::try_from(*v).is_ok(),
        (Datatype::Int8, Loose::Int(v)) => i8::try_from(*v).is_ok(),
        (Datatype::Int16, Loose::Int(v)) => i16::try_from(*v).is_ok(),
        (Datatype::Int32, Loose::Int(v)) => i32::try_from(*v).is_ok(),
        (Datatype::Int64, Loose::Int(_)) => true,
        _ => false,
    }
}

fn kind_of(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "true, false",
        Datatype::Bytes => "text",
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => "a number",
        _ => "a whole number that the datatype holds",
    }
}
