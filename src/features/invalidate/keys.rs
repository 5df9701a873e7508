//! From a key of Redis to the rows that lie in it: of every view with its join keys, of this project.
//!
//! What begins like one of them and ends otherwise is another project's, or a copy that Weir made of a hot key
//! (`<key>:shard_<n>`), which is written with the key itself. Keys of Feast's earlier serializations (1 and 2) begin
//! otherwise; Weir reads no rows under them.

use std::{collections::HashMap, sync::Arc};

use crate::{
    config::View,
    infer::{EntityKey, EntityKeys, Parts, ViewId},
};

/// Which rows are where.
#[derive(Debug)]
pub(crate) struct Keys {
    project: Arc<str>,
    /// By what keys of the same join keys begin with.
    views: HashMap<Box<[u8]>, Vec<ViewId>>,
}

impl Keys {
    pub(crate) fn of(project: &Arc<str>, views: &[Arc<View>]) -> Self {
        let mut by_names = HashMap::<Box<[u8]>, Vec<ViewId>>::new();
        for view in views {
            let keys = EntityKeys::of(view.entities.iter().map(|(name, _)| &**name));
            by_names.entry(keys.names().into()).or_default().push(view.id);
        }
        Self { project: Arc::clone(project), views: by_names }
    }

    /// What all keys with rows begin with, in order; none begins as another.
    pub(crate) fn prefixes(&self) -> Vec<Box<[u8]>> {
        let mut prefixes: Vec<_> = self.views.keys().cloned().collect();
        prefixes.sort_unstable();
        prefixes
    }

    /// The rows under a key of Redis.
    pub(crate) fn rows(&self, key: &[u8]) -> impl Iterator<Item = (ViewId, EntityKey)> + '_ {
        let (views, entity) = self.parse(key).unwrap_or_default();
        let entity = EntityKey::from(entity);
        views.iter().map(move |view| (*view, entity.clone()))
    }

    fn parse<'k>(&self, key: &'k [u8]) -> Option<(&[ViewId], &'k [u8])> {
        let Parts { names, mut values } = Parts::of(key)?;
        let views = self.views.get(&key[..names])?;
        values.by_ref().for_each(drop);
        let entity = &key[..key.len() - values.whole()?.len()];
        (values.whole()? == self.project.as_bytes()).then_some((views, entity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        features::{
            feast::redis_key,
            tests::{key, view},
        },
        infer::{EntityType, EntityValue},
    };

    fn views() -> [Arc<View>; 3] {
        let two = &[("item", EntityType::Int64), ("user", EntityType::String)];
        [view("v").build(), view("w").id(1).entities(two).build(), view("x").id(2).build()]
    }

    #[test]
    fn a_key_has_the_rows_of_all_views_with_its_join_keys() {
        let keys = Keys::of(&"p".into(), &views());
        let rows = |key: &[u8]| keys.rows(key).collect::<Vec<_>>();
        assert_eq!(rows(&redis_key(&key(7), "p")), [(ViewId(0), key(7)), (ViewId(2), key(7))]);
        let (item, user) = (EntityValue::Int64(1), EntityValue::String("p".into()));
        let both = EntityKey::new([("item", &item), ("user", &user)].into_iter());
        assert_eq!(rows(&redis_key(&both, "p")), [(ViewId(1), both)]);
    }

    #[test]
    fn no_other_key_has_any() {
        let keys = Keys::of(&"p".into(), &views());
        let ours = redis_key(&key(7), "p");
        let other = EntityKey::new([("other", &EntityValue::Int64(1))].into_iter());
        let cut = (0..ours.len()).map(|length| ours[..length].to_vec());
        let more = [redis_key(&key(7), "my_p"), redis_key(&key(7), "p2"), redis_key(&key(7), "p:shard_1")];
        let none = [redis_key(&other, "p"), b"weir:p:hot-keys-v1".to_vec(), vec![0xff; 64], vec![0; 4]];
        for key in cut.chain(more).chain(none) {
            assert_eq!(keys.rows(&key).count(), 0, "{key:?}");
        }
    }

    #[test]
    fn no_prefix_begins_as_another() {
        let named = |names: &[&str]| {
            let entities: Vec<_> = names.iter().map(|name| (*name, EntityType::Int64)).collect();
            view("v").entities(&entities).build()
        };
        let views = [named(&["a"]), named(&["a", "b"]), named(&["ab"]), named(&["a"]), named(&["a", "bc"])];
        let prefixes = Keys::of(&"p".into(), &views).prefixes();
        assert_eq!(prefixes.len(), 4, "each once");
        for one in &prefixes {
            assert_eq!(prefixes.iter().filter(|other| other.starts_with(one)).count(), 1);
        }
    }
}
