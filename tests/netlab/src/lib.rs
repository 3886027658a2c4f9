//! A bad network on one machine: two network namespaces, and between them a link that loses, delays and throttles.
//!
//! A [`Lab`] makes two namespaces, `left` and `right`, each with a TUN device of its own. One thread carries the IP packets
//! from one device to the other and does to them what a [`Link`] says: everything random comes from a seed. Real
//! sockets, real TCP and real QUIC talk over it; only the wire is made up. The namespaces have no names and belong to
//! this process: when it ends, however it ends, the kernel takes them away.
//!
//! It needs Linux, root and `ip`. It knows nothing of twinlane.
//!
//! ```no_run
//! use std::{net::UdpSocket, time::Duration};
//! use twinlane_netlab::{Lab, Link};
//!
//! let link: Link = "loss=1%,rtt=20ms,jitter=2ms".parse()?;
//! let lab = Lab::start(link, 4711)?;
//! let to = (lab.left().addr(), 4747);
//! let server = lab.left().spawn("server", move || UdpSocket::bind(to))?;
//! let client = lab.right().spawn("client", move || UdpSocket::bind("0.0.0.0:0")?.send_to(b"ping", to))?;
//! # let _ = (server.join(), client.join());
//! lab.set("block=udp".parse()?);
//! println!("{}", lab.counts());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod counts;
mod lab;
mod link;
mod namespace;
mod parse;
mod pipe;
mod random;
mod relay;

pub use counts::{Counts, Lateness, Traffic};
pub use lab::{Lab, LabError, Side};
pub use link::{Block, Direction, Link, Reorder, Share};
pub use parse::LinkError;
