//! Fuzzes `gateway/tests/check/socket_io.rs`; its corpus is replayed by `cargo test -p twinlane-gateway`.
#![no_main]

#[path = "../../gateway/tests/check/msgpack.rs"]
#[allow(dead_code, reason = "only its helper is needed")]
mod msgpack;
#[path = "../../gateway/tests/check/socket_io.rs"]
mod socket_io;

libfuzzer_sys::fuzz_target!(|data: &[u8]| socket_io::check(data));
