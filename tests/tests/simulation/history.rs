//! What publishers and subscribers of one simulation saw, and whether the promises were kept.
//!
//! A promise that was broken is named as in the project's list of promises (I1 to I9, F-a, F-b), with its first
//! witness. Payloads prove themselves: each is made from its publisher and number alone.

use std::collections::{BTreeMap, BTreeSet};

use twinlane::{Delivery, EndReason, GapCause, Missing, Outcome, SubscriptionStats};
use twinlane_tests::Seeded;

/// Everything that was seen, in one order.
#[derive(Debug, Default)]
pub(crate) struct History {
    moments: u64,
    pub(crate) publishes: BTreeMap<(u32, u64), Publish>,
    pub(crate) subscriptions: Vec<Seen>,
    /// Reliable topics as they are at the end: epoch and next offset, by name.
    pub(crate) ends: BTreeMap<String, (u64, u64)>,
    /// Server lives.
    pub(crate) lives: u64,
    pub(crate) reconnects: u64,
}

/// How much happened: a simulation in which nothing does proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Messages whose publisher was told that they are stored.
    pub(crate) stored: u64,
    pub(crate) delivered: u64,
    pub(crate) fast_lost: u64,
    pub(crate) reconnects: u64,
    /// Subscriptions that went on, after a gap, or in a new epoch.
    pub(crate) resumed: u64,
    pub(crate) resumed_after_gap: u64,
    pub(crate) began_anew: u64,
    /// Subscriptions that ended for being slow.
    pub(crate) cut_off: u64,
    /// Times that the server started again.
    pub(crate) restarts: u64,
}

impl std::ops::AddAssign for Activity {
    fn add_assign(&mut self, other: Self) {
        let Self {
            stored,
            delivered,
            fast_lost,
            reconnects,
            resumed,
            resumed_after_gap,
            began_anew,
            cut_off,
            restarts,
        } = other;
        self.stored += stored;
        self.delivered += delivered;
        self.fast_lost += fast_lost;
        self.reconnects += reconnects;
        self.resumed += resumed;
        self.resumed_after_gap += resumed_after_gap;
        self.began_anew += began_anew;
        self.cut_off += cut_off;
        self.restarts += restarts;
    }
}

#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) topic: &'static str,
    pub(crate) began: u64,
    pub(crate) outcome: Told,
    pub(crate) told: u64,
}

/// What the publisher was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Nothing,
    At {
        epoch: u64,
        offset: u64,
    },
    /// Stored or sent, without a place.
    Done,
    Refused,
}

/// What one subscription saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) topic: &'static str,
    pub(crate) fast: bool,
    /// From the first message on: it asked for all, and nothing is forgotten. Otherwise from `opened` on.
    pub(crate) from_first: bool,
    pub(crate) opened: u64,
    pub(crate) heard: Vec<Heard>,
    pub(crate) stats: SubscriptionStats,
    pub(crate) end: Option<EndReason>,
    /// Left before everything was over.
    pub(crate) left: bool,
    /// It was still open when everything was over.
    pub(crate) to_the_end: bool,
}

/// One delivery, as far as it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Message {
        at: Place,
        source: u32,
        seq: u64,
        of: Origin,
    },
    /// A payload that nobody published.
    Damaged {
        at: Place,
    },
    Gap {
        cause: GapCause,
        missing: Missing,
    },
    Resumed(Outcome),
    Other,
}

type Verdict = Result<(), String>;
/// Epoch and offset.
type Place = (u64, u64);
/// Publisher and number.
type Origin = (u32, u64);
/// What is where.
type Places = BTreeMap<Place, Origin>;

impl Heard {
    pub(crate) fn of(delivery: &Delivery) -> Self {
        match delivery {
            Delivery::Message(message) => {
                let at = (message.epoch(), message.offset());
                match proven(message.payload()) {
                    Some(of) => Self::Message { at, source: message.source(), seq: message.seq(), of },
                    None => Self::Damaged { at },
                }
            }
            Delivery::Gap(gap) => Self::Gap { cause: gap.cause, missing: gap.missing },
            Delivery::Resumed { outcome, .. } => Self::Resumed(*outcome),
            _ => Self::Other,
        }
    }
}

impl History {
    pub(crate) fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    pub(crate) fn begin(&mut self, topic: &'static str, publisher: u32, number: u64) {
        let began = self.moment();
        let publish = Publish { topic, began, outcome: Told::Nothing, told: u64::MAX };
        self.publishes.insert((publisher, number), publish);
    }

