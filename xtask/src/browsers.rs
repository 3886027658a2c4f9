//! The official clients, and browsers: npm's tests, run against this project's own servers. Needs Node.js 20 with npm,
//! and Chromium.

use crate::command::{Cargo, target_dir};

/// Programs that the tests start.
const SERVERS: [&str; 4] = [
    "build --package twinlane-tests --bin events_server",
    "build --package twinlane-gateway --example topics_for_browsers",
    "build --package twinlane-examples --example chat",
    "build --package twinlane-server",
];

/// Builds the servers and runs every test with them.
pub(crate) fn browsers() -> anyhow::Result<()> {
    for server in SERVERS {
        Cargo::new(server).run()?;
    }
    for folder in ["clients/browser", "tests/browser"] {
        Cargo::npm(folder, "ci --no-audit --no-fund").run()?;
    }
    let server = target_dir().join("debug/examples/topics_for_browsers");
    Cargo::npm("clients/browser", "test").run()?;
    Cargo::npm("clients/browser", "run e2e").env("SERVER", server).run()?;
    Cargo::npm("tests/browser", "test").env("CARGO_TARGET_DIR", target_dir()).run()
}
