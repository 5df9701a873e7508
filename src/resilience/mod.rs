//! The mechanisms: breaker, backoff, retry budget, hedges, bulkhead, quota, load estimate, least time, median, adaptive limit, tally,
//! single flight, early refresh, what is said now and then.
//!
//! Pure: time and randomness are arguments, so that tests are exact. No I/O, no metrics, nothing of requests or models.
//! When to use which is the stages' business.

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod bulkhead;
pub mod ewma;
pub mod flight;
pub mod floor;
pub mod gradient;
pub mod hedge;
pub mod median;
pub mod quota;
pub mod refresh;
pub(crate) mod seldom;
pub mod tally;
