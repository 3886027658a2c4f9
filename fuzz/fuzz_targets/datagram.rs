//! Fuzzes `proto/tests/check/datagram.rs`; its corpus is replayed by `cargo test -p twinlane-proto`.
#![no_main]

#[path = "../../proto/tests/check/datagram.rs"]
mod datagram;

libfuzzer_sys::fuzz_target!(|data: &[u8]| datagram::check(data));
