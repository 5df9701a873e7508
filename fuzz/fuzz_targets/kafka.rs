//! Messages of a topic, and bodies of MLflow's webhook: reading them never panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = weir::kafka::read_any(data);
    let _ = weir::promotions::read_any(data);
});
