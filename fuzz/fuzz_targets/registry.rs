//! Feast's registry: whatever the bytes, a configuration or words, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::config::Config;

const TEXT: &str = "
pools: {p: {endpoints: [http://h:1]}}
features: {registry: /registry.db, versioned_views: true}
models: {m: {features: {service: driver_svc}}}
";

fuzz_target!(|data: &[u8]| {
    if let Err(problems) = Config::parse_with_registry(TEXT, "weir.yaml", data) {
        assert!(!problems.to_string().is_empty());
    }
});