    pub(crate) fn tell(&mut self, publisher: u32, number: u64, outcome: Told) {
        let told = self.moment();
        let publish = self.publishes.get_mut(&(publisher, number)).expect("it was begun");
        (publish.outcome, publish.told) = (outcome, told);
    }

    pub(crate) fn activity(&self) -> Activity {
        let heard = || self.subscriptions.iter().flat_map(|seen| &seen.heard);
        let resumed = |sought: fn(&Outcome) -> bool| {
            heard().filter(|heard| matches!(heard, Heard::Resumed(outcome) if sought(outcome))).count() as u64
        };
        let stored = |publish: &&Publish| matches!(publish.outcome, Told::At { .. } | Told::Done);
        Activity {
            stored: self.publishes.values().filter(stored).count() as u64,
            delivered: heard().filter(|heard| matches!(heard, Heard::Message { .. })).count() as u64,
            fast_lost: self.subscriptions.iter().map(|seen| seen.stats.lost).sum(),
            reconnects: self.reconnects,
            resumed: resumed(|outcome| *outcome == Outcome::Resumed),
            resumed_after_gap: resumed(|outcome| matches!(outcome, Outcome::Gap(_))),
            began_anew: resumed(|outcome| *outcome == Outcome::Fresh),
            cut_off: self.subscriptions.iter().filter(|seen| seen.end.is_some()).count() as u64,
            restarts: self.lives.saturating_sub(1),
        }
    }

    /// The first promise that was broken, if any.
    pub(crate) fn judge(&self) -> Verdict {
        for topic in self.subscriptions.iter().map(|seen| seen.topic).collect::<BTreeSet<_>>() {
            let seen = || self.subscriptions.iter().filter(move |seen| seen.topic == topic);
            seen().try_for_each(|seen| self.judge_payloads(seen))?;
            if seen().any(|seen| seen.fast) {
                seen().try_for_each(judge_fast)?;
                continue;
            }
            let places = self.places(topic)?;
            self.judge_publishers(&places)?;
            self.judge_real_time(topic)?;
            seen().try_for_each(|seen| self.judge_subscription(seen))?;
            self.judge_kept(topic, &places)?;
        }
        Ok(())
    }

    /// I5, I9.
    fn judge_payloads(&self, seen: &Seen) -> Verdict {
        if let Some(damaged) = seen.heard.iter().find(|heard| matches!(heard, Heard::Damaged { .. })) {
            return Err(format!("I9: on {} {damaged:x?}", seen.topic));
        }
        for (_, (publisher, number)) in messages(seen) {
            match self.publishes.get(&(publisher, number)) {
                Some(publish) if publish.topic == seen.topic && publish.outcome != Told::Refused => {}
                other => return Err(format!("I5: {publisher}/{number} was delivered, but {other:?}")),
            }
        }
        Ok(())
    }

    /// I2, I3, I7.
    fn places(&self, topic: &str) -> Result<Places, String> {
        let mut places = Places::new();
        for seen in self.subscriptions.iter().filter(|seen| seen.topic == topic) {
            for (at, of) in messages(seen) {
                let first = *places.entry(at).or_insert(of);
                if first != of {
                    return Err(format!("I2: {first:?} and {of:?} are both at {at:?}"));
                }
            }
        }
        for (of, publish) in self.publishes.iter().filter(|(_, publish)| publish.topic == topic) {
            let Told::At { epoch, offset } = publish.outcome else { continue };
            let there = *places.entry((epoch, offset)).or_insert(*of);
            if there != *of {
                return Err(format!("I7: {of:?} was told {epoch:x}/{offset}, where {there:?} is"));
            }
        }
        let mut by_message = BTreeMap::new();
        for ((epoch, offset), of) in &places {
            if let Some(other) = by_message.insert((*epoch, *of), *offset) {
                return Err(format!("I3: {of:?} is at {other} and at {offset} of epoch {epoch:x}"));
            }
        }
        Ok(places)
    }

