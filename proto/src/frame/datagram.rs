//! Splits a QUIC datagram into items. A datagram is whole or wrong: nothing continues in the next one.

use super::decoder::{Decoder, Item};
use super::fragment::Fragment;
use super::{FrameError, KIND_FRAGMENT, PREFIX_BYTES};

/// Where a frame's kind lies.
const KIND_AT: usize = 4;

/// Hands each item of `datagram` to `each`, with the ends of its frames as [`Decoder::ends`] gives them.
///
/// Use a decoder of its own for datagrams; it only lends its buffer and its frame limit. Items before a
/// bad one are handed out. A run is handed out in one piece. An error of `each` ends the walk.
///
/// # Errors
///
/// [`FrameError`] as in [`Decoder::next`], or [`FrameError::DatagramIncomplete`]; or what `each` returns.
///
/// # Panics
///
/// If `decoder` is inside a run of a stream: that run would be lost.
///
/// ```
/// use twinlane_proto::frame::{Decoder, FrameError, decode_datagram};
///
/// let mut decoder = Decoder::stream(1_200);
/// let mut messages = 0;
/// decode_datagram(&[], &mut decoder, |_, ends| {
///     messages += ends.len();
///     Ok::<(), FrameError>(())
/// })?;
/// assert_eq!(messages, 0);
/// # Ok::<(), FrameError>(())
/// ```
pub fn decode_datagram<'b, E: From<FrameError>>(
    datagram: &'b [u8],
    decoder: &mut Decoder,
    mut each: impl FnMut(Item<'b>, &[u32]) -> Result<(), E>,
) -> Result<(), E> {
    assert!(!decoder.is_inside_run(), "a datagram needs a decoder that is not inside a stream's run");
    let mut rest = datagram;
    while !rest.is_empty() {
        let incomplete = FrameError::DatagramIncomplete { bytes: rest.len() };
        if rest.first_chunk::<PREFIX_BYTES>().is_some_and(|prefix| prefix[KIND_AT] == KIND_FRAGMENT) {
            let item = Item::Fragment(Fragment::decode(rest)?);
            rest = &rest[item.consumed()..];
            each(item, &[])?;
            continue;
        }
        let Some(item) = decoder.next(rest)? else { return Err(incomplete.into()) };
        rest = &rest[item.consumed()..];
        match item {
            Item::Control(_) | Item::Fragment(_) => each(item, &[])?,
            Item::Frames { last: true, .. } => each(item, decoder.ends())?,
            Item::Frames { .. } => {
                // Either a bad frame follows, which says more, or the datagram ends too early.
                let why = decoder.next(rest).err().unwrap_or(incomplete);
                decoder.leave_run();
                return Err(why.into());
            }
        }
    }
    Ok(())
}
