//! Making copies and renewing them.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed},
    },
    time::Duration,
};

use ::redis::{Cmd, Value};
use tokio::time::Instant;

use super::{Copies, GRACE, name, script, spread::Spread};
use crate::{
    config::Consistency,
    features::{
        feast::{Layout, redis_key},
        l2::Error,
        redis::{Redis, command::Commands, reply::Reply},
    },
    infer::{EntityKey, WorkerId},
    telemetry::handles::hot_keys::Fill,
};

/// Copies that are made, or keys whose copies are removed, in one round trip to each server.
pub(super) const AT_ONCE: usize = 16;

/// When a key without rows is looked at again.
const ABSENT: Duration = Duration::from_secs(5);

/// The cells of a hash.
type Cells = Vec<(Vec<u8>, Vec<u8>)>;

/// A copy to be made.
#[derive(Debug)]
struct Due {
    spread: Arc<Spread>,
    place: usize,
    /// Of the spread, when this began.
    epoch: u32,
    lease: u64,
}

impl Due {
    fn name(&self) -> &[u8] {
        &self.spread.places[self.place].name
    }
}

impl Copies {
    /// Copies that are to be made or renewed now.
    fn due(&self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        let mark = self.mark(now);
        for spread in self.spreads() {
            if spread.not_before.load(Relaxed) > mark || !self.may_be_made(&spread.key, now) {
                continue;
            }
            let epoch = spread.epoch();
            let is_due = |place: usize| {
                let made = spread.places[place].made.load(Acquire);
                made == 0 || self.instant(made) + spread.life / 2 <= now
            };
            let places = (0..spread.places.len()).filter(|place| is_due(*place));
            due.extend(places.map(|place| Due { spread: Arc::clone(&spread), place, epoch, lease: rand::random() }));
        }
        due
    }

    fn wait(&self, spread: &Spread, until: Instant) {
        spread.not_before.store(self.mark(until), Relaxed);
    }
}

impl Redis {
    /// Cells that are never copied: those of `write_through` views.
    pub(in crate::features::redis) fn uncopied(views: &[Arc<crate::config::View>]) -> HashSet<Box<[u8]>> {
        let guarded = views.iter().filter(|view| view.consistency == Consistency::WriteThrough);
        guarded.flat_map(|view| Layout::of(view).fields().map(Into::into).collect::<Vec<Box<[u8]>>>()).collect()
    }

    /// Removes the copies of keys in doubt, makes those that are missing and renews those that are half through their life. Returns when
    /// it is to be called again, at the latest; where nothing is hot, whenever.
    pub(crate) async fn tend_copies(&self, now: Instant) -> Option<Instant> {
        let copies = self.copies.as_ref()?;
        self.remove_doubtful(copies).await;
        let due = copies.due(now);
        for due in chunks(due) {
            self.make(copies, due, now).await;
        }
        copies.next_renewal(now)
    }

    async fn make(&self, copies: &Copies, due: Vec<Due>, now: Instant) {
        let began = Instant::now();
        let takes = due.iter().map(|due| {
            let adopts = due.spread.places[due.place].adopts;
            let young = if adopts { due.spread.life / 2 } else { Duration::ZERO };
            (script::take(due.name(), due.lease, young), script::KEY_AT)
        });
        let taken = self.run_all(self.control, takes).await;
        let mut leased = Vec::new();
        for (due, answer) in due.into_iter().zip(taken) {
            match answer {
                Ok(Value::Int(-1)) => leased.push(due),
                Ok(Value::Int(age @ 0..)) => {
                    // Its age is as of a later moment than `began`.
                    let made = began.checked_sub(Duration::from_millis(age.unsigned_abs()));
                    let made = made.map_or(1, |made| copies.mark(made));
                    due.spread.found(due.place, made, due.epoch);
                    copies.metrics.filled(Fill::Adopted);
                }
                Ok(_) => {
                    copies.wait(&due.spread, now + script::TURN);
                    copies.metrics.filled(Fill::Waits);
                }
                Err(error) => self.failed(copies, &due, (&error, now)),
            }
        }
        self.fill(copies, leased, (began, now)).await;
    }

