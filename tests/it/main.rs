//! Weir against real servers: one file a promise.

#![expect(clippy::panic, reason = "that is how a test fails")]

#[path = "../support/mod.rs"]
mod support;
mod world;

mod bad_input;
mod balance;
mod bodies;
mod breakers;
mod churn;
mod cli;
mod consistency;
mod descent;
mod dr;
mod ensembles;
mod examples;
mod faults;
mod feast_server;
mod feature_tier;
mod features;
mod hedges;
mod hot_keys;
mod invalidation;
#[cfg(feature = "kafka")]
mod kafka;
mod ladder;
mod lifecycle;
mod object_faults;
mod parts;
mod passthrough;
mod pools;
mod predictions;
mod promotions;
mod redis_faults;
mod registry;
mod replicas;
mod row_faults;
mod sidecars;
mod spool;
mod tails;
mod telemetry;
mod tiers;
mod warm_start;
mod ways_down;
