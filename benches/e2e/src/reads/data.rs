//! What is read: two views, the value of every feature of every entity, and the requests that ask for some of them.
//!
//! Feast writes the rows (feast/write.py, whose formulas these are); only those that fill L1 at the end are written from here.
//! Requests are drawn from a fixed seed, so that every setup is asked the same.

use std::{collections::BTreeSet, iter::repeat_with};

use serde_json::Value;

use crate::{feast, resp};

/// The event time of every row.
pub(crate) const EVENT_SECONDS: u64 = 1_767_225_600;
/// The same, as it stands in an answer.
pub(crate) const EVENT_TIME: &str = "2026-01-01T00:00:00Z";

/// A feature view of one INT64 join key; its entities are numbered from 1.
#[derive(Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) name: &'static str,
    pub(crate) join_key: &'static str,
    /// How many entities have a row.
    pub(crate) rows: i64,
    pub(crate) features: usize,
}

/// Five floats, three integers, a boolean and a string.
pub(crate) const NARROW: View = View { name: "user_stats", join_key: "user_id", rows: 20_000, features: 10 };
/// The same mix, twenty times over. Its own join key, so that the rows are in hashes of their own.
pub(crate) const WIDE: View = View { name: "item_stats", join_key: "item_id", rows: 2_000, features: 200 };

/// How much one request asks for.
#[derive(Debug)]
pub(crate) struct Size {
    pub(crate) entities: usize,
    pub(crate) view: &'static View,
    /// How many requests take turns.
    requests: usize,
}

/// The sizes that are measured.
pub(crate) const SIZES: [Size; 5] = [
    Size { entities: 1, view: &NARROW, requests: 2000 },
    Size { entities: 10, view: &NARROW, requests: 1000 },
    Size { entities: 50, view: &NARROW, requests: 500 },
    Size { entities: 100, view: &NARROW, requests: 500 },
    Size { entities: 50, view: &WIDE, requests: 200 },
];

impl Size {
    /// `entities × features`.
    pub(crate) fn name(&self) -> String {
        format!("{} × {}", self.entities, self.view.features)
    }

    /// The entities of each request: uniformly drawn, no entity twice in a request.
    fn draws(&self) -> Vec<Vec<i64>> {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut draw = || {
            let mut seen = BTreeSet::new();
            repeat_with(|| random.up_to(self.view.rows)).filter(|&id| seen.insert(id)).take(self.entities).collect()
        };
        (0..self.requests).map(|_| draw()).collect()
    }

    /// Whole HTTP requests.
    pub(crate) fn http(&self) -> Vec<Vec<u8>> {
        self.draws().iter().map(|ids| self.view.http(ids)).collect()
    }

    /// Whole pipelines of HMGETs of the same entities.
    pub(crate) fn pipelines(&self) -> Vec<Vec<u8>> {
        self.draws().iter().map(|ids| self.view.pipeline(ids)).collect()
    }
}

impl View {
    /// All its entities.
    pub(crate) fn ids(&self) -> Vec<i64> {
        (1..=self.rows).collect()
    }

