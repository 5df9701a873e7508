//! Where every entry stands, in memory: what the embedded store finds entries by. Nothing is stored here.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::super::{Depth, Entry, Millis, Standing, State};

/// An entry's place among those of its age: two that came in the same millisecond keep their order.
pub(super) type Number = u64;

/// When an entry is due, its number, and its id.
type Turn = (Millis, Number, Arc<str>);

#[derive(Debug, Default)]
pub(super) struct Book {
    entries: HashMap<Arc<str>, (Number, Entry)>,
    keys: HashMap<(Arc<str>, Arc<str>), Arc<str>>,
    /// By model, those that wait: when each is due, and its number.
    due: HashMap<Arc<str>, BTreeSet<Turn>>,
    waiting: BTreeSet<(Number, Arc<str>)>,
    running: BTreeSet<(Millis, Arc<str>)>,
    expiring: BTreeSet<(Millis, Arc<str>)>,
    by_age: BTreeSet<(Number, Arc<str>)>,
    counts: [u64; 4],
    last: Number,
}

impl Book {
    pub(super) fn get(&self, id: &str) -> Option<&Entry> {
        self.entries.get(id).map(|(_, entry)| entry)
    }

    pub(super) fn id_of(&self, model: &str, key: &str) -> Option<&Arc<str>> {
        self.keys.get(&(model.into(), key.into()))
    }

    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The number of an entry that is to be put in.
    pub(super) const fn next(&self) -> Number {
        self.last + 1
    }

    pub(super) fn number(&self, id: &str) -> Option<Number> {
        self.entries.get(id).map(|(number, _)| *number)
    }

    /// Puts an entry in, over what it was.
    pub(super) fn set(&mut self, number: Number, entry: Entry) {
        self.remove(&Arc::clone(&entry.id));
        let id = Arc::clone(&entry.id);
        self.last = self.last.max(number);
        self.keys.insert((Arc::clone(&entry.model), Arc::clone(&entry.key)), Arc::clone(&id));
        self.expiring.insert((entry.expires, Arc::clone(&id)));
        self.by_age.insert((number, Arc::clone(&id)));
        self.counts[entry.state.standing() as usize] += 1;
        match entry.state {
            State::Waiting { due } => {
                let model = self.due.entry(Arc::clone(&entry.model)).or_default();
                model.insert((due, number, Arc::clone(&id)));
                self.waiting.insert((number, Arc::clone(&id)));
            }
            State::Running { until, .. } => {
                self.running.insert((until, Arc::clone(&id)));
            }
            State::Done { .. } | State::Parked { .. } => {}
        }
        self.entries.insert(id, (number, entry));
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, id: &Arc<str>) -> bool {
        let Some((number, entry)) = self.entries.remove(id) else { return false };
        self.keys.remove(&(Arc::clone(&entry.model), Arc::clone(&entry.key)));
        self.expiring.remove(&(entry.expires, Arc::clone(id)));
        self.by_age.remove(&(number, Arc::clone(id)));
        self.counts[entry.state.standing() as usize] -= 1;
        match entry.state {
            State::Waiting { due } => {
                self.waiting.remove(&(number, Arc::clone(id)));
                if let Some(model) = self.due.get_mut(&entry.model) {
                    model.remove(&(due, number, Arc::clone(id)));
                    if model.is_empty() {
                        self.due.remove(&entry.model);
                    }
                }
            }
            State::Running { until, .. } => {
                self.running.remove(&(until, Arc::clone(id)));
            }
            State::Done { .. } | State::Parked { .. } => {}
        }
        true
    }

    /// A model's entries whose turn it is, the longest due first.
    pub(super) fn due(&self, model: &str, now: Millis) -> impl Iterator<Item = &Arc<str>> {
        let waiting = self.due.get(model).into_iter().flatten();
        waiting.take_while(move |(due, ..)| *due <= now).map(|(.., id)| id)
    }

    /// Those whose gateway was to be done with them.
    pub(super) fn overdue(&self, most: usize, now: Millis) -> Vec<Arc<str>> {
        self.running.iter().take_while(|(until, _)| *until <= now).take(most).map(|(_, id)| Arc::clone(id)).collect()
    }

    /// All that somebody was trying.
    pub(super) fn running(&self) -> Vec<Arc<str>> {
        self.running.iter().map(|(_, id)| Arc::clone(id)).collect()
    }

    /// Those that are to be forgotten.
    pub(super) fn expired(&self, most: usize, now: Millis) -> Vec<Arc<str>> {
        self.expiring.iter().take_while(|(at, _)| *at <= now).take(most).map(|(_, id)| Arc::clone(id)).collect()
    }

    /// The oldest entries.
    pub(super) fn list(&self, standing: Option<Standing>, most: usize) -> Vec<Entry> {
        let entries = self.by_age.iter().filter_map(|(_, id)| self.get(id));
        let wanted = entries.filter(|entry| standing.is_none_or(|standing| entry.state.standing() == standing));
        wanted.take(most).cloned().collect()
    }

    pub(super) fn depth(&self) -> Depth {
        let oldest = self.waiting.first().and_then(|(_, id)| self.get(id));
        Depth { entries: self.counts, oldest_waiting: oldest.map(|entry| entry.received) }
    }
}
