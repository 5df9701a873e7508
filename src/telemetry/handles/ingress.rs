//! What a listener counts, and what the bodies that came through them hold.

use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::names;

/// One listener's handles.
#[derive(Clone)]
pub struct ListenerHandles {
    connections: Gauge,
}

impl ListenerHandles {
    /// Handles for the listener of that name (`http`, `grpc`, `admin`).
    #[must_use]
    pub fn new(listener: &'static str) -> Self {
        let connections = gauge!(names::CONNECTIONS, "listener" => listener);
        connections.set(0);
        Self { connections }
    }

    /// Counts a connection as open until the guard is dropped.
    #[must_use]
    pub fn connection(&self) -> OpenConnection {
        self.connections.increment(1);
        OpenConnection(self.connections.clone())
    }
}

/// An open connection.
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// What becomes of a body that there is no room to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// It is passed on as it comes.
    Streamed,
    /// It must be decoded: its request is refused.
    Refused,
}

/// The handles of held bodies.
pub struct HoldHandles {
    held: Gauge,
    streamed: Counter,
    refused: Counter,
}

impl HoldHandles {
    /// Handles of the process.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it registers series")]
    pub fn new() -> Self {
        let not_held = |outcome: &'static str| counter!(names::BODIES_NOT_HELD, "outcome" => outcome);
        let held = gauge!(names::HELD_BODY_BYTES);
        Self { held, streamed: not_held("streamed"), refused: not_held("refused") }
    }

    /// Sets the bytes that are held.
    pub fn held(&self, bytes: u64) {
        self.held.set(bytes as f64);
    }

    /// Counts a body that there was no room for.
    pub fn not_held(&self, outcome: NotHeld) {
        match outcome {
            NotHeld::Streamed => self.streamed.increment(1),
            NotHeld::Refused => self.refused.increment(1),
        }
    }
}

/// The handle of streamed answers that nobody took.
#[derive(Clone)]
pub struct StallHandles(Counter);

impl StallHandles {
    /// A handle of the process.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it registers a series")]
    pub fn new() -> Self {
        Self(counter!(names::STALLED_ANSWERS))
    }

    /// Counts one.
    pub fn broken_off(&self) {
        self.0.increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::scratch;

    #[test]
    fn a_connection_counts_while_its_guard_lives() {
        let (handles, scrape) = scratch(|| ListenerHandles::new("http"));
        let first = handles.connection();
        let second = handles.connection();
        drop(first);
        assert!(scrape.render().contains("weir_connections{listener=\"http\"} 1\n"));
        drop(second);
        assert!(scrape.render().contains("weir_connections{listener=\"http\"} 0\n"));
    }
}
