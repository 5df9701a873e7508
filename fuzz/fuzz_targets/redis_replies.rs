//! What a Redis server answers, or tells of its own accord: whatever the bytes, replies or words, never a panic, and the same however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::features::{read_any_pushes, read_any_replies};

fuzz_target!(|data: &[u8]| {
    let whole = read_any_replies(data, usize::MAX);
    let told = read_any_pushes(data, usize::MAX);
    for step in [1, 7] {
        assert_eq!(read_any_replies(data, step), whole);
        assert_eq!(read_any_pushes(data, step), told);
    }
});
