//! Payloads that prove themselves: run, topic, publisher stream, seq and every byte.
//!
//! A payload of 16 bytes and more begins with two little-endian words, `publisher << 48 | seq` and
//! `topic << 48 | run`; filler follows that depends on both and on the length. Shorter ones, down to none, carry
//! the first word as the message's key. The length itself is a function of the identity, so a cut one shows. This
//! guards against mistakes, not against an adversary.

/// Longer payloads there are none, unless asked for.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 10;
/// Payloads of at least this many bytes name their message themselves.
const STAMP_BYTES: usize = 16;
const SEQ_BITS: u32 = 48;
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What makes one message: which of a run's publisher streams, and which of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Number of the publisher stream in this run.
    pub publisher: u16,
    /// Number of the message in its stream, from 1.
    pub seq: u64,
}

impl Identity {
    /// One word that names it: also the key of messages too short to name themselves.
    #[must_use]
    pub fn word(self) -> u64 {
        u64::from(self.publisher) << SEQ_BITS | self.seq
    }

    /// The identity of a word.
    #[must_use]
    pub fn of_word(word: u64) -> Self {
        Self { publisher: (word >> SEQ_BITS) as u16, seq: word & ((1 << SEQ_BITS) - 1) }
    }
}

/// The payloads of one run on one topic.
#[derive(Clone, Copy, Debug)]
pub struct Payloads {
    place: u64,
    bytes_max: usize,
}

impl Payloads {
    /// Of the run with this seed, on this topic.
    #[must_use]
    pub fn new(seed: u64, topic: u16) -> Self {
        let place = u64::from(topic) << SEQ_BITS | mix(seed) >> (64 - SEQ_BITS);
        Self { place, bytes_max: PAYLOAD_BYTES_MAX }
    }

    /// The same with payloads of at most `bytes_max` bytes, if these are enough for a message to name itself.
    #[must_use]
    pub fn of_at_most(self, bytes_max: usize) -> Self {
        Self { bytes_max: bytes_max.max(STAMP_BYTES), ..self }
    }

    /// Whether this message is one of those that are too short to name themselves.
    #[must_use]
    pub fn is_keyed(&self, identity: Identity) -> bool {
        mix(identity.word() ^ self.place).is_multiple_of(61)
    }

    /// Puts the message's payload into `out`, whatever was in it.
    pub fn write(&self, identity: Identity, keyed: bool, out: &mut Vec<u8>) {
        out.clear();
        let bytes = self.bytes(identity, keyed);
        if !keyed {
            out.extend_from_slice(&identity.word().to_le_bytes());
            out.extend_from_slice(&self.place.to_le_bytes());
        }
        let mut word = self.filler(identity, bytes);
        while out.len() < bytes {
            word = word.wrapping_add(STEP);
            let left = (bytes - out.len()).min(8);
            out.extend_from_slice(&(word ^ word >> 29).to_le_bytes()[..left]);
        }
    }

    /// Reads whose message this is and checks every byte.
    ///
    /// # Errors
    ///
    /// What is wrong, in words: with it nothing the payload says can be trusted.
    pub fn read(&self, payload: &[u8], key: Option<u64>) -> Result<Identity, String> {
        let (identity, body) = match (key, payload.split_at_checked(STAMP_BYTES)) {
            (Some(key), _) => (Identity::of_word(key), payload),
            (None, None) => return Err(format!("{} bytes without a key", payload.len())),
            (None, Some((stamp, body))) => {
                let (who, place) = stamp.split_at(8);
                let word =
                    |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
                if word(place) != self.place {
                    return Err(format!("stamped for {:x}, not {:x}", word(place), self.place));
                }
                (Identity::of_word(word(who)), body)
            }
        };
        let bytes = self.bytes(identity, key.is_some());
        if bytes != payload.len() {
            return Err(format!("{identity:?} has {} bytes instead of {bytes}", payload.len()));
        }
        let mut word = self.filler(identity, bytes);
        for (index, chunk) in body.chunks(8).enumerate() {
            word = word.wrapping_add(STEP);
            if chunk != &(word ^ word >> 29).to_le_bytes()[..chunk.len()] {
                return Err(format!(
                    "{identity:?} is wrong at byte {} of {bytes}",
                    payload.len() - body.len() + 8 * index
                ));
            }
        }
        Ok(identity)
    }

    /// Most messages are short, some fill several pages: a log is dense and its records straddle sectors.
    fn bytes(&self, identity: Identity, keyed: bool) -> usize {
        let random = mix(identity.word().wrapping_mul(STEP) ^ self.place);
        let (kind, size) = (random % 100, (random >> 16) as usize);
        let bytes = match (keyed, kind) {
            (true, _) => size % STAMP_BYTES,
            (_, 0..90) => STAMP_BYTES + size % 200,
            (_, 90..99) => STAMP_BYTES + size % 1_000,
            _ => STAMP_BYTES + size % (self.bytes_max - STAMP_BYTES + 1),
        };
        bytes.min(self.bytes_max)
    }

    fn filler(&self, identity: Identity, bytes: usize) -> u64 {
        mix(identity.word() ^ self.place.rotate_left(17) ^ (bytes as u64) << 40)
    }
}

/// Spreads every bit over the word (splitmix64).
#[must_use]
pub fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(STEP);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(payloads: Payloads, identity: Identity, keyed: bool) -> Vec<u8> {
        let mut out = vec![9; 3];
        payloads.write(identity, keyed, &mut out);
        out
    }

    #[test]
    fn a_payload_names_its_message_whatever_its_length() {
        let payloads = Payloads::new(7, 3);
        let mut lengths = std::collections::BTreeSet::new();
        for seq in 1..100_000 {
            let identity = Identity { publisher: 65_535, seq };
            for keyed in [false, true] {
                let payload = written(payloads, identity, keyed);
                lengths.insert(payload.len());
                assert_eq!(payloads.read(&payload, keyed.then(|| identity.word())), Ok(identity));
            }
        }
        assert!(lengths.contains(&0) && *lengths.last().unwrap_or(&0) > PAYLOAD_BYTES_MAX - 50);
    }

    #[test]
    fn no_payload_is_longer_than_asked_for() {
        for bytes_max in [0, 16, 100, 1_024, 65_536] {
            let payloads = Payloads::new(7, 3).of_at_most(bytes_max);
            let longest = (1..20_000).map(|seq| {
                let identity = Identity { publisher: 1, seq };
                let payload = written(payloads, identity, false);
                assert_eq!(payloads.read(&payload, None), Ok(identity));
                payload.len()
            });
            let (longest, bytes_max) = (longest.max().unwrap_or(0), bytes_max.max(STAMP_BYTES));
            assert!(longest <= bytes_max && longest > bytes_max * 9 / 10, "{longest} of {bytes_max}");
        }
    }

    #[test]
    fn any_changed_byte_or_length_is_found() {
        let payloads = Payloads::new(7, 3);
        let identity = Identity { publisher: 1, seq: 77 };
        let good = written(payloads, identity, false);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(payloads.read(&bad, None).is_err(), "byte {at}");
            assert!(payloads.read(&good[..at], None).is_err(), "cut to {at}");
        }
        assert!(payloads.read(&[&good[..], &[0]].concat(), None).is_err());
    }

    #[test]
    fn payloads_of_other_topics_and_runs_are_strangers() {
        let identity = Identity { publisher: 1, seq: 77 };
        let payload = written(Payloads::new(7, 3), identity, false);
        assert!(Payloads::new(8, 3).read(&payload, None).is_err());
        assert!(Payloads::new(7, 4).read(&payload, None).is_err());
    }
}
