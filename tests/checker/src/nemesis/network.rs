//! A network namespace of its own for the server, and what iptables can do to the wire that leads to it.
//!
//! Needs root, `ip` and `iptables`. The namespace goes away when it is dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, bail};

/// The port of a server in a namespace.
const PORT: u16 = 4747;

/// What is done to the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing gets through.
    Both,
    /// What clients send is lost.
    ToServer,
    /// What the server sends is lost.
    FromServer,
    /// Whatever is sent to the server is answered with a reset.
    Reset,
    /// Every tenth packet is lost, both ways.
    Loss,
}

/// A network namespace, and a wire to it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    wire: String,
    net: u8,
    /// Lost packets in a thousand, both ways, whatever else is done.
    lossy_permille: u32,
}

impl Namespace {
    /// A new one. `net` (below 255) keeps those that exist at the same time apart.
    ///
    /// # Errors
    ///
    /// No root, no `ip`, or the system does not permit it.
    pub fn new(net: u8, lossy_permille: u32) -> anyhow::Result<Self> {
        let id = std::process::id();
        let namespace =
            Self { name: format!("twinlane-{id}-{net}"), wire: format!("tl{id}n{net}"), net, lossy_permille };
        namespace.create().context("a network namespace needs root, `ip` and `iptables`")?;
        Ok(namespace)
    }

    fn create(&self) -> anyhow::Result<()> {
        let Self { name, wire, net, .. } = self;
        let inner = format!("{wire}i");
        ip(&["netns", "add", name])?;
        ip(&["link", "add", wire, "type", "veth", "peer", "name", &inner, "netns", name])?;
        ip(&["addr", "add", &format!("10.213.{net}.1/30"), "dev", wire])?;
        ip(&["link", "set", wire, "up"])?;
        self.inside(&["ip", "addr", "add", &format!("10.213.{net}.2/30"), "dev", &inner])?;
        self.inside(&["ip", "link", "set", &inner, "up"])?;
        self.inside(&["ip", "link", "set", "lo", "up"])?;
        self.heal()
    }

    /// Its name, for `ip netns exec`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a server in it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(10, 213, self.net, 2), PORT))
    }

    /// Breaks the wire, on top of what it is anyway.
    ///
    /// # Errors
    ///
    /// `iptables` does not want to.
    pub fn apply(&self, cut: Cut) -> anyhow::Result<()> {
        match cut {
            Cut::Both => {
                self.rule("INPUT", &["-j", "DROP"])?;
                self.rule("OUTPUT", &["-j", "DROP"])
            }
            Cut::ToServer => self.rule("INPUT", &["-j", "DROP"]),
            Cut::FromServer => self.rule("OUTPUT", &["-j", "DROP"]),
            Cut::Reset => self.rule("INPUT", &["-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"]),
            Cut::Loss => self.lose(100),
        }
    }

    /// Makes it as it was in the beginning.
    ///
    /// # Errors
    ///
    /// `iptables` does not want to.
    pub fn heal(&self) -> anyhow::Result<()> {
        self.inside(&["iptables", "-F"])?;
        if self.lossy_permille > 0 { self.lose(self.lossy_permille) } else { Ok(()) }
    }

    /// Whether it always loses packets.
    #[must_use]
    pub fn is_lossy(&self) -> bool {
        self.lossy_permille > 0
    }

    /// From now on it is a good network.
    ///
    /// # Errors
    ///
    /// `iptables` does not want to.
    pub fn calm(&mut self) -> anyhow::Result<()> {
        self.lossy_permille = 0;
        self.heal()
    }

    fn lose(&self, permille: u32) -> anyhow::Result<()> {
        let probability = format!("{}.{:03}", permille / 1_000, permille % 1_000);
        let at_random = ["-m", "statistic", "--mode", "random", "--probability", &probability, "-j", "DROP"];
        self.rule("INPUT", &at_random)?;
        self.rule("OUTPUT", &at_random)
    }

    fn rule(&self, chain: &str, words: &[&str]) -> anyhow::Result<()> {
        self.inside(&[&["iptables", "-w", "-A", chain], words].concat())
    }

    fn inside(&self, words: &[&str]) -> anyhow::Result<()> {
        ip(&[&["netns", "exec", &self.name], words].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The wire goes with it, but only when the kernel finds the time.
        let _gone = ip(&["link", "del", &self.wire]);
        let _gone = ip(&["netns", "del", &self.name]);
    }
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(words).output().context("cannot run `ip`")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("`ip {}`: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
}
