//! What gateways tell each other: bytes of a message on Redis's channels.
//!
//! ```text
//! version 1 │ kind │ from (8) │ …                              numbers are little endian
//!   hold      round (8), rows          release    round (8), count (4), each row's hash (16)
//!   heard     count (4), each round (8)
//!   rows, view (its name), prefix (the view's name, length (4), bytes), all:      written (8), …
//! written: when, in nanoseconds since 1970 by the writer's clock; 0: not known
//! rows: count of views (4), each: its stored name (length (4), bytes), count of keys (4), each: length (4), bytes
//! ```
//!
//! Whoever may publish in that Redis may send anything: what is no message is told apart, costs no more memory than it has bytes,
//! and changes nothing.

use crate::infer::EntityKey;

const VERSION: u8 = 1;

const HOLD: u8 = 1;
const RELEASE: u8 = 2;
const HEARD: u8 = 3;
const DROPPED: u8 = 4;
const VIEW: u8 = 5;
const PREFIX: u8 = 6;
const ALL: u8 = 7;

/// Rows by the stored names of their views.
pub(super) type Rows = Vec<(Box<str>, Vec<EntityKey>)>;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// The gateway that sent it.
    pub(super) from: u64,
    pub(super) said: Said,
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Rows are about to change: whoever has them is to let go of them, and say so.
    Hold { round: u64, rows: Rows },
    /// They have changed, or will not.
    Release { round: u64, rows: Vec<u128> },
    /// The sender let go of the rows of these rounds.
    Heard { rounds: Vec<u64> },
    /// Rows have changed; nobody waits for who lets go of them.
    Dropped(Dropped),
}

/// What has changed, and when it was written: in nanoseconds since 1970, or 0 where that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) change: Change,
    pub(super) written: u64,
}

/// Which rows have changed; views by the names that they are stored under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Rows(Vec<(Box<str>, Vec<EntityKey>)>),
    View(Box<str>),
    /// Those whose first join key begins so.
    Prefix(Box<str>, Box<[u8]>),
    All,
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let begin = |out: &mut Vec<u8>, kind| {
            out.push(kind);
            out.extend_from_slice(&self.from.to_le_bytes());
        };
        match &self.said {
            Said::Hold { round, rows } => {
                begin(&mut out, HOLD);
                out.extend_from_slice(&round.to_le_bytes());
                put_rows(&mut out, rows);
            }
            Said::Release { round, rows } => {
                begin(&mut out, RELEASE);
                out.extend_from_slice(&round.to_le_bytes());
                put_count(&mut out, rows.len());
                rows.iter().for_each(|row| out.extend_from_slice(&row.to_le_bytes()));
            }
            Said::Heard { rounds } => {
                begin(&mut out, HEARD);
                put_count(&mut out, rounds.len());
                rounds.iter().for_each(|round| out.extend_from_slice(&round.to_le_bytes()));
            }
            Said::Dropped(dropped) => put_dropped(&mut out, dropped, begin),
        }
        out
    }

    /// `None`: it is no message of this version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut left = Left(bytes);
        if left.byte()? != VERSION {
            return None;
        }
        let kind = left.byte()?;
        let from = left.number()?;
        let dropped = |written, change| Said::Dropped(Dropped { change, written });
        let said = match kind {
            HOLD => Said::Hold { round: left.number()?, rows: left.rows()? },
            RELEASE => Said::Release { round: left.number()?, rows: left.list(16, Left::wide)? },
            HEARD => Said::Heard { rounds: left.list(8, Left::number)? },
            DROPPED => dropped(left.number()?, Change::Rows(left.rows()?)),
            VIEW => dropped(left.number()?, Change::View(left.name()?)),
            PREFIX => dropped(left.number()?, Change::Prefix(left.name()?, left.bytes()?.into())),
            ALL => dropped(left.number()?, Change::All),
            _ => return None,
        };
        left.0.is_empty().then_some(Self { from, said })
    }
}

