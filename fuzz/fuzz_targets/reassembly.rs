//! Fuzzes `engine/src/link/fragments/check.rs`; its corpus is replayed by `cargo test -p twinlane`.
#![no_main]

#[path = "../../engine/src/link/fragments/check.rs"]
mod check;
#[path = "../../engine/src/link/fragments.rs"]
mod fragments;

use fragments::{Place, REASSEMBLY_BYTES_MAX, Reassembly, Splitter, parity_for};

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::check(data));
