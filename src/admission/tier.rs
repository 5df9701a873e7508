//! A tier: its limits, what it says to whom it refuses, and how it looks at one moment.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::queue::Gate;
use crate::{
    config,
    infer::{Error, Kind, TierId},
    resilience::{bulkhead::Share, quota::Quota},
    telemetry::handles::admission::{ShedReason, TierHandles},
};

/// What a refused caller is told to wait at least and at most: `retry-after` has whole seconds, and an estimate from a queue that
/// hardly moves is none.
const LEAST_RETRY_AFTER: Duration = Duration::from_secs(1);
const MOST_RETRY_AFTER: Duration = Duration::from_secs(60);

pub(super) struct Tier {
    name: Arc<str>,
    pub(super) share: Share,
    pub(super) queue: u32,
    pub(super) queue_timeout: Duration,
    /// Places at the tier's own pool, where others run on the burst pool: as many as it has reserved.
    pub(super) own: Quota,
    pub(super) handles: TierHandles,
}

/// A tier at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierState<'a> {
    /// The configured name.
    pub name: &'a str,
    /// Slots it may hold at most.
    pub slots: u32,
    /// Slots that only it uses.
    pub reserved: u32,
    /// Slots it holds.
    pub in_use: u32,
    /// Those of them that are of the shared part.
    pub borrowed: u32,
    /// Slots that it could have beside those: not those of the shared part that other tiers hold.
    pub room: u32,
    /// Requests that wait for one.
    pub waiting: u32,
    /// How long those waited who left the queue in the last second; `None`: nobody did.
    pub mean_wait: Option<Duration>,
}

impl Tier {
    pub(super) fn new(tier: &config::Tier, share: Share) -> Self {
        Self {
            name: Arc::clone(&tier.name),
            share,
            queue: tier.queue,
            queue_timeout: tier.queue_timeout,
            own: Quota::new(u64::from(share.reserved)),
            handles: TierHandles::new(&tier.name),
        }
    }

    pub(super) fn state(&self, position: usize, gate: &Gate, now: Instant) -> TierState<'_> {
        let tier = TierId(position as u32);
        TierState {
            name: &self.name,
            slots: self.share.max,
            reserved: self.share.reserved,
            in_use: gate.in_use(position),
            borrowed: gate.borrowed(position),
            room: gate.room(position),
            waiting: gate.waiting(tier),
            mean_wait: gate.mean_wait(tier, now),
        }
    }

    /// Refuses a request. `moves_on_in`: how long it will be until everybody who waits now has a slot, where that is known.
    pub(super) fn refuse(&self, reason: ShedReason, moves_on_in: Option<Duration>) -> Error {
        let Self { name, share, queue, queue_timeout, .. } = self;
        let of = format!("tier {name} may use {} slots and a queue of {queue}", share.max);
        let text = match reason {
            ShedReason::QueueFull => format!("too many requests: {of}, and both are full"),
            ShedReason::NoSlot => {
                format!("too many requests: {of}; all are taken, and a request that stands in does not wait")
            }
            ShedReason::QueueTimeout => {
                format!("too many requests: {of}, and no slot came free within its queue_timeout of {queue_timeout:?}")
            }
            ShedReason::Deadline => {
                format!("too many requests: {of}, and no slot came free while the deadline left time for the model")
            }
            ShedReason::Limit => format!("too many requests: tier {name} has a slot, and the pool takes no more"),
        };
        shed(text, moves_on_in.unwrap_or(*queue_timeout))
    }

    /// Refuses a request that would not be answered in time.
    pub(super) fn too_late(&self, left: Duration, median: Duration) -> Error {
        let text = format!(
            "too little time: {left:.0?} are left of the deadline, and half of this model's answers of late took longer than \
             {median:.0?} (tier {})",
            self.name
        );
        shed(text, LEAST_RETRY_AFTER)
    }
}

fn shed(text: String, retry_after: Duration) -> Error {
    Error::new(Kind::Shed, text).with_retry_after(retry_after.clamp(LEAST_RETRY_AFTER, MOST_RETRY_AFTER))
}
