//! What is shown of a breaker, whatever it guards: its state as a 0/1 series per state, its transitions, the time left of an open one,
//! and a line in the log for each transition.

use std::{fmt, time::Duration};

use metrics::{Counter, Gauge, counter, gauge};

use crate::{
    resilience::breaker::Transition,
    telemetry::{install::hide, names},
};

/// A breaker's state, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open,
    HalfOpen,
}

impl State {
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
    target: Box<str>,
    states: [Gauge; 3],
    transitions: [Counter; 3],
    open: Gauge,
}

impl BreakerHandles {
    /// Handles for the breaker of `target` (`pool/endpoint`, `redis/server`, `feature_server/server`, `l3`); closed to begin with.
    #[must_use]
    pub fn new(target: &str) -> Self {
        let state = |state: State| gauge!(names::BREAKER_STATE, "target" => target.to_owned(), "state" => state.name());
        let into = |to: State| counter!(names::BREAKER_TRANSITIONS, "target" => target.to_owned(), "to" => to.name());
        let handles = Self {
            target: target.into(),
            states: State::ALL.map(state),
            transitions: State::ALL.map(into),
            open: gauge!(names::BREAKER_OPEN, "target" => target.to_owned()),
        };
        handles.show(State::Closed);
        handles.time_left(Duration::ZERO);
        handles
    }

    /// Logs, counts and shows a transition.
    pub fn tell(&self, transition: Transition) {
        match transition {
            Transition::Opened { cause, open_for } => self.opened(&cause, open_for),
            Transition::HalfOpen => self.half_open(),
            Transition::Closed => self.closed(),
        }
    }

    /// It refuses every call for so long; `why` goes to the log.
    fn opened(&self, why: &dyn fmt::Display, open_for: Duration) {
        self.moved(State::Open, open_for);
        tracing::warn!(breaker = %self.target, %why, ?open_for, "circuit breaker opened");
    }

    /// Its first probe goes out.
    fn half_open(&self) {
        self.moved(State::HalfOpen, Duration::ZERO);
        tracing::info!(breaker = %self.target, "circuit breaker half-open: probing");
    }

    /// It lets every call by again.
    fn closed(&self) {
        self.moved(State::Closed, Duration::ZERO);
        tracing::info!(breaker = %self.target, "circuit breaker closed");
    }

    /// Shows for how long it still refuses every call: only known at the moment it is asked for.
    pub fn time_left(&self, left: Duration) {
        self.open.set(left.as_secs_f64());
    }

    /// The target is none any more: no state of it is shown. Its transitions are, as counters that move no more.
    pub fn gone(&self) {
        self.states.iter().for_each(hide);
        hide(&self.open);
    }

    fn moved(&self, to: State, left: Duration) {
        self.transitions[to as usize].increment(1);
        self.show(to);
        self.time_left(left);
    }

    fn show(&self, now: State) {
        for state in State::ALL {
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
        handles.opened(&"it failed", Duration::from_secs(30));
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
