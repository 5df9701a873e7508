//! Where models stand: written by the controller and by drills, loaded by the path.
//!
//! A trigger that is in force is a bit, a drill's level a number beside them, all in one byte: a plan never sees half of a change. What was
//! kept from GPUs that were full comes back bit by bit once that trigger is over: one bit more, and no level of its own; a request that
//! does not come back yet is answered at the level that it needs. The worst counts, and of equals the first: a drill, then the triggers in
//! the order of their bits. Triggers move a model between levels 0 and 2; levels 3 and 4 are reached by single answers, or by a drill.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::readmission;
use crate::{
    infer::{Cause, Level},
    resilience::seldom::Seldom,
};

/// Of the requests of a model that stands lower because its attempts time out, every so many'th is asked in full all the same:
/// what they take is how the trigger learns that it is over. One after each such time besides: few requests would be too few of
/// those to learn from.
const PROBE_EVERY: u32 = 20;
const PROBE_AFTER: Duration = Duration::from_secs(1);

/// What moves a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Trigger {
    /// Feature lookups are slow.
    FeaturesSlow,
    /// The feature store is unavailable.
    FeaturesUnavailable,
    /// The GPUs of its pool are full.
    GpuMemory,
    /// Too many of its attempts time out.
    Timeouts,
}

impl Trigger {
    /// All of them, in the order of their bits.
    pub(super) const ALL: [Self; 4] = [Self::FeaturesSlow, Self::FeaturesUnavailable, Self::GpuMemory, Self::Timeouts];

    /// The level it takes a model to.
    pub(super) const fn level(self) -> Level {
        match self {
            Self::FeaturesSlow => Level::ReducedFeatures,
            Self::FeaturesUnavailable | Self::GpuMemory | Self::Timeouts => Level::SimplifiedModel,
        }
    }

