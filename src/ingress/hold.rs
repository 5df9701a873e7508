//! How much of requests' bodies the process holds at once, over all requests (`listen.hold_bodies`).
//!
//! A body is held so that it can be sent again, or because it must be decoded. What came of one is taken out of one quota, part by
//! part, before more is read, and given back when the request is answered, refused or dropped. Invariant: what was taken is
//! never more than the bound (`loom_amounts_never_sum_up_to_more_than_the_most`).
//!
//! Once it is spent, a body that nobody has to read is passed on as it comes, and loses its retries and fallbacks; one that must be decoded is
//! refused: to let it in would be to have no bound, for these are the long ones. Not counted: what the sockets' own windows
//! hold, the part that found no room, and what is built from a body.

use crate::{
    infer::{Error, Kind},
    resilience::quota::Quota,
    telemetry::handles::ingress::{HoldHandles, NotHeld},
};

/// Room is taken in powers of two from here on, up to what the body may be: that of a body that comes in one piece in one step, and
/// that of a long one as its buffer grows.
const LEAST: u64 = 4 << 10;

/// When to come back to a gateway that holds as much as it may.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// The process's bound.
pub(crate) struct Holds {
    quota: Quota,
    handles: HoldHandles,
}

impl Holds {
    /// Room for `most` bytes.
    pub(crate) fn new(most: u64) -> Self {
        Self { quota: Quota::new(most), handles: HoldHandles::new() }
    }

    /// Sets the gauge; to be called before a scrape.
    pub(crate) fn show(&self) {
        self.handles.held(self.quota.count());
    }

    /// One request's part, empty yet.
    pub(super) const fn hold(&self) -> Hold<'_> {
        Hold { holds: self, taken: 0 }
    }
}

/// The bytes that one request holds, until dropped.
pub(super) struct Hold<'a> {
    holds: &'a Holds,
    taken: u64,
}

impl Hold<'_> {
    /// Makes it `length` bytes in all; `false` where there is no room for them.
    fn exactly(&mut self, length: u64) -> bool {
        let more = length.saturating_sub(self.taken);
        let taken = more == 0 || self.holds.quota.take(more);
        self.taken += if taken { more } else { 0 };
        taken
    }

    /// Makes it `length` bytes, and more for what may follow up to `most` in all; `false` where there is no room for them.
    pub(super) fn growing(&mut self, length: u64, most: u64) -> bool {
        let ahead = || length.next_power_of_two().max(LEAST).min(most).max(length);
        // Where only what may follow does not fit, what is there still does.
        length <= self.taken || self.exactly(ahead()) || self.exactly(length)
    }

    /// Makes it `length` bytes in all, of a body that must be there whole.
    ///
    /// # Errors
    ///
    /// `Shed` where there is no room for them.
    pub(super) fn whole(&mut self, length: u64) -> Result<(), Error> {
        if self.exactly(length) { Ok(()) } else { Err(self.refused()) }
    }

    /// Counts a body that is passed on for want of room.
    pub(super) fn streamed(&self) {
        self.holds.handles.not_held(NotHeld::Streamed);
    }

    /// Counts a body that is refused for want of room.
    pub(super) fn refused(&self) -> Error {
        self.holds.handles.not_held(NotHeld::Refused);
        Error::new(Kind::Shed, "the requests under way hold as many bytes as listen.hold_bodies allows; try again")
            .with_retry_after(RETRY_AFTER)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.holds.quota.give_back(self.taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::scratch;

    #[test]
    fn what_is_held_is_given_back_exactly() {
        let holds = Holds::new(10_000);
        let (mut one, mut other) = (holds.hold(), holds.hold());
        assert!(one.exactly(7_000) && !other.exactly(3_001) && other.exactly(3_000));
        assert!(one.exactly(6_000), "it has them already");
        assert_eq!(holds.quota.count(), 10_000);
        drop(one);
        assert_eq!(holds.quota.count(), 3_000);
        drop(other);
        assert_eq!(holds.quota.count(), 0);
    }

    #[test]
    fn a_body_of_unknown_length_takes_room_in_few_steps() {
        let holds = Holds::new(1 << 20);
        let mut hold = holds.hold();
        for (length, taken) in
            [(1, 4096), (4096, 4096), (4097, 8192), (60_000, 65_536), (65_600, 100_000), (100_001, 100_001)]
        {
            assert!(hold.growing(length, 100_000));
            assert_eq!(holds.quota.count(), taken, "{length}");
        }
        assert!(!hold.growing(2 << 20, u64::MAX));
        assert_eq!(holds.quota.count(), 100_001, "as before");
    }

    #[test]
    fn what_is_there_needs_no_room_for_what_may_follow() {
        let holds = Holds::new(100_000);
        let mut hold = holds.hold();
        assert!(hold.growing(66_000, u64::MAX), "131072 bytes do not fit");
        assert!(hold.growing(70_000, u64::MAX));
        assert_eq!(holds.quota.count(), 70_000);
        assert!(!hold.growing(100_001, u64::MAX));
        assert_eq!(holds.quota.count(), 70_000, "as before");
    }

    #[test]
    fn what_is_not_held_is_counted() {
        let (holds, scrape) = scratch(|| Holds::new(10));
        let mut hold = holds.hold();
        assert!(hold.whole(10).is_ok());
        holds.show();
        hold.streamed();
        let refusal = hold.whole(11).unwrap_err();
        assert_eq!((refusal.kind(), refusal.retry_after()), (Kind::Shed, Some(RETRY_AFTER)));
        let scrape = scrape.render();
        assert!(scrape.contains("weir_held_body_bytes 10\n"), "{scrape}");
        assert!(scrape.contains("weir_bodies_not_held_total{outcome=\"streamed\"} 1\n"), "{scrape}");
        assert!(scrape.contains("weir_bodies_not_held_total{outcome=\"refused\"} 1\n"), "{scrape}");
    }
}
