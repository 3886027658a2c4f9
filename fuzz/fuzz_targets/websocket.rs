//! Fuzzes `gateway/tests/check/websocket.rs`; its corpus is replayed by `cargo test -p twinlane-gateway`.
#![no_main]

#[path = "../../gateway/tests/check/websocket.rs"]
mod websocket;

libfuzzer_sys::fuzz_target!(|data: &[u8]| websocket::check(data));