    /// Fills what is leased since `began`.
    async fn fill(&self, copies: &Copies, leased: Vec<Due>, (began, now): (Instant, Instant)) {
        let keys: HashSet<&EntityKey> = leased.iter().map(|due| &due.spread.key).collect();
        let keys: Vec<&EntityKey> = keys.into_iter().collect();
        let life =
            |key: &EntityKey| leased.iter().filter(|due| due.spread.key == *key).map(|due| due.spread.life).max();
        let reads = keys.iter().map(|key| {
            let stored = redis_key(key, &self.project);
            (script::read(&stored, &name::mark(&stored), life(key).unwrap_or_default() + GRACE), script::KEY_AT)
        });
        let hashes: HashMap<EntityKey, Result<Cells, Error>> = {
            let answers = self.run_all(self.control, reads).await;
            let cells = |answer: Result<Value, Error>| answer.map(|value| self.copied_cells(value));
            keys.into_iter().cloned().zip(answers.into_iter().map(cells)).collect()
        };
        let (mut full, mut fills) = (Vec::new(), Vec::new());
        for due in leased {
            match &hashes[&due.spread.key] {
                Ok(cells) if cells.is_empty() => {
                    copies.wait(&due.spread, now + ABSENT);
                    copies.metrics.filled(Fill::Absent);
                }
                Ok(cells) => {
                    fills.push((script::fill(due.name(), due.lease, due.spread.life, cells), script::KEY_AT));
                    full.push(due);
                }
                Err(error) => self.failed(copies, &due, (error, now)),
            }
        }
        for (due, answer) in full.iter().zip(self.run_all(self.control, fills.into_iter()).await) {
            match answer {
                Ok(Value::Int(1)) => {
                    due.spread.found(due.place, copies.mark(began), due.epoch);
                    copies.metrics.filled(Fill::Made);
                }
                Ok(_) => copies.metrics.filled(Fill::Outdated),
                Err(error) => self.failed(copies, due, (&error, now)),
            }
        }
    }

    fn failed(&self, copies: &Copies, due: &Due, (error, now): (&Error, Instant)) {
        tracing::debug!(project = &*self.project, %error, "copy of a hot key not made");
        copies.wait(&due.spread, now + script::TURN);
        copies.metrics.filled(Fill::Error);
    }

    /// The cells of a hash that are copied.
    fn copied_cells(&self, hash: Value) -> Cells {
        let bytes = |value: Value| if let Value::BulkString(bytes) = value { Some(bytes) } else { None };
        let pairs: Vec<(Value, Value)> = match hash {
            Value::Map(pairs) => pairs,
            Value::Array(flat) => {
                let mut flat = flat.into_iter();
                std::iter::from_fn(|| Some((flat.next()?, flat.next()?))).collect()
            }
            _ => Vec::new(),
        };
        let cells = pairs.into_iter().filter_map(|(field, value)| Some((bytes(field)?, bytes(value)?)));
        cells.filter(|(field, _)| !self.uncopied.contains(&**field)).collect()
    }

    /// The answers to commands, each with its key's place among its arguments.
    pub(super) async fn run_all(
        &self,
        worker: WorkerId,
        each: impl Iterator<Item = (Cmd, usize)>,
    ) -> Vec<Result<Value, Error>> {
        let mut commands = Commands::default();
        each.for_each(|(cmd, key_at)| commands.add(&cmd, key_at));
        if commands.len() == 0 {
            return Vec::new();
        }
        let value = |answer: Result<Reply, Error>| {
            answer.map(|reply| if let Reply::Value(value) = reply { value } else { Value::Nil })
        };
        self.run(worker, commands).await.into_iter().map(value).collect()
    }
}

/// In parts of so many copies.
fn chunks(due: Vec<Due>) -> impl Iterator<Item = Vec<Due>> {
    let mut due = due.into_iter();
    std::iter::from_fn(move || {
        let part: Vec<_> = due.by_ref().take(AT_ONCE).collect();
        (!part.is_empty()).then_some(part)
    })
}
