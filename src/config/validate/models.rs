//! Models: tiers, pools, joins and fallbacks that exist.

use crate::{
    config::{Features, Model, Tier, problems::Path, raw},
    infer::{Datatype, PoolId, TierId},
};

use super::{Check, MODEL_NAMES, index, inputs::Joined, one_of};

impl Check<'_> {
    pub(super) fn models(&mut self, tiers: &[Tier], features: &Features) -> Vec<Model> {
        let raw = self.raw;
        let mut models: Vec<Model> =
            raw.models.iter().map(|(name, model)| self.model(name, model, tiers, features)).collect();
        for index in 0..models.len() {
            // Validated: they are no ensembles themselves.
            let members = models[index].members();
            let twice = members.iter().all(|member| models[member.index()].idempotent);
            if let Some(first) = members.first() {
                // What is no prediction is asked there.
                models[index].pool = models[first.index()].pool;
                models[index].idempotent = twice;
            }
        }
        models
    }

    fn model(&mut self, name: &str, raw: &raw::Model, tiers: &[Tier], features: &Features) -> Model {
        let path = Path::of("models").key(name);
        self.name(&path, name, &MODEL_NAMES);
        if raw.upstream_model.as_ref().is_some_and(String::is_empty) {
            self.wrong(&path.key("upstream_model"), "empty", "the model's name at the pool, or leave the key out");
        }
        if raw.registered_model.as_ref().is_some_and(String::is_empty) {
            self.wrong(&path.key("registered_model"), "empty", "the model's name in MLflow, or leave the key out");
        }
        let tier = self.tier_of(&path.key("tier"), raw.tier.as_deref(), tiers);
        let pool = self.pool_of(&path, raw, &tiers[tier.index()]);
        let (joins, unsure) = self.joins(&path.key("features"), &raw.features, features);
        let joined = Joined { joins: &joins, features, unsure };
        let inputs = self.inputs(&path.key("inputs"), raw, &joined);
        let fallback = self.fallback(&path.key("fallback"), (name, raw), &joined);
        let explainer = path.key("explainer").key("pool");
        Model {
            name: name.into(),
            tier,
            pool,
            registered: raw
                .registered_model
                .as_ref()
                .or(raw.upstream_model.as_ref())
                .map_or(name, String::as_str)
                .into(),
            upstream: raw.upstream_model.as_deref().unwrap_or(name).into(),
            timeout: self.positive(&path.key("timeout"), raw.timeout),
            idempotent: raw.idempotent,
            joins,
            inputs,
            explainer: raw.explainer.as_ref().and_then(|raw| self.pool_named(&explainer, &raw.pool)),
            fallback,
            cache: self.cache(&path.key("cache"), raw),
            ensemble: self.ensemble(&path.key("ensemble"), name, raw),
            queue_on_reject: raw.queue_on_reject,
            low_priority: raw.low_priority.unwrap_or(tiers[tier.index()].low_priority),
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
            None if raw.ensemble.is_some() => None,
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

    pub(super) fn datatype(&mut self, path: &Path, text: &str) -> Option<Datatype> {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(path, "not a datatype", one_of(Datatype::ALL.iter().map(|datatype| datatype.name())));
        }
        parsed
    }
}