    /// I4.
    fn judge_publishers(&self, places: &Places) -> Verdict {
        let mut last = BTreeMap::new();
        for ((epoch, offset), (publisher, number)) in places {
            let Some(before) = last.insert((*epoch, *publisher), *number) else { continue };
            if *number <= before {
                return Err(format!("I4: {publisher}/{number} at {offset} comes after {publisher}/{before}"));
            }
            for between in before + 1..*number {
                let told = self.publishes.get(&(*publisher, between)).map(|publish| publish.outcome);
                // Told of another epoch, or not at all: it may be elsewhere.
                if matches!(told, Some(Told::At { epoch: of, .. }) if of == *epoch) {
                    return Err(format!("I4: {publisher}/{between} is not between {before} and {number}"));
                }
            }
        }
        Ok(())
    }

    /// I8.
    fn judge_real_time(&self, topic: &str) -> Verdict {
        let mut told: Vec<_> = Vec::new();
        let mut began: Vec<_> = Vec::new();
        for publish in self.publishes.values().filter(|publish| publish.topic == topic) {
            if let Told::At { epoch, offset } = publish.outcome {
                told.push((publish.told, epoch, offset));
                began.push((publish.began, epoch, offset));
            }
        }
        told.sort_unstable();
        began.sort_unstable();
        let (mut highest, mut next) = (BTreeMap::new(), told.iter().peekable());
        for (moment, epoch, offset) in began {
            while let Some((_, epoch, offset)) = next.next_if(|(told, ..)| *told < moment) {
                let high = highest.entry(*epoch).or_insert(*offset);
                *high = (*high).max(*offset);
            }
            if let Some(high) = highest.get(&epoch).filter(|high| offset <= **high) {
                return Err(format!("I8: offset {offset} was given after {high} had been acknowledged"));
            }
        }
        Ok(())
    }

    /// I6, and where a subscription begins (R7).
    fn judge_subscription(&self, seen: &Seen) -> Verdict {
        let mut next = seen.from_first.then_some((None, 0));
        for heard in &seen.heard {
            match *heard {
                Heard::Message { at, .. } => {
                    match next {
                        Some((epoch, offset))
                            if offset != at.1 || epoch.is_some_and(|epoch| epoch != at.0) =>
                        {
                            return Err(format!(
                                "I6: {at:x?} came where {next:x?} was due, on {}",
                                seen.topic
                            ));
                        }
                        None => self.judge_beginning(seen, at)?,
                        Some(_) => {}
                    }
                    next = Some((Some(at.0), at.1 + 1));
                }
                Heard::Gap { cause: GapCause::Retention, missing: Missing::Offsets { from, to } } => {
                    if let Some((_, offset)) = next
                        && offset != from
                    {
                        return Err(format!("I6: a gap from {from} where {next:x?} was due"));
                    }
                    next = Some((next.and_then(|(epoch, _)| epoch), to));
                }
                // Wherever the first epoch was left, the new one is wanted from its beginning.
                Heard::Resumed(Outcome::Fresh) => next = Some((None, 0)),
                Heard::Resumed(_) => {}
                other => return Err(format!("R7: a reliable topic has {other:x?}")),
            }
        }
        let due = self.ends.get(seen.topic).filter(|_| seen.to_the_end);
        match (due, next) {
            (Some((_, 0)), _) | (None, _) => Ok(()),
            (Some((epoch, end)), Some((at, offset)))
                if offset == *end && at.is_none_or(|at| at == *epoch) =>
            {
                Ok(())
            }
            (Some(end), None) if !seen.from_first => self.judge_beginning(seen, *end),
            (Some(end), _) => {
                Err(format!("I1: a subscription of {} ended at {next:x?}, not {end:x?}", seen.topic))
            }
        }
    }

    /// A subscription to what is new has all that began after it was open.
    fn judge_beginning(&self, seen: &Seen, (epoch, first): (u64, u64)) -> Verdict {
        let missed = self.publishes.iter().find(|(_, publish)| {
            let before =
                matches!(publish.outcome, Told::At { epoch: of, offset } if of == epoch && offset < first);
            publish.topic == seen.topic && seen.opened < publish.began && before
        });
        missed.map_or(Ok(()), |missed| {
            Err(format!("R7: opened at {}, began with {first}: {missed:?}", seen.opened))
        })
    }

