//! The mechanisms: breaker, backoff, retry budget, hedges, bulkhead, quota, load estimate, least time, median, adaptive limit, tally,
//! share of bad events, hysteresis, outlier ejection, slow start, spill between zones, failover, a replica's lag, a standby store, single
//! flight, early refresh, a lease as its holder counts it, a round of acknowledgements, one event in so many, what comes most often,
//! what is said now and then, a few at once and then one every so often, a hash for keys that callers choose, moments as numbers.
//!
//! Pure: time and randomness are arguments, so that tests are exact. No I/O, no metrics, nothing of requests or models.
//! When to use which is the stages' business.

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod bulkhead;
pub mod ewma;
pub mod failover;
pub mod flight;
pub mod floor;
pub mod gradient;
pub mod hedge;
pub mod hysteresis;
pub mod lag;
pub mod latency;
pub(crate) mod lease;
pub mod median;
pub mod outlier;
pub mod quota;
pub mod ramp;
pub mod ratio;
pub mod refresh;
pub(crate) mod round;
pub(crate) mod sampler;
pub mod seeded;
pub(crate) mod seldom;
pub(crate) mod since;
mod slot;
pub mod spill;
pub mod standby;
pub mod tally;
pub mod top_k;
pub mod trickle;
