//! What an invalidation does about copies, by who says so.
//!
//! ```text
//! a push here         nothing: whoever writes a key removes its copies before that is acknowledged
//! another gateway     ours are not read until they are found again: that gateway has removed them, or is about to
//! tracking, a topic   nobody else may have heard of it: they are removed, in the background
//! an operator         they are removed before the operator is answered, or the answer says that some may be left
//! ```
//!
//! In all cases but the first this process reads no copy that was there before from the moment it is told.

use tokio::time::Instant;

use super::{Copies, Suspicion};
use crate::{
    features::{
        invalidate::{KeyCopies, Origin, Scope},
        redis::Redis,
    },
    infer::EntityKey,
};

/// What is to be removed before an invalidation is done.
#[derive(Debug, Default)]
#[must_use]
pub(crate) enum Owed {
    #[default]
    Nothing,
    Copies {
        of: Vec<EntityKey>,
        /// Whether no other key of the scope may have some: which do was told of late.
        are_all: bool,
    },
}

impl Redis {
    /// From now on this process reads no copy of the scope's keys that was there before.
    pub(crate) fn doubt_copies(&self, scope: &Scope, origin: Origin) -> Owed {
        let Some(copies) = self.copies.as_ref().filter(|_| origin != Origin::Push) else { return Owed::Nothing };
        let keys = copies.of(scope, origin);
        for key in &keys {
            if origin == Origin::PubSub { copies.fence(key) } else { copies.doubt(key) }
        }
        if !keys.is_empty() {
            copies.wake.notify_one();
        }
        if origin != Origin::Admin {
            return Owed::Nothing;
        }
        let are_all = matches!(scope, Scope::Rows(_)) || copies.listed.load_full().is_fresh(Instant::now());
        Owed::Copies { of: keys, are_all }
    }

    /// Removes what is owed. What cannot be removed now stays in doubt, and is tried again.
    pub(crate) async fn remove_owed(&self, owed: Owed) -> KeyCopies {
        let (Owed::Copies { of, are_all }, Some(copies)) = (owed, &self.copies) else { return KeyCopies::NotAsked };
        let mut left = if are_all { KeyCopies::Removed } else { KeyCopies::Left };
        let suspicions = copies.suspicions(of.iter(), Instant::now());
        for ((key, removed), suspicion) in of.iter().zip(self.remove_copies(self.control, &of).await).zip(suspicions) {
            // What could not be removed is not there, if so much is known.
            if let (Err(error), Suspicion::Listed | Suspicion::Unknown) = (removed, suspicion) {
                tracing::warn!(entity = %key, %error, "copies of an invalidated key are not removed yet; tried again until they expire");
                left = KeyCopies::Left;
            }
        }
        left
    }
}

impl Copies {
    /// The scope's keys that may have copies. An operator's may have some even if they are not listed.
    fn of(&self, scope: &Scope, origin: Origin) -> Vec<EntityKey> {
        match scope {
            Scope::Rows(rows) => {
                let keys = rows.iter().map(|(_, key)| key);
                keys.filter(|key| origin == Origin::Admin || self.is_known(key)).cloned().collect()
            }
            Scope::View(_) | Scope::All => self.known().into_iter().collect(),
            Scope::Prefix(_, prefix) => {
                let begins = |key: &EntityKey| {
                    EntityKey::first_value(key.as_bytes()).is_some_and(|value| value.starts_with(prefix))
                };
                self.known().into_iter().filter(begins).collect()
            }
        }
    }
}
