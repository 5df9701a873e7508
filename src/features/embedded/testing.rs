//! Hashes as they are stored, put and read by tests of other modules.

use std::collections::BTreeMap;

use redb::ReadableDatabase;

use super::{Embedded, ROWS, hash::Hash};

impl Embedded {
    /// Stores a whole hash, for ever.
    pub(crate) fn set_hash(&self, key: &[u8], fields: &BTreeMap<Vec<u8>, Vec<u8>>) {
        let writing = self.opened.database.begin_write().unwrap();
        {
            let mut table = writing.open_table(ROWS).unwrap();
            let mut hash = Hash::until(u64::MAX);
            for (field, value) in fields {
                hash.set(field, value);
            }
            table.insert(key, &*hash.record().unwrap()).unwrap();
        }
        writing.commit().unwrap();
    }

    /// The hash under a key; empty where there is none.
    pub(crate) fn hash(&self, key: &[u8], names: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let reading = self.opened.database.begin_read().unwrap();
        let table = reading.open_table(ROWS).unwrap();
        let Some(stored) = table.get(key).unwrap() else { return BTreeMap::new() };
        let hash = Hash::read(stored.value()).unwrap();
        names.iter().filter_map(|name| Some((name.clone(), hash.get(name)?.to_vec()))).collect()
    }
}
