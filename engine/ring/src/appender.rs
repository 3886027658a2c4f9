//! A producer that gathers frames and appends them as runs: one claim for many calls.
//!
//! A claim waits until the producer's earlier stores are done, and each of them may wait for a line that a
//! reader just looked at. Gathering pays that once per run instead of once per frame, and readers find whole
//! runs. It adds nothing to the ring's protocol: a gathered frame is in no segment, so it holds nobody up. It
//! has no clock: nothing is flushed because time passes.

use std::fmt;

use crate::ring::{AppendError, Ring};

/// Frames gathered at most: 8 KiB of 64-byte frames.
const FRAMES_MAX: usize = 128;
/// Bytes gathered at most: what stays in the first-level cache beside everything else. A larger frame is
/// appended by itself.
const BYTES_MAX: usize = 8 * 1024;

/// A producer whose frames become visible together: when it is [flushed](Self::flush), when more than 128 frames
/// or 8 KiB have come together, or when it is dropped.
///
/// For callers that have several frames at hand. Flush before waiting for anything: a gathered frame is seen by
/// nobody, no reader is woken for it, and it has no offset yet.
///
/// ```
/// use twinlane_ring::{Gating, Read, Ring, RingConfig, Start};
///
/// let ring = Ring::new(RingConfig::default())?;
/// let mut cursor = ring.cursor(Start::Oldest, Gating::Lossy);
/// let mut appender = ring.appender();
/// for frame in [b"one", b"two", b"six"] {
///     appender.append(&[frame])?;
/// }
/// assert!(cursor.is_empty());
/// appender.flush()?;
/// let Read::Run(run) = cursor.read(usize::MAX) else { panic!("three frames are committed") };
/// assert_eq!((run.frames(), run.bytes()), (3, &b"onetwosix"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Appender {
    ring: Ring,
    bytes: Box<[u8; BYTES_MAX]>,
    /// Where each gathered frame ends in `bytes`.
    ends: [u32; FRAMES_MAX],
    frames: usize,
    /// What the ring takes at all.
    frame_bytes_max: usize,
}

impl Appender {
    pub(crate) fn new(ring: Ring) -> Self {
        let (bytes, ends) = (Box::new([0; BYTES_MAX]), [0; FRAMES_MAX]);
        let frame_bytes_max = ring.frame_bytes_max();
        Self { ring, bytes, ends, frames: 0, frame_bytes_max }
    }

    /// Takes one frame, the concatenation of `parts`. Frames keep the order of the calls. Never waits, except
    /// as [`Ring::append`] does.
    ///
    /// # Errors
    ///
    /// [`AppendError`]: this frame was not taken. [`AppendError::Full`]: frames gathered before have no room
    /// either; they stay gathered. Wait for [`Ring::room`], or drop this frame.
    #[inline]
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<(), AppendError> {
        let frame_bytes = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        if !self.fits(frame_bytes) {
            return self.append_apart(parts, frame_bytes);
        }
        self.gather(parts, frame_bytes);
        Ok(())
    }

    /// Makes every frame taken so far visible and wakes the readers that sleep.
    ///
    /// # Errors
    ///
    /// [`AppendError::Full`] or [`AppendError::Closed`]: the last [`gathered`](Self::gathered) frames are not
    /// stored; those before are. After `Full` call it again when there is room.
    pub fn flush(&mut self) -> Result<(), AppendError> {
        let (mut frame, mut byte) = (0, 0);
        while frame < self.frames {
            let bytes = &self.bytes[byte..byte + self.gathered_bytes()];
            match self.ring.store_run(bytes, &self.ends[frame..self.frames], |_, _| ()) {
                Ok(appended) => {
                    frame += appended.frames;
                    byte += appended.bytes;
                    let rest = &mut self.ends[frame..self.frames];
                    rest.iter_mut().for_each(|end| *end -= appended.bytes as u32);
                }
                Err(error) => {
                    self.keep(frame, byte);
                    return Err(error);
                }
            }
        }
        self.frames = 0;
        Ok(())
    }

    /// Frames taken that are not stored yet, at most 128.
    pub fn gathered(&self) -> usize {
        self.frames
    }

    /// The ring that the frames go to.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    #[inline]
    fn gathered_bytes(&self) -> usize {
        self.frames.checked_sub(1).map_or(0, |last| self.ends[last] as usize)
    }

    /// A frame of this size can be gathered beside the others.
    #[inline]
    fn fits(&self, frame_bytes: usize) -> bool {
        let room_bytes = (BYTES_MAX - self.gathered_bytes()).min(self.frame_bytes_max);
        self.frames < FRAMES_MAX && (1..=room_bytes).contains(&frame_bytes)
    }

    #[inline]
    fn gather(&mut self, parts: &[&[u8]], frame_bytes: usize) {
        let start = self.gathered_bytes();
        let end = start + frame_bytes;
        let mut to = &mut self.bytes[start..end];
        for part in parts {
            to = copy_front(to, part);
        }
        self.ends[self.frames] = end as u32;
        self.frames += 1;
    }

    /// A frame that does not fit beside the others.
    #[cold]
    fn append_apart(&mut self, parts: &[&[u8]], frame_bytes: usize) -> Result<(), AppendError> {
        self.ring.check_size(frame_bytes)?;
        let flushed = self.flush();
        if flushed != Err(AppendError::Closed) && self.fits(frame_bytes) {
            // Even a ring that got full may have taken some.
            self.gather(parts, frame_bytes);
            return Ok(());
        }
        flushed?;
        self.ring.append(parts, |_, _| ()).map(|_| ())
    }

    /// Forgets the frames before `frame`, which starts at `byte` and whose end counts from there.
    #[cold]
    fn keep(&mut self, frame: usize, byte: usize) {
        if cfg!(ring_mutant = "stored_twice") {
            return;
        }
        let bytes = self.gathered_bytes();
        self.bytes.copy_within(byte..byte + bytes, 0);
        self.ends.copy_within(frame..self.frames, 0);
        self.frames -= frame;
    }
}

/// Copies `part` to the start of `to` and returns what is behind it.
#[inline]
fn copy_front<'t>(to: &'t mut [u8], part: &[u8]) -> &'t mut [u8] {
    let (front, rest) = to.split_at_mut(part.len());
    // SAFETY: `front` is as long as `part`, and a unique reference overlaps no other.
    unsafe { crate::copy::apart(part.as_ptr(), front.as_mut_ptr(), part.len()) };
    rest
}

impl Drop for Appender {
    fn drop(&mut self) {
        // Who must know whether there was room has flushed before.
        let _ = self.flush();
    }
}

impl fmt::Debug for Appender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appender").field("ring", &self.ring).field("gathered", &self.frames).finish()
    }
}