    /// What the caller is told.
    pub(super) const fn cause(self) -> Cause {
        match self {
            Self::FeaturesSlow => Cause::FeaturesSlow,
            Self::FeaturesUnavailable => Cause::FeaturesUnavailable,
            Self::GpuMemory => Cause::GpuMemory,
            Self::Timeouts => Cause::Timeouts,
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Where a model stands at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing(u8);

impl Standing {
    /// Where the drill's level begins, and how wide it is.
    const DRILL: u32 = 4;
    const DRILLS: u8 = 0b111;
    /// Requests come back to GPUs that were full.
    const RETURNS: u8 = 1 << 7;

    pub(super) fn new(triggers: impl IntoIterator<Item = Trigger>, drill: Option<Level>) -> Self {
        let bits = triggers.into_iter().fold(0, |bits, trigger| bits | trigger.bit());
        Self(bits | drill.map_or(0, |level| (level as u8) << Self::DRILL))
    }

    /// The same, with GPUs that were full a while ago.
    pub(super) const fn returning(self) -> Self {
        Self(self.0 | Self::RETURNS)
    }

    /// Whether GPUs are full, or were and take requests back bit by bit.
    pub(super) const fn makes_room(self) -> bool {
        self.0 & (Trigger::GpuMemory.bit() | Self::RETURNS) != 0
    }

    /// Whether nothing lowers it, nor any request.
    pub(super) const fn is_full(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn has(self, trigger: Trigger) -> bool {
        self.0 & trigger.bit() != 0
    }

    /// Whether a trigger of that cause lowers it, or some of its requests yet.
    pub(super) fn has_cause(self, cause: Cause) -> bool {
        (cause == Cause::GpuMemory && self.makes_room())
            || Trigger::ALL.into_iter().any(|trigger| trigger.cause() == cause && self.has(trigger))
    }

    /// The level it is held at by a drill.
    pub(super) fn drill(self) -> Level {
        Level::ALL[usize::from(self.0 >> Self::DRILL & Self::DRILLS).min(Level::ALL.len() - 1)]
    }

    /// The worst of all that lowers it, and what that is; `None`: nothing does.
    pub(super) fn worst(self) -> Option<(Level, Cause)> {
        let drill = (self.drill() > Level::Full).then_some((self.drill(), Cause::Drill));
        let triggers = Trigger::ALL.into_iter().filter(|trigger| self.has(*trigger));
        let all = drill.into_iter().chain(triggers.map(|trigger| (trigger.level(), trigger.cause())));
        all.reduce(|worst, one| if one.0 > worst.0 { one } else { worst })
    }

    pub(super) fn level(self) -> Level {
        self.worst().map_or(Level::Full, |(level, _)| level)
    }
}

/// What the path loads.
#[derive(Debug)]
pub(super) struct Shown {
    standing: AtomicU8,
    asked: AtomicU32,
    probing: Seldom,
    /// Whether its pool's GPUs are full, be it of low priority or not.
    gpus_full: AtomicBool,
    /// Of [`readmission::PARTS`], how many are asked in full though GPUs were full, and how many came since they are.
    admitted: AtomicU32,
    returning: AtomicU32,
    origin: Instant,
    /// When the drill ends, in milliseconds since the origin.
    drill_until: AtomicU64,
}

impl Shown {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            standing: AtomicU8::new(0),
            asked: AtomicU32::new(0),
            probing: Seldom::each(PROBE_AFTER, now),
            gpus_full: AtomicBool::new(false),
            admitted: AtomicU32::new(0),
            returning: AtomicU32::new(0),
            origin: now,
            drill_until: AtomicU64::new(0),
        }
    }

    /// To be called before the standing with the drill is stored: who sees that knows its end.
    pub(super) fn drill_until(&self, until: Instant) {
        let millis = until.saturating_duration_since(self.origin).as_millis();
        self.drill_until.store(u64::try_from(millis).unwrap_or(u64::MAX), Relaxed);
    }

    /// How long the drill lasts yet; zero where there is none.
    pub(super) fn drill_left(&self, now: Instant) -> Duration {
        let until = Duration::from_millis(self.drill_until.load(Relaxed));
        until.saturating_sub(now.saturating_duration_since(self.origin))
    }

    pub(super) fn load(&self) -> Standing {
        Standing(self.standing.load(Relaxed))
    }

    pub(super) fn store(&self, standing: Standing) {
        self.standing.store(standing.0, Relaxed);
    }

    pub(super) fn fill_gpus(&self, full: bool) {
        self.gpus_full.store(full, Relaxed);
    }

    pub(super) fn gpus_are_full(&self) -> bool {
        self.gpus_full.load(Relaxed)
    }

    /// Lets so many of [`readmission::PARTS`] requests ask GPUs that were full.
    pub(super) fn admit(&self, share: u32) {
        self.admitted.store(share, Relaxed);
    }

    /// Whether the next request asks GPUs that were full.
    pub(super) fn admits(&self) -> bool {
        let share = self.admitted.load(Relaxed);
        // 7 and 20 have no divisor in common: those that ask are not one after another.
        share > 0 && self.returning.fetch_add(1, Relaxed).wrapping_mul(7) % readmission::PARTS < share
    }

    /// Whether a request at `now` is one of those that are asked in full all the same.
    pub(super) fn probes(&self, now: Instant) -> bool {
        let by_count = self.asked.fetch_add(1, Relaxed).is_multiple_of(PROBE_EVERY);
        self.probing.is_due(now) || by_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts() {
        use Trigger::{FeaturesSlow, GpuMemory, Timeouts};
        let drill = Some(Level::DefaultResponse);
        for (triggers, drill, worst) in [
            (&[][..], None, None),
            (&[FeaturesSlow], None, Some((Level::ReducedFeatures, Cause::FeaturesSlow))),
            (&[FeaturesSlow, GpuMemory], None, Some((Level::SimplifiedModel, Cause::GpuMemory))),
            (&[Timeouts], drill, Some((Level::DefaultResponse, Cause::Drill))),
            (&[], Some(Level::ReducedFeatures), Some((Level::ReducedFeatures, Cause::Drill))),
            (&[Timeouts], Some(Level::ReducedFeatures), Some((Level::SimplifiedModel, Cause::Timeouts))),
            (&[Timeouts, GpuMemory], None, Some((Level::SimplifiedModel, Cause::GpuMemory))),
            (&[GpuMemory], Some(Level::SimplifiedModel), Some((Level::SimplifiedModel, Cause::Drill))),
        ] {
            let standing = Standing::new(triggers.iter().copied(), drill);
            assert_eq!(standing.worst(), worst, "{triggers:?} {drill:?}");
            assert_eq!(standing.is_full(), worst.is_none());
            assert!(triggers.iter().all(|trigger| standing.has(*trigger)));
            let returning = standing.returning();
            assert_eq!(
                (returning.worst(), returning.drill()),
                (standing.worst(), standing.drill()),
                "no level of its own"
            );
            assert!(!returning.is_full() && returning.makes_room());
            assert_eq!(standing.makes_room(), standing.has(GpuMemory));
        }
    }

    #[test]
    fn a_share_asks_what_was_full() {
        let shown = Shown::new(Instant::now());
        for share in [0, 1, 7, 20] {
            shown.admit(share);
            let admitted = (0..10 * readmission::PARTS).filter(|_| shown.admits()).count();
            assert_eq!(admitted, 10 * share as usize, "{share}");
        }
    }

    #[test]
    fn one_in_so_many_is_asked_in_full_and_one_a_second() {
        let now = Instant::now();
        let shown = Shown::new(now);
        let probes = (0..10 * PROBE_EVERY).filter(|_| shown.probes(now)).count();
        assert_eq!(probes, 10, "of many at once");
        let shown = Shown::new(now);
        let probes: Vec<u32> = (0..10).filter(|at| shown.probes(now + *at * PROBE_AFTER / 2)).collect();
        assert_eq!(probes, [0, 2, 4, 6, 8], "of two a second");
    }
}
