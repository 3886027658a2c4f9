//! Fuzzes `proto/tests/check/stream.rs`; its corpus is replayed by `cargo test -p twinlane-proto`.
#![no_main]

#[path = "../../proto/tests/check/stream.rs"]
mod stream;

libfuzzer_sys::fuzz_target!(|data: &[u8]| stream::check(data));
