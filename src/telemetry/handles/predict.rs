//! What the attempt loop counts: attempts by how they ended, retries and hedges, made and not made, endpoints' health.

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::{install::hide, names};

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident: $($(#[$variant_doc:meta])* $variant:ident = $label:literal;)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label's value.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

labels! {
    /// How one attempt ended.
    AttemptOutcome:
    /// The model answered.
    Success = "success";
    /// The model refused the request as malformed (a 4xx of its own).
    CallerError = "caller_error";
    /// The endpoint asked for less (429, `retry-after`).
    Overloaded = "overloaded";
    /// A 5xx, a reset, an unreadable answer.
    Failed = "failed";
    /// No connection could be made.
    ConnectFailed = "connect_failed";
    /// The attempt's timeout passed.
    Timeout = "timeout";
    /// The caller went away, or another attempt beside it was answered first.
    Cancelled = "cancelled";
}

labels! {
    /// Why a retry was not made.
    RetryDenied:
    /// The pool's budget is spent.
    Budget = "budget";
    /// The deadline leaves no room for the delay and what the model needs at the least.
    Deadline = "deadline";
    /// The body was passed on as it came and cannot be sent again.
    NotReplayable = "not_replayable";
    /// The model is not idempotent, and the request may have reached it.
    NotIdempotent = "not_idempotent";
    /// The endpoint asked not to be asked again (gRPC's pushback).
    Pushback = "pushback";
    /// No endpoint is left to ask.
    NoEndpoint = "no_endpoint";
}

labels! {
    /// What became of a second attempt beside a slow first one.
    HedgeOutcome:
    /// Its answer came first.
    Won = "won";
    /// The first attempt's did.
    Lost = "lost";
    /// Neither brought one.
    Failed = "failed";
}

labels! {
    /// Why a slow attempt was not hedged.
    HedgeDenied:
    /// The hedges' share of the load is used up.
    Share = "share";
    /// The pool's budget is spent.
    Budget = "budget";
    /// The deadline leaves less than the model needs at the least.
    Deadline = "deadline";
    /// No other endpoint may be asked.
    NoEndpoint = "no_endpoint";
}

/// One pool's handles.
pub struct PoolHandles {
    attempts: Box<[Counter]>,
    retries: Counter,
    denied: Box<[Counter]>,
    hedges: Box<[Counter]>,
    hedges_denied: Box<[Counter]>,
}

impl PoolHandles {
    /// Handles for the pool of that name.
    #[must_use]
    pub fn new(pool: &str) -> Self {
        let attempt = |outcome: &AttemptOutcome| counter!(names::ATTEMPTS, "pool" => pool.to_owned(), "outcome" => outcome.label());
        let denied = |reason: &RetryDenied| counter!(names::RETRIES_DENIED, "pool" => pool.to_owned(), "reason" => reason.label());
        let hedge =
            |outcome: &HedgeOutcome| counter!(names::HEDGES, "pool" => pool.to_owned(), "outcome" => outcome.label());
        let unhedged = |reason: &HedgeDenied| counter!(names::HEDGES_DENIED, "pool" => pool.to_owned(), "reason" => reason.label());
        Self {
            attempts: AttemptOutcome::ALL.iter().map(attempt).collect(),
            retries: counter!(names::RETRIES, "pool" => pool.to_owned()),
            denied: RetryDenied::ALL.iter().map(denied).collect(),
            hedges: HedgeOutcome::ALL.iter().map(hedge).collect(),
            hedges_denied: HedgeDenied::ALL.iter().map(unhedged).collect(),
        }
    }

    /// Counts a second attempt, once it is known what became of it.
    pub fn hedge(&self, outcome: HedgeOutcome) {
        self.hedges[outcome as usize].increment(1);
    }

    /// Counts a slow attempt that was not hedged.
    pub fn hedge_denied(&self, reason: HedgeDenied) {
        self.hedges_denied[reason as usize].increment(1);
    }

    /// Counts an attempt that ended so.
    pub fn attempt(&self, outcome: AttemptOutcome) {
        self.attempts[outcome as usize].increment(1);
    }

    /// Counts an attempt after the first.
    pub fn retry(&self) {
        self.retries.increment(1);
    }

    /// Counts a retry that was not made.
    pub fn denied(&self, reason: RetryDenied) {
        self.denied[reason as usize].increment(1);
    }
}

/// One endpoint's health, and whether it is left out.
pub struct EndpointHandles {
    healthy: Gauge,
    ejected: Gauge,
}

impl EndpointHandles {
    /// The handles for an endpoint, named by its authority.
    #[must_use]
    pub fn new(pool: &str, endpoint: &str) -> Self {
        let of = |name| gauge!(name, "pool" => pool.to_owned(), "endpoint" => endpoint.to_owned());
        let handles = Self { healthy: of(names::ENDPOINT_HEALTHY), ejected: of(names::ENDPOINT_EJECTED) };
        handles.ejected(false);
        handles
    }

    /// Sets what the last check said.
    pub fn healthy(&self, healthy: bool) {
        self.healthy.set(u32::from(healthy));
    }

    /// Sets whether it is left out as an outlier.
    pub fn ejected(&self, ejected: bool) {
        self.ejected.set(u32::from(ejected));
    }

    /// The endpoint is none any more: nothing is shown of it.
    pub fn gone(&self) {
        [&self.healthy, &self.ejected].into_iter().for_each(hide);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::scratch;

    #[test]
    fn every_outcome_counts_under_its_own_label() {
        let (handles, scrape) = scratch(|| PoolHandles::new("gpu"));
        AttemptOutcome::ALL.iter().for_each(|outcome| handles.attempt(*outcome));
        RetryDenied::ALL.iter().for_each(|reason| handles.denied(*reason));
        HedgeOutcome::ALL.iter().for_each(|outcome| handles.hedge(*outcome));
        HedgeDenied::ALL.iter().for_each(|reason| handles.hedge_denied(*reason));
        handles.retry();
        let text = scrape.render();
        for outcome in AttemptOutcome::ALL {
            let line = format!("weir_attempts_total{{pool=\"gpu\",outcome=\"{}\"}} 1\n", outcome.label());
            assert!(text.contains(&line), "{line}");
        }
        for reason in RetryDenied::ALL {
            let line = format!("weir_retries_denied_total{{pool=\"gpu\",reason=\"{}\"}} 1\n", reason.label());
            assert!(text.contains(&line), "{line}");
        }
        for outcome in HedgeOutcome::ALL {
            let line = format!("weir_hedges_total{{pool=\"gpu\",outcome=\"{}\"}} 1\n", outcome.label());
            assert!(text.contains(&line), "{line}");
        }
        for reason in HedgeDenied::ALL {
            let line = format!("weir_hedges_denied_total{{pool=\"gpu\",reason=\"{}\"}} 1\n", reason.label());
            assert!(text.contains(&line), "{line}");
        }
        assert!(text.contains("weir_retries_total{pool=\"gpu\"} 1\n"));
    }
}
