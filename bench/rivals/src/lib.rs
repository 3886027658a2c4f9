//! twinlane beside other messaging systems: the same workloads, the same threads, the same checks, interleaved.
//!
//! Nothing here is part of the product. README.md says what is measured how, and which choices were made.

#![forbid(unsafe_code)]

pub mod bars;
pub mod cli;
pub mod events;
pub mod fleet;
pub mod helpers;
pub mod lean;
pub mod measure;
pub mod process;
pub mod series;
pub mod setup;
pub mod store;
pub mod system;
pub mod systems;
pub mod table;
