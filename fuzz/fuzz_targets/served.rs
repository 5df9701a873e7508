//! What a feature server answers: whatever the bytes, rows or words, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::features::read_any_answer;

fuzz_target!(|data: &[u8]| {
    let _ = read_any_answer(data);
});
