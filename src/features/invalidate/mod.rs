//! Invalidation: that cached rows are out of date, whoever says so.
//!
//! ```text
//! Redis tracking ─┐
//! other gateways ─┤                      ┌─ L1: what is held goes (`memory::fences`)
//! a topic        ─┼─► Store::invalidate ─┼─ L1: what was asked of the store before is not let in
//! a push         ─┤                      └─ flights: nobody joins one that is under way
//! an operator    ─┘
//! ```
//!
//! Whoever asks for a row after [`Store::invalidate`](super::Store::invalidate) has returned gets none that was fetched before
//! it was called. Predictions need nothing of it: what a model is asked contains the rows that it sees, so another row is another
//! question.

pub(crate) mod entity;
pub(crate) mod keys;

use crate::{
    infer::{EntityKey, ViewId},
    telemetry::handles::invalidation::Extent,
};

pub(crate) use crate::telemetry::handles::invalidation::Origin;

/// What is out of date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// These rows.
    Rows(Vec<(ViewId, EntityKey)>),
    /// All rows of a view.
    View(ViewId),
    /// The rows of a view whose first join key has a value that begins with these bytes: a string's text, or bytes. First by
    /// name, as in the serialized key.
    Prefix(ViewId, Box<[u8]>),
    /// All rows.
    All,
}

impl Scope {
    pub(super) const fn extent(&self) -> Extent {
        match self {
            Self::Rows(_) => Extent::Rows,
            Self::View(_) => Extent::View,
            Self::Prefix(..) => Extent::Prefix,
            Self::All => Extent::All,
        }
    }
}

/// What an invalidation dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Rows, and known absences, that L1 held.
    pub(crate) rows: u64,
    pub(crate) copies: KeyCopies,
}

/// What became of copies of hot keys, where somebody waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum KeyCopies {
    /// There are none, or nobody waits.
    #[default]
    NotAsked,
    Removed,
    /// Some may still be there, and be read until they expire.
    Left,
}

impl Dropped {
    pub(crate) const fn of(rows: u64) -> Self {
        Self { rows, copies: KeyCopies::NotAsked }
    }
}
