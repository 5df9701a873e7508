//! A model server as processor sharing: up to `servers` requests run at full speed, more share it and get in one another's way.
//!
//! Time is virtual: a request is done when the server's own clock, which runs slower the more there are, has advanced by its
//! work. What a caller gave up is worked on all the same, as a batch on a GPU is.

use std::{cmp::Reverse, collections::BinaryHeap};

/// What each request beyond `servers` costs all of them.
const CONTENTION: f64 = 0.01;

/// A request at the server: when the server's clock says that it is done (as bits: they order as the number does), and whose
/// it is.
type Job = (u64, usize);

/// The server.
pub(crate) struct Backend {
    pub(crate) servers: f64,
    /// Requests that it takes; more are refused.
    pub(crate) most: usize,
    jobs: BinaryHeap<Reverse<Job>>,
    /// Its own clock, and when that was read.
    clock: f64,
    at: f64,
}

impl Backend {
    pub(crate) fn new(servers: f64, most: usize) -> Self {
        Self { servers, most, jobs: BinaryHeap::new(), clock: 0.0, at: 0.0 }
    }

    /// Whether it takes another request.
    pub(crate) fn takes(&self) -> bool {
        self.jobs.len() < self.most
    }

    /// Takes `work` seconds of work.
    pub(crate) fn begin(&mut self, id: usize, work: f64, now: f64) {
        self.advance(now);
        self.jobs.push(Reverse(((self.clock + work).to_bits(), id)));
    }

    /// When the next request is done, as things are.
    pub(crate) fn next(&self) -> Option<f64> {
        let Reverse((due, _)) = self.jobs.peek()?;
        Some(self.at + (f64::from_bits(*due) - self.clock).max(0.0) / self.speed())
    }

    /// Takes the request out that is done at `now`.
    pub(crate) fn finish(&mut self, now: f64) -> Option<usize> {
        self.advance(now);
        self.jobs.pop().map(|Reverse((_, id))| id)
    }

    pub(crate) fn advance(&mut self, now: f64) {
        self.clock += (now - self.at) * self.speed();
        self.at = now;
    }

    fn speed(&self) -> f64 {
        let over = (self.jobs.len() as f64 - self.servers).max(0.0);
        (self.servers / self.jobs.len().max(1) as f64).min(1.0) / (1.0 + CONTENTION * over)
    }
}
