//! Frames: the one layout of a message in memory, on disk and on both wires.
//!
//! Everything is read in place. Encoding appends to a buffer of the caller; decoding hands out slices of
//! the caller's bytes. Nothing is allocated per message, and no length is believed before it is checked.
//!
//! - [`encode_message_head`] and [`MessageRef`]: one message
//! - [`Headers`] and [`Options`]: what a message may carry besides its payload
//! - [`Decoder`]: splits a byte stream or a datagram into control frames and runs of messages
//! - [`Packer`]: fills datagrams
//! - [`Fragment`] and [`erasure`]: frames that are larger than any datagram

mod datagram;
mod decoder;
pub mod erasure;
mod error;
mod fragment;
mod headers;
mod layout;
mod message;
mod options;
mod packer;

pub use datagram::decode_datagram;
pub use decoder::{Decoder, Item};
pub use error::FrameError;
pub use fragment::{Cut, Fragment, FragmentHeader};
pub use headers::{Headers, HeadersIter, encode_headers};
pub use layout::RunHeader;
pub use message::{
    Frames, MessageHeader, MessageRef, deadline_us, due_us, encode_end, encode_job_head, encode_message_head,
    encode_plain_head, is_job, stamp_deadline, stamp_due, stamp_seq, stamp_source, stamp_topic,
};
pub use options::{Job, Options, ReplyTo};
pub use packer::{Packer, Push};

pub(crate) use layout::Prefix;

/// Bytes of the header of a message or end frame.
pub const MESSAGE_HEADER_BYTES: usize = 32;
/// Bytes of a run frame, which is nothing but a header.
pub const RUN_HEADER_BYTES: usize = 32;
/// Bytes of a fragment's header.
pub const FRAGMENT_HEADER_BYTES: usize = 40;
/// Bytes that every frame begins with: its length, kind, flags and one 16-bit number.
pub const PREFIX_BYTES: usize = 8;

/// Kind of a frame that carries one message.
pub const KIND_MESSAGE: u8 = 1;
/// Kind of a frame that announces message frames.
pub const KIND_RUN: u8 = 2;
/// Kind of a frame that carries a [`Control`](crate::Control).
pub const KIND_CONTROL: u8 = 3;
/// Kind of a frame that says a publisher stream ended.
pub const KIND_END: u8 = 4;
/// Kind of a frame that carries a part of a frame, in datagrams only.
pub const KIND_FRAGMENT: u8 = 5;

/// Flag of a message with a deadline.
pub const FLAG_DEADLINE: u8 = 1 << 0;
/// Flag of a message with a key.
pub const FLAG_KEY: u8 = 1 << 1;
/// Flag of a message that says where its answer should go.
pub const FLAG_REPLY_TO: u8 = 1 << 2;
/// Flag of a message that answers another.
pub const FLAG_CORRELATION: u8 = 1 << 3;
/// Flag of a message with user headers.
pub const FLAG_HEADERS: u8 = 1 << 4;
/// Flag of a message that a queue group hands to one of its members. Only a server sends it.
pub const FLAG_JOB: u8 = 1 << 5;
/// Flag of a message that queues hand over later.
pub const FLAG_DUE: u8 = 1 << 6;
/// All flags this version knows; any other bit is an error.
pub const FLAGS_KNOWN: u8 =
    FLAG_DEADLINE | FLAG_KEY | FLAG_REPLY_TO | FLAG_CORRELATION | FLAG_HEADERS | FLAG_JOB | FLAG_DUE;
