//! A model's joins, compiled from the config once, and the keys a request's entities make of them.

use std::sync::Arc;

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::lookup::Want;
use crate::{
    config::{Config, Model, View},
    infer::{EntityColumn, EntityKey, EntityKeys, EntityType, EntityValue, Error},
};

/// Requests with more rows than this find repeated keys by hashing.
const FEW: usize = 16;

/// Room is made at once for so many keys at most: rows may repeat a few.
const MANY: usize = 1024;

/// One view joined to a model's requests.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) view: Arc<View>,
    pub(super) select: Arc<[usize]>,
    pub(super) optional: bool,
    /// One for each of the view's join keys, in their order; a view without entities may have none.
    sources: Vec<Arc<str>>,
}

/// The distinct keys of one join, all yet to be looked up, and which instance has which.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) distinct: Vec<Want>,
    pub(super) rows: Rows,
}

/// Which of the distinct keys each instance has.
#[derive(Debug)]
pub(super) enum Rows {
    /// All the only one.
    Same(usize),
    Each(Vec<usize>),
}

pub(super) fn compile(config: &Config, model: &Model) -> Box<[Join]> {
    let join = |join: &crate::config::Join| Join {
        view: Arc::clone(config.view(join.view)),
        select: join.select.as_slice().into(),
        optional: join.optional,
        sources: join.sources.clone(),
    };
    model.joins.iter().map(join).collect()
}

impl Join {
    pub(super) fn sources(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(|source| &**source)
    }

    /// The keys of a request's entities.
    pub(super) fn keys(
        &self,
        rows: usize,
        entities: impl Fn(&str, EntityType) -> Result<EntityColumn, Error>,
    ) -> Result<Keys, Error> {
        let mut columns = SmallVec::<[EntityColumn; 2]>::new();
        for (source, (_, kind)) in self.sources.iter().zip(&self.view.entities) {
            let column = entities(source, *kind)?;
            if let EntityColumn::Rows(values) = &column
                && values.len() != rows
            {
                let given = values.len();
                return Err(Error::invalid(format!("{source} has {given} rows, the request has {rows}")));
            }
            columns.push(column);
        }
        if self.sources.is_empty() && self.view.is_entityless() {
            columns.push(EntityColumn::Same(EntityValue::String(String::new())));
        }
        let columns: SmallVec<[&EntityColumn; 2]> = columns.iter().collect();
        Ok(keys(&self.view, rows, &columns))
    }
}

/// The keys that columns make, one for each of the view's join keys, each of that many rows.
pub(super) fn keys(view: &View, rows: usize, columns: &[&EntityColumn]) -> Keys {
    let names = EntityKeys::of(view.entities.iter().take(columns.len()).map(|(name, _)| &**name));
    let key = |row: usize| names.key(columns.iter().take(view.entities.len()).map(|column| at(column, row)));
    let same = rows == 1 || columns.iter().all(|column| matches!(column, EntityColumn::Same(_)));
    match (rows, same) {
        (0, _) => Keys { distinct: Vec::new(), rows: Rows::Same(0) },
        (_, true) => Keys { distinct: vec![Want::of(key(0))], rows: Rows::Same(rows) },
        (_, false) => distinct(rows, key),
    }
}

fn at(column: &EntityColumn, row: usize) -> &EntityValue {
    match column {
        EntityColumn::Rows(values) => &values[row],
        EntityColumn::Same(value) => value,
    }
}

fn distinct(rows: usize, key: impl Fn(usize) -> EntityKey) -> Keys {
    let mut distinct = Vec::<Want>::with_capacity(rows.min(MANY));
    let mut each = Vec::with_capacity(rows);
    let mut seen = Seen::of(if rows <= FEW { 0 } else { rows });
    for row in 0..rows {
        let key = key(row);
        let next = distinct.len();
        let at = if rows <= FEW {
            distinct.iter().position(|known| known.key == key).unwrap_or(next)
        } else {
            seen.place(&key, &distinct)
        };
        if at == next {
            distinct.push(Want::of(key));
        }
        each.push(at);
    }
    Keys { distinct, rows: Rows::Each(each) }
}

