//! Hands on what arrives in datagrams. Frames that came in fragments are put together first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use twinlane_proto::Code;
use twinlane_proto::frame::{
    Decoder, Fragment, FrameError, Item, deadline_us, decode_datagram, stamp_deadline,
};
use twinlane_proto::session::Input;

use crate::link::fragments::{REASSEMBLY_BYTES_MAX, Reassembly, Whole};
use crate::link::{Closing, Link, Piece, now};
use crate::transport::{Datagrams, activity};

/// A frame in a datagram can never be larger than this.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// Hands on what arrives until the QUIC connection or the link ends.
pub(in crate::link) async fn read(link: Arc<Link>, datagrams: Datagrams) {
    let mut decoder = Decoder::stream(DATAGRAM_BYTES_MAX);
    let mut reassembly = Reassembly::new(REASSEMBLY_BYTES_MAX);
    loop {
        let datagram = tokio::select! {
            biased;
            datagram = datagrams.recv() => datagram,
            () = link.wait_over() => break,
            () = passed(reassembly.next_expiry()) => {
                reassembly.expire(now());
                continue;
            }
        };
        let Ok(datagram) = datagram else { break };
        activity();
        let taken = decode_datagram(&datagram, &mut decoder, |item, ends| {
            dispatch(&link, &datagram, &mut reassembly, item, ends)
        });
        if let Err(Bad(closing)) = taken {
            link.close(closing.code, &closing.reason);
            break;
        }
    }
    datagrams.close(0, "");
}

async fn passed(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn dispatch(
    link: &Arc<Link>,
    datagram: &Bytes,
    reassembly: &mut Reassembly,
    item: Item<'_>,
    ends: &[u32],
) -> Result<(), Bad> {
    match item {
        Item::Control(frame) => {
            link.input(Input::Control(frame));
            Ok(())
        }
        Item::Frames { run, first, bytes, .. } => {
            let bytes = datagram.slice_ref(bytes);
            let piece = Piece { lane: run.lane, topic: run.topic, first, bytes, ends };
            link.peer.frames(link, piece).map_err(Bad)
        }
        Item::Fragment(fragment) => take_fragment(link, reassembly, &fragment),
    }
}

fn take_fragment(link: &Arc<Link>, reassembly: &mut Reassembly, fragment: &Fragment<'_>) -> Result<(), Bad> {
    let taken = reassembly.take(now(), fragment)?;
    let counts = reassembly.counts();
    let link_counts = &link.datagram_counts;
    link_counts.whole.store(counts.whole, Ordering::Relaxed);
    link_counts.restored.store(counts.restored, Ordering::Relaxed);
    let incomplete = counts.superseded + counts.timed_out + counts.no_room;
    link_counts.incomplete.store(incomplete, Ordering::Relaxed);
    let Some(whole) = taken else { return Ok(()) };
    let place = whole.place;
    let Some(bytes) = in_time(whole) else { return Ok(()) };
    let ends = [bytes.len() as u32];
    let piece = Piece { lane: place.lane, topic: place.topic, first: place.number, bytes, ends: &ends };
    link.peer.frames(link, piece).map_err(Bad)
}

/// The frame, less the time that it waited for its last fragment. `None`: it waited too long, and is lost.
fn in_time(whole: Whole) -> Option<Bytes> {
    let Some(left_us) = deadline_us(&whole.frame) else { return Some(whole.frame) };
    let waited_us = u32::try_from(whole.waited.as_micros()).unwrap_or(u32::MAX);
    let left_us = left_us.checked_sub(waited_us).filter(|left_us| *left_us > 0)?;
    let mut frame = whole.frame.to_vec();
    stamp_deadline(&mut frame, left_us);
    Some(frame.into())
}

struct Bad(Closing);

impl From<FrameError> for Bad {
    fn from(error: FrameError) -> Self {
        Self(Closing::new(Code::ProtocolViolation, error.to_string()))
    }
}
