//! Fuzzes `gateway/tests/check/msgpack.rs`; its corpus is replayed by `cargo test -p twinlane-gateway`.
#![no_main]

#[path = "../../gateway/tests/check/msgpack.rs"]
mod msgpack;

libfuzzer_sys::fuzz_target!(|data: &[u8]| msgpack::check(data));
