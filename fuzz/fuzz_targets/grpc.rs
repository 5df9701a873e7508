//! gRPC messages, framed, bare and cut short: never a panic.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weir::{
    infer::{EntityType, Protocol},
    ingress::{decode::decode, grpc},
};

fuzz_target!(|data: &[u8]| {
    let _framed = grpc::unframe(Bytes::copy_from_slice(data), Some("gzip"), 1 << 16);
    for end in 0..=data.len().min(64) {
        let _asked = grpc::model_of(&data[..end], data.len());
    }
    if let Ok(decoded) = decode(Protocol::Grpc, Bytes::copy_from_slice(data), None) {
        let rows = decoded.rows(&["user_id"]).expect("one tensor agrees with itself");
        for kind in [EntityType::Int64, EntityType::Bytes] {
            if let Ok(column) = decoded.entities("user_id", kind) {
                assert!(rows == 0 || column.get(rows - 1).is_some());
            }
        }
    }
});
