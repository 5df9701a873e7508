//! What is done about hot keys: once a second it is judged which they are; their rows stay in L1; copies of them are tended.
//!
//! A hot row is fetched again a quarter of its life before it expires, two seconds at most, by this task alone: while it is hot no
//! request ever finds it expired. What was evicted or invalidated is fetched again likewise. Such a fetch reads the key itself, not
//! a copy, so that L1's row is no older than its time says.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    Shared, Store,
    fly::Flight,
    lookup::{How, State, Want},
};
use crate::{
    config::{L1Mode, View},
    features::{
        hot_keys::{Change, Counts, HotKeys, Key, Report, Shown, ShownKey, Standing, TURN, Turn},
        l2::Via,
        memory::Stay,
        redis::key_copies::Hot,
    },
    infer::{Deadline, EntityKey, Optional, ViewId, WorkerId, plan::Stale, request::Caching},
    telemetry::handles::hot_keys::Shared as Exchange,
};

/// Between two turns, however much there is to do.
const PAUSE: Duration = Duration::from_millis(50);

/// How long before a row's end it is fetched again, at most.
const AHEAD: Duration = Duration::from_secs(2);

/// Longest wait for what is fetched: longer than any layer takes.
const PATIENCE: Duration = Duration::from_secs(1);

/// A store's, where hot keys are looked for.
#[derive(Debug)]
pub(super) struct Heeded {
    /// Of this snapshot's views.
    pub(super) counts: Counts,
    pub(super) keys: Arc<HotKeys>,
}

impl Heeded {
    pub(super) fn new(keys: Arc<HotKeys>, workers: usize) -> Self {
        // One more: what the control thread reads is read for somebody, too.
        Self { counts: Counts::new(keys.config.share, workers + 1, Instant::now()), keys }
    }
}

impl Store {
    /// Finds what is hot and tends it. Returns when it is to be called again, at the latest; `None`: never.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves undone what the next call does.
    pub(crate) async fn tend_hot_keys(&self, worker: WorkerId) -> Option<Instant> {
        let hot = self.shared.hot.as_ref()?;
        let mut turn = hot.keys.turn.lock().await;
        let now = Instant::now();
        if turn.next <= now {
            turn.next = now + TURN;
            self.judge(hot, &mut turn, now).await;
        }
        let refresh = self.refresh_hot(worker, (hot, &turn), Instant::now()).await;
        let copies = match self.shared.l2.redis() {
            Some(redis) => redis.tend_copies(Instant::now()).await,
            None => None,
        };
        let next = [refresh, copies].into_iter().flatten().fold(turn.next, Instant::min);
        Some(next.max(Instant::now() + PAUSE))
    }

    /// Waits until then, or until a copy is found missing.
    pub(crate) async fn rest_hot_keys(&self, until: Instant) {
        let woken = async {
            match self.shared.l2.redis().and_then(|redis| redis.copies()) {
                Some(copies) => copies.wake.notified().await,
                None => std::future::pending().await,
            }
            // Of many that are found missing together most are made at once.
            sleep(PAUSE).await;
        };
        tokio::select! {
            () = woken => {}
            () = sleep_until(until) => {}
        }
    }

    /// The hot keys, for operators; `None`: nobody looks for them.
    pub(crate) fn hot_keys(&self) -> Option<Arc<Shown>> {
        self.shared.hot.as_ref().map(|hot| hot.keys.shown())
    }

    async fn judge(&self, hot: &Heeded, turn: &mut Turn, now: Instant) {
        let rates = hot.counts.rates(now);
        let named = rates.keys.into_iter().filter_map(|(view, key, rate)| {
            Some(((Arc::clone(&self.shared.views.get(view.index())?.name), key), rate))
        });
        let ours = Report { total: rates.total, keys: named.collect() };
        self.exchange(hot, turn, &ours).await;
        let (total, changes) = turn.judge(ours, (now, SystemTime::now()));
        self.spread(turn);
        for change in changes {
            if turn.may_tell(now) {
                tell(turn, &change);
            }
        }
        self.show_hot(hot, turn, total);
    }

