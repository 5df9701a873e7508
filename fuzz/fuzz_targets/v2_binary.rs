//! V2 bodies with the binary extension; the first two bytes say how long the JSON is.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weir::infer::{EntityType, Protocol};

fuzz_target!(|data: &[u8]| {
    let Some((length, body)) = data.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_le_bytes(*length));
    if let Ok(decoded) = weir::ingress::decode::decode(Protocol::V2Binary, Bytes::copy_from_slice(body), Some(length)) {
        let rows = decoded.rows(&["user_id"]).expect("one tensor agrees with itself");
        for kind in [EntityType::Int64, EntityType::Bytes] {
            if let Ok(column) = decoded.entities("user_id", kind) {
                assert!(rows == 0 || column.get(rows - 1).is_some());
            }
        }
    }
});
