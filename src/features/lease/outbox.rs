//! What is to be told the other gateways, and is not waited for by whoever says it.
//!
//! ```text
//! said ─► waits ─► sent ─► answered: forgotten
//!           ▲        └─ the connection broke: perhaps nobody heard it
//!           └───────────────┘
//! ```
//!
//! What was not answered is told again: to drop rows twice, or to release them, does no harm. So what is said while there is no
//! connection, or on one that breaks, is told late and not never, as long as there is room.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::message::{Change, Dropped, Rows};
use crate::infer::EntityKey;

/// Rows that wait to be told of.
const WAITING: usize = 16_384;
/// Rows of one message.
const TOGETHER: usize = 512;
/// Changes that are not of single rows, and wait to be told of.
const CHANGES: usize = 1024;
/// Rounds that were given up and not released yet. Others expire.
const RELEASES: usize = 1024;

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) rows: Vec<Row>,
    pub(super) changes: Vec<Change>,
    pub(super) releases: Vec<Release>,
}

/// A row that was changed: its view's stored name, its key, and when it was written, in nanoseconds since 1970.
pub(super) type Row = (Arc<str>, EntityKey, u64);

/// A round, and the rows that it held.
pub(super) type Release = (u64, Vec<u128>);

impl Outbox {
    /// Takes rows; how many it did not.
    pub(super) fn take_rows(&mut self, mut rows: impl Iterator<Item = Row>) -> u64 {
        let room = WAITING.saturating_sub(self.rows.len());
        self.rows.extend(rows.by_ref().take(room));
        rows.count() as u64
    }

    /// Takes a change, if there is room; whether there was.
    pub(super) fn take_change(&mut self, change: Change) -> bool {
        let has_room = self.changes.len() < CHANGES;
        if has_room {
            self.changes.push(change);
        }
        has_room
    }

    pub(super) fn take_release(&mut self, release: Release) {
        if self.releases.len() < RELEASES {
            self.releases.push(release);
        }
    }

    /// Puts back what was not answered, before what has come since; how many rows there was no room for. An operator's word always has
    /// some: it was taken.
    pub(super) fn put_back(&mut self, unanswered: impl Iterator<Item = Self>) -> u64 {
        let newer = std::mem::take(self);
        let mut left_out = 0;
        for Self { rows, changes, releases } in unanswered.chain([newer]) {
            left_out += self.take_rows(rows.into_iter());
            self.changes.extend(changes);
            releases.into_iter().for_each(|release| self.take_release(release));
        }
        left_out
    }

    /// What to say of the rows, in as many messages as it takes; each was written when the first of its rows was.
    pub(super) fn messages(&self) -> impl Iterator<Item = Dropped> {
        self.rows.chunks(TOGETHER).map(|rows| {
            let written = rows.iter().map(|(.., written)| *written).min().unwrap_or_default();
            Dropped { change: Change::Rows(by_view(rows)), written }
        })
    }
}

/// As messages have it: nanoseconds since 1970, more than 0.
pub(super) fn nanos(moment: SystemTime) -> u64 {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).max(1)
}

fn by_view(rows: &[Row]) -> Rows {
    let mut views = Rows::new();
    for (view, key, _) in rows {
        match views.iter_mut().find(|(known, _)| **known == **view) {
            Some((_, keys)) => keys.push(key.clone()),
            None => views.push(((&**view).into(), vec![key.clone()])),
        }
    }
    views
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::tests::key;

    fn rows(users: std::ops::Range<i64>, view: &str) -> impl Iterator<Item = Row> {
        let view: Arc<str> = view.into();
        users.map(move |user| (Arc::clone(&view), key(user), user.unsigned_abs() + 10))
    }

    #[test]
    fn what_was_not_answered_is_told_first_and_again() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.take_rows(rows(5..7, "v")), 0);
        assert!(outbox.take_change(Change::All));
        outbox.take_release((3, vec![1]));
        let unanswered = std::mem::take(&mut outbox);
        assert_eq!(outbox.take_rows(rows(1..3, "w")), 0);
        assert!(outbox.take_change(Change::View("v".into())));

        assert_eq!(outbox.put_back([unanswered].into_iter()), 0);
        assert_eq!(outbox.changes, [Change::All, Change::View("v".into())]);
        assert_eq!(outbox.releases, [(3, vec![1])]);
        let told: Vec<_> = outbox.messages().collect();
        let views = vec![("v".into(), vec![key(5), key(6)]), ("w".into(), vec![key(1), key(2)])];
        assert_eq!(told, [Dropped { change: Change::Rows(views), written: 11 }], "written when the first was");
    }

    #[test]
    fn rows_beyond_the_room_are_left_out_and_counted_and_an_operator_s_word_is_not() {
        let most = i64::try_from(WAITING).unwrap();
        let mut outbox = Outbox::default();
        assert_eq!(outbox.take_rows(rows(0..most + 3, "v")), 3);
        (0..CHANGES).for_each(|_| assert!(outbox.take_change(Change::All)));
        assert!(!outbox.take_change(Change::All));
        assert_eq!(outbox.messages().count(), WAITING / TOGETHER);

        let unanswered = std::mem::take(&mut outbox);
        assert_eq!(outbox.take_rows(rows(0..2, "v")), 0);
        assert!(outbox.take_change(Change::All));
        assert_eq!(outbox.put_back([unanswered].into_iter()), 2);
        assert_eq!((outbox.rows.len(), outbox.changes.len()), (WAITING, CHANGES + 1));
    }
}
