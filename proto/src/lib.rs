//! twinlane's wire protocol: frames, topic names, control messages and the session state machine.
//!
//! Bytes and time go in; frames, events and deadlines come out. Nothing here opens a socket, reads a
//! clock or spawns a thread, so every path can be tested and fuzzed byte by byte. `PROTOCOL.md` in this
//! crate gives the layout of every frame; the modules follow its chapters:
//!
//! - [`frame`]: messages, runs of messages, the stream decoder, the datagram packer
//! - [`topic`]: topic names, filters and what a topic was declared as
//! - [`control`]: the messages that open, steer and end a session
//! - [`session`]: who may say what and when, liveness, credit
//! - [`code`]: why something was refused or closed
//! - [`limits`]: every bound, with its unit and its reason
//! - [`numbered`]: maps by the numbers of lanes and topics
//!
//! A peer's bytes can only cause a typed error here, never a panic and never an allocation of a length
//! the peer declared.
#![forbid(unsafe_code)]

pub mod code;
pub mod control;
pub mod frame;
pub mod limits;
pub mod numbered;
pub mod session;
pub mod topic;

pub use code::Code;
pub use control::{Control, ControlError, GapCause, Level, Outcome, SlowPolicy, Start};
pub use frame::FrameError;
pub use session::{ProtocolError, Session};
pub use topic::{Channel, Filter, Last, Mode, Storage, TopicName, TopicSpec};

/// The one version of the protocol that exists. See "Versions and capabilities" in `PROTOCOL.md`.
pub const VERSION: u16 = 1;
