//! An exporter's page: whatever the bytes, a share of the memory or nothing, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::predict::gpu::fullest;

fuzz_target!(|data: &[u8]| {
    assert!(fullest(data).is_none_or(|share| (0.0..=1.0).contains(&share)));
});
