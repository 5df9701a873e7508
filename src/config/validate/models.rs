//! Models: tiers, pools, joins and fallbacks that exist.

use crate::{
    config::{
        Features, Model, Tier,
        problems::Path,
        raw::{self, Loose},
    },
    infer::{Datatype, PoolId, TierId},
};

use super::{Check, MODEL_NAMES, index, inputs::Joined, one_of};

impl Check<'_> {
    pub(super) fn models(&mut self, tiers: &[Tier], features: &Features) -> Vec<Model> {
        let raw = self.raw;
        raw.models.iter().map(|(name, model)| self.model(name, model, tiers, features)).collect()
    }

    fn model(&mut self, name: &str, raw: &raw::Model, tiers: &[Tier], features: &Features) -> Model {
        let path = Path::of("models").key(name);
        self.name(&path, name, &MODEL_NAMES);
        if raw.upstream_model.as_ref().is_some_and(String::is_empty) {
            self.wrong(&path.key("upstream_model"), "empty", "the model's name at the pool, or leave the key out");
        }
        let tier = self.tier_of(&path.key("tier"), raw.tier.as_deref(), tiers);
        let pool = self.pool_of(&path, raw, &tiers[tier.index()]);
        let (joins, unsure) = self.joins(&path.key("features"), &raw.features, features);
        let inputs = self.inputs(&path.key("inputs"), raw, &Joined { joins: &joins, features, unsure });
        let explainer = path.key("explainer").key("pool");
        Model {
            name: name.into(),
            tier,
            pool,
            upstream: raw.upstream_model.as_deref().unwrap_or(name).into(),
            timeout: self.positive(&path.key("timeout"), raw.timeout),
            idempotent: raw.idempotent,
            joins,
            inputs,
            explainer: raw.explainer.as_ref().and_then(|raw| self.pool_named(&explainer, &raw.pool)),
            reserve: raw.fallback.as_ref().map_or(0.0, |fallback| fallback.reserve.0),
            queue_on_reject: raw.queue_on_reject,
        }
    }

    /// The tier named; without one `standard`, else the lowest.
    fn tier_of(&mut self, path: &Path, name: Option<&str>, tiers: &[Tier]) -> TierId {
        let names = tiers.iter().map(|tier| &*tier.name);
        let found = match name {
            Some(name) => self.find(path, "tier", name, names),
            None => names.clone().position(|name| name == "standard").or(Some(tiers.len() - 1)),
        };
        TierId(index(found.unwrap_or(0)))
    }

    fn pool_of(&mut self, path: &Path, raw: &raw::Model, tier: &Tier) -> PoolId {
        let at = path.key("pool");
        let pool = match &raw.pool {
            Some(pool) => self.pool_named(&at, pool),
            None if tier.pool.is_some() => tier.pool,
            None => {
                let tier_pool = Path::of("tiers").key(&tier.name).key("pool");
                let named = self.raw.tiers.get(&tier.name).is_some_and(|tier| tier.pool.is_some());
                if !named && !self.is_broken(&path.key("tier")) {
                    let allowed = one_of(self.raw.pools.names());
                    self.wrong(&at, format_args!("no pool here, and none at {tier_pool}"), allowed);
                }
                None
            }
        };
        pool.unwrap_or(PoolId(0))
    }

    /// What fallbacks, ensembles and caches name, and what they would answer.
    pub(super) fn fallbacks(&mut self) {
        let raw = self.raw;
        for (name, model) in raw.models.iter() {
            let path = Path::of("models").key(name);
            self.ensemble(&path.key("ensemble").key("members"), name, model);
            let Some(fallback) = &model.fallback else { continue };
            let path = path.key("fallback");
            self.fallback_model(&path.key("model"), name, fallback);
            if fallback.rule.as_ref().is_some_and(|rule| rule.trim().is_empty()) {
                self.wrong(&path.key("rule"), "empty", "a CEL expression");
            }
            let outputs = fallback.default.as_ref().map_or(&[][..], |default| &default.outputs);
            if fallback.rule.is_some() && outputs.is_empty() {
                self.wrong(&path.key("rule"), "a rule without an output to fill", "a rule beside default.outputs");
            }
            for (i, output) in outputs.iter().enumerate() {
                let at = path.key("default").key("outputs").item(i);
                self.output(&at, output);
                if outputs[..i].iter().any(|other| other.name == output.name) {
                    self.wrong(&at.key("name"), "two tensors of one name", "each name once");
                }
            }
        }
    }

    fn fallback_model(&mut self, path: &Path, name: &str, fallback: &raw::Fallback) {
        let Some(next) = fallback.model.as_deref() else { return };
        let raw = self.raw;
        let names: Vec<_> = raw.models.names().collect();
        if self.find(path, "model", next, names.iter().copied()).is_none() {
            return;
        }
        // Walks the chain once: a model that meets itself would fall back for ever.
        let mut at = next;
        for _ in 0..names.len() {
            if at == name {
                return self.wrong(path, "falls back to itself in the end", "a model whose fallbacks end elsewhere");
            }
            let following = raw.models.get(at).and_then(|m| m.fallback.as_ref()).and_then(|f| f.model.as_deref());
            let Some(following) = following else { return };
            at = following;
        }
    }

    fn ensemble(&mut self, path: &Path, name: &str, model: &raw::Model) {
        let Some(ensemble) = &model.ensemble else { return };
        if ensemble.members.is_empty() {
            self.wrong(path, "no member", "at least one model");
        }
        let names: Vec<_> = self.raw.models.names().filter(|other| *other != name).collect();
        for (i, member) in ensemble.members.iter().enumerate() {
            self.find(&path.item(i), "other model", member, names.iter().copied());
        }
    }

    fn output(&mut self, path: &Path, output: &raw::Output) {
        let Some(datatype) = self.datatype(&path.key("datatype"), &output.datatype) else { return };
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
    }

    pub(super) fn datatype(&mut self, path: &Path, text: &str) -> Option<Datatype> {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(path, "not a datatype", one_of(Datatype::ALL.iter().map(|datatype| datatype.name())));
        }
        parsed
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
