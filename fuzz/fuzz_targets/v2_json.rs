//! V2 JSON bodies: decoding and reading entities never panics, and a tensor has as many entities as rows.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weir::infer::{EntityType, Protocol};

fuzz_target!(|data: &[u8]| {
    if let Ok(decoded) = weir::ingress::decode::decode(Protocol::V2Json, Bytes::copy_from_slice(data), None) {
        let rows = decoded.rows(&["user_id"]).expect("one tensor agrees with itself");
        for kind in [EntityType::Int64, EntityType::String] {
            if let Ok(column) = decoded.entities("user_id", kind) {
                assert!(rows == 0 || column.get(rows - 1).is_some());
            }
        }
    }
});
