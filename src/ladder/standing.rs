//! Where models stand: written by the controller and by drills, loaded by the path.
//!
//! A trigger that is in force is a bit, a drill's level a number beside them, all in one byte: a plan never sees half of a change.
//! The worst counts. Triggers move a model between levels 0 and 2; levels 3 and 4 are reached by single answers, or by a drill.

use std::{
    sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

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
    /// Where the drill's level begins.
    const DRILL: u32 = 4;

    pub(super) fn new(triggers: impl IntoIterator<Item = Trigger>, drill: Option<Level>) -> Self {
        let bits = triggers.into_iter().fold(0, |bits, trigger| bits | trigger.bit());
        Self(bits | drill.map_or(0, |level| (level as u8) << Self::DRILL))
    }

    /// Whether nothing lowers it.
    pub(super) const fn is_full(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn has(self, trigger: Trigger) -> bool {
        self.0 & trigger.bit() != 0
    }

    /// The level it is held at by a drill.
    pub(super) fn drill(self) -> Level {
        Level::ALL[usize::from(self.0 >> Self::DRILL).min(Level::ALL.len() - 1)]
    }

    /// The worst of all that lowers it, and what that is; `None`: nothing does.
    pub(super) fn worst(self) -> Option<(Level, Cause)> {
        let triggers = Trigger::ALL.into_iter().filter(|trigger| self.has(*trigger));
        let mut all =
            triggers.map(|trigger| (trigger.level(), trigger.cause())).collect::<smallvec::SmallVec<[_; 5]>>();
        if self.drill() > Level::Full {
            all.push((self.drill(), Cause::Drill));
        }
        all.into_iter().max_by_key(|(level, _)| *level)
    }

    pub(super) fn level(self) -> Level {
        self.worst().map_or(Level::Full, |(level, _)| level)
    }
}

/// The byte that the path loads.
#[derive(Debug)]
pub(super) struct Shown {
    standing: AtomicU8,
    asked: AtomicU32,
    probing: Seldom,
}

impl Shown {
    pub(super) const fn new(now: Instant) -> Self {
        let probing = Seldom::each(PROBE_AFTER, now);
        Self { standing: AtomicU8::new(0), asked: AtomicU32::new(0), probing }
    }

    pub(super) fn load(&self) -> Standing {
        Standing(self.standing.load(Relaxed))
    }

    pub(super) fn store(&self, standing: Standing) {
        self.standing.store(standing.0, Relaxed);
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
        ] {
            let standing = Standing::new(triggers.iter().copied(), drill);
            assert_eq!(standing.worst(), worst, "{triggers:?} {drill:?}");
            assert_eq!(standing.is_full(), worst.is_none());
            assert!(triggers.iter().all(|trigger| standing.has(*trigger)));
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
