//! `google.protobuf.Timestamp` ↔ nanoseconds since the epoch. Times an `i64` of nanoseconds cannot hold (before 1677, after
//! 2262) become the nearest that it can: they are compared and subtracted, never shown.

use super::wire::{Fields, Malformed, Payload, put_key, put_varint};

const NANOS: i64 = 1_000_000_000;

pub(crate) fn decode_time(bytes: &[u8]) -> Result<i64, Malformed> {
    let mut fields = Fields(bytes);
    let (mut seconds, mut nanos) = (0i64, 0i64);
    while let Some((field, payload)) = fields.next()? {
        match (field, payload) {
            (1, Payload::Varint(v)) => seconds = v as i64,
            (2, Payload::Varint(v)) => nanos = i64::from(v as i32),
            (1 | 2, _) => return Err(Malformed::WireType(field)),
            _ => {}
        }
    }
    let time = i128::from(seconds) * i128::from(NANOS) + i128::from(nanos);
    Ok(time.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
}

pub(crate) fn encode_time(time: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(12);
    for (field, number) in [(1, time.div_euclid(NANOS)), (2, time.rem_euclid(NANOS))] {
        if number != 0 {
            put_key(&mut out, field, 0);
            put_varint(&mut out, number as u64);
        }
    }
    out
}
