//! Watches the order of what one subscription receives from one topic: finds holes, late copies and repeats.
//!
//! On a fast topic the holes are seqs of publisher streams; on a `latest` one what counts is the newest value of each key,
//! whenever it comes. It sees every run once, hands it through untouched when all is regular, and picks it apart otherwise.
//! It neither waits nor reorders. Sums saturate: the numbers come from a server, which may say anything.

mod found;
mod ledger;

use std::collections::VecDeque;
use std::sync::Arc;

use twinlane_proto::GapCause;
use twinlane_proto::frame::{Frames, MessageRef, deadline_us};
use twinlane_proto::numbered::Numbered;

use self::found::Found;
use self::ledger::{Ledger, add};
use crate::fast::{Counts, NewestByKey, is_over, key_of, ticks_us};
use crate::message::{Batch, Gap, Missing, RunBytes, TopicMeta};
use crate::seq_window::{Look, SeqWindow};
use crate::status::SubscriptionStats;

/// Ended streams that are remembered.
const ENDED_MAX: usize = 1_024;
/// Keys of a `latest` topic whose newest value is remembered.
const KEYS_MAX: usize = 65_536;

#[derive(Debug)]
pub(crate) struct Tracker {
    topic: Arc<TopicMeta>,
    /// Reliable: the offset that must come next.
    next_offset: u64,
    /// Fast: the publisher streams seen so far.
    sources: Numbered<SeqWindow>,
    /// Streams with this number or a higher one are known from their beginning.
    next_source: u32,
    /// Streams that ended last, so that a straggler does not begin one again. Bounded.
    ended: VecDeque<u32>,
    /// The cause of holes found from now on, if it is not the ledger's.
    hole_cause: GapCause,
    /// Fast: what is missing.
    ledger: Ledger,
    /// Latest: the newest offset of each key, plus one.
    by_key: NewestByKey,
}

impl Tracker {
    pub(crate) fn new(topic: Arc<TopicMeta>, next_offset: u64, next_source: u32) -> Self {
        Self {
            topic,
            next_offset,
            sources: Numbered::default(),
            next_source,
            ended: VecDeque::new(),
            hole_cause: GapCause::Lost,
            ledger: Ledger::default(),
            by_key: NewestByKey::new(KEYS_MAX),
        }
    }

    pub(crate) fn topic(&self) -> &Arc<TopicMeta> {
        &self.topic
    }

    pub(crate) fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// The same topic on another connection.
    pub(crate) fn rebound(mut self, topic: Arc<TopicMeta>) -> Self {
        self.ledger.begin_connection();
        Self { topic, ..self }
    }

    /// The sender has left out so many messages of a fast topic so far.
    pub(crate) fn left_out(&mut self, told: Counts, stats: &mut SubscriptionStats) {
        self.ledger.told(told, stats);
    }

    /// Something was skipped on purpose, for `cause`: the next hole is due to it.
    /// A reliable topic reports it at once; a fast one with the seqs, when it knows them.
    pub(crate) fn skipped(
        &mut self,
        from: u64,
        to: u64,
        cause: GapCause,
        stats: &mut SubscriptionStats,
    ) -> Option<Batch> {
        if self.topic.is_fast() {
            if cause == GapCause::DroppedSlow {
                self.ledger
                    .explain(Counts { dropped_slow: to.saturating_sub(from), ..Counts::default() }, stats);
            } else {
                self.hole_cause = cause;
            }
            return None;
        }
        let from = from.max(self.next_offset);
        if from >= to {
            return None;
        }
        self.next_offset = to;
        if cause == GapCause::Coalesced {
            // Older values than the last ones were not asked for.
            stats.coalesced += to - from;
            return None;
        }
        let gap = self.gap(cause, Missing::Offsets { from, to });
        count(stats, &gap);
        Some(Batch::gap(Arc::clone(&self.topic), gap))
    }

    /// One run of frames whose first has offset `first`. `None`: nothing in it is for the application.
    pub(crate) fn run(
        &mut self,
        first: u64,
        bytes: RunBytes,
        stats: &mut SubscriptionStats,
    ) -> Option<Batch> {
        let mut found = Found::new(Arc::clone(&self.topic), first);
        if self.topic.is_fast() {
            self.examine_fast(&bytes, &mut found, stats);
        } else {
            self.examine_reliable(first, &bytes, &mut found, stats);
        }
        stats.delivered += found.messages as u64;
        stats.bytes += found.payload_bytes as u64;
        let topic = found.topic;
        match found.entries {
            None if found.messages == 0 => None,
            None => Some(Batch::whole(topic, first, found.messages, bytes)),
            Some(entries) if entries.is_empty() => None,
            Some(entries) => Some(Batch::picked(topic, bytes, entries)),
        }
    }

