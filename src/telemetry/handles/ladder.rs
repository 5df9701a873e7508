//! A model's standing level: where it is, how often it moved, how long it was where. Moves and times are those of the level that
//! triggers and drills say, where `ladder.mode` is `observe` as well: that is what one observes for.

use std::{sync::Mutex, sync::PoisonError, time::Duration};

use metrics::{Counter, Gauge, counter, gauge};

use crate::{infer::Level, telemetry::names};

/// One model's handles.
pub struct LadderHandles {
    level: Gauge,
    would_be: Gauge,
    readmitted: Gauge,
    moves: [Counter; Level::ALL.len()],
    seconds: [Counter; Level::ALL.len()],
    /// What was not counted yet, of less than a second.
    rest: Mutex<[Duration; Level::ALL.len()]>,
}

impl LadderHandles {
    /// The handles for the model of that name, at level 0.
    #[must_use]
    pub fn new(model: &str) -> Self {
        let name = model.to_owned();
        let handles = Self {
            level: gauge!(names::LADDER_LEVEL, "model" => name.clone()),
            would_be: gauge!(names::LADDER_OBSERVED_LEVEL, "model" => name.clone()),
            readmitted: gauge!(names::LADDER_READMITTED, "model" => name.clone()),
            moves: Level::ALL
                .map(|level| counter!(names::LADDER_TRANSITIONS, "model" => name.clone(), "level" => level.name())),
            seconds: Level::ALL
                .map(|level| counter!(names::LADDER_SECONDS, "model" => name.clone(), "level" => level.name())),
            rest: Mutex::default(),
        };
        handles.level(Level::Full);
        handles.would_be(Level::Full);
        handles.readmitted(1.0);
        handles
    }

    /// Shows the level the model stands at.
    pub fn level(&self, level: Level) {
        self.level.set(level as u32);
    }

    /// Shows the level that the triggers say, whether it is acted upon or not.
    pub fn would_be(&self, level: Level) {
        self.would_be.set(level as u32);
    }

    /// Shows which share of its requests may ask GPUs that are full or were.
    pub fn readmitted(&self, share: f64) {
        self.readmitted.set(share);
    }

    /// Counts a move to `level`.
    pub fn moved(&self, level: Level) {
        self.moves[level as usize].increment(1);
    }

    /// Counts time spent at `level`.
    pub fn stood(&self, level: Level, time: Duration) {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = &mut rest[level as usize];
        *rest += time;
        self.seconds[level as usize].increment(rest.as_secs());
        *rest -= Duration::from_secs(rest.as_secs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::scratch;

    #[test]
    fn the_level_is_shown_as_its_number() {
        let (handles, scrape) = scratch(|| LadderHandles::new("m"));
        assert!(scrape.render().contains("weir_ladder_level{model=\"m\"} 0\n"));
        handles.level(Level::SimplifiedModel);
        assert!(scrape.render().contains("weir_ladder_level{model=\"m\"} 2\n"));
    }

    #[test]
    fn parts_of_seconds_add_up() {
        let (handles, scrape) = scratch(|| LadderHandles::new("m"));
        (0..25).for_each(|_| handles.stood(Level::SimplifiedModel, Duration::from_millis(100)));
        let line = "weir_ladder_level_seconds_total{model=\"m\",level=\"simplified_model\"} 2\n";
        assert!(scrape.render().contains(line), "{}", scrape.render());
    }
}
