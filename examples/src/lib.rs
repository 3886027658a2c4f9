//! Nothing: the examples of this crate are programs, run with
//! `cargo run --release -p twinlane-examples --example embed`.
#![forbid(unsafe_code)]
