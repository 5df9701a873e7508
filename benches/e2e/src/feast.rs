//! Feast's layout in Redis; and the rows of the joined setup, written the way Feast's materialization leaves them.
//!
//! Written from the description of Feast's layout and not with Weir's own encoder, so that the two have to agree. It knows
//! join keys of one INT64, and the types that the bench's views have.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};

use crate::resp;

/// The Feast project: the suffix of every key.
pub(crate) const PROJECT: &str = "bench";
/// The feature view.
pub(crate) const VIEW: &str = "user_stats";
/// Its join key.
pub(crate) const ENTITY: &str = "user_id";
/// How many features it has.
pub(crate) const FEATURES: usize = 10;

/// The name of feature `index`.
pub(crate) fn feature(index: usize) -> String {
    format!("f{index}")
}

/// The value of feature `index` of `user`: exact in FP32, different for each.
pub(crate) fn value(user: i64, index: usize) -> f64 {
    user as f64 + index as f64 / 16.0
}

/// Writes the rows of `users`, with an event time of now.
pub(crate) fn load(redis: SocketAddr, users: &[i64]) -> Result<()> {
    let mut client = resp::Client::connect(redis)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    for &user in users {
        let reply = client.ask(&resp::command(&row(user, now)), 1)?;
        ensure!(reply == format!(":{}\r\n", FEATURES + 1).as_bytes(), "Redis: {}", String::from_utf8_lossy(&reply));
    }
    Ok(())
}

/// The HSET of one row.
pub(crate) fn row(user: i64, seconds: u64) -> Vec<Vec<u8>> {
    row_of(user, seconds, |index| value(user, index))
}

/// The same with other values.
pub(crate) fn row_of(user: i64, seconds: u64, values: impl Fn(usize) -> f64) -> Vec<Vec<u8>> {
    let mut parts = vec![b"HSET".to_vec(), key(ENTITY, user)];
    for index in 0..FEATURES {
        parts.push(field(&format!("{VIEW}:{}", feature(index))));
        parts.push(double(values(index)));
    }
    parts.push(time_field(VIEW));
    parts.push(timestamp(seconds));
    parts
}

/// A whole request for all features of `user`, with further headers.
pub(crate) fn read(user: i64, headers: &str) -> Vec<u8> {
    let names: Vec<String> = (0..FEATURES).map(|index| format!("\"{VIEW}:{}\"", feature(index))).collect();
    let body = format!("{{\"features\":[{}],\"entities\":{{\"{ENTITY}\":[{user}]}}}}", names.join(","));
    post("/get-online-features", headers, &body)
}

/// A whole request that pushes a row of `user`, whose event was so many nanoseconds after the epoch.
pub(crate) fn push(user: i64, nanos: u64, values: impl Fn(usize) -> f64) -> Vec<u8> {
    let columns: Vec<String> =
        (0..FEATURES).map(|index| format!("\"{}\":[{}]", feature(index), values(index))).collect();
    let columns = columns.join(",");
    let body = format!(
        "{{\"push_source_name\":\"{VIEW}\",\"to\":\"online\",\"df\":{{\"{ENTITY}\":[{user}],\"event_timestamp\":[{nanos}],{columns}}}}}"
    );
    post("/push", "", &body)
}

fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: bench.local\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Entity key version 3, then the project.
pub(crate) fn key(entity: &str, id: i64) -> Vec<u8> {
    const STRING: u32 = 2;
    const INT64: u32 = 4;
    let mut key = Vec::new();
    key.extend(1_u32.to_le_bytes());
    key.extend(STRING.to_le_bytes());
    key.extend((entity.len() as u32).to_le_bytes());
    key.extend(entity.as_bytes());
    key.extend(INT64.to_le_bytes());
    key.extend(8_u32.to_le_bytes());
    key.extend(id.to_le_bytes());
    key.extend(PROJECT.as_bytes());
    key
}

/// The hash field of `view:feature`.
pub(crate) fn field(reference: &str) -> Vec<u8> {
    murmur3(reference.as_bytes()).to_le_bytes().to_vec()
}

/// The hash field of a view's event time.
pub(crate) fn time_field(view: &str) -> Vec<u8> {
    format!("_ts:{view}").into_bytes()
}

/// `feast.types.Value{double_val}`.
fn double(value: f64) -> Vec<u8> {
    [&[0x29], value.to_le_bytes().as_slice()].concat()
}

/// `feast.types.Value{float_val}`.
pub(crate) fn float(value: f32) -> Vec<u8> {
    [&[0x35], value.to_le_bytes().as_slice()].concat()
}

/// `feast.types.Value{int64_val}`.
pub(crate) fn int64(value: i64) -> Vec<u8> {
    tagged(0x20, value.cast_unsigned())
}

/// `feast.types.Value{bool_val}`.
pub(crate) fn boolean(value: bool) -> Vec<u8> {
    tagged(0x38, value.into())
}

/// `feast.types.Value{string_val}`.
pub(crate) fn string(value: &str) -> Vec<u8> {
    [&tagged(0x12, value.len() as u64), value.as_bytes()].concat()
}

/// `google.protobuf.Timestamp{seconds}`.
pub(crate) fn timestamp(seconds: u64) -> Vec<u8> {
    tagged(0x08, seconds)
}

/// A tag and a varint.
fn tagged(tag: u8, mut number: u64) -> Vec<u8> {
    let mut bytes = vec![tag];
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// MurmurHash3 x86_32 with seed 0.
fn murmur3(bytes: &[u8]) -> u32 {
    let scramble = |block: u32| block.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = 0_u32;
    let mut blocks = bytes.chunks_exact(4);
    for block in &mut blocks {
        let block = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
        hash = (hash ^ scramble(block)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let tail = blocks.remainder().iter().rev().fold(0, |tail, &byte| tail << 8 | u32::from(byte));
    hash ^= scramble(tail) ^ bytes.len() as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_hash_as_feast_hashes_them() {
        assert_eq!(field("driver_stats:conv_rate"), [0xfa, 0x73, 0x10, 0x14]);
        assert_eq!(field("driver_stats:acc_rate"), [0x59, 0x56, 0xe0, 0x84]);
        assert_eq!(field("user_item:ctr"), [0xe2, 0x23, 0x68, 0x79]);
    }

    #[test]
    fn keys_end_with_the_project() {
        let expected = b"\x01\0\0\0\x02\0\0\0\x07\0\0\0user_id\x04\0\0\0\x08\0\0\0\xe9\x03\0\0\0\0\0\0bench";
        assert_eq!(key(ENTITY, 1001), expected);
    }

    #[test]
    fn values_and_times_are_protobuf() {
        assert_eq!(double(0.71), [0x29, 0xb8, 0x1e, 0x85, 0xeb, 0x51, 0xb8, 0xe6, 0x3f]);
        assert_eq!(float(0.51), [0x35, 0x5c, 0x8f, 0x02, 0x3f]);
        assert_eq!(int64(500), [0x20, 0xf4, 0x03]);
        assert_eq!(int64(-1), [0x20, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
        assert_eq!(boolean(false), [0x38, 0]);
        assert_eq!(string("city-0"), b"\x12\x06city-0");
        assert_eq!(timestamp(1_795_341_600), [0x08, 0xa0, 0xfa, 0x8a, 0xd8, 0x06]);
    }
}
