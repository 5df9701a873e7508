//! What a listener counts.

use metrics::{Gauge, gauge};

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
