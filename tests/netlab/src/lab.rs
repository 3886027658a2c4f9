//! The lab: two sides and the link between them.

use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::Arc,
    thread::{self, JoinHandle},
};

use thiserror::Error;

use crate::{
    counts::Counts,
    link::Link,
    namespace::Namespace,
    relay::{Devices, Relay},
};

const LEFT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const RIGHT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// There is no lab on this machine, or not for this user.
#[derive(Debug, Error)]
pub enum LabError {
    /// Somebody else than root.
    #[error("a network of its own needs root: start this with sudo ({0})")]
    NotRoot(#[source] io::Error),
    /// The kernel makes no namespace.
    #[error("cannot make a network namespace: {0}")]
    Namespace(#[source] io::Error),
    /// The program is not there.
    #[error("cannot run `ip` (Debian's package iproute2): {0}")]
    NoIp(#[source] io::Error),
    /// The program that runs a command on a side is not there.
    #[error("cannot run `nsenter` (Debian's package util-linux): {0}")]
    NoNsenter(#[source] io::Error),
    /// The program says no.
    #[error("`ip link set lo up` failed: {0}")]
    Ip(String),
    /// The kernel makes no device.
    #[error("cannot make a TUN device: {0}; is there /dev/net/tun? (`modprobe tun`)")]
    Device(#[source] io::Error),
    /// A thread could not start, or not where it should.
    #[error("cannot start a thread of the lab: {0}")]
    Thread(#[source] io::Error),
    /// There is no such setting.
    #[error("cannot read {name}: {source}")]
    NoSetting {
        /// As for `sysctl`.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// There is no such setting, or no such value.
    #[error("cannot set {name} to {value}: {source}")]
    Setting {
        /// As for `sysctl`.
        name: String,
        /// What it should be.
        value: String,
        /// What the kernel says.
        source: io::Error,
    },
}

impl LabError {
    pub(crate) fn namespace(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NotRoot(error),
            _ => Self::Namespace(error),
        }
    }
}

/// Two sides and a link. Dropping it ends the link; what still runs on a side then has a network without a way out.
pub struct Lab {
    left: Side,
    right: Side,
    relay: Arc<Relay>,
    thread: Option<JoinHandle<()>>,
}

/// One end of the link: a network namespace with an address.
#[derive(Clone, Debug)]
pub struct Side {
    addr: Ipv4Addr,
    namespace: Namespace,
}

impl Lab {
    /// Makes both sides and joins them by `link`. What is random is the same for the same `seed`, packet by packet in the
    /// order in which they are sent.
    ///
    /// # Errors
    ///
    /// Who is not root, and a machine without `ip` or TUN devices: [`LabError`] says what is missing.
    pub fn start(link: Link, seed: u64) -> Result<Self, LabError> {
        let (left, left_device) = Namespace::with_device(LEFT)?;
        let (right, right_device) = Namespace::with_device(RIGHT)?;
        let relay = Relay::new(link, seed)?;
        let devices = Devices { left: left_device, right: right_device };
        let running = Arc::clone(&relay);
        let thread = thread::Builder::new().name("lab-relay".to_owned());
        let thread = thread.spawn(move || running.run(&devices)).map_err(LabError::Thread)?;
        Ok(Self {
            left: Side { addr: LEFT, namespace: left },
            right: Side { addr: RIGHT, namespace: right },
            relay,
            thread: Some(thread),
        })
    }

    /// The side where `up` ends: a server's.
    #[must_use]
    pub fn left(&self) -> &Side {
        &self.left
    }

    /// The side where `down` ends: a client's.
    #[must_use]
    pub fn right(&self) -> &Side {
        &self.right
    }

    /// The link as it is now.
    #[must_use]
    pub fn link(&self) -> Link {
        self.relay.link()
    }

    /// Changes the link. Packets under way arrive when they were due before, unless what they are is blocked now.
    pub fn set(&self, link: Link) {
        self.relay.set(link);
    }

    /// What the link has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.relay.counts()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.relay.end();
        if let Some(thread) = self.thread.take() {
            // If it panicked, it has said so.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab").field("link", &self.link().to_string()).finish_non_exhaustive()
    }
}

impl Side {
    /// Its address, as the other side sees it.
    #[must_use]
    pub fn addr(&self) -> IpAddr {
        self.addr.into()
    }

    /// Runs `work` on a thread of this side. What the thread opens, starts and spawns is on this side too: sockets, a
    /// runtime's threads, processes.
    ///
    /// # Errors
    ///
    /// The thread does not start.
    ///
    /// # Panics
    ///
    /// The new thread does, if the process has given up the rights that it made this side with.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, LabError> {
        let side = self.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            side.enter().expect("who made a namespace may enter it");
            work()
        });
        thread.map_err(LabError::Thread)
    }

    /// Moves the calling thread to this side, for good.
    ///
    /// # Errors
    ///
    /// The process has given up the right to.
    pub fn enter(&self) -> Result<(), LabError> {
        self.namespace.enter().map_err(LabError::namespace)
    }

    /// A command that will run `program` on this side, by `nsenter`.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace.path())).arg("--").arg(program);
        command
    }

    /// A kernel setting of this side's network.
    ///
    /// # Errors
    ///
    /// There is no such setting.
    ///
    /// # Panics
    ///
    /// As [`Self::spawn`].
    pub fn kernel(&self, name: &str) -> Result<String, LabError> {
        let path = kernel_path(name);
        let read = self.spawn("lab-setting", move || fs::read_to_string(path))?.join();
        let text = read.expect("reading a file does not panic");
        let text = text.map_err(|source| LabError::NoSetting { name: name.to_owned(), source })?;
        Ok(text.trim().to_owned())
    }

    /// Sets a kernel setting of this side's network, such as `net.ipv4.tcp_congestion_control`.
    ///
    /// # Errors
    ///
    /// There is no such setting, it is not one of a single namespace, or it does not take that value.
    ///
    /// # Panics
    ///
    /// As [`Self::spawn`].
    pub fn set_kernel(&self, name: &str, value: &str) -> Result<(), LabError> {
        let path = kernel_path(name);
        let text = value.to_owned();
        let written = self.spawn("lab-setting", move || fs::write(path, text))?.join();
        let written = written.expect("writing to a file does not panic");
        written.map_err(|source| LabError::Setting { name: name.to_owned(), value: value.to_owned(), source })
    }
}

fn kernel_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}
