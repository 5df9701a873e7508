//! gzip bodies: never a panic, never more than the limit.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(body) = weir::ingress::decode::gunzip(Bytes::copy_from_slice(data), 1 << 16) {
        assert!(body.len() <= 1 << 16);
    }
});