    async fn exchange(&self, hot: &Heeded, turn: &mut Turn, ours: &Report) {
        let Some(redis) = self.shared.l2.redis() else { return };
        match redis.exchange(&hot.keys.name, &ours.encode()).await {
            Ok(reports) => {
                hot.keys.metrics.exchanged(Exchange::Told);
                turn.hear(&reports, Instant::now());
            }
            Err(error) => {
                hot.keys.metrics.exchanged(Exchange::Error);
                tracing::debug!(%error, "hot keys not shared with the other gateways");
                turn.hear_nothing(Instant::now());
            }
        }
    }

    /// Says which keys are to have copies: a key's share is that of all its hot views, and a copy's life that of the shortest.
    fn spread(&self, turn: &Turn) {
        let Some(redis) = self.shared.l2.redis() else { return };
        let mut keys = HashMap::<&EntityKey, Hot>::new();
        for ((view, key), standing) in turn.standings.hot() {
            let Some(life) = self.shared.view(view).and_then(|view| redis.life(view.id)) else { continue };
            let hot = keys.entry(key).or_insert_with(|| Hot { key: key.clone(), share: 0.0, life });
            hot.share += standing.share;
            hot.life = hot.life.min(life);
        }
        redis.spread(&keys.into_values().collect::<Vec<_>>());
    }

    fn show_hot(&self, hot: &Heeded, turn: &Turn, rate: f64) {
        let copies = self.shared.l2.redis().and_then(|redis| redis.copies());
        let now = Instant::now();
        let shown = |(key, standing): (&Key, &Standing)| ShownKey {
            copies: copies.map_or(0, |copies| copies.count(&key.1, now)),
            key: key.clone(),
            share: standing.share,
            rate: standing.rate,
            since: standing.since,
        };
        let mut keys: Vec<_> = turn.standings.hot().map(shown).collect();
        keys.sort_by(|a, b| b.rate.total_cmp(&a.rate));
        let gateways = turn.gateways();
        hot.keys.metrics.stand(keys.len(), copies.map_or(0, |copies| copies.count_all(now)), gateways);
        hot.keys.show(Shown { keys, rate, gateways });
    }

    /// Fetches the hot rows that L1 lacks, or is about to lose. Returns when the next is due.
    pub(super) async fn refresh_hot(
        &self,
        worker: WorkerId,
        (hot, turn): (&Heeded, &Turn),
        now: Instant,
    ) -> Option<Instant> {
        if self.shared.l1_mode != L1Mode::Serve {
            return None;
        }
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for ((view, key), _) in turn.standings.hot() {
            let Some(view) = self.shared.view(view) else { continue };
            match self.shared.l1.stay(view.id, key, now) {
                Stay::No => {}
                Stay::Missing => due.push((view.id, Want::of(key.clone()))),
                Stay::Held { row, until, life } => {
                    let at = until.checked_sub(AHEAD.min(life / 4)).unwrap_or(now);
                    if at <= now {
                        due.push((view.id, Want { key: key.clone(), state: State::Early(row) }));
                    } else {
                        next = Some(next.map_or(at, |next| next.min(at)));
                    }
                }
            }
        }
        if !due.is_empty() {
            hot.keys.metrics.refreshes.increment(due.len() as u64);
            self.refresh(worker, due, now).await;
        }
        next
    }

    async fn refresh(&self, worker: WorkerId, due: Vec<(ViewId, Want)>, now: Instant) {
        let mut lookup = self.lookup_of(due.into_iter());
        let how = How {
            worker,
            caching: Caching::Allowed,
            optional: Optional::Joined,
            stale: Stale::Refused,
            by: Deadline::after(now, PATIENCE),
            via: Via::Key,
        };
        Flight::board(&self.shared, &mut lookup, &how).await;
    }
}

impl Shared {
    fn view(&self, name: &str) -> Option<&Arc<View>> {
        self.views.iter().find(|view| *view.name == *name)
    }
}

fn tell(turn: &Turn, change: &Change) {
    match change {
        Change::Hot(key) => {
            let standing = turn.standings.hot().find(|(hot, _)| *hot == key).map(|(_, standing)| standing);
            let (share, rate) = standing.map_or((0.0, 0.0), |standing| (standing.share, standing.rate));
            let share = format!("{:.1} %", share * 100.0);
            tracing::info!(view = %key.0, entity = %key.1, %share, reads_per_second = rate.round(), "key is hot");
        }
        Change::Cold(key) => tracing::info!(view = %key.0, entity = %key.1, "key is hot no more"),
    }
}
