//! Rows for the joined setup, written into Redis the way Feast's materialization leaves them.
//!
//! Written from the description of Feast's layout and not with Weir's own encoder, so that the two have to agree. It knows
//! one view of one INT64 join key and DOUBLE features, and one Redis command.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};

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
    let mut stream = TcpStream::connect(redis)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    for &user in users {
        stream.write_all(&command(&row(user, now)))?;
        let mut reply = [0; 64];
        let read = stream.read(&mut reply)?;
        let reply = &reply[..read];
        ensure!(reply == format!(":{}\r\n", FEATURES + 1).as_bytes(), "Redis: {}", String::from_utf8_lossy(reply));
    }
    Ok(())
}

/// The HSET of one row.
fn row(user: i64, seconds: u64) -> Vec<Vec<u8>> {
    let mut parts = vec![b"HSET".to_vec(), key(user)];
    for index in 0..FEATURES {
        parts.push(field(&format!("{VIEW}:{}", feature(index))));
        parts.push(double(value(user, index)));
    }
    parts.push(format!("_ts:{VIEW}").into_bytes());
    parts.push(timestamp(seconds));
    parts
}

/// Entity key version 3, then the project.
fn key(user: i64) -> Vec<u8> {
    const STRING: u32 = 2;
    const INT64: u32 = 4;
    let mut key = Vec::new();
    key.extend(1_u32.to_le_bytes());
    key.extend(STRING.to_le_bytes());
    key.extend((ENTITY.len() as u32).to_le_bytes());
    key.extend(ENTITY.as_bytes());
    key.extend(INT64.to_le_bytes());
    key.extend(8_u32.to_le_bytes());
    key.extend(user.to_le_bytes());
    key.extend(PROJECT.as_bytes());
    key
}

fn field(reference: &str) -> Vec<u8> {
    murmur3(reference.as_bytes()).to_le_bytes().to_vec()
}

/// `feast.types.Value{double_val}`.
fn double(value: f64) -> Vec<u8> {
    [&[0x29], value.to_le_bytes().as_slice()].concat()
}

/// `google.protobuf.Timestamp{seconds}`.
fn timestamp(mut seconds: u64) -> Vec<u8> {
    let mut bytes = vec![0x08];
    while seconds >= 0x80 {
        bytes.push(seconds as u8 | 0x80);
        seconds >>= 7;
    }
    bytes.push(seconds as u8);
    bytes
}

/// A command in Redis' protocol.
fn command(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        bytes.extend(format!("${}\r\n", part.len()).as_bytes());
        bytes.extend(part);
        bytes.extend(b"\r\n");
    }
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
        assert_eq!(key(1001), expected);
    }

    #[test]
    fn values_and_times_are_protobuf() {
        assert_eq!(double(0.71), [0x29, 0xb8, 0x1e, 0x85, 0xeb, 0x51, 0xb8, 0xe6, 0x3f]);
        assert_eq!(timestamp(1_795_341_600), [0x08, 0xa0, 0xfa, 0x8a, 0xd8, 0x06]);
    }
}
