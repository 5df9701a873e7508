//! Which master has which slot, and which replicas it has: what `CLUSTER SLOTS` said, at one moment.

use std::sync::Arc;

use ::redis::Value;
use tokio::time::Instant;

use super::{
    replicas::Shard,
    slots::{SLOTS, Slot, SlotSet},
};

/// No master.
const NOBODY: u16 = u16::MAX;

#[derive(Debug)]
pub(super) struct Topology {
    /// As `host:port`, in the order of their first slots.
    pub(super) masters: Vec<Arc<str>>,
    /// By master, its replicas, as `host:port`.
    pub(super) replicas: Vec<Vec<Arc<str>>>,
    /// By master, the servers that its rows are read from; none where masters alone are.
    pub(super) shards: Vec<Arc<Shard>>,
    /// By slot, the position of its master.
    slots: Box<[u16]>,
    pub(super) learned: Instant,
}

impl Topology {
    /// Reads the answer to `CLUSTER SLOTS` that `from` gave; `None` if it names no master at all.
    pub(super) fn read(answer: &Value, from: &str, learned: Instant) -> Option<Self> {
        let Value::Array(ranges) = answer else { return None };
        let (mut masters, mut replicas) = (Vec::<Arc<str>>::new(), Vec::new());
        let mut slots = vec![NOBODY; SLOTS].into_boxed_slice();
        let mut ranges: Vec<_> = ranges.iter().filter_map(|range| read_range(range, from)).collect();
        ranges.sort_unstable_by_key(|(first, ..)| *first);
        for (first, last, master, of_master) in ranges {
            let position = masters.iter().position(|known| **known == *master).unwrap_or_else(|| {
                masters.push(master.into());
                replicas.push(of_master);
                masters.len() - 1
            });
            slots.get_mut(first..=last)?.fill(u16::try_from(position).ok()?);
        }
        (!masters.is_empty()).then_some(Self { masters, replicas, shards: Vec::new(), slots, learned })
    }

    /// One master for everything, and its replicas.
    pub(super) fn of(master: Arc<str>, replicas: Vec<Arc<str>>, learned: Instant) -> Self {
        let slots = vec![0; SLOTS].into_boxed_slice();
        Self { masters: vec![master], replicas: vec![replicas], shards: Vec::new(), slots, learned }
    }

    pub(super) fn master(&self, slot: Slot) -> Option<&Arc<str>> {
        self.masters.get(usize::from(self.slots[usize::from(slot.0)]))
    }

    /// The servers that a slot's rows are read from.
    pub(super) fn shard(&self, slot: Slot) -> Option<&Arc<Shard>> {
        self.shards.get(usize::from(self.slots[usize::from(slot.0)]))
    }

    /// The slots of the master at that position.
    pub(super) fn slots_of(&self, master: usize) -> SlotSet {
        let its = self.slots.iter().zip(0..).filter(|(of, _)| usize::from(**of) == master);
        SlotSet::of(its.map(|(_, slot)| Slot(slot)))
    }

    /// Whether the same masters have the same slots.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (&self.masters, &self.slots) == (&other.masters, &other.slots)
    }

    /// The first run of slots without a master.
    pub(super) fn gap(&self) -> Option<(usize, usize)> {
        let first = self.slots.iter().position(|&master| master == NOBODY)?;
        let length = self.slots[first..].iter().take_while(|&&master| master == NOBODY).count();
        Some((first, first + length - 1))
    }
}

/// First and last slot, their master, its replicas.
type Range = (usize, usize, String, Vec<Arc<str>>);

/// `[first, last, [host, port, …], replicas…]`. An unknown host is that of the server asked.
fn read_range(range: &Value, from: &str) -> Option<Range> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), master, replicas @ ..] = &**parts else { return None };
    let replicas = replicas.iter().filter_map(|replica| read_server(replica, from)).map(Into::into).collect();
    Some((usize::try_from(*first).ok()?, usize::try_from(*last).ok()?, read_server(master, from)?, replicas))
}

fn read_server(server: &Value, from: &str) -> Option<String> {
    let Value::Array(parts) = server else { return None };
    let [host, Value::Int(port), ..] = &**parts else { return None };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        _ => "",
    };
    address(host, port, from)
}

/// The address a server gives of another, or of itself: where it knows no host (`` or `?`), that of `from`, the server asked.
/// `None`: it gives a port that is none.
pub(super) fn address(host: &str, port: impl std::fmt::Display, from: &str) -> Option<String> {
    let port: std::num::NonZeroU16 = port.to_string().parse().ok()?;
    let host = if matches!(host, "" | "?") { from.rsplit_once(':')?.0 } else { host };
    Some(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: Value, port: i64) -> Value {
        Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())])
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        Value::Array(vec![Value::Int(first), Value::Int(last), server(host, port)])
    }

    #[tokio::test]
    async fn replicas_are_those_of_their_master() {
        let mut parts = vec![Value::Int(0), Value::Int(16383), server(Value::BulkString(b"a".to_vec()), 1)];
        parts.extend([server(Value::BulkString(b"b".to_vec()), 2), Value::Nil, server(Value::Nil, 3)]);
        let map = Topology::read(&Value::Array(vec![Value::Array(parts)]), "seed.example:9", Instant::now()).unwrap();
        assert_eq!(map.replicas, [["b:2", "seed.example:3"].map(Arc::<str>::from)]);
    }

    #[tokio::test]
    async fn slots_find_their_masters_and_gaps_are_named() {
        let named = |name: &str| Value::BulkString(name.as_bytes().to_vec());
        let answer = Value::Array(vec![
            range(0, 99, named("a.example"), 1),
            range(200, 16383, named(""), 2),
            range(100, 149, Value::Nil, 3),
        ]);
        let map = Topology::read(&answer, "seed.example:9", Instant::now()).unwrap();
        let master = |slot| map.master(Slot(slot)).map(|master| &**master);
        assert_eq!(master(99), Some("a.example:1"));
        assert_eq!(master(16383), Some("seed.example:2"));
        assert_eq!(master(100), Some("seed.example:3"));
        assert_eq!(master(150), None);
        assert_eq!(map.gap(), Some((150, 199)));
        assert_eq!(map.slots_of(1), SlotSet::of((100..150).map(Slot)));
    }

    #[tokio::test]
    async fn what_is_no_map_is_refused() {
        let ports = [0, -1, 65_536].map(|port| Value::Array(vec![range(0, 16383, Value::Nil, port)]));
        let others = [Value::Nil, Value::Array(vec![]), Value::Array(vec![range(0, 16384, Value::Nil, 1)])];
        for answer in ports.into_iter().chain(others) {
            assert!(Topology::read(&answer, "seed:1", Instant::now()).is_none(), "{answer:?}");
        }
    }
}
