//! Fuzzes `gateway/tests/check/native_events.rs`; its corpus is replayed by `cargo test -p twinlane-gateway`.
#![no_main]

#[path = "../../gateway/tests/check/native_events.rs"]
mod native_events;

libfuzzer_sys::fuzz_target!(|data: &[u8]| native_events::check(data));
