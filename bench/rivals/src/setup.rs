//! Gets what the systems need: Debian packages, and the server program of this repository. Says what is missing and
//! goes on.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{system::Setup, systems};

/// Packages of Debian, and what each is for.
const PACKAGES: &[(&str, &str)] = &[
    ("nats-server", "nats-lean, nats"),
    ("redis-server", "redis"),
    ("mosquitto", "mosquitto"),
    ("libzmq3-dev", "zeromq"),
    ("libnng-dev", "nng"),
    ("pkg-config", "zeromq, nng"),
    ("cmake", "aeron, which needs 3.30: where Debian's is older, `pip install cmake`"),
    ("clang", "aeron"),
    ("libclang-dev", "aeron"),
    ("uuid-dev", "aeron"),
    ("libbsd-dev", "aeron"),
];

/// The root of the repository this harness was built from.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where `setup` leaves the server program.
#[must_use]
pub fn default_twinlane() -> PathBuf {
    repository().join("target/release/twinlane")
}

/// Installs packages, builds the server, and lists what is still missing.
///
/// # Errors
///
/// The list cannot be made; a package that does not install is no error.
#[allow(clippy::print_stdout, reason = "a command's report")]
pub fn run(setup: &Setup) -> Result<()> {
    for (package, purpose) in PACKAGES {
        match install(package) {
            Ok(()) => println!("{package}: installed"),
            Err(error) => println!("{package}: MISSING ({error:#}); needed by {purpose}"),
        }
    }
    match build_server() {
        Ok(()) => println!("twinlane: built as {}", default_twinlane().display()),
        Err(error) => println!("twinlane: NOT BUILT ({error:#})"),
    }
    for system in systems::all() {
        if let Some(missing) = system.missing(setup) {
            println!("{}: {missing}", system.name());
        }
    }
    Ok(())
}

/// A server that a package would start as a service is kept from starting: the harness starts its own.
fn install(package: &str) -> Result<()> {
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--quiet=2", "--no-install-recommends", package]);
    succeed(apt.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1"))
}

fn build_server() -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--package", "twinlane-server"]).current_dir(repository());
    succeed(cargo.env("CARGO_TARGET_DIR", repository().join("target")))
}

fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(status.success(), "{program} ended with {status}");
    Ok(())
}
