//! Splits a byte stream into control frames and runs of message frames, in place.
//!
//! The decoder copies nothing and keeps nothing of the stream but the numbers of a half-received run.
//! Which frames are handed out does not depend on how the stream was cut into reads, only in how many
//! pieces a run comes.

use zerocopy::FromBytes;

use super::fragment::Fragment;
use super::layout::{MessageLayout, Prefix, RunHeader};
use super::message::{Frames, check_layout};
use super::{
    FrameError, KIND_CONTROL, KIND_END, KIND_FRAGMENT, KIND_MESSAGE, KIND_RUN, MESSAGE_HEADER_BYTES,
    PREFIX_BYTES, RUN_HEADER_BYTES,
};
use crate::limits::{CONTROL_BYTES_MAX, FRAME_BYTES_CEILING};

/// Splits the bytes of one TCP connection, TLS connection or QUIC stream into [`Item`]s.
///
/// Its memory is 4 bytes for each frame of the largest piece handed out, at most an eighth of the caller's
/// read buffer.
///
/// ```
/// use twinlane_proto::frame::{Decoder, Item};
/// use twinlane_proto::control::{Control, Ping};
///
/// let mut received = Vec::new();
/// Control::Ping(Ping { nonce: 9 }).encode(&mut received);
/// let mut decoder = Decoder::stream(4_096);
/// assert!(decoder.next(&received[..10])?.is_none(), "more bytes are needed");
/// let item = decoder.next(&received)?.unwrap();
/// assert!(matches!(item, Item::Control(_)));
/// received.drain(..item.consumed());
/// # Ok::<(), twinlane_proto::FrameError>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    frame_bytes_max: usize,
    run: Option<OpenRun>,
    ends: Vec<u32>,
    bytes_wanted: usize,
}

/// What is still to come of a run.
#[derive(Clone, Copy, Debug)]
struct OpenRun {
    header: RunHeader,
    next: u64,
    frames_left: u32,
    bytes_left: u32,
}

/// One complete thing at the start of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'b> {
    /// A whole control frame, for [`Session::handle`](crate::Session::handle).
    Control(&'b [u8]),
    /// Complete frames of a run, at least one: all of them or as many as have arrived.
    Frames {
        /// The run as it was announced.
        run: RunHeader,
        /// Number of the first frame of this piece; counts on from `run.first`.
        first: u64,
        /// Frames in this piece.
        frames: usize,
        /// The frames back to back, without the run's header.
        bytes: &'b [u8],
        /// Whether the run ends with this piece.
        last: bool,
    },
    /// A part of a frame that fits no datagram. Only [`decode_datagram`](super::decode_datagram) hands it out.
    Fragment(Fragment<'b>),
}

impl<'b> Item<'b> {
    /// Bytes of the stream that this item took: advance by them before the next call.
    #[must_use]
    pub fn consumed(&self) -> usize {
        match self {
            Self::Control(frame) => frame.len(),
            // A piece is never empty, so only the first one begins where the run does.
            Self::Frames { run, first, bytes, .. } if *first == run.first => RUN_HEADER_BYTES + bytes.len(),
            Self::Frames { bytes, .. } => bytes.len(),
            Self::Fragment(fragment) => fragment.frame_bytes(),
        }
    }

    /// The messages in this item; a control frame and a fragment have none.
    #[must_use]
    pub fn messages(&self) -> Frames<'b> {
        match self {
            Self::Control(_) | Self::Fragment(_) => Frames::new(&[]),
            Self::Frames { bytes, .. } => Frames::new(bytes),
        }
    }
}

impl Decoder {
    /// A decoder at the start of a stream that refuses frames above `frame_bytes_max` bytes.
    ///
    /// Begin with [`FRAME_BYTES_MAX_BEFORE_WELCOME`](crate::limits::FRAME_BYTES_MAX_BEFORE_WELCOME) and
    /// raise it after the handshake. Values above [`FRAME_BYTES_CEILING`] count as that.
    #[must_use]
    pub fn stream(frame_bytes_max: usize) -> Self {
        let mut decoder =
            Self { frame_bytes_max: 0, run: None, ends: Vec::new(), bytes_wanted: PREFIX_BYTES };
        decoder.set_frame_bytes_max(frame_bytes_max);
        decoder
    }

