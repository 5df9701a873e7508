//! What another gateway says, or whoever may publish in that Redis: whatever the bytes, a message or none, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::features::read_any_message;

fuzz_target!(|data: &[u8]| {
    let _ = read_any_message(data);
});
