//! Payloads that prove themselves: who published them, which one they are, and that every byte is right.
//!
//! A payload is three little-endian words, then filler:
//!
//! ```text
//! 0   publisher (upper 16 bits), seq (lower 48 bits)
//! 8   due time in nanoseconds since the start of the process (0 when the workload has no schedule)
//! 16  key = mix(word 0, word 1, payload bytes)
//! 24  filler: word i is key + i * an odd constant, cut at the end of the payload
//! ```
//!
//! The filler depends on everything before it, so a byte of another message, a truncation and a torn write
//! all show. This is a guard against our own mistakes, not against an adversary: the mix is no cryptography.

use thiserror::Error;

/// The smallest payload that carries its proof.
pub const PAYLOAD_BYTES_MIN: usize = 24;

/// More publisher streams than this do not fit the payload's publisher field.
pub const STREAMS_MAX: usize = 1 << 16;

const SEQ_BITS: u32 = 48;
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a payload says about itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// Number of the publisher stream within this run, from 0: a publisher on several topics has a stream on each.
    pub publisher: u16,
    /// Number of the message within its publisher's stream, from 1.
    pub seq: u64,
    /// When the schedule wanted it sent, in nanoseconds of [`crate::clock`]; 0 without a schedule.
    pub due_ns: u64,
}

/// The payload is not what a publisher of this run sent.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
pub enum PayloadError {
    /// The payload was cut, grown, or belongs to somebody else.
    #[error("a payload has {payload_bytes} bytes, this run sends {expected_bytes}: is the topic shared?")]
    WrongSize {
        /// Bytes received.
        payload_bytes: usize,
        /// Bytes every payload of this run has.
        expected_bytes: usize,
    },
    /// The content does not match the key: at least one bit changed on the way.
    #[error("payload of publisher {publisher}, seq {seq} is corrupt from byte {at_byte}")]
    Corrupt {
        /// Publisher named by the payload, if that part is right.
        publisher: u16,
        /// Seq named by the payload, if that part is right.
        seq: u64,
        /// First byte of the word that differs.
        at_byte: usize,
    },
}

/// Fills `out` with the payload of `stamp`.
///
/// # Panics
///
/// If `out` is shorter than [`PAYLOAD_BYTES_MIN`] or the seq needs more than 48 bits: the caller's bug.
#[inline]
pub fn fill(stamp: Stamp, out: &mut [u8]) {
    assert!(stamp.seq >> SEQ_BITS == 0, "seq {} does not fit 48 bits", stamp.seq);
    let payload_bytes = out.len();
    let who = u64::from(stamp.publisher) << SEQ_BITS | stamp.seq;
    let key = mix(who, stamp.due_ns, payload_bytes);
    let (head, filler) =
        out.split_first_chunk_mut::<PAYLOAD_BYTES_MIN>().expect("a payload is at least PAYLOAD_BYTES_MIN");
    head[..8].copy_from_slice(&who.to_le_bytes());
    head[8..16].copy_from_slice(&stamp.due_ns.to_le_bytes());
    head[16..].copy_from_slice(&key.to_le_bytes());
    let mut word = key;
    let (words, tail) = filler.as_chunks_mut::<8>();
    for chunk in words {
        word = word.wrapping_add(STEP);
        *chunk = word.to_le_bytes();
    }
    // Most sizes have no tail: a call of memcpy for nothing would cost as much as the rest.
    if !tail.is_empty() {
        tail.copy_from_slice(&word.wrapping_add(STEP).to_le_bytes()[..tail.len()]);
    }
}

/// Checks every byte of a payload of a run whose payloads have `expected_bytes`.
///
/// # Errors
///
/// [`PayloadError`]: the payload is not the one that was published.
#[inline]
pub fn check(payload: &[u8], expected_bytes: usize) -> Result<Stamp, PayloadError> {
    let split = payload.split_first_chunk::<PAYLOAD_BYTES_MIN>();
    let Some((head, filler)) = split.filter(|_| payload.len() == expected_bytes) else {
        return Err(PayloadError::WrongSize { payload_bytes: payload.len(), expected_bytes });
    };
    let (words, _) = head.as_chunks::<8>();
    let [who, due_ns, key] = [words[0], words[1], words[2]].map(u64::from_le_bytes);
    let stamp = Stamp { publisher: (who >> SEQ_BITS) as u16, seq: who & ((1 << SEQ_BITS) - 1), due_ns };
    let head_is_right = key == mix(who, due_ns, expected_bytes);
    if head_is_right && filler_is(filler, key) {
        return Ok(stamp);
    }
    Err(corrupt(stamp, if head_is_right { first_wrong(filler, key) } else { 0 }))
}

