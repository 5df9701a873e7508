//! What operators see of where rows are, and of what keeps them right: `state` of `GET /admin/v1/features`.

use std::{sync::Arc, time::Duration};

use serde_json::{Value as Json, json};

use super::registry::Verdict;
use crate::{
    admin::Section,
    config::{Config, L2},
    features::{
        Holder, Holders, Keeps, LeaseShown, MemberShown, ShardShown, Standing, Store, Tracking, Whereabouts, reason,
        words,
    },
    ingress::service::Gateway,
    resilience::standby::{Side, Why},
    telemetry::handles::dr::REASONS,
};

/// What there is beside the store itself.
pub(super) struct Rows {
    /// What the last look at Feast's registry came to.
    pub(super) registry: Option<Verdict>,
    /// How the consumer of feature updates stands.
    pub(super) updates: Option<Section>,
}

impl Rows {
    /// All of it, now. Asks Redis who holds a lease, and waits a second for that at most.
    pub(super) async fn states(&self, gateway: &Gateway) -> Json {
        let store = &gateway.pipeline.features;
        let mut lease = lease(&store.lease());
        lease["table"] = store.lease_holders().await.as_ref().map(table).into();
        json!({
            "registry": self.registry.as_ref().map(Verdict::shown),
            "l2": store.whereabouts().map(whereabouts),
            "replicas": store.shards().map(|shards| replicas(&gateway.pipeline.config, &shards)),
            "lease": lease,
            "invalidation": self.channels(store),
        })
    }

    /// How the ways stand on which invalidations come; those that the config does not have are left out.
    fn channels(&self, store: &Store) -> Json {
        let mut channels = serde_json::Map::new();
        if let Some(listening) = store.tracking() {
            channels.insert("tracking".to_owned(), tracking(listening));
        }
        if let Some(updates) = &self.updates {
            channels.insert("kafka".to_owned(), updates());
        }
        channels.into()
    }
}

/// Which Redis has the rows, and what keeps them there.
fn whereabouts(at: Whereabouts) -> Json {
    let mut shown = json!({
        "active": if at.side == Side::Primary { "primary" } else { "dr" },
        "reason": REASONS[reason(at.why)],
        "why": words(at.why),
        "dr": {"usable": at.dr.is_ready(), "why": at.dr.why()},
    });
    if let Why::Lacks { has, of } = at.why {
        (shown["primary_has"], shown["acknowledged"]) = (has.into(), of.into());
    }
    shown
}

/// This gateway's lease.
fn lease(lease: &LeaseShown) -> Json {
    json!({
        "gateway": lease.gateway,
        "connected": lease.connected,
        "keeps": match lease.keeps {
            Keeps::UnderLease => "under_lease",
            Keeps::Alone => "alone",
            Keeps::Nothing | Keeps::Unconcerned => "nothing",
        },
        "held": (lease.keeps == Keeps::UnderLease).then_some(lease.left.is_some()),
        "left_seconds": lease.left.map(seconds),
        "rows_held_by_pushes": lease.rows_held,
    })
}

/// Everybody's.
fn table(Holders { key, listed }: &Holders) -> Json {
    let holder = |Holder { gateway, left, revoked }: &Holder| json!({"gateway": gateway, "left_seconds": seconds(*left), "revoked": revoked});
    match listed {
        Ok(listed) => json!({
            "key": key,
            "lacks_seconds": listed.lacks.as_secs_f64(),
            "whole": listed.lacks.is_zero(),
            "holders": listed.holders.iter().map(holder).collect::<Json>(),
            "why": null,
        }),
        Err(why) => json!({"key": key, "lacks_seconds": null, "whole": null, "holders": null, "why": why}),
    }
}

/// The servers that rows are read from.
fn replicas(config: &Config, shards: &[ShardShown]) -> Json {
    let zone = match &config.features.l2 {
        L2::Redis(redis) => redis.replicas.as_ref().and_then(|replicas| replicas.own_zone.as_deref()),
        L2::FeatureServers(_) | L2::Embedded { .. } => None,
    };
    let shard = |shard: &ShardShown| {
        let mut shown = member(&shard.primary);
        shown["replicas"] = shard.replicas.iter().map(member).collect();
        shown
    };
    json!({"zone": zone, "masters": shards.iter().map(shard).collect::<Json>()})
}

fn member(member: &MemberShown) -> Json {
    json!({
        "redis": &*member.address,
        "zone": member.zone.as_deref(),
        "lag_seconds": member.lag.map(seconds),
        "round_trip_seconds": member.round_trip.map(seconds),
        "usable": member.usable,
    })
}

fn tracking(tracking: &Tracking) -> Json {
    let server = |(address, standing): (Arc<str>, Standing)| {
        let why = if let Standing::Deaf(why) = &standing { Some(&**why) } else { None };
        json!({"redis": &*address, "up": standing == Standing::Heard, "why": why})
    };
    json!({"up": tracking.is_up(), "servers": tracking.standings().into_iter().map(server).collect::<Json>()})
}

fn seconds(length: Duration) -> f64 {
    length.as_secs_f64()
}
