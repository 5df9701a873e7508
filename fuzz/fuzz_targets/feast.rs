//! Feature server bodies: reading them, and telling what is wrong with them, never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| weir::ingress::feast::read_any(data));
