//! Fuzzes `proto/tests/check/message.rs`; its corpus is replayed by `cargo test -p twinlane-proto`.
#![no_main]

#[path = "../../proto/tests/check/message.rs"]
mod message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| message::check(data));
