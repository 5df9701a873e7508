//! Weir: an inference gateway and sidecar for KServe that joins online features on the way to the model.
//!
//! ```text
//!  socket ─► ingress   infer.rs | rpc.rs ─► decode ─► InferRequest
//!                                                       │                        handed on
//!  pipeline::infer     ladder.plan(&request)            ─► Plan           decisions go down
//!  pipeline::compute   1 admission.enter(&request, &plan)      ─► Ticket         refused at the door
//!                      2 features.fetch(&request, &plan)       ─► FeatureSet     rows + freshness: facts come up
//!                      3 enricher.enrich(request, &features, &plan) ─► Enriched  pure
//!                      4 predictions.question(&enriched, &plan) ─► hit? Answer    keyed on what the model would see
//!                      5 ticket.slot()                         ─► Permit         a slot of the tier's pool, only now
//!                      6 predict.run(enriched, permit, &plan)  ─► Prediction     the attempt loop
//!  pipeline::infer     ladder.settle(&plan, outcome)           ─► Answer | Error
//!                                                       │
//!  socket ◄─ ingress   encode ◄─────────────────────────┘   one table from error to HTTP status and gRPC code
//! ```
//!
//! Start reading at [`pipeline`]; [`infer`] is the vocabulary. `ARCHITECTURE.md` shows the layers, who may name whom, and where
//! a new pool policy, level, metric or protocol goes.

pub mod admin;
pub mod admission;
pub mod app;
pub mod cli;
pub mod config;
pub mod enrich;
pub mod features;
#[cfg(test)]
mod fixture;
pub mod infer;
pub mod ingress;
pub mod kafka;
pub mod ladder;
pub mod pipeline;
pub mod predict;
pub mod predictions;
pub mod promotions;
pub mod proto;
mod redis_link;
pub mod resilience;
pub mod spool;
pub mod telemetry;
