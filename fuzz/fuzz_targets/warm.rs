//! The list of hottest keys: whatever the bytes behind a right checksum, keys or none, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = weir::features::warm::count(data);
});