/// Where keys are in a list, found by their hash; at least half of the table is free. The hash has a seed of its own each time:
/// callers choose the keys.
struct Seen {
    places: Vec<u32>,
    seed: u64,
}

/// What no list is as long as.
const FREE: u32 = u32::MAX;

impl Seen {
    /// Room for so many keys.
    fn of(keys: usize) -> Self {
        let places = if keys == 0 { Vec::new() } else { vec![FREE; (keys * 2).next_power_of_two()] };
        Self { places, seed: rand::random() }
    }

    /// Where in `known` a key is; one that is not there is taken to be put at its end.
    fn place(&mut self, key: &EntityKey, known: &[Want]) -> usize {
        let mask = self.places.len() - 1;
        let mut slot = xxh3_64_with_seed(key.as_bytes(), self.seed) as usize & mask;
        loop {
            match self.places[slot] {
                FREE => {
                    self.places[slot] = u32::try_from(known.len()).unwrap_or(FREE);
                    return known.len();
                }
                place if known[place as usize].key == *key => return place as usize,
                _ => slot = (slot + 1) & mask,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::tests::view;

    fn join() -> Join {
        let view = view("v").entities(&[("item", EntityType::Int64), ("user", EntityType::String)]).build();
        Join { view, select: [0].into(), optional: false, sources: vec!["item_id".into(), "user_id".into()] }
    }

    fn strings(values: &[&str]) -> EntityColumn {
        EntityColumn::Rows(values.iter().map(|value| EntityValue::String((*value).into())).collect())
    }

    #[test]
    fn repeated_entities_are_one_key() {
        let entities = |users: Vec<&'static str>| {
            move |source: &str, kind: EntityType| {
                Ok(match (source, kind) {
                    ("item_id", EntityType::Int64) => EntityColumn::Same(EntityValue::Int64(7)),
                    ("user_id", EntityType::String) => strings(&users),
                    other => panic!("asked for {other:?}"),
                })
            }
        };
        let keys = join().keys(4, entities(vec!["a", "b", "a", "b"])).unwrap();
        let pairs = [("item", EntityValue::Int64(7)), ("user", EntityValue::String("b".into()))];
        assert_eq!(keys.distinct.len(), 2);
        assert_eq!(keys.distinct[1].key, EntityKey::new(pairs.iter().map(|(name, value)| (*name, value))));
        assert!(matches!(keys.rows, Rows::Each(rows) if rows == [0, 1, 0, 1]));

        let many: Vec<&str> = (0..1000).map(|at| if at % 3 == 0 { "x" } else { "y" }).collect();
        let keys = join().keys(1000, entities(many)).unwrap();
        assert_eq!(keys.distinct.len(), 2);
        let error = join().keys(3, entities(vec!["a"])).unwrap_err();
        assert_eq!(error.to_string(), "user_id has 1 rows, the request has 3");
    }

    #[test]
    fn a_view_without_entities_has_one_key_for_all_rows() {
        let view = view("v").entities(&[(crate::config::ENTITYLESS_KEY, EntityType::String)]).build();
        let join = Join { view, select: [0].into(), optional: false, sources: Vec::new() };
        let keys = join.keys(3, |source, _| panic!("asked for {source}")).unwrap();
        let key = EntityKey::new([("__dummy_id", &EntityValue::String(String::new()))].into_iter());
        assert_eq!((keys.distinct.len(), &keys.distinct[0].key), (1, &key));
        assert!(matches!(keys.rows, Rows::Same(3)));
    }

    #[test]
    fn parameters_make_one_key_for_all_rows() {
        let same = |_: &str, kind| {
            Ok(EntityColumn::Same(match kind {
                EntityType::String => EntityValue::String("u".into()),
                _ => EntityValue::Int64(1),
            }))
        };
        let keys = join().keys(5, same).unwrap();
        assert_eq!(keys.distinct.len(), 1);
        assert!(matches!(keys.rows, Rows::Same(5)));
        assert!(join().keys(0, same).unwrap().distinct.is_empty());
    }
}
