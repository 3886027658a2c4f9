//! A network namespace without a name, and the TUN device in it.
//!
//! It lives as long as somebody holds it open or runs in it. Nothing of it is left in the file system, so nothing has to
//! be cleaned up after a crash.

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    process::{self, Command, Stdio},
    sync::Arc,
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::lab::LabError;

const DEVICE: &str = "lab0";
const PREFIX_BITS: u8 = 24;
/// Packets that may wait for the relay: 15 MB. The bounds that count are the link's own.
const DEVICE_QUEUE_PACKETS: u32 = 10_000;

/// An open network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Namespace(Arc<OwnedFd>);

impl Namespace {
    /// A new one, with loopback and a device that has `addr`.
    pub(crate) fn with_device(addr: Ipv4Addr) -> Result<(Self, SyncDevice), LabError> {
        // The thread that makes a namespace is in it from then on: so not this one.
        let making = thread::Builder::new().name("lab-setup".to_owned()).spawn(move || make(addr));
        let making = making.map_err(LabError::Thread)?;
        making.join().expect("setting up a namespace does not panic")
    }

    /// Moves the calling thread into it, for good; threads and processes that it starts are in it too.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(setns(&*self.0, CloneFlags::CLONE_NEWNET)?)
    }

    /// A path under which other processes find it while this one holds it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd())
    }
}

fn make(addr: Ipv4Addr) -> Result<(Namespace, SyncDevice), LabError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| LabError::namespace(errno.into()))?;
    let namespace = File::open("/proc/thread-self/ns/net").map_err(LabError::namespace)?;
    // Neighbour discovery would be packets that nobody sent. Where there is no IPv6 there is nothing to turn off.
    let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    loopback_up()?;
    let device = DeviceBuilder::new()
        .name(DEVICE)
        .ipv4(addr, PREFIX_BITS, None)
        .with(|device| {
            device.tx_queue_len(DEVICE_QUEUE_PACKETS);
        })
        .build_sync()
        .map_err(LabError::Device)?;
    device.set_nonblocking(true).map_err(LabError::Device)?;
    Ok((Namespace(Arc::new(namespace.into())), device))
}

fn loopback_up() -> Result<(), LabError> {
    let output = Command::new("ip").args(["link", "set", "lo", "up"]).stdin(Stdio::null()).output();
    let output = output.map_err(LabError::NoIp)?;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::Ip(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
