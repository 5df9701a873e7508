//! Times as numbers: moments as an atomic holds them, nanoseconds since an origin, which fit for five centuries; lengths in nanoseconds or milliseconds.

use std::time::Duration;

use tokio::time::Instant;

/// From `origin` to `at`; zero where that is earlier. Never the greatest number.
pub(crate) fn nanos(origin: Instant, at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(origin).as_nanos()).map_or(u64::MAX - 1, |nanos| nanos.min(u64::MAX - 1))
}

/// The same from 1, so that 0 is before everything.
pub(crate) fn nanos_from_one(origin: Instant, at: Instant) -> u64 {
    nanos(origin, at) + 1
}

/// A length; one that does not fit is the greatest number.
pub(crate) fn length(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

/// In whole milliseconds.
pub(crate) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_than_the_origin_is_the_origin() {
        let origin = Instant::now() + Duration::from_secs(1);
        let at = |millis| origin + Duration::from_millis(millis);
        assert_eq!(
            [nanos(origin, at(0)), nanos(origin, at(2)), nanos_from_one(origin, at(2))],
            [0, 2_000_000, 2_000_001]
        );
        assert_eq!(nanos(origin, origin - Duration::from_millis(1)), 0);
    }
}