    /// The publisher stream `source` ended with `last_seq`; what has not come by now will not.
    pub(crate) fn stream_end(
        &mut self,
        source: u32,
        last_seq: u64,
        stats: &mut SubscriptionStats,
    ) -> Option<Batch> {
        let gap = self.end_gap(source, last_seq, stats)?;
        Some(Batch::gap(Arc::clone(&self.topic), gap))
    }

    /// Whether the stream has been seen up to `last_seq`, or never.
    pub(crate) fn is_complete(&self, source: u32, last_seq: u64) -> bool {
        match self.sources.get(&source) {
            Some(window) => window.newest() >= last_seq,
            None => source < self.next_source || self.ended.contains(&source),
        }
    }

    fn examine_reliable(
        &mut self,
        first: u64,
        bytes: &[u8],
        found: &mut Found,
        stats: &mut SubscriptionStats,
    ) {
        if first > self.next_offset {
            let gap = self.gap(GapCause::Lost, Missing::Offsets { from: self.next_offset, to: first });
            count(stats, &gap);
            found.gap(gap, bytes);
        }
        for frame in Frames::new(bytes) {
            if found.offset() < self.next_offset {
                stats.discarded += 1;
                found.skip(bytes);
            } else {
                found.message(&frame);
            }
        }
        self.next_offset = self.next_offset.max(first.saturating_add(found.index as u64));
    }

    fn examine_fast(&mut self, bytes: &[u8], found: &mut Found, stats: &mut SubscriptionStats) {
        let mut now_us = None;
        let mut frames = Frames::new(bytes);
        loop {
            if !self.topic.is_latest() {
                self.take_regular(&mut frames, found, stats);
            }
            let Some(frame) = frames.next() else { break };
            if frame.is_end() {
                let gap = self.end_gap(frame.source(), frame.seq(), stats);
                found.skip(bytes);
                gap.into_iter().for_each(|gap| found.gap(gap, bytes));
                continue;
            }
            let is_expired = is_over(frame.as_bytes(), || *now_us.get_or_insert_with(ticks_us));
            let (is_news, gap) = match self.topic.is_latest() {
                true => (self.take_latest(&frame, found.first, stats), None),
                false => self.take_seq(frame.source(), frame.seq(), stats),
            };
            gap.into_iter().for_each(|gap| found.gap(gap, bytes));
            if is_news && !is_expired {
                found.message(&frame);
                continue;
            }
            stats.expired += u64::from(is_news);
            stats.discarded += u64::from(!is_news);
            found.skip(bytes);
            if is_news && self.topic.is_ordered() {
                let missing =
                    Missing::Seqs { source: frame.source(), from: frame.seq(), to: frame.seq() + 1 };
                found.gap(self.gap(GapCause::Expired, missing), bytes);
            }
        }
        self.hole_cause = GapCause::Lost;
    }

    /// Whether the message is to be handed over, and the hole before it.
    fn take_seq(&mut self, source: u32, seq: u64, stats: &mut SubscriptionStats) -> (bool, Option<Gap>) {
        let unordered = self.topic.is_unordered();
        self.begin(source);
        let Some(window) = self.sources.get_mut(&source) else {
            let is_new = !self.ended.contains(&source);
            if is_new {
                self.sources.insert(source, SeqWindow::starting_at(seq));
            }
            return (is_new, None);
        };
        let newest = window.newest();
        match window.look(seq) {
            Look::Before => (false, None),
            Look::Late if unordered => (true, None),
            Look::Late => {
                self.ledger.late(stats);
                (false, None)
            }
            Look::New { lost } if unordered => {
                self.hole(lost, stats);
                (true, None)
            }
            Look::New { .. } => (true, self.seq_gap(source, newest.saturating_add(1), seq, stats)),
        }
    }

