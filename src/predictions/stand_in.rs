//! What stands in at level 3 for a prediction that cannot be had: one that is kept, found by other keys than a hit is.
//!
//! ```text
//!   the same request with the same features ──► the same request, where its features cannot be read now ──► the same entities
//! ```
//!
//! The second is for the hour in which the store fails as well: with defaults in their features no request is the one that was asked
//! before, and the answer to it would be lost though it is here. Where the store says what is so now, an answer to what was so before is
//! none to the same request.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    L2_SHARE, Predictions,
    id::Split,
    kept::{Kept, Told},
    key::{Head, Key},
};
use crate::{
    enrich::Enriched,
    infer::{CachedOf, Decoded, Degradation, InferRequest, ModelId, Plan, Protocol, Reason},
};

/// A prediction that stands in for one that cannot be had.
#[derive(Debug)]
pub(crate) struct StandIn {
    pub(crate) told: Told,
    pub(crate) age: Duration,
    pub(crate) of: CachedOf,
}

/// What a prediction is kept under beside its exact key.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OtherKeys {
    /// Of the request as it came, whatever its features were.
    pub(super) as_it_came: Option<Key>,
    /// Of the entities that it is about.
    pub(super) entities: Option<Key>,
}

impl OtherKeys {
    pub(super) fn iter(&self) -> impl Iterator<Item = Key> {
        self.as_it_came.into_iter().chain(self.entities)
    }
}

impl Predictions {
    /// Whether a model's predictions are found by other keys too: its requests are to be there as they came.
    pub(crate) fn has_other_keys(&self, model: ModelId) -> bool {
        let by_entity = |model: &super::Model| model.config.entity.is_some();
        self.models[model.index()].as_ref().is_some_and(|model| !model.sent_as_came || by_entity(model))
    }

    /// The other keys of a request as it came.
    pub(crate) fn other_keys(&self, model: ModelId, request: &InferRequest, decoded: &Decoded) -> OtherKeys {
        self.keys_and_id(model, request, decoded).map(|(keys, _)| keys).unwrap_or_default()
    }

    /// The same, and the request's own id.
    fn keys_and_id(
        &self,
        of: ModelId,
        request: &InferRequest,
        decoded: &Decoded,
    ) -> Option<(OtherKeys, Option<Bytes>)> {
        let model = self.models[of.index()].as_ref()?;
        let split = match request.protocol {
            Protocol::Grpc => Split::of_message(&decoded.body)?,
            protocol => Split::of(protocol, &decoded.body, request.json_length),
        };
        let (era, head) = (self.eras.now(of), Head::of(request));
        let came = || model.scheme.as_it_came(era, head, (&decoded.body, &split), request.json_length);
        let entities = |source: &str| model.scheme.entity(era, head, (decoded, &split), source);
        let keys = OtherKeys {
            as_it_came: (!model.sent_as_came).then(came),
            entities: model.config.entity.as_deref().and_then(entities),
        };
        Some((keys, split.id))
    }

    /// What stands in for a prediction that cannot be had. `degraded`: what of the request's features is not what the store says.
    pub(crate) async fn kept(
        &self,
        request: &InferRequest,
        (enriched, decoded): (Option<&Enriched>, Option<&Decoded>),
        degraded: &[Degradation],
        plan: &Plan,
    ) -> Option<StandIn> {
        if request.caching.bypasses() {
            return None;
        }
        if let Some(exact) = enriched.and_then(|enriched| self.question(enriched, plan))
            && let Some(kept) = self.find(&exact.key, request.protocol, plan).await
        {
            return Some(self.stands_in(&kept, exact.id.as_ref(), plan.model, CachedOf::Request));
        }
        let (keys, id) = self.keys_and_id(plan.model, request, decoded?)?;
        let unread =
            |degraded: &Degradation| matches!(degraded, Degradation::Default { reason: Reason::Unavailable, .. });
        let as_it_came = keys.as_it_came.filter(|_| degraded.iter().any(unread));
        let named = [(as_it_came, CachedOf::Request), (keys.entities, CachedOf::Entity)];
        for (key, of) in named.into_iter().filter_map(|(key, of)| Some((key?, of))) {
            if let Some(kept) = self.find(&key, request.protocol, plan).await {
                return Some(self.stands_in(&kept, id.as_ref(), plan.model, of));
            }
        }
        None
    }

    /// One that may stand in, of whichever layer.
    async fn find(&self, key: &Key, protocol: Protocol, plan: &Plan) -> Option<Arc<Kept>> {
        let now = Instant::now();
        if let Some(kept) = self.memory.get(key, now) {
            return Some(kept);
        }
        let until = now + plan.deadline.remaining(now) / L2_SHARE;
        let kept = self.shared.as_ref()?.get(key, protocol, until).await.ok()??;
        let keep_for = self.models[plan.model.index()].as_ref()?.config.keep_for;
        (kept.age(Instant::now()) < keep_for).then(|| Arc::new(kept))
    }

    fn stands_in(&self, kept: &Kept, id: Option<&Bytes>, model: ModelId, of: CachedOf) -> StandIn {
        self.handles.stood_in(model, of);
        StandIn { told: kept.told(id), age: kept.age(Instant::now()), of }
    }
}