    /// I1.
    fn judge_kept(&self, topic: &str, places: &Places) -> Verdict {
        let Some((epoch, next)) = self.ends.get(topic) else { return Ok(()) };
        for (of, publish) in self.publishes.iter().filter(|(_, publish)| publish.topic == topic) {
            match publish.outcome {
                Told::At { epoch: at, offset } if at == *epoch && *next <= offset => {
                    return Err(format!("I1: {of:?} was told {offset}, the topic ends at {next}"));
                }
                Told::Done if self.lives == 1 => {
                    let witnessed =
                        self.subscriptions.iter().any(|seen| seen.topic == topic && is_whole(seen));
                    if witnessed && !places.values().any(|there| there == of) {
                        return Err(format!("I1: {of:?} was stored and is nowhere"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// F-a, F-b.
fn judge_fast(seen: &Seen) -> Verdict {
    // By publisher stream: the first seq, and the one that must come next.
    let mut streams = BTreeMap::<u32, (u64, u64)>::new();
    let (mut accounted, mut bodies) = (0, BTreeSet::new());
    for heard in &seen.heard {
        match *heard {
            Heard::Message { at: (epoch, _), source, seq, of } => {
                let (_, due) = streams.entry(source).or_insert((seq, seq));
                if seq != *due {
                    return Err(format!("F-a, F-b: {source}/{seq} came where {due} was due"));
                }
                *due += 1;
                if !bodies.insert((epoch, of)) {
                    return Err(format!("F1: {source}/{seq} came twice"));
                }
            }
            Heard::Gap { missing: Missing::Seqs { source, from, to }, .. } => {
                let (_, due) = streams.entry(source).or_insert((from, from));
                if from != *due || to <= from {
                    return Err(format!("F-b: a gap of {source} from {from} to {to} where {due} was due"));
                }
                *due = to;
            }
            // Too old to be known by publisher.
            Heard::Gap { .. } | Heard::Resumed(Outcome::Resumed | Outcome::Gap(_)) => {}
            Heard::Resumed(Outcome::Fresh) => accounted += seqs(&std::mem::take(&mut streams)),
            Heard::Damaged { .. } | Heard::Other => return Err(format!("an unexpected {heard:?}")),
        }
    }
    accounted += seqs(&streams);
    let SubscriptionStats { delivered, lost, late, expired, coalesced, dropped_slow, no_route, .. } =
        seen.stats;
    let counted = delivered + lost + late + expired + coalesced + dropped_slow + no_route;
    // Who leaves in the middle of a batch has not been handed all that is counted.
    if counted == accounted || !seen.to_the_end && accounted < counted {
        Ok(())
    } else {
        Err(format!("F-b: {accounted} seqs, but {:?}", seen.stats))
    }
}

fn seqs(streams: &BTreeMap<u32, (u64, u64)>) -> u64 {
    streams.values().map(|(first, next)| next - first).sum()
}

/// Whether it saw all that the topic had.
fn is_whole(seen: &Seen) -> bool {
    let gaps = seen.heard.iter().any(|heard| matches!(heard, Heard::Gap { .. }));
    seen.from_first && seen.to_the_end && !gaps
}

fn messages(seen: &Seen) -> impl Iterator<Item = (Place, Origin)> {
    seen.heard.iter().filter_map(|heard| match heard {
        Heard::Message { at, of, .. } => Some((*at, *of)),
        _ => None,
    })
}

/// The payload of message `number` of `publisher`, of 12 to `bytes_max` bytes.
pub(crate) fn payload(publisher: u32, number: u64, bytes_max: u16) -> Vec<u8> {
    let mut random = Seeded::new(u64::from(publisher) << 40 | number);
    let bytes = 14 + random.below(u64::from(bytes_max) - 13) as usize;
    let mut payload = Vec::with_capacity(bytes);
    payload.extend_from_slice(&bytes_max.to_le_bytes());
    payload.extend_from_slice(&publisher.to_le_bytes());
    payload.extend_from_slice(&number.to_le_bytes());
    payload.resize_with(bytes, || random.next_u64() as u8);
    payload
}

/// Publisher and number of a payload in which every byte is as it was published.
fn proven(bytes: &[u8]) -> Option<Origin> {
    let (bytes_max, rest) = bytes.split_first_chunk()?;
    let (publisher, rest) = rest.split_first_chunk()?;
    let (bytes_max, publisher) = (u16::from_le_bytes(*bytes_max), u32::from_le_bytes(*publisher));
    let number = u64::from_le_bytes(*rest.first_chunk()?);
    (bytes_max >= 14 && bytes == payload(publisher, number, bytes_max)).then_some((publisher, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u64 = 7;

    /// A history in which one publisher's messages 1 to `count` are at offsets from 0.
    fn told(count: u64) -> History {
        let mut history = History { lives: 1, ..History::default() };
        for number in 1..=count {
            history.begin("orders", 1, number);
            history.tell(1, number, Told::At { epoch: EPOCH, offset: number - 1 });
        }
        history.ends.insert("orders".to_owned(), (EPOCH, count));
        history
    }

    fn heard(offset: u64, number: u64) -> Heard {
        Heard::Message { at: (EPOCH, offset), source: 1, seq: number, of: (1, number) }
    }

    fn with(mut history: History, heard: Vec<Heard>) -> Verdict {
        let seen = seen("orders", true, heard, SubscriptionStats::default());
        history.subscriptions.push(seen);
        history.judge()
    }

    /// What a subscription heard that was open to the end.
    fn seen(topic: &'static str, from_first: bool, heard: Vec<Heard>, stats: SubscriptionStats) -> Seen {
        let fast = topic == "prices";
        Seen { topic, fast, from_first, opened: 0, heard, stats, end: None, left: true, to_the_end: true }
    }

    fn names(verdict: Verdict, promise: &str) {
        let why = verdict.expect_err("it is broken");
        assert!(why.starts_with(promise), "expected {promise}, got {why}");
    }

    #[test]
    fn a_history_in_which_all_is_well_is_found_so() {
        with(told(3), vec![heard(0, 1), heard(1, 2), heard(2, 3)]).unwrap();
        let gap = Heard::Gap { cause: GapCause::Retention, missing: Missing::Offsets { from: 0, to: 2 } };
        with(told(3), vec![gap, heard(2, 3)]).unwrap();
    }

    #[test]
    fn each_broken_promise_is_named() {
        names(with(told(3), vec![heard(0, 1), heard(1, 2)]), "I1");
        names(with(told(3), vec![heard(0, 1), heard(2, 3)]), "I6");
        names(with(told(3), vec![heard(0, 1), heard(0, 1)]), "I6");
        names(with(told(3), vec![heard(0, 2), heard(1, 1), heard(2, 3)]), "I7");
        names(with(told(3), vec![heard(0, 1), heard(1, 2), heard(2, 3), heard(3, 3)]), "I3");
        names(with(told(1), vec![heard(0, 1), heard(1, 2)]), "I5");
        names(with(told(1), vec![Heard::Damaged { at: (EPOCH, 0) }]), "I9");
        let lost = Heard::Gap { cause: GapCause::Lost, missing: Missing::Offsets { from: 0, to: 2 } };
        names(with(told(3), vec![lost, heard(2, 3)]), "R7");

        let mut disordered = told(0);
        for number in [2, 1] {
            disordered.begin("orders", 1, number);
        }
        disordered.ends.insert("orders".to_owned(), (EPOCH, 2));
        names(with(disordered, vec![heard(0, 2), heard(1, 1)]), "I4");

        let mut late = told(2);
        late.begin("orders", 2, 1);
        late.tell(2, 1, Told::At { epoch: EPOCH, offset: 0 });
        names(with(late, vec![heard(0, 1), heard(1, 2)]), "I7");

        let mut unreal = told(0);
        for (number, offset) in [(1, 1), (2, 0)] {
            unreal.begin("orders", number, 1);
            unreal.tell(number, 1, Told::At { epoch: EPOCH, offset });
        }
        names(with(unreal, Vec::new()), "I8");
    }

    #[test]
    fn a_fast_stream_with_a_hole_that_nobody_told_is_found() {
        let message = |seq| Heard::Message { at: (EPOCH, seq), source: 1, seq, of: (1, seq) };
        let gap =
            |from, to| Heard::Gap { cause: GapCause::Lost, missing: Missing::Seqs { source: 1, from, to } };
        let judge = |heard: Vec<Heard>, delivered, lost| {
            let mut stats = SubscriptionStats::default();
            (stats.delivered, stats.lost) = (delivered, lost);
            judge_fast(&seen("prices", false, heard, stats))
        };
        judge(vec![message(1), gap(2, 4), message(4)], 2, 2).unwrap();
        names(judge(vec![message(1), message(4)], 2, 2), "F-a, F-b");
        names(judge(vec![message(2), message(1)], 2, 0), "F-a, F-b");
        names(judge(vec![message(1), gap(3, 4), message(4)], 2, 1), "F-b");
        names(judge(vec![message(1), gap(2, 4), message(4)], 2, 1), "F-b");
    }
}
