//! Final values of `latest` topics that may have been lost: when each is sent again (promise F3c).
//!
//! Nothing is kept for a message that is sent as it comes. At every tick it is noted how far each topic has been sent;
//! what was sent some ticks ago and is still the newest of its key is sent again, as often as the path's loss makes it
//! all but certain to arrive. Values that change faster than the ticks cost nothing. Of a topic that is sent out of
//! order, because it comes faster than it can be sent, it is noted what was sent.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Time between two ticks.
const TICK: Duration = Duration::from_millis(50);
/// A value is sent again until it is this many ticks old: 0.7 s, so that the last copy arrives within a second.
const TICKS_MAX: usize = 14;
/// How likely it may be that no copy arrived.
const ALL_LOST_MAX: f64 = 1e-6;
/// Values that are due at the same time; where there are more, the first of them lose one copy.
const DUE_MAX: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Settling {
    topics: HashMap<u32, VecDeque<Tick>>,
    /// Cursors and offsets, the longest due first.
    due: VecDeque<(u32, u64)>,
    tick_at: Option<Instant>,
}

/// What was sent of one topic until a tick.
struct Tick {
    /// Everything before, but what `sent` of later ticks has.
    position: u64,
    /// Since the tick before, out of order.
    sent: Vec<u64>,
}

/// What of a topic was sent when.
pub(super) enum Sent<'a> {
    /// These offsets.
    Offsets(&'a [u64]),
    /// All of this range, and perhaps others of it.
    Range(Range<u64>),
}

impl Settling {
    /// Something of a topic is sent that had been sent up to `position` before: `offsets` if out of order.
    pub(super) fn touch(
        &mut self,
        key: u32,
        now: Instant,
        position: u64,
        offsets: impl Iterator<Item = u64>,
    ) {
        let ticks = self.topics.entry(key).or_insert_with(|| {
            let tick = |position| Tick { position, sent: Vec::new() };
            VecDeque::from([tick(position), tick(position)])
        });
        ticks[0].sent.extend(offsets);
        self.tick_at.get_or_insert(now + TICK);
    }

    pub(super) fn forget(&mut self, key: u32) {
        self.topics.remove(&key);
    }

    /// When to call [`Self::tick`] and send what is due. `None`: nothing has to settle.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.tick_at
    }

    /// Finds what is due if it is time. `sent_through` tells how far a topic has been sent in order, if nothing of it
    /// waits; `newest` which of what was sent are still the newest of their keys. `loss` is the share of packets that
    /// the path loses.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        loss: f64,
        sent_through: impl Fn(u32) -> Option<u64>,
        newest: impl Fn(u32, Sent<'_>) -> Vec<u64>,
    ) {
        if self.tick_at.is_none_or(|at| now < at) {
            return;
        }
        self.tick_at = Some(now + TICK);
        let due = &mut self.due;
        self.topics.retain(|key, ticks| {
            let position = sent_through(*key).unwrap_or(ticks[1].position);
            ticks[0].position = position;
            ticks.push_front(Tick { position, sent: Vec::new() });
            ticks.truncate(TICKS_MAX + 3);
            for age in ages(loss) {
                let (Some(tick), Some(before)) = (ticks.get(age + 1), ticks.get(age + 2)) else { continue };
                if before.position < tick.position {
                    due.extend(
                        newest(*key, Sent::Range(before.position..tick.position))
                            .iter()
                            .map(|at| (*key, *at)),
                    );
                }
                if !tick.sent.is_empty() {
                    due.extend(newest(*key, Sent::Offsets(&tick.sent)).iter().map(|at| (*key, *at)));
                }
            }
            // Nothing new for so long: all of it has settled.
            ticks.iter().any(|tick| tick.position < position || !tick.sent.is_empty())
        });
        due.drain(..due.len().saturating_sub(DUE_MAX));
        if self.topics.is_empty() && self.due.is_empty() {
            self.tick_at = None;
        }
    }

    /// The next value to send again: its cursor and its offset.
    pub(super) fn pop_due(&mut self) -> Option<(u32, u64)> {
        self.due.pop_front()
    }

    /// There was no room for it yet.
    pub(super) fn put_back(&mut self, key: u32, offset: u64) {
        self.due.push_front((key, offset));
    }

    /// What may not have arrived: the cursors with the offsets from which on they should be read again.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = (u32, u64)> {
        self.topics.keys().filter_map(|key| Some((*key, self.unsettled_of(*key)?)))
    }

    /// As [`Self::unsettled`], of one cursor.
    pub(super) fn unsettled_of(&self, key: u32) -> Option<u64> {
        let ticks = self.topics.get(&key)?;
        ticks.iter().flat_map(|tick| tick.sent.iter().chain([&tick.position])).min().copied()
    }
}

/// At which ages, in ticks, a value is sent again.
fn ages(loss: f64) -> impl Iterator<Item = usize> {
    let copies = (ALL_LOST_MAX.ln() / loss.clamp(0.001, 0.9).ln()).ceil() as usize;
    let again = copies.saturating_sub(1).clamp(1, TICKS_MAX);
    (1..=again).map(move |copy| (copy * TICKS_MAX).div_ceil(again).min(TICKS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks at which each value is due.
    fn due_at(settling: &mut Settling, begin: Instant, loss: f64, through: Option<u64>) -> Vec<(u32, u64)> {
        let mut seen = Vec::new();
        for tick in 1..40 {
            let newest = |_, sent: Sent<'_>| match sent {
                Sent::Offsets(offsets) => offsets.to_vec(),
                Sent::Range(range) => range.collect(),
            };
            settling.tick(begin + TICK * tick, loss, |_| through, newest);
            seen.extend(std::iter::from_fn(|| settling.pop_due()).map(|(_, offset)| (tick, offset)));
        }
        seen
    }

    #[test]
    fn a_value_is_sent_again_as_often_as_the_loss_asks_for_within_seven_tenths_of_a_second() {
        let ages_at = |loss: f64| ages(loss).collect::<Vec<_>>();
        assert_eq!(ages_at(0.0), [14], "three nines each time: one more copy");
        assert_eq!(ages_at(0.01), [7, 14]);
        assert_eq!(ages_at(0.3).len(), 11);
        assert!(ages_at(0.9).is_sorted());
    }

    #[test]
    fn what_was_sent_is_due_again_once_for_each_age_and_then_forgotten() {
        let begin = Instant::now();
        let mut settling = Settling::default();
        settling.touch(1, begin, 10, std::iter::empty());
        assert_eq!(due_at(&mut settling, begin, 0.01, Some(12)), [(8, 10), (8, 11), (15, 10), (15, 11)]);
        assert_eq!(settling.next_due(), None, "nothing is left to do");
    }

    #[test]
    fn what_is_sent_out_of_order_while_more_waits_settles_as_well() {
        let begin = Instant::now();
        let mut settling = Settling::default();
        settling.touch(1, begin, 0, [7, 3].into_iter());
        assert_eq!(settling.unsettled().collect::<Vec<_>>(), [(1, 0)]);
        assert_eq!(due_at(&mut settling, begin, 0.01, None), [(8, 7), (8, 3), (15, 7), (15, 3)]);
    }
}
