//! How a prediction is written down in L2: a protobuf message, so that gateways of another version can read it. What cannot be read, or
//! contradicts itself, is no prediction.

use std::time::{Duration, SystemTime};

use ::redis::{Cmd, cmd};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;
use tokio::time::Instant;

use super::{id::FRAME, kept::Kept};
use crate::{infer::Protocol, resilience::since::millis};

/// Both clocks at one moment: ages are told by the wall's, which gateways share, and counted by this process's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) now: Instant,
    pub(super) wall: SystemTime,
}

impl Clocks {
    pub(super) fn now() -> Self {
        Self { now: Instant::now(), wall: SystemTime::now() }
    }
}

pub(super) fn encode(kept: &Kept, clocks: Clocks) -> Vec<u8> {
    let asked = clocks.wall.checked_sub(kept.age(clocks.now)).unwrap_or(SystemTime::UNIX_EPOCH);
    let asked = asked.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wire = Wire {
        asked: millis(asked),
        headers: written(&kept.headers),
        body: kept.body.clone(),
        has_trailers: kept.trailers.is_some(),
        trailers: kept.trailers.as_ref().map(written).unwrap_or_default(),
        place: kept.place.as_ref().map(|place| Place { start: place.start as u64, end: place.end as u64 }),
        json_length: kept.json_length.map(|length| length as u64),
        max_age: kept.max_age.map(millis),
    };
    wire.encode_to_vec()
}

/// Key: a prediction's. Arguments: one, what time it is, for how long it is to be kept. Keeps it unless one is there that was asked for
/// later, but for one that is not asked for yet: its gateway's clock is ahead, and would keep it for as long. The key's life is never
/// shortened. What was asked when is the first field of the message.
const SET: &str = r"
local function asked(message)
  if string.byte(message, 1) ~= 8 then return 0 end
  local sum, unit = 0, 1
  for at = 2, #message do
    local byte = string.byte(message, at)
    sum = sum + byte % 128 * unit
    if byte < 128 then return sum end
    unit = unit * 128
  end
  return 0
end
local held = asked(redis.call('GETRANGE', KEYS[1], 0, 10))
if held > asked(ARGV[1]) and held <= tonumber(ARGV[2]) then return 0 end
local life = math.max(tonumber(ARGV[3]), redis.call('PTTL', KEYS[1]))
redis.call('SET', KEYS[1], ARGV[1], 'PX', string.format('%.0f', life))
return 1
";

/// The call that writes an encoded prediction where none is that was asked for later; `left`: for how many milliseconds.
pub(super) fn set(key: &str, encoded: &[u8], (clocks, left): (Clocks, u64)) -> Cmd {
    let now = clocks.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut set = cmd("EVAL");
    set.arg(SET).arg(1).arg(key).arg(encoded).arg(millis(now)).arg(left);
    set
}

/// A prediction that was written to a request of that protocol; `None`: it is none.
pub(super) fn decode(bytes: Vec<u8>, protocol: Protocol, clocks: Clocks) -> Option<Kept> {
    let wire = Wire::decode(Bytes::from(bytes)).ok()?;
    let asked = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(wire.asked))?;
    // One from a gateway whose clock is ahead is new.
    let age = clocks.wall.duration_since(asked).unwrap_or_default();
    let least = if protocol == Protocol::Grpc { FRAME } else { 0 };
    let json_length = wire.json_length.map(usize::try_from).transpose().ok()?;
    let text = json_length.unwrap_or(wire.body.len());
    let place = match wire.place {
        Some(Place { start, end }) => Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?),
        None => None,
    };
    let lies_inside = |place: &super::id::Place| least <= place.start && place.start <= place.end && place.end <= text;
    if text > wire.body.len() || !place.as_ref().is_none_or(lies_inside) {
        return None;
    }
    Some(Kept {
        protocol,
        headers: read(wire.headers)?,
        trailers: if wire.has_trailers { Some(read(wire.trailers)?) } else { None },
        body: wire.body,
        place,
        json_length,
        asked: clocks.now.checked_sub(age)?,
        max_age: wire.max_age.map(Duration::from_millis),
    })
}

