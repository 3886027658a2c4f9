//! Fuzzes `proto/tests/check/topic.rs`; its corpus is replayed by `cargo test -p twinlane-proto`.
#![no_main]

#[path = "../../proto/tests/check/topic.rs"]
mod topic;

libfuzzer_sys::fuzz_target!(|data: &[u8]| topic::check(data));
