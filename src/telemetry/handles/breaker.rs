//! A breaker's state as a 0/1 series per state, and its transitions.

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::{install::hide, names};

/// A breaker's state, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Passing.
    Closed,
    /// Tripped.
    Open,
    /// Probing.
    HalfOpen,
}

impl BreakerState {
    const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// One breaker's handles.
pub struct BreakerHandles {
    states: [Gauge; 3],
    transitions: [Counter; 3],
}

impl BreakerHandles {
    /// Handles for the breaker of `target` (an endpoint, a store); closed to begin with.
    #[must_use]
    pub fn new(target: &str) -> Self {
        let state =
            |state: BreakerState| gauge!(names::BREAKER_STATE, "target" => target.to_owned(), "state" => state.name());
        let into =
            |to: BreakerState| counter!(names::BREAKER_TRANSITIONS, "target" => target.to_owned(), "to" => to.name());
        let handles = Self { states: BreakerState::ALL.map(state), transitions: BreakerState::ALL.map(into) };
        handles.show(BreakerState::Closed);
        handles
    }

    /// Counts a transition and shows the new state.
    pub fn moved(&self, to: BreakerState) {
        self.transitions[to as usize].increment(1);
        self.show(to);
    }

    /// The target is none any more: no state of it is shown. Its transitions are, as counters that move no more.
    pub fn gone(&self) {
        self.states.iter().for_each(hide);
    }

    fn show(&self, now: BreakerState) {
        for state in BreakerState::ALL {
            self.states[state as usize].set(u32::from(state == now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::scratch;

    #[test]
    fn one_state_is_one_and_the_others_are_zero() {
        let (handles, scrape) = scratch(|| BreakerHandles::new("t"));
        assert!(scrape.render().contains("weir_breaker_state{target=\"t\",state=\"closed\"} 1\n"));
        handles.moved(BreakerState::Open);
        let text = scrape.render();
        for (state, value) in [("closed", 0), ("open", 1), ("half_open", 0)] {
            assert!(
                text.contains(&format!("weir_breaker_state{{target=\"t\",state=\"{state}\"}} {value}\n")),
                "{text}"
            );
        }
        assert!(text.contains("weir_breaker_transitions_total{target=\"t\",to=\"open\"} 1\n"));
    }
}
