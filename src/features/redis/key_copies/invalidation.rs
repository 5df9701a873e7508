//! What an invalidation does about copies, by who says so.
//!
//! ```text
//! a push here         nothing: whoever writes a key removes its copies before that is acknowledged
//! another gateway     ours are not read until they are found again: that gateway has removed them, or is about to
//! tracking, a topic   nobody else may have heard of it: they are removed, in the background
//! an operator         they are removed before the operator is answered
//! ```
//!
//! In all cases but the first this process reads no copy that was there before from the moment it is told.

use super::Copies;
use crate::{
    features::{
        invalidate::{Origin, Scope},
        redis::Redis,
    },
    infer::EntityKey,
};

/// Keys whose copies are to be removed before an invalidation is done.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Owed(Vec<EntityKey>);

impl Redis {
    /// From now on this process reads no copy of the scope's keys that was there before.
    pub(crate) fn doubt_copies(&self, scope: &Scope, origin: Origin) -> Owed {
        let Some(copies) = self.copies.as_ref().filter(|_| origin != Origin::Push) else { return Owed::default() };
        let keys = copies.of(scope, origin);
        for key in &keys {
            if origin == Origin::PubSub { copies.fence(key) } else { copies.doubt(key) }
        }
        if !keys.is_empty() {
            copies.wake.notify_one();
        }
        if origin == Origin::Admin { Owed(keys) } else { Owed::default() }
    }

    /// Removes what is owed. What cannot be removed now stays in doubt, and is tried again.
    pub(crate) async fn remove_owed(&self, owed: Owed) {
        for (key, removed) in owed.0.iter().zip(self.remove_copies(self.control, &owed.0).await) {
            if let Err(error) = removed {
                tracing::warn!(entity = %key, %error, "copies of an invalidated key are not removed yet; tried again until they expire");
            }
        }
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