/// Compares without leaving early, so that the compiler can use wide instructions on large payloads.
#[inline]
fn filler_is(filler: &[u8], key: u64) -> bool {
    let mut word = key;
    let mut difference = 0;
    let (words, tail) = filler.as_chunks::<8>();
    for chunk in words {
        word = word.wrapping_add(STEP);
        difference |= word ^ u64::from_le_bytes(*chunk);
    }
    difference == 0 && (tail.is_empty() || tail == &word.wrapping_add(STEP).to_le_bytes()[..tail.len()])
}

#[cold]
fn first_wrong(filler: &[u8], key: u64) -> usize {
    let right = |index: usize, chunk: &[u8]| {
        let word = key.wrapping_add(STEP.wrapping_mul(index as u64 + 1));
        chunk == &word.to_le_bytes()[..chunk.len()]
    };
    let wrong = filler.chunks(8).enumerate().position(|(index, chunk)| !right(index, chunk));
    PAYLOAD_BYTES_MIN + 8 * wrong.expect("the filler was found to differ")
}

#[cold]
fn corrupt(stamp: Stamp, at_byte: usize) -> PayloadError {
    PayloadError::Corrupt { publisher: stamp.publisher, seq: stamp.seq, at_byte }
}

/// Two folded 64 × 64 → 128 bit products: every input bit reaches every output bit, in about 3 ns.
#[inline]
fn mix(who: u64, due_ns: u64, payload_bytes: usize) -> u64 {
    let size = (payload_bytes as u64).rotate_left(40);
    let first = fold(who ^ STEP, due_ns ^ size ^ 0xe703_7ed1_a0b4_28db);
    fold(first ^ 0x8ebc_6af0_9c88_c6e3, who ^ 0x5899_65cc_7537_4cc3)
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(stamp: Stamp, payload_bytes: usize) -> Vec<u8> {
        let mut payload = vec![0; payload_bytes];
        fill(stamp, &mut payload);
        payload
    }

    const STAMP: Stamp = Stamp { publisher: 7, seq: 1 << 40, due_ns: 123_456_789 };

    #[test]
    fn a_payload_of_any_size_says_what_it_was_stamped_with() {
        for payload_bytes in PAYLOAD_BYTES_MIN..200 {
            assert_eq!(check(&made(STAMP, payload_bytes), payload_bytes), Ok(STAMP), "{payload_bytes} bytes");
        }
    }

    #[test]
    fn every_single_bit_flip_is_found() {
        let mut payload = made(STAMP, 77);
        for bit in 0..payload.len() * 8 {
            payload[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&payload, 77).is_err(), "bit {bit}");
            payload[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(check(&payload, 77), Ok(STAMP));
    }

    #[test]
    fn a_corrupt_filler_names_the_message_and_the_word() {
        let mut payload = made(STAMP, 64);
        payload[42] ^= 1;
        let expected = PayloadError::Corrupt { publisher: 7, seq: 1 << 40, at_byte: 40 };
        assert_eq!(check(&payload, 64), Err(expected));
    }

    #[test]
    fn a_filler_of_another_message_is_found() {
        let mut payload = made(STAMP, 64);
        let other = made(Stamp { seq: STAMP.seq + 1, ..STAMP }, 64);
        payload[24..].copy_from_slice(&other[24..]);
        assert!(check(&payload, 64).is_err());
    }

    #[test]
    fn a_payload_of_another_size_is_refused() {
        let payload = made(STAMP, 64);
        let expected = PayloadError::WrongSize { payload_bytes: 63, expected_bytes: 64 };
        assert_eq!(check(&payload[..63], 64), Err(expected));
        let expected = PayloadError::WrongSize { payload_bytes: 3, expected_bytes: 3 };
        assert_eq!(check(&payload[..3], 3), Err(expected));
    }
}
