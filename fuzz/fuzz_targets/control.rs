//! Fuzzes `proto/tests/check/control.rs`; its corpus is replayed by `cargo test -p twinlane-proto`.
#![no_main]

#[path = "../../proto/tests/check/control.rs"]
mod control;

libfuzzer_sys::fuzz_target!(|data: &[u8]| control::check(data));