    /// A request for every feature of `ids`.
    pub(crate) fn http(&self, ids: &[i64]) -> Vec<u8> {
        let names: Vec<String> = (0..self.features).map(|index| self.reference(index)).collect();
        let body = serde_json::json!({"features": names, "entities": {self.join_key: ids}}).to_string();
        let head = "host: bench.local\r\nuser-agent: weir-e2e\r\naccept: */*\r\ncontent-type: application/json";
        let length = body.len();
        format!("POST /get-online-features HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
    }

    /// What a feature server asks Redis for the same: an HMGET an entity.
    pub(crate) fn pipeline(&self, ids: &[i64]) -> Vec<u8> {
        let fields: Vec<Vec<u8>> = self.fields().collect();
        let hmget = |&id: &i64| {
            let head = [b"HMGET".to_vec(), feast::key(self.join_key, id)];
            resp::command(&[head.as_slice(), &fields].concat())
        };
        ids.iter().flat_map(hmget).collect()
    }

    /// The command that writes the row of `id`.
    pub(crate) fn hset(&self, id: i64) -> Vec<u8> {
        let mut parts = vec![b"HSET".to_vec(), feast::key(self.join_key, id)];
        for (field, value) in self.fields().zip(self.stored(id)) {
            parts.extend([field, value]);
        }
        resp::command(&parts)
    }

    /// The hash fields of a row: its features in their order, the event time last.
    fn fields(&self) -> impl Iterator<Item = Vec<u8>> {
        (0..self.features).map(|index| feast::field(&self.reference(index))).chain([feast::time_field(self.name)])
    }

    /// What those fields hold for `id`.
    pub(crate) fn stored(&self, id: i64) -> impl Iterator<Item = Vec<u8>> {
        (0..self.features).map(move |index| value(id, index).stored()).chain([feast::timestamp(EVENT_SECONDS)])
    }

    fn reference(&self, index: usize) -> String {
        format!("{}:{}", self.name, feature(index))
    }
}

/// The name of a feature.
pub(crate) fn feature(index: usize) -> String {
    format!("f{index}")
}

/// What a feature holds.
pub(crate) enum Cell {
    Float(f32),
    Int(i64),
    Bool(bool),
    Text(String),
}

/// The value of feature `index` of `id`.
pub(crate) fn value(id: i64, index: usize) -> Cell {
    let feature = index as i64;
    match index % 10 {
        // Exact: sixteenths below 4096.
        0..5 => Cell::Float(((id * 7 + feature * 13) % 65536) as f32 / 16.0),
        5..8 => Cell::Int(id * 1_000_003 + feature),
        8 => Cell::Bool((id + feature) % 2 == 0),
        _ => Cell::Text(format!("city-{}", (id + feature) % 1000)),
    }
}

impl Cell {
    fn stored(&self) -> Vec<u8> {
        match self {
            Self::Float(value) => feast::float(*value),
            Self::Int(value) => feast::int64(*value),
            Self::Bool(value) => feast::boolean(*value),
            Self::Text(value) => feast::string(value),
        }
    }

    /// Whether an answer's value is this one.
    pub(crate) fn is(&self, answered: &Value) -> bool {
        match self {
            Self::Float(value) => answered.as_f64() == Some(f64::from(*value)),
            Self::Int(value) => answered.as_i64() == Some(*value),
            Self::Bool(value) => answered.as_bool() == Some(*value),
            Self::Text(value) => answered.as_str() == Some(value),
        }
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    /// From 1 to `most`.
    fn up_to(&mut self, most: i64) -> i64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        1 + (bits % most.cast_unsigned()).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_of_a_size_names_its_entities_once_and_the_floor_reads_the_same() {
        for size in &SIZES {
            let draws = size.draws();
            assert_eq!(draws.len(), size.requests);
            for ids in &draws {
                let distinct: BTreeSet<_> = ids.iter().collect();
                assert_eq!(distinct.len(), size.entities);
                assert!(ids.iter().all(|id| (1..=size.view.rows).contains(id)));
            }
        }
        let (size, ids) = (&SIZES[0], &SIZES[0].draws()[1]);
        assert_eq!(size.http()[1], size.view.http(ids));
        assert_eq!(size.pipelines()[1], size.view.pipeline(ids));
    }

    #[test]
    fn a_row_is_asked_for_as_it_was_written() {
        let view = View { features: 1, ..NARROW };
        let key = "$40\r\n\x01\0\0\0\x02\0\0\0\x07\0\0\0user_id\x04\0\0\0\x08\0\0\0\x02\0\0\0\0\0\0\0bench\r\n";
        let hmget = view.pipeline(&[2]);
        assert!(hmget.starts_with(format!("*4\r\n$5\r\nHMGET\r\n{key}").as_bytes()));
        assert!(hmget.ends_with(b"$14\r\n_ts:user_stats\r\n"));
        let hset = view.hset(2);
        assert!(hset.starts_with(format!("*6\r\n$4\r\nHSET\r\n{key}").as_bytes()));
        // 14 / 16, in FP32.
        assert!(hset.windows(7).any(|bytes| bytes == b"\x35\0\0\x60\x3f\r\n"));
    }
}