    /// Whether this is the newest value of its key. A value that comes late is as good as one that came in time.
    fn take_latest(&mut self, frame: &MessageRef<'_>, first: u64, stats: &mut SubscriptionStats) -> bool {
        let (source, seq) = (frame.source(), frame.seq());
        let offset = self.topic.offset(first, 0, frame);
        let is_news = self.by_key.take(key_of(frame), offset.saturating_add(1));
        self.begin(source);
        if self.ended.contains(&source) {
            if is_news {
                self.ledger.recovered(stats);
            }
            return is_news;
        }
        let is_first = !self.sources.contains_key(&source);
        let window = self.sources.entry(source).or_insert_with(|| SeqWindow::starting_at(seq));
        let (first, newest) = (window.first(), window.newest());
        let look = window.look(seq);
        // Missing are those between this one and what was known of the stream.
        let holes = match seq {
            _ if seq < first => window.begin_at(seq),
            _ if seq > newest => seq - newest - 1,
            _ => 0,
        };
        let was_missing = !is_first && (first..=newest).contains(&seq);
        self.hole(holes, stats);
        match (is_news, was_missing) {
            (true, true) => self.ledger.recovered(stats),
            (true, false) => {}
            // A newer value of its key was faster.
            (false, true) if look == Look::Late => {
                self.ledger.explain(Counts { coalesced: 1, ..Counts::default() }, stats);
            }
            (false, true) => {}
            (false, false) => stats.coalesced += 1,
        }
        is_news
    }

    /// Takes frames for as long as each is the next one of a stream that is known: one look-up for all of them.
    fn take_regular(&mut self, frames: &mut Frames<'_>, found: &mut Found, stats: &mut SubscriptionStats) {
        let unordered = self.topic.is_unordered();
        let mut rest = *frames;
        let Some(source) = rest.next().map(|frame| frame.source()) else { return };
        let Some(window) = self.sources.get_mut(&source) else { return };
        rest = *frames;
        while let Some(frame) = rest.next() {
            if frame.source() != source
                || frame.is_end()
                || Some(frame.seq()) != window.newest().checked_add(1)
                || deadline_us(frame.as_bytes()).is_some()
            {
                return;
            }
            if let (Look::New { lost: 1.. }, true) = (window.look(frame.seq()), unordered) {
                self.ledger.hole(1, stats);
            }
            found.message(&frame);
            *frames = rest;
        }
    }

    fn end_gap(&mut self, source: u32, last_seq: u64, stats: &mut SubscriptionStats) -> Option<Gap> {
        self.begin(source);
        let mut window = self.sources.remove(&source)?;
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(source);
        if self.topic.is_unordered() {
            let lost = window.finish(last_seq);
            self.hole(lost, stats);
            return None;
        }
        let from = window.newest().saturating_add(1);
        if self.topic.is_latest() {
            // What is missing was replaced by what came, or is still to come.
            self.hole(last_seq.saturating_add(1).saturating_sub(from), stats);
            return None;
        }
        self.seq_gap(source, from, last_seq.saturating_add(1), stats)
    }

    /// The hole `from..to` of a publisher stream, counted; `None`: there is none.
    fn seq_gap(&mut self, source: u32, from: u64, to: u64, stats: &mut SubscriptionStats) -> Option<Gap> {
        (from < to).then(|| {
            let cause = self.hole(to - from, stats);
            self.gap(cause, Missing::Seqs { source, from, to })
        })
    }

    /// Counts missing messages.
    fn hole(&mut self, messages: u64, stats: &mut SubscriptionStats) -> GapCause {
        if self.hole_cause != GapCause::Lost {
            add(stats, self.hole_cause, messages);
            return self.hole_cause;
        }
        self.ledger.hole(messages, stats)
    }

    /// Knows a stream that began after the subscription from its first seq on.
    fn begin(&mut self, source: u32) {
        if source >= self.next_source && !self.sources.contains_key(&source) && !self.ended.contains(&source)
        {
            self.sources.insert(source, SeqWindow::from_beginning());
        }
    }

    fn gap(&self, cause: GapCause, missing: Missing) -> Gap {
        Gap { topic: self.topic.name.clone(), cause, missing }
    }
}

