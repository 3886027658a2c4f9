//! The systems that can be measured.
//!
//! To add one: a file here with a type that implements [`System`](crate::system::System) (start with
//! `tcp_relay.rs`, the smallest), a `pub(super) fn systems()` that lists its variants, and a line in [`all`].
//!
//! - A server is a [`Process`](crate::process::Process) on a [`free_port`](crate::process::free_port): it dies with
//!   the harness. A server that is a library runs in a hidden subcommand of this program
//!   (`Process::harness(setup, "name", &[..])`, one arm in `helpers.rs`).
//! - Publisher and subscribers are made on the thread that uses them and never leave it. A blocking client blocks
//!   (at most `BLOCK_MAX` in `recv`); an asynchronous one runs on that thread's current-thread runtime. Several
//!   asynchronous subscriptions are one group with [`Fleet`](crate::fleet::Fleet); several sockets with a protocol
//!   of a few lines are one group with [`lean`](crate::lean).
//! - The harness fills, checks and counts payloads, repeats a probe until every subscriber has received one (so a
//!   late joiner is no loss), and never looks at a system's own counters.
//! - Settings: the system's own recommended defaults. A tuned variant has a name of its own, and README.md says what
//!   was tuned. A system without flow control names a `window_messages`.
//! - A system that keeps messages is a [`Store`](crate::store::Store): a file in `stores`.
//! - A system that cannot run here says in `missing` how to get it. One that needs a heavy client library is behind a
//!   cargo feature, with `absent` naming it where the feature is off.

mod in_process;
mod mosquitto;
mod nats_lean;
mod raw;
mod redis;
mod stores;
mod tcp_relay;
mod twinlane;

#[cfg(feature = "aeron")]
pub(crate) mod aeron;
#[cfg(any(feature = "nats", feature = "zenoh"))]
mod certificate;
#[cfg(any(feature = "nng", feature = "zenoh"))]
mod inbox;
#[cfg(feature = "nats")]
mod nats_async;
#[cfg(feature = "nng")]
mod nng;
#[cfg(feature = "zenoh")]
pub(crate) mod zenoh;
#[cfg(feature = "zeromq")]
pub(crate) mod zeromq;

use crate::system::AnySystem;

/// Every system that was compiled in, and what each left-out feature would add.
#[must_use]
pub fn all() -> Vec<Box<dyn AnySystem>> {
    let mut all: Vec<Box<dyn AnySystem>> = Vec::new();
    all.extend(tcp_relay::systems());
    all.extend(raw::systems());
    all.extend(twinlane::systems());
    all.extend(in_process::systems());
    all.extend(nats_lean::systems());
    all.extend(redis::systems());
    all.extend(mosquitto::systems());
    all.extend(stores::systems());
    #[cfg(feature = "nats")]
    all.extend(nats_async::systems());
    #[cfg(feature = "zeromq")]
    all.extend(zeromq::systems());
    #[cfg(feature = "zenoh")]
    all.extend(zenoh::systems());
    #[cfg(feature = "nng")]
    all.extend(nng::systems());
    #[cfg(feature = "aeron")]
    all.extend(aeron::systems());
    all
}

/// The systems of features that were left out, with how to get them.
#[must_use]
pub fn left_out() -> Vec<(&'static str, &'static str)> {
    let features = [
        (cfg!(feature = "nats"), "nats nats-tls", "build with --features nats"),
        (
            cfg!(feature = "zeromq"),
            "zeromq zeromq-proxy zeromq-default",
            "build with --features zeromq (libzmq3-dev)",
        ),
        (
            cfg!(feature = "zenoh"),
            "zenoh-tcp zenoh-udp zenoh-quic zenoh-router",
            "build with --features zenoh",
        ),
        (cfg!(feature = "nng"), "nng", "build with --features nng (libnng-dev)"),
        (cfg!(feature = "aeron"), "aeron-udp aeron-ipc", "build with --features aeron (cmake 3.30, clang)"),
    ];
    features.into_iter().filter(|(built, ..)| !built).map(|(_, names, how)| (names, how)).collect()
}
