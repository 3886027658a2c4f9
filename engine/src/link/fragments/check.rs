//! Any datagrams at any time: what comes out is what went in, once, and a peer that breaks the rules breaks nothing else.
//!
//! A fuzz target and the ordinary tests run the same function.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use twinlane_proto::frame::{Fragment, MessageHeader, MessageRef, Options, encode_message_head};

use super::{Place, REASSEMBLY_BYTES_MAX, Reassembly, Splitter, parity_for};

const TOPIC: u32 = 7;
/// Little, so that messages must make room for others.
const BYTES_MAX: usize = REASSEMBLY_BYTES_MAX / 256;
const DATAGRAM_BYTES_MAX: usize = 600;

/// A message that says in each byte which one it is.
pub(super) fn message(topic: u32, seq: u64, frame_bytes: usize) -> Vec<u8> {
    let payload_bytes = frame_bytes.saturating_sub(32);
    let header = MessageHeader { topic, source: 1, seq, time_us: 5 };
    let mut frame = Vec::with_capacity(frame_bytes);
    encode_message_head(&header, &Options::default(), payload_bytes, &mut frame)
        .expect("it is not too large");
    frame.extend(
        (0..payload_bytes).map(|at| (at as u64).wrapping_mul(seq | 1).wrapping_mul(0x9e37_79b9) as u8),
    );
    frame
}

/// The script: an operation in a byte, then what it needs.
pub(super) fn check(data: &[u8]) {
    let mut script = data.iter().copied();
    let mut byte = || script.next().map(usize::from);
    let (mut splitter, mut reassembly) = (Splitter::default(), Reassembly::new(BYTES_MAX));
    let mut now = Instant::now();
    let (mut pool, mut seq, mut taken): (Vec<Bytes>, u64, u64) = (Vec::new(), 0, 0);
    let (mut seen, mut is_honest) = (HashSet::new(), true);
    while let (Some(operation), Some(argument)) = (byte(), byte()) {
        let mut datagram = match operation % 4 {
            0 if pool.len() < 1_000 => {
                seq += 1;
                let place = Place { lane: argument as u32 % 3, topic: TOPIC, number: seq };
                let frame = message(TOPIC, seq, 32 + argument * 20);
                let budget = (argument % 2 == 1).then(|| Duration::from_millis(argument as u64));
                let data = Splitter::data_fragments(frame.len(), DATAGRAM_BYTES_MAX).expect("so it has");
                let parity = parity_for(data, operation as f64 / 512.0);
                splitter
                    .split(place, budget, &frame, DATAGRAM_BYTES_MAX, parity, &mut pool)
                    .expect("it is not too large");
                continue;
            }
            1 => {
                now += Duration::from_millis(argument as u64);
                reassembly.expire(now);
                assert!(
                    reassembly.next_expiry().is_none_or(|expiry| expiry > now),
                    "it was just looked through"
                );
                continue;
            }
            _ if pool.is_empty() => continue,
            2 => pool.swap_remove(argument % pool.len()).to_vec(),
            _ => pool[argument % pool.len()].to_vec(),
        };
        if operation >= 240 {
            let (at, value) = (byte().unwrap_or(0), byte().unwrap_or(0));
            is_honest &= datagram[at % 48] == value as u8;
            datagram[at % 48] = value as u8;
        }
        let Ok(fragment) = Fragment::decode(&datagram) else { return };
        taken += 1;
        let Ok(whole) = reassembly.take(now, &fragment) else {
            assert!(!is_honest, "nobody broke a rule");
            return;
        };
        let Some(whole) = whole else { continue };
        let read = MessageRef::parse(&whole.frame).expect("one message");
        if is_honest {
            assert_eq!(read.seq(), whole.place.number);
            assert_eq!(whole.frame, message(TOPIC, read.seq(), whole.frame.len()));
            assert!(seen.insert(read.seq()), "it came twice");
        }
    }
    let counts = reassembly.counts();
    assert!(counts.whole + counts.spare_fragments <= taken && counts.restored <= counts.whole);
    assert!(!is_honest || counts.whole == seen.len() as u64);
}
