//! A model's standing level.

use metrics::{Gauge, gauge};

use crate::{infer::Level, telemetry::names};

/// One model's handle.
pub struct LadderHandles {
    level: Gauge,
}

impl LadderHandles {
    /// The handle for the model of that name, at level 0.
    #[must_use]
    pub fn new(model: &str) -> Self {
        let handles = Self { level: gauge!(names::LADDER_LEVEL, "model" => model.to_owned()) };
        handles.level(Level::Full);
        handles
    }

    /// Shows the level the model stands at.
    pub fn level(&self, level: Level) {
        self.level.set(level as u32);
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
}
