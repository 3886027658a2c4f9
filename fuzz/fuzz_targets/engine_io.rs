//! Fuzzes `gateway/tests/check/engine_io.rs`; its corpus is replayed by `cargo test -p twinlane-gateway`.
#![no_main]

#[path = "../../gateway/tests/check/engine_io.rs"]
mod engine_io;

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine_io::check(data));
