//! A pool's GPU memory.

use metrics::{Gauge, gauge};

use crate::telemetry::{install::hide, names};

/// One pool's handles.
pub struct Gpu {
    memory: Gauge,
    stale: Gauge,
}

impl Gpu {
    /// Handles for the pool of that name, of which nothing is known yet.
    #[must_use]
    pub fn new(pool: &str) -> Self {
        let of = |name| gauge!(name, "pool" => pool.to_owned());
        let handles = Self { memory: of(names::GPU_MEMORY), stale: of(names::GPU_SCRAPE_STALE) };
        handles.show(None);
        handles
    }

    /// Sets how full the fullest GPU is. What is not known is in no scrape.
    pub fn show(&self, share: Option<f64>) {
        match share {
            Some(share) => self.memory.set(share),
            None => hide(&self.memory),
        }
        self.stale.set(u32::from(share.is_none()));
    }
}