fn written(headers: &HeaderMap) -> Vec<Header> {
    let header = |(name, value): (&HeaderName, &HeaderValue)| Header {
        name: name.as_str().into(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    headers.iter().map(header).collect()
}

fn read(written: Vec<Header>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(written.len());
    for Header { name, value } in written {
        headers.append(HeaderName::try_from(name).ok()?, HeaderValue::from_maybe_shared(value).ok()?);
    }
    Some(headers)
}

/// The message. Numbers are never used again for something else.
#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "1")]
    asked: u64,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<Header>,
    #[prost(bytes = "bytes", tag = "3")]
    body: Bytes,
    #[prost(bool, tag = "4")]
    has_trailers: bool,
    #[prost(message, repeated, tag = "5")]
    trailers: Vec<Header>,
    #[prost(message, optional, tag = "6")]
    place: Option<Place>,
    #[prost(uint64, optional, tag = "7")]
    json_length: Option<u64>,
    /// Milliseconds.
    #[prost(uint64, optional, tag = "8")]
    max_age: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Place {
    #[prost(uint64, tag = "1")]
    start: u64,
    #[prost(uint64, tag = "2")]
    end: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::tests::servers::Server;

    fn kept(clocks: Clocks) -> Kept {
        let headers = [("content-type", "a/b"), ("x", "1"), ("x", "2")];
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        Kept {
            protocol: Protocol::V2Json,
            headers: headers.into_iter().collect(),
            body: Bytes::from_static(br#"{"id":"a"}"#),
            trailers: Some(HeaderMap::new()),
            place: Some(7..8),
            json_length: None,
            asked: clocks.now,
            max_age: Some(Duration::from_secs(7)),
        }
    }

    #[test]
    fn what_is_written_is_read_again_by_a_gateway_with_another_clock() {
        let clocks = Clocks::now();
        let later = Duration::from_millis(2500);
        let bytes = encode(&kept(clocks), Clocks { now: clocks.now + later, wall: clocks.wall });
        let other = Clocks { now: clocks.now + Duration::from_secs(60), wall: clocks.wall + Duration::from_secs(1) };
        let read = decode(bytes.clone(), Protocol::V2Json, other).unwrap();
        let written = kept(clocks);
        assert_eq!((&read.headers, &read.body, &read.trailers), (&written.headers, &written.body, &written.trailers));
        assert_eq!((&read.place, read.json_length, read.max_age), (&written.place, None, written.max_age));
        let age = read.age(other.now).as_millis();
        assert!((3500..=3501).contains(&age), "{age}");
        let ahead = Clocks { wall: clocks.wall - Duration::from_secs(60), ..clocks };
        assert_eq!(decode(bytes, Protocol::V2Json, ahead).unwrap().age(clocks.now), Duration::ZERO);
    }

    #[test]
    fn the_newest_stays_whoever_writes_last_and_as_long_as_any_was_to() {
        let redis = Server::start();
        let clocks = Clocks::now();
        let second = Duration::from_secs(1);
        let at = |asked: Duration| Kept { asked: clocks.now - Duration::from_secs(100) + asked, ..kept(clocks) };
        let set = |asked: Duration, (clocks, left): (Clocks, u64)| {
            let encoded = encode(&at(asked), clocks);
            set("k", &encoded, (clocks, left)).query::<bool>(&mut redis.client()).unwrap()
        };
        let held = || {
            let bytes: Vec<u8> = redis.ask(&[b"GET", b"k"]);
            let held = decode(bytes, Protocol::V2Json, clocks).unwrap().asked;
            held.saturating_duration_since(at(Duration::ZERO).asked).as_secs_f64().round() as u64
        };
        let life = || redis.ask::<u64>(&[b"PTTL", b"k"]);
        assert!(set(10 * second, (clocks, 3_600_000)));
        assert!(!set(9 * second, (clocks, 3_600_000)), "a slow one's");
        assert_eq!(held(), 10);
        assert!(set(11 * second, (clocks, 60_000)));
        assert_eq!(held(), 11);
        assert!(life() > 60_000, "not shortened");
        assert!(set(11 * second, (clocks, 7_200_000)));
        assert!(life() > 3_600_000);
        let ahead = Clocks { wall: clocks.wall + 3600 * second, ..clocks };
        assert!(set(12 * second, (ahead, 60_000)));
        assert!(set(11 * second, (clocks, 60_000)), "nobody asked in an hour");
        assert_eq!(held(), 11);
        redis.ask::<()>(&[b"SET", b"k", b"of another kind"]);
        assert!(set(Duration::ZERO, (clocks, 60_000)));
        assert_eq!(held(), 0);
    }

    #[test]
    fn what_contradicts_itself_is_no_prediction() {
        let clocks = Clocks::now();
        let read = |change: fn(&mut Kept), protocol| {
            let mut kept = kept(clocks);
            change(&mut kept);
            decode(encode(&kept, clocks), protocol, clocks).is_some()
        };
        assert!(read(|_| {}, Protocol::V2Json));
        assert!(read(|kept| kept.json_length = Some(10), Protocol::V2Binary));
        assert!(!read(|kept| kept.json_length = Some(11), Protocol::V2Binary));
        assert!(!read(|kept| kept.json_length = Some(7), Protocol::V2Binary));
        assert!(!read(|kept| kept.place = Some(7..11), Protocol::V2Json));
        assert!(!read(|kept| kept.place = Some(4..8), Protocol::Grpc));
        assert!(decode(b"\xff".to_vec(), Protocol::V2Json, clocks).is_none());
    }
}
