//! What another gateway tells of its hot keys: whatever the bytes, keys or none, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = weir::features::hot_keys::count(data);
});