fn put_dropped(out: &mut Vec<u8>, Dropped { change, written }: &Dropped, begin: impl Fn(&mut Vec<u8>, u8)) {
    let begin = |out: &mut Vec<u8>, kind| {
        begin(out, kind);
        out.extend_from_slice(&written.to_le_bytes());
    };
    match change {
        Change::Rows(rows) => {
            begin(out, DROPPED);
            put_rows(out, rows);
        }
        Change::View(view) => {
            begin(out, VIEW);
            put_bytes(out, view.as_bytes());
        }
        Change::Prefix(view, prefix) => {
            begin(out, PREFIX);
            put_bytes(out, view.as_bytes());
            put_bytes(out, prefix);
        }
        Change::All => begin(out, ALL),
    }
}

fn put_rows(out: &mut Vec<u8>, rows: &Rows) {
    put_count(out, rows.len());
    for (view, keys) in rows {
        put_bytes(out, view.as_bytes());
        put_count(out, keys.len());
        keys.iter().for_each(|key| put_bytes(out, key.as_bytes()));
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a request's rows, names and keys are fewer and shorter");
    out.extend_from_slice(&count.to_le_bytes());
}

/// What is left to be read.
struct Left<'a>(&'a [u8]);

impl<'a> Left<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(count)?;
        self.0 = left;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn wide(&mut self) -> Option<u128> {
        Some(u128::from_le_bytes(self.take(16)?.try_into().ok()?))
    }

    fn count(&mut self) -> Option<usize> {
        let count = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        usize::try_from(count).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.count()?;
        self.take(length)
    }

    fn name(&mut self) -> Option<Box<str>> {
        std::str::from_utf8(self.bytes()?).ok().map(Into::into)
    }

    /// As many as it says, each of `size` bytes at least: more than there is room for are none.
    fn list<T>(&mut self, size: usize, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.count()?;
        if count > self.0.len() / size {
            return None;
        }
        (0..count).map(|_| item(self)).collect()
    }

    fn rows(&mut self) -> Option<Rows> {
        self.list(8, |left| {
            let view = left.name()?;
            let keys = left.list(4, |left| left.bytes().map(EntityKey::from))?;
            Some((view, keys))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_rows() -> impl Strategy<Value = Rows> {
        let key = prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| EntityKey::from(&*bytes));
        let view = (".{0,12}", prop::collection::vec(key, 0..4));
        prop::collection::vec(view.prop_map(|(view, keys)| (view.into(), keys)), 0..3)
    }

    fn any_change() -> impl Strategy<Value = Change> {
        let prefix = (".{0,12}", prop::collection::vec(any::<u8>(), 0..9));
        prop_oneof![
            any_rows().prop_map(Change::Rows),
            ".{0,12}".prop_map(|view| Change::View(view.into())),
            prefix.prop_map(|(view, prefix)| Change::Prefix(view.into(), prefix.into())),
            Just(Change::All),
        ]
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let said = prop_oneof![
            (any::<u64>(), any_rows()).prop_map(|(round, rows)| Said::Hold { round, rows }),
            (any::<u64>(), prop::collection::vec(any::<u128>(), 0..4))
                .prop_map(|(round, rows)| Said::Release { round, rows }),
            prop::collection::vec(any::<u64>(), 0..4).prop_map(|rounds| Said::Heard { rounds }),
            (any_change(), any::<u64>()).prop_map(|(change, written)| Said::Dropped(Dropped { change, written })),
        ];
        (any::<u64>(), said).prop_map(|(from, said)| Message { from, said })
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard_and_what_is_cut_off_is_not(message in any_message(), cut in 1_usize..60) {
            let bytes = message.encode();
            prop_assert_eq!(Message::decode(&bytes), Some(message));
            let short = &bytes[..bytes.len().saturating_sub(cut)];
            prop_assert_eq!(Message::decode(short), None);
            prop_assert_eq!(Message::decode(&[&bytes[..], &[0]].concat()), None);
        }

        #[test]
        fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0_u8..9) {
            let _ = Message::decode(&bytes);
            let _ = Message::decode(&[&[VERSION, kind][..], &bytes].concat());
        }
    }

    #[test]
    fn a_count_that_lies_takes_no_memory() {
        let lie = [&[VERSION, RELEASE][..], &[0; 16], &u32::MAX.to_le_bytes()].concat();
        assert_eq!(Message::decode(&lie), None);
        let empty_keys =
            [&[VERSION, DROPPED][..], &[0; 16], &1_u32.to_le_bytes(), &0_u32.to_le_bytes(), &[255; 4]].concat();
        assert_eq!(Message::decode(&empty_keys), None);
    }
}