    /// Refuses frames above `frame_bytes_max` bytes from now on.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max.min(FRAME_BYTES_CEILING);
    }

    /// Looks at the start of `buf`, the received bytes that no item took yet.
    ///
    /// `Ok(None)`: call again when `buf` has [`Self::bytes_wanted`] bytes. `Ok(Some(item))`: advance by
    /// [`Item::consumed`]. A run is handed out in pieces as its frames arrive. Every frame handed out has
    /// a known kind, and fits the limit and its run. What its topic is, the run says.
    ///
    /// # Errors
    ///
    /// [`FrameError`]: close the connection, the rest of the stream means nothing. Good frames before a
    /// bad one are handed out first.
    #[inline]
    pub fn next<'b>(&mut self, buf: &'b [u8]) -> Result<Option<Item<'b>>, FrameError> {
        if let Some(run) = self.run {
            return self.scan(run, buf, 0);
        }
        let Ok((prefix, _)) = Prefix::ref_from_prefix(buf) else {
            return Ok(self.want(PREFIX_BYTES));
        };
        match prefix.kind {
            KIND_RUN => self.begin_run(buf),
            KIND_CONTROL => self.control(prefix, buf),
            kind @ (KIND_MESSAGE | KIND_END) => Err(FrameError::OutsideRun { kind }),
            kind @ KIND_FRAGMENT => Err(FrameError::OutsideDatagram { kind }),
            kind => Err(FrameError::UnknownKind { kind }),
        }
    }

    /// Bytes that `buf` needs before [`Self::next`] can hand out more, counted from the first byte no
    /// item took. A hint for the size of the next read; never above the frame limit plus 32.
    #[must_use]
    pub fn bytes_wanted(&self) -> usize {
        self.bytes_wanted
    }

    /// Ends of the frames in the last [`Item::Frames`], as positions in its `bytes`, rising.
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Whether the stream is inside a run: its end now would lose announced frames.
    #[must_use]
    pub fn is_inside_run(&self) -> bool {
        self.run.is_some()
    }

    /// Forgets a half-received run.
    pub(super) fn leave_run(&mut self) {
        self.run = None;
        self.bytes_wanted = PREFIX_BYTES;
    }

    fn control<'b>(&mut self, prefix: &Prefix, buf: &'b [u8]) -> Result<Option<Item<'b>>, FrameError> {
        let frame_bytes = prefix.frame_bytes.get() as usize;
        let frame_bytes_max = self.frame_bytes_max.min(CONTROL_BYTES_MAX);
        if frame_bytes > frame_bytes_max {
            return Err(FrameError::FrameTooLarge { frame_bytes, frame_bytes_max });
        }
        if frame_bytes < PREFIX_BYTES {
            return Err(FrameError::FrameTooShort {
                kind: KIND_CONTROL,
                frame_bytes,
                frame_bytes_min: PREFIX_BYTES,
            });
        }
        let Some(frame) = buf.get(..frame_bytes) else { return Ok(self.want(frame_bytes)) };
        self.bytes_wanted = PREFIX_BYTES;
        Ok(Some(Item::Control(frame)))
    }

    fn begin_run<'b>(&mut self, buf: &'b [u8]) -> Result<Option<Item<'b>>, FrameError> {
        let Some(head) = buf.first_chunk::<RUN_HEADER_BYTES>() else {
            return Ok(self.want(RUN_HEADER_BYTES));
        };
        let header = RunHeader::decode(head)?;
        let RunHeader { first, frames, run_bytes, .. } = header;
        if u64::from(run_bytes) > u64::from(frames).saturating_mul(self.frame_bytes_max as u64) {
            return Err(FrameError::RunMismatch { frames, run_bytes });
        }
        let run = OpenRun { header, next: first, frames_left: frames, bytes_left: run_bytes };
        self.scan(run, buf, RUN_HEADER_BYTES)
    }

    /// Takes the complete frames of `run` that lie in `buf` from `at_run` on.
    fn scan<'b>(
        &mut self,
        mut run: OpenRun,
        buf: &'b [u8],
        at_run: usize,
    ) -> Result<Option<Item<'b>>, FrameError> {
        let (first, frames_before) = (run.next, run.frames_left);
        let bytes = &buf[at_run..];
        self.ends.clear();
        // Bounded by what has arrived, not by what was announced.
        self.ends.reserve((frames_before as usize).min(bytes.len() / MESSAGE_HEADER_BYTES));
        let mut at = 0;
        let mut stop = Ok(PREFIX_BYTES);
        while run.frames_left > 0 {
            let rest = &bytes[at..];
            let Ok((layout, _)) = MessageLayout::ref_from_prefix(rest) else {
                stop = Ok(MESSAGE_HEADER_BYTES);
                break;
            };
            let frame_bytes = match run.check_next(layout, self.frame_bytes_max) {
                Ok(frame_bytes) => frame_bytes,
                Err(error) => {
                    stop = Err(error);
                    break;
                }
            };
            if rest.len() < frame_bytes {
                stop = Ok(frame_bytes);
                break;
            }
            at += frame_bytes;
            run.frames_left -= 1;
            run.bytes_left -= frame_bytes as u32;
            self.ends.push(at as u32);
        }
        let frames = self.ends.len();
        if frames == 0 {
            return stop.map(|bytes_wanted| self.want(at_run + bytes_wanted));
        }
        // An error behind good frames is met again by the next call.
        self.bytes_wanted = stop.unwrap_or(MESSAGE_HEADER_BYTES);
        run.next += frames as u64;
        let last = run.frames_left == 0;
        self.run = (!last).then_some(run);
        Ok(Some(Item::Frames { run: run.header, first, frames, bytes: &bytes[..at], last }))
    }

    fn want<'b>(&mut self, bytes: usize) -> Option<Item<'b>> {
        self.bytes_wanted = bytes;
        None
    }
}

impl OpenRun {
    /// Checks the run's next frame by its header; returns its length.
    #[inline]
    fn check_next(&self, layout: &MessageLayout, frame_bytes_max: usize) -> Result<usize, FrameError> {
        let frame_bytes = match check_layout(layout) {
            Ok(frame_bytes) => frame_bytes,
            Err(FrameError::UnknownKind { kind: kind @ (KIND_RUN | KIND_CONTROL | KIND_FRAGMENT) }) => {
                return Err(FrameError::InsideRun { kind, frames_left: self.frames_left });
            }
            Err(error) => return Err(error),
        };
        if frame_bytes > frame_bytes_max {
            return Err(FrameError::FrameTooLarge { frame_bytes, frame_bytes_max });
        }
        // The frames after this one need a header each, and the last frame must end the run exactly.
        let frames_after = u64::from(self.frames_left - 1);
        let needed = frame_bytes as u64 + frames_after * MESSAGE_HEADER_BYTES as u64;
        let left = u64::from(self.bytes_left);
        if left < needed || (frames_after == 0 && left != needed) {
            return Err(FrameError::RunMismatch { frames: self.frames_left, run_bytes: self.bytes_left });
        }
        Ok(frame_bytes)
    }
}
