//! What a breaker tells when it moves: where to, and, if it opened, what tripped it and for how long.

use std::{fmt, time::Duration};

/// A move from one state to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transition {
    /// It refuses every call for `open_for`, unless something else finds the target well.
    Opened {
        /// What tripped it.
        cause: Cause,
        /// How long it will.
        open_for: Duration,
    },
    /// Its first probe goes out.
    HalfOpen,
    /// Enough probes were answered.
    Closed,
}

/// What opened a breaker. As text: the figures, for a log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cause {
    /// Failures without a success between them.
    Run {
        /// So many.
        failures: u32,
        /// From the first to the last.
        within: Duration,
    },
    /// Too few successes.
    Rate {
        /// So many,
        successes: u32,
        /// of so many answers,
        answers: u32,
        /// in so long,
        window: Duration,
        /// where it has to be this share.
        least: f64,
    },
    /// A probe failed.
    Probe,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Run { failures: 1, .. } => f.write_str("a failure"),
            Self::Run { failures, within } => write!(f, "{failures} consecutive failures within {within:.1?}"),
            Self::Rate { successes, answers, window, least } => {
                let rate = f64::from(successes) / f64::from(answers.max(1));
                write!(f, "success rate {rate:.2} ({successes} of {answers} answers in {window:?}), under {least}")
            }
            Self::Probe => f.write_str("a probe failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_says_its_figures() {
        let second = Duration::from_secs(1);
        for (cause, told) in [
            (Cause::Run { failures: 1, within: Duration::ZERO }, "a failure"),
            (Cause::Run { failures: 5, within: second * 3 / 2 }, "5 consecutive failures within 1.5s"),
            (
                Cause::Rate { successes: 15, answers: 20, window: second * 10, least: 0.8 },
                "success rate 0.75 (15 of 20 answers in 10s), under 0.8",
            ),
            (Cause::Probe, "a probe failed"),
        ] {
            assert_eq!(cause.to_string(), told);
        }
    }
}
