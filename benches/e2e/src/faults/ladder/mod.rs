//! The ladder's part: what is answered when everything fails, how soon all is well again after that, and what the ways down cost
//! while nothing is wrong.
//!
//! It sends its load and breaks its servers as the faults' part does, of which it is one. A part that cannot be run is told with
//! its reason and fails the bench; an aim that is missed does not.

mod cost;
mod outage;
mod recovery;
mod report;
mod world;

use self::{cost::Cost, outage::Outage, recovery::Recovery};
use crate::{
    Flags,
    part::{Bench, Part, piece},
};

/// What all parts gave; `None`: not measured.
pub(crate) struct Results {
    outage: Option<Outage>,
    recoveries: Option<Vec<Recovery>>,
    cost: Option<Cost>,
    /// What could not be run, and why.
    failures: Vec<String>,
}

impl Part for Results {
    const NAME: &'static str = "ladder";

    fn measure(bench: Bench<'_>, flags: &Flags) -> Self {
        let (only, mut failures) = (&flags.only, Vec::new());
        let outage = piece("outage", (only, &mut failures), || outage::run(bench, flags.longest));
        let recoveries = piece("recovery", (only, &mut failures), || recovery::run(bench));
        let cost = piece("cost", (only, &mut failures), || cost::run(bench, flags.rounds, flags.longest / 3));
        Self { outage, recoveries, cost, failures }
    }

    fn markdown(&self, flags: &Flags, others: f64) -> String {
        report::markdown(self, flags, others)
    }

    fn failures(&self) -> &[String] {
        &self.failures
    }
}
