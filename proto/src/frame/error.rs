//! What can be wrong with a frame. No variant carries the peer's bytes, only numbers.

use thiserror::Error;

/// Why bytes are not the frames they claim to be, or why a frame cannot be made.
///
/// From a peer's bytes it means: count it and close the connection with
/// [`Code::ProtocolViolation`](crate::Code::ProtocolViolation); the stream cannot be resynchronised.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The frame is larger than agreed: send less, or raise the limit on both sides.
    #[error("frame of {frame_bytes} bytes, limit is {frame_bytes_max}")]
    FrameTooLarge {
        /// Length of the frame, its header included.
        frame_bytes: usize,
        /// The limit.
        frame_bytes_max: usize,
    },
    /// The frame is shorter than its own header.
    #[error("frame of kind {kind} with {frame_bytes} bytes, it has at least {frame_bytes_min}")]
    FrameTooShort {
        /// Kind of the frame.
        kind: u8,
        /// Its declared length.
        frame_bytes: usize,
        /// The shortest frame of this kind.
        frame_bytes_min: usize,
    },
    /// The kind is none of message, run, control and end.
    #[error("unknown frame kind {kind}")]
    UnknownKind {
        /// The kind.
        kind: u8,
    },
    /// A message or end frame that no run announced.
    #[error("frame of kind {kind} outside a run")]
    OutsideRun {
        /// Kind of the frame.
        kind: u8,
    },
    /// A fragment in a stream: there a frame of any size goes whole.
    #[error("frame of kind {kind} outside a datagram")]
    OutsideDatagram {
        /// Kind of the frame.
        kind: u8,
    },
    /// Something else came before the last frame of a run.
    #[error("frame of kind {kind} inside a run that still lacks {frames_left} frames")]
    InsideRun {
        /// Kind of the frame.
        kind: u8,
        /// Frames that the run still lacks.
        frames_left: u32,
    },
    /// Flag bits or the 16-bit number of the prefix have a value this kind of frame does not know.
    #[error("frame of kind {kind} with unknown flags {flags:#04x}, extra {extra}")]
    UnknownFlags {
        /// Kind of the frame.
        kind: u8,
        /// Its flags.
        flags: u8,
        /// Its 16-bit number.
        extra: u16,
    },
    /// The options do not have the length that the flags give them.
    #[error("{options_bytes} bytes of options in a {frame_bytes}-byte frame do not fit flags {flags:#04x}")]
    OptionsMismatch {
        /// Declared length of the options.
        options_bytes: usize,
        /// Length of the frame.
        frame_bytes: usize,
        /// Flags of the frame.
        flags: u8,
    },
    /// An end frame is nothing but its header.
    #[error("end frame of {frame_bytes} bytes, it has exactly 32")]
    EndNotEmpty {
        /// Its declared length.
        frame_bytes: usize,
    },
    /// This many frames cannot have this many bytes together.
    #[error("a run of {frames} frames cannot have {run_bytes} bytes")]
    RunMismatch {
        /// Frames the run still announces.
        frames: u32,
        /// Bytes the run still announces.
        run_bytes: u32,
    },
    /// The numbers of the run's frames do not fit 64 bits.
    #[error("a run of {frames} frames cannot begin at {first}")]
    RunOverflow {
        /// Number of the first frame.
        first: u64,
        /// Frames announced.
        frames: u32,
    },
    /// A slice that should be exactly one frame is longer or shorter than the frame says.
    #[error("{bytes} bytes were given for one frame of {frame_bytes}")]
    LengthMismatch {
        /// Length of the slice.
        bytes: usize,
        /// Length in the frame's prefix, 0 if there is none.
        frame_bytes: usize,
    },
    /// A datagram ended in the middle of a frame or a run.
    #[error("datagram ends inside a frame or run: {bytes} bytes are left over")]
    DatagramIncomplete {
        /// Bytes after the last complete item.
        bytes: usize,
    },
    /// A frame cannot be cut like this: a fragment would be empty or too small, or there would be too much parity.
    #[error("a frame of {frame_bytes} bytes cannot be cut into {data} fragments and {parity} of parity")]
    BadCut {
        /// Length of the whole frame.
        frame_bytes: usize,
        /// Data fragments.
        data: usize,
        /// Parity fragments.
        parity: usize,
    },
    /// A fragment's index is not below the number of fragments.
    #[error("fragment {index} of {fragments}")]
    NoSuchFragment {
        /// Which fragment, from 0.
        index: usize,
        /// How many there are, parity included.
        fragments: usize,
    },
    /// A fragment does not have the length that its place in the frame gives it.
    #[error("fragment of {fragment_bytes} bytes, its place in the frame gives it {fragment_bytes_needed}")]
    FragmentLength {
        /// Its declared length, its header included.
        fragment_bytes: usize,
        /// The length it should have.
        fragment_bytes_needed: usize,
    },
    /// Two fragments of one message contradict each other.
    #[error("a fragment of message {message} contradicts an earlier one")]
    FragmentChanged {
        /// The sender's number of the message.
        message: u32,
    },
    /// More user headers than allowed.
    #[error("{headers} user headers, limit is {headers_max}")]
    TooManyHeaders {
        /// Headers declared or given.
        headers: usize,
        /// The limit.
        headers_max: usize,
    },
    /// User headers with more bytes than allowed.
    #[error("{bytes} bytes of user headers, limit is {bytes_max}")]
    HeadersTooLarge {
        /// Bytes of all user headers.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A user header's name is empty, too long, not UTF-8 or has control characters.
    #[error("the name of user header {index} is empty, too long, not UTF-8 or has control characters")]
    HeaderName {
        /// Which header, from 0.
        index: usize,
    },
    /// The user headers end too early, or bytes follow them.
    #[error("user headers do not fill their {bytes} bytes exactly")]
    HeadersMismatch {
        /// Bytes of all user headers.
        bytes: usize,
    },
}
