//! Runs as bytes: frames back to back, each of which begins with its length. Their content is nobody's business here.

use std::borrow::Cow;

/// Where each frame of a run ends.
pub(crate) fn ends(run: &[u8]) -> impl Iterator<Item = usize> {
    let mut end = 0;
    std::iter::from_fn(move || {
        end += frame_bytes(run.get(end..)?)?;
        Some(end)
    })
}

/// The length of the frame that `bytes` begin with; `None`: there is none.
#[inline]
pub(crate) fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk().map(|length| u32::from_le_bytes(*length) as usize)
}

/// `ends` as positions after the first `byte` bytes.
pub(crate) fn rebased(ends: &[u32], byte: usize) -> Cow<'_, [u32]> {
    if byte == 0 {
        return ends.into();
    }
    ends.iter().map(|end| end - byte as u32).collect()
}
