//! The heads of one publisher's frames: header, time stamp and options, encoded into memory that is used again.
//!
//! Reading the clock costs several times what storing a small message does (35 ns against 9 ns), so the messages of
//! a burst share a reading. A message on its own, for which somebody waits, is stamped exactly.

use std::time::{SystemTime, UNIX_EPOCH};

use twinlane_proto::frame::{
    FrameError, Headers, MESSAGE_HEADER_BYTES, MessageHeader, Options, encode_headers, encode_message_head,
    encode_plain_head,
};

use crate::fast::expiry;
use crate::publisher::MessageOptions;

/// Messages that share one reading of the clock at most.
const READING_USES_MAX: u32 = 64;

/// Encodes one head after the other.
#[derive(Debug)]
pub(crate) struct Heads {
    plain: [u8; MESSAGE_HEADER_BYTES],
    /// Instead of `plain` if not empty: a head with options.
    optioned: Vec<u8>,
    clock: BurstClock,
}

impl Heads {
    pub(crate) fn new() -> Self {
        let plain = [0; MESSAGE_HEADER_BYTES];
        Self { plain, optioned: Vec::new(), clock: BurstClock::default() }
    }

    /// The head encoded last.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.optioned.is_empty() { &self.plain } else { &self.optioned }
    }

    /// Encodes the head of message `seq`. `is_awaited`: somebody sleeps until it comes.
    #[inline]
    pub(crate) fn encode(
        &mut self,
        (topic, source, seq): (u32, u32, u64),
        options: &MessageOptions<'_>,
        payload_bytes: usize,
        is_awaited: bool,
    ) -> Result<(), FrameError> {
        let header = MessageHeader {
            topic,
            source,
            seq,
            time_us: self.clock.now_us(is_awaited || options.delay.is_some()),
        };
        self.optioned.clear();
        if options.is_none() {
            return encode_plain_head(&header, payload_bytes, &mut self.plain);
        }
        self.encode_options(&header, options, payload_bytes)
    }

    fn encode_options(
        &mut self,
        header: &MessageHeader,
        options: &MessageOptions<'_>,
        payload_bytes: usize,
    ) -> Result<(), FrameError> {
        let MessageOptions { key, headers, delay, deadline, reply_to, correlation } = *options;
        let encoded = if headers.is_empty() { None } else { Some(encode_headers(headers)?) };
        let headers = encoded.as_deref().map(Headers::parse).transpose()?;
        // The engine that stores the message makes it a time.
        let due_us = delay.map(|delay| u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
        let deadline_us = deadline.map(expiry);
        let options =
            Options { deadline_us, key, reply_to, correlation, due_us, headers, ..Options::default() };
        encode_message_head(header, &options, payload_bytes, &mut self.optioned)
    }
}

/// The time of day in microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// The time of day, read at most once per burst and kernel tick (1 to 10 ms).
#[derive(Debug, Default)]
struct BurstClock {
    read_us: u64,
    /// The kernel's tick at that reading; `None` where the system tells none.
    tick: Option<(i64, i64)>,
    uses: u32,
}

impl BurstClock {
    #[inline]
    fn now_us(&mut self, is_awaited: bool) -> u64 {
        if is_awaited || self.uses >= READING_USES_MAX || tick() != self.tick || self.tick.is_none() {
            self.read();
        }
        self.uses += 1;
        self.read_us
    }

    fn read(&mut self) {
        // The tick first: a reading may be newer than its tick, never older.
        self.tick = tick();
        self.read_us = now_us();
        self.uses = 0;
    }
}

/// The time of day as the kernel noted it at its last tick: a tenth of what reading the clock costs.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
fn tick() -> Option<(i64, i64)> {
    let noted = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Some((noted.tv_sec, noted.tv_nsec))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn tick() -> Option<(i64, i64)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_somebody_waits_for_is_stamped_exactly() {
        let mut clock = BurstClock::default();
        for _ in 0..1_000 {
            let before = now_us();
            let stamp = clock.now_us(true);
            assert!((before..=now_us()).contains(&stamp), "{stamp} is not of this moment");
        }
    }

    #[test]
    fn the_messages_of_a_burst_share_few_readings_and_never_go_back() {
        let mut clock = BurstClock::default();
        let stamps: Vec<u64> = (0..10_000).map(|_| clock.now_us(false)).collect();
        assert!(stamps.is_sorted());
        let before = *stamps.last().unwrap();
        let mut distinct = stamps;
        distinct.dedup();
        assert!(distinct.len() <= 10_000 / READING_USES_MAX as usize + 100, "{} readings", distinct.len());
        assert!(before <= now_us());
    }

    #[test]
    fn a_message_after_a_pause_has_a_stamp_of_its_own_even_if_nobody_waits() {
        let mut clock = BurstClock::default();
        clock.now_us(false);
        let noted = tick();
        // Until the kernel notes another tick.
        while tick().is_some() && tick() == noted {
            std::hint::spin_loop();
        }
        let before = now_us();
        assert!(clock.now_us(false) >= before);
    }
}
