//! The consistency's part: Weirs on one Redis Cluster whose keys are asked for unevenly, and whose rows change.
//!
//! Three pieces: what key copies and L1 do to the load of the masters; how long a gateway serves a row after it was written elsewhere;
//! and what `write_through` costs beside `ttl`. A piece that cannot be run is told with its reason and fails the bench; an aim that is
//! missed does not.

mod cost;
mod hot;
mod lag;
mod report;
mod skew;
mod world;

use self::{cost::Cost, hot::Hot, lag::Lag};
use crate::{
    Flags,
    part::{Bench, Part, piece},
};

/// What all pieces gave; `None`: not measured.
pub(crate) struct Results {
    hot: Option<Hot>,
    lags: Option<Vec<Lag>>,
    cost: Option<Cost>,
    /// What could not be run, and why.
    failures: Vec<String>,
}

impl Part for Results {
    const NAME: &'static str = "consistency";

    fn measure(bench: Bench<'_>, flags: &Flags) -> Self {
        let (only, mut failures) = (&flags.only, Vec::new());
        let hot = piece("hot keys", (only, &mut failures), || hot::run(bench, flags.rounds, flags.longest));
        let length = flags.longest * u32::try_from(flags.rounds).unwrap_or(u32::MAX);
        let lags = piece("invalidation", (only, &mut failures), || lag::run(bench, length));
        let cost = piece("write-through", (only, &mut failures), || cost::run(bench, flags.rounds, flags.longest));
        Self { hot, lags, cost, failures }
    }

    fn markdown(&self, flags: &Flags, others: f64) -> String {
        report::markdown(self, flags, others)
    }

    fn failures(&self) -> &[String] {
        &self.failures
    }
}
