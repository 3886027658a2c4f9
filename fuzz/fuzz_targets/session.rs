//! Fuzzes `proto/tests/check/session.rs`; its corpus is replayed by `cargo test -p twinlane-proto`.
#![no_main]

#[path = "../../proto/tests/check/session.rs"]
mod session;

libfuzzer_sys::fuzz_target!(|data: &[u8]| session::check(data));