fn count(stats: &mut SubscriptionStats, gap: &Gap) {
    add(stats, gap.cause, gap.count());
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use twinlane_proto::frame::{MessageHeader, Options, encode_end, encode_message_head};
    use twinlane_proto::{Mode, TopicName, TopicSpec};

    use super::*;
    use crate::message::DeliveryRef;

    const TOPIC: u32 = 7;

    fn tracker(spec: TopicSpec) -> Tracker {
        let name = TopicName::parse("t").unwrap();
        Tracker::new(Arc::new(TopicMeta { id: TOPIC, name, epoch: 1, spec }), 0, 1)
    }

    fn run_of(frames: &[(u32, u64)]) -> RunBytes {
        let mut bytes = Vec::new();
        for (source, seq) in frames {
            let header = MessageHeader { topic: TOPIC, source: *source, seq: *seq, time_us: 0 };
            encode_message_head(&header, &Options::default(), 2, &mut bytes).unwrap();
            bytes.extend_from_slice(b"hi");
        }
        RunBytes::Own(Bytes::from(bytes))
    }

    /// What a batch holds: seqs of messages, and gaps as (from, to).
    fn seen(batch: Option<&Batch>) -> (Vec<u64>, Vec<(u64, u64)>) {
        let (mut seqs, mut gaps) = (Vec::new(), Vec::new());
        for delivery in batch.into_iter().flat_map(Batch::iter) {
            match delivery {
                DeliveryRef::Message(message) => seqs.push(message.seq()),
                DeliveryRef::Gap(gap) => match gap.missing {
                    Missing::Seqs { from, to, .. } | Missing::Offsets { from, to } => gaps.push((from, to)),
                },
                DeliveryRef::Resumed { .. } => {}
            }
        }
        (seqs, gaps)
    }

    #[test]
    fn a_hole_is_reported_before_the_message_after_it_and_a_straggler_is_discarded() {
        let (mut tracker, mut stats) = (tracker(TopicSpec::fast()), SubscriptionStats::default());
        let batch = tracker.run(0, run_of(&[(1, 1), (1, 2), (1, 5), (1, 3), (1, 6)]), &mut stats).unwrap();
        let kinds: Vec<_> = batch.iter().map(|delivery| matches!(delivery, DeliveryRef::Gap(_))).collect();
        assert_eq!(kinds, [false, false, true, false, false]);
        assert_eq!(seen(Some(&batch)), (vec![1, 2, 5, 6], vec![(3, 5)]));
        assert_eq!((stats.delivered, stats.lost, stats.late, stats.discarded), (4, 1, 1, 1));
    }

    #[test]
    fn the_loss_of_a_whole_stream_is_counted_when_it_ends_and_only_once() {
        let (mut tracker, mut stats) = (tracker(TopicSpec::fast()), SubscriptionStats::default());
        assert!(!tracker.is_complete(3, 10));
        assert_eq!(seen(tracker.stream_end(3, 10, &mut stats).as_ref()).1, [(1, 11)]);
        assert!(tracker.stream_end(3, 10, &mut stats).is_none());
        assert!(tracker.run(0, run_of(&[(3, 4)]), &mut stats).is_none(), "a straggler begins nothing");
        assert_eq!((stats.delivered, stats.lost), (0, 10));
    }

    #[test]
    fn a_reliable_topic_hands_each_offset_over_once() {
        let (mut tracker, mut stats) = (tracker(TopicSpec::reliable()), SubscriptionStats::default());
        assert_eq!(seen(tracker.run(0, run_of(&[(1, 1), (1, 2), (1, 3)]), &mut stats).as_ref()).0, [1, 2, 3]);
        assert_eq!(
            seen(tracker.run(1, run_of(&[(1, 2), (1, 3), (1, 4)]), &mut stats).as_ref()).0,
            [4],
            "sent again"
        );
        assert_eq!(seen(tracker.run(6, run_of(&[(1, 7)]), &mut stats).as_ref()), (vec![7], vec![(4, 6)]));
        assert_eq!((stats.delivered, stats.lost, stats.discarded), (5, 2, 2));
    }

    #[test]
    fn a_servers_numbers_at_their_edges_are_counted_and_break_nothing() {
        const EDGE: u64 = u64::MAX;
        for spec in [TopicSpec::fast(), TopicSpec::fast().with_mode(Mode::Unordered), TopicSpec::reliable()] {
            let (mut tracker, mut stats) = (tracker(spec), SubscriptionStats::default());
            tracker.run(EDGE, run_of(&[(1, 1), (1, EDGE), (1, EDGE)]), &mut stats);
            tracker.skipped(0, EDGE, GapCause::Retention, &mut stats);
            tracker.skipped(EDGE, 0, GapCause::Lost, &mut stats);
            tracker.stream_end(1, EDGE, &mut stats);
            tracker.stream_end(2, EDGE, &mut stats);
            assert!(stats.delivered >= 1, "{stats:?}");
        }
    }

    #[test]
    fn delivered_and_lost_add_up_to_what_was_sent_whatever_the_network_does() {
        for (seed, mode) in (1..200_u64).flat_map(|seed| [(seed, Mode::Ordered), (seed, Mode::Unordered)]) {
            let mut state = seed;
            let mut below = |n: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % n
            };
            let sent_each = 50 + below(300);
            let mut frames: Vec<_> = (1..=sent_each).flat_map(|seq| [(1, seq), (2, seq), (3, seq)]).collect();
            frames.retain(|_| below(10) > 0);
            for _ in 0..frames.len() / 10 {
                let (at, to) = (below(frames.len() as u64) as usize, below(8) as usize);
                let frame = frames[at];
                frames.insert((at + to).min(frames.len()), frame);
            }
            let (mut tracker, mut stats) =
                (tracker(TopicSpec::fast().with_mode(mode)), SubscriptionStats::default());
            let mut offset = 0;
            for run in frames.chunks(7) {
                let (seqs, _) = seen(tracker.run(offset, run_of(run), &mut stats).as_ref());
                offset += run.len() as u64;
                assert!(seqs.len() <= run.len(), "seed {seed}");
            }
            for source in 1..=3 {
                let header = MessageHeader { topic: TOPIC, source, seq: sent_each, time_us: 0 };
                let end = RunBytes::Own(Bytes::copy_from_slice(&encode_end(&header)));
                tracker.run(offset, end, &mut stats);
                offset += 1;
            }
            assert_eq!(stats.delivered + stats.lost, 3 * sent_each, "seed {seed}, {mode:?}: {stats:?}");
        }
    }

    /// A run of a latest topic: (key, offset, seq) of each frame.
    fn values(frames: &[(u64, u32, u64)]) -> RunBytes {
        let mut bytes = Vec::new();
        for (key, offset, seq) in frames {
            let header = MessageHeader { topic: *offset, source: 1, seq: *seq, time_us: 0 };
            let options = Options { key: Some(*key), ..Options::default() };
            encode_message_head(&header, &options, 2, &mut bytes).unwrap();
            bytes.extend_from_slice(b"hi");
        }
        RunBytes::Own(Bytes::from(bytes))
    }

    #[tokio::test(start_paused = true)]
    async fn messages_that_expired_on_the_way_are_one_gap_before_the_next_one_that_did_not() {
        let (mut tracker, mut stats) = (tracker(TopicSpec::fast()), SubscriptionStats::default());
        let mut run = Vec::new();
        for (seq, left_us) in [(1, 0), (2, 0), (3, 1_000)] {
            let header = MessageHeader { topic: 0, source: 1, seq, time_us: 0 };
            let deadline_us = Some(ticks_us().wrapping_add(left_us));
            let options = Options { deadline_us, ..Options::default() };
            encode_message_head(&header, &options, 0, &mut run).unwrap();
        }
        let batch = tracker.run(0, RunBytes::Own(Bytes::from(run)), &mut stats);
        assert_eq!(seen(batch.as_ref()), (vec![3], vec![(1, 3)]));
        assert_eq!((stats.delivered, stats.expired), (1, 2));
    }

    #[test]
    fn of_a_latest_topic_each_key_goes_forward_and_a_final_value_may_come_late() {
        let spec = TopicSpec::fast().with_mode(Mode::Latest);
        let (mut tracker, mut stats) = (tracker(spec), SubscriptionStats::default());
        let mut take = |frames: &[(u64, u32, u64)]| {
            let batch = tracker.run(frames[0].1.into(), values(frames), &mut stats);
            (seen(batch.as_ref()), stats)
        };
        assert_eq!(take(&[(1, 0, 1), (2, 3, 4)]).0, (vec![1, 4], vec![]), "no gaps: 2 and 3 may come yet");
        let ((seqs, _), stats) = take(&[(3, 2, 3), (2, 3, 4), (1, 0, 1)]);
        assert_eq!((seqs, stats.delivered, stats.lost, stats.discarded), (vec![3], 3, 1, 2));
        let ((seqs, _), stats) = take(&[(2, 1, 2)]);
        assert_eq!((seqs, stats.lost, stats.coalesced), (vec![], 0, 1), "a newer value of key 2 is there");
        assert_eq!(stats.delivered + stats.lost + stats.coalesced, 4);
    }
}
