//! L1's warm start: the hottest keys of the process before are read before this one says that it is ready, and saved again
//! while it serves.
//!
//! ```text
//!   L2 awaited ──► rows read, by `timeout` at most ──► ready, keys saved every `save_every` ──(drain)──► saved once more
//!                   └─ no keys, or none that can be read: a line in the log, and ready without
//! ```
//!
//! One task does all of it, so that no two saves meet. A drain that comes before L1 is warm saves nothing: what is saved is
//! better than what this process knows.

use std::{sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use super::readiness::WHILE_MISSING;
use crate::{
    config::{SaveTo, WarmStart},
    features::{
        Store,
        warm::{Error, Keys},
    },
    infer::{Deadline, WorkerId},
    ingress::service::Gateway,
    telemetry::handles::warm::{Key, Outcome, Save, Warm as Handles},
};

/// How long it waits until Redis tells of changes, where it is to.
const LISTEN: Duration = Duration::from_secs(2);

/// What a start still waits for, in words; nothing once L1 is warm, or is not to be.
#[derive(Clone, Default)]
pub(super) struct Missing(Arc<ArcSwapOption<String>>);

impl Missing {
    pub(super) fn words(&self) -> Option<String> {
        self.0.load_full().map(|words| words.as_ref().clone())
    }

    fn say(&self, words: String) {
        self.0.store(Some(Arc::new(words)));
    }
}

/// The task.
pub(super) struct Warm {
    config: WarmStart,
    /// Whose connections are used.
    worker: WorkerId,
    missing: Missing,
    handles: Handles,
}

impl Warm {
    /// The task, and what it tells readiness: from now on that it is missing.
    pub(super) fn new(config: WarmStart, worker: WorkerId) -> (Self, Missing) {
        let missing = Missing::default();
        missing.say("l1: its hottest keys are not read yet".to_owned());
        (Self { config, worker, missing: missing.clone(), handles: Handles::new() }, missing)
    }

    /// Warms L1 up, then saves its keys until `drain`, and then once more.
    pub(super) async fn run(self, gateway: Arc<ArcSwap<Gateway>>, drain: CancellationToken) {
        let store = || Arc::clone(&gateway.load_full().pipeline.features);
        if drain.run_until_cancelled(self.warm_up(&store())).await.is_none() {
            return;
        }
        let every = self.config.save_every;
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while drain.run_until_cancelled(ticks.tick()).await.is_some() {
            self.save(&store()).await;
        }
        self.save(&store()).await;
    }

    async fn warm_up(&self, store: &Store) {
        // Until then the gateway is not ready whatever is read.
        while store.ready().await.is_err() {
            sleep(WHILE_MISSING).await;
        }
        // What is read before Redis is listened to would be read again.
        store.heard(LISTEN).await;
        let began = Instant::now();
        let by = Deadline::after(began, self.config.timeout);
        let outcome = match store.saved_keys(&self.config, by).await {
            Ok(keys) => self.read(store, &keys, by).await,
            Err(error) => self.without(&error),
        };
        self.handles.ended(outcome, began.elapsed());
        self.missing.0.store(None);
    }

    async fn read(&self, store: &Store, keys: &Keys, by: Deadline) -> Outcome {
        let all = keys.known.len() as u64;
        let began = Instant::now();
        let told = |asked| self.missing.say(format!("l1: {asked} of its {all} hottest keys are read"));
        told(0);
        let warmed = store.warm(self.worker, &keys.known, by, |warmed| told(warmed.asked())).await;
        let left = all - warmed.asked();
        for (key, count) in [
            (Key::Read, warmed.read),
            (Key::Absent, warmed.absent),
            (Key::Error, warmed.failed),
            (Key::Unknown, keys.unknown as u64),
            (Key::Left, left),
        ] {
            self.handles.keys(key, count);
        }
        tracing::info!(from = self.place(), took = ?began.elapsed(), read = warmed.read, absent = warmed.absent,
            failed = warmed.failed, unknown_view = keys.unknown, left, "L1 is warm");
        if left > 0 { Outcome::Timeout } else { Outcome::Done }
    }

    fn without(&self, error: &Error) -> Outcome {
        let from = self.place();
        let outcome = match error {
            Error::Missing => {
                tracing::info!(from, "L1 starts empty: no keys are saved yet");
                return Outcome::Nothing;
            }
            Error::Damaged(_) | Error::Version(_) | Error::TooLarge(_) => Outcome::Refused,
            Error::File(_) | Error::Store(_) => Outcome::Unreachable,
        };
        tracing::warn!(from, %error, "L1 starts empty: the saved keys cannot be read");
        outcome
    }

    async fn save(&self, store: &Store) {
        match store.save_keys(&self.config).await {
            Ok(0) => self.handles.save(Save::Empty),
            Ok(keys) => {
                self.handles.save(Save::Saved);
                self.handles.saved(keys);
                tracing::debug!(to = self.place(), keys, "L1's hottest keys are saved");
            }
            Err(error) => {
                self.handles.save(Save::Error);
                tracing::warn!(to = self.place(), %error, "L1's hottest keys are not saved");
            }
        }
    }

    fn place(&self) -> String {
        match &self.config.save_to {
            SaveTo::L2 => "l2".to_owned(),
            SaveTo::File(path) => path.display().to_string(),
        }
    }
}
