//! Events as bytes: a tag and LEB128 numbers; texts and lists begin with their length.

use super::event::{Action, Event, FaultKind, Plan, Settlement};
use super::fast_codec::{read_fast, write_fast};
use crate::payload::Identity;

/// A kept history cannot be read. It was cut, or it is another program's file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The event goes on beyond the bytes there are.
    #[error("the history ends within an event: it was cut; run the checker again")]
    Cut,
    /// A number that means nothing here.
    #[error("{what} {value} is not known: the history is of another version; run the checker again")]
    Bad {
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: u64,
    },
}

/// Appends `event` to `out`.
#[allow(clippy::too_many_lines, reason = "one arm for each event, none with a decision in it")]
pub fn write_event(event: &Event, out: &mut Vec<u8>) {
    let numbers = |out: &mut Vec<u8>, tag: u8, numbers: &[u64]| {
        out.push(tag);
        numbers.iter().for_each(|number| put(*number, out));
    };
    match event {
        Event::Plan(p) => {
            numbers(out, 0, &[p.seed, p.acked_min, p.faults_min, w(p.live), w(p.max_deliver), p.ack_wait_us]);
        }
        Event::Topic { topic, disk, queue } => numbers(out, 1, &[w(*topic), w(*disk), w(*queue)]),
        Event::Stream { publisher, topic } => numbers(out, 2, &[w(*publisher), w(*topic)]),
        Event::Invoke { at_us, publisher, first, count } => {
            numbers(out, 3, &[*at_us, w(*publisher), *first, w(*count)]);
        }
        Event::Ok { at_us, publisher, first, count, last_offset, epoch, disk } => {
            numbers(out, 4, &[*at_us, w(*publisher), *first, w(*count), *last_offset, *epoch, w(*disk)]);
        }
        Event::Refused { at_us, publisher, first, count, code } => {
            numbers(out, 5, &[*at_us, w(*publisher), *first, w(*count), w(*code)]);
        }
        Event::Unknown { at_us, publisher, first, count } => {
            numbers(out, 6, &[*at_us, w(*publisher), *first, w(*count)]);
        }
        Event::Reader { reader, from_start, drains } => {
            numbers(out, 7, &[w(*reader), w(*from_start), w(*drains)]);
        }
        Event::Delivered { at_us, reader, topic, epoch, first_offset, messages } => {
            let count = messages.len() as u64;
            numbers(out, 8, &[*at_us, w(*reader), w(*topic), *epoch, *first_offset, count]);
            for message in messages {
                put(w(message.publisher), out);
                put(message.seq, out);
            }
        }
        Event::Corrupt { at_us, reader, topic, epoch, offset, what } => {
            numbers(out, 9, &[*at_us, w(*reader), w(*topic), *epoch, *offset]);
            put_text(what, out);
        }
        Event::Gap { at_us, reader, topic, from, to, cause } => {
            numbers(out, 10, &[*at_us, w(*reader), w(*topic), *from, *to]);
            put_text(cause, out);
        }
        Event::ReaderEnd { at_us, reader, why } => {
            numbers(out, 11, &[*at_us, w(*reader)]);
            put_text(why, out);
        }
        Event::Drained { at_us, reader, topic, epoch, next } => {
            numbers(out, 12, &[*at_us, w(*reader), w(*topic), *epoch, *next]);
        }
        Event::Recovered { at_us, topic, epoch, oldest, next, first_read } => {
            let first_read = first_read.map_or(0, |offset| offset + 1);
            numbers(out, 13, &[*at_us, w(*topic), *epoch, *oldest, *next, first_read]);
        }
        Event::Fault { at_us, kind, what } => {
            numbers(out, 14, &[*at_us, *kind as u64]);
            put_text(what, out);
        }
        Event::Healed { at_us, kind, effective, lost_bytes } => {
            numbers(out, 15, &[*at_us, *kind as u64, w(*effective), *lost_bytes]);
        }
        Event::Connected { at_us, took_us, ok } => numbers(out, 16, &[*at_us, *took_us, w(*ok)]),
        Event::Crashed { at_us, what } => {
            numbers(out, 17, &[*at_us]);
            put_text(what, out);
        }
        Event::NotStarted { at_us, what } => {
            numbers(out, 24, &[*at_us]);
            put_text(what, out);
        }
        Event::Handed { at_us, topic, member, offset, message, attempt } => {
            numbers(out, 18, &[*at_us, w(*topic), w(*member), *offset, message.word(), w(*attempt)]);
        }
        Event::Settling { at_us, topic, member, offset, attempt, action, delay_us } => {
            let job = [*at_us, w(*topic), w(*member), *offset, w(*attempt), *action as u64, *delay_us];
            numbers(out, 19, &job);
        }
        Event::Settled { at_us, topic, member, offset, attempt, action, answer } => {
            let job = [*at_us, w(*topic), w(*member), *offset, w(*attempt), *action as u64, *answer as u64];
            numbers(out, 20, &job);
        }
        Event::DeadLetter { at_us, topic, offset, message, attempts } => {
            numbers(out, 21, &[*at_us, w(*topic), *offset, message.word(), w(*attempts)]);
        }
        Event::End { at_us } => numbers(out, 22, &[*at_us]),
        Event::Left { at_us, topic, member } => numbers(out, 23, &[*at_us, w(*topic), w(*member)]),
        Event::Fast(event) => {
            out.push(25);
            write_fast(event, out);
        }
    }
}

/// Takes one event off the front of `bytes`.
///
/// # Errors
///
/// [`DecodeError`]; `bytes` is then anywhere.
#[allow(clippy::too_many_lines, reason = "one arm for each event, none with a decision in it")]
pub fn read_event(bytes: &mut &[u8]) -> Result<Event, DecodeError> {
    let from = bytes;
    let tag = *from.split_off_first().ok_or(DecodeError::Cut)?;
    Ok(match tag {
        0 => Event::Plan(Plan {
            seed: number(from)?,
            acked_min: number(from)?,
            faults_min: number(from)?,
            live: number(from)? != 0,
            max_deliver: narrow("a count", from)?,
            ack_wait_us: number(from)?,
        }),
        1 => Event::Topic {
            topic: narrow("topic", from)?,
            disk: number(from)? != 0,
            queue: number(from)? != 0,
        },
        2 => Event::Stream { publisher: narrow("publisher", from)?, topic: narrow("topic", from)? },
        3 => Event::Invoke {
            at_us: number(from)?,
            publisher: narrow("publisher", from)?,
            first: number(from)?,
            count: narrow("a count", from)?,
        },
        4 => Event::Ok {
            at_us: number(from)?,
            publisher: narrow("publisher", from)?,
            first: number(from)?,
            count: narrow("a count", from)?,
            last_offset: number(from)?,
            epoch: number(from)?,
            disk: number(from)? != 0,
        },
        5 => Event::Refused {
            at_us: number(from)?,
            publisher: narrow("publisher", from)?,
            first: number(from)?,
            count: narrow("a count", from)?,
            code: narrow("code", from)?,
        },
        6 => Event::Unknown {
            at_us: number(from)?,
            publisher: narrow("publisher", from)?,
            first: number(from)?,
            count: narrow("a count", from)?,
        },
        7 => Event::Reader {
            reader: narrow("reader", from)?,
            from_start: number(from)? != 0,
            drains: number(from)? != 0,
        },
        8 => Event::Delivered {
            at_us: number(from)?,
            reader: narrow("reader", from)?,
            topic: narrow("topic", from)?,
            epoch: number(from)?,
            first_offset: number(from)?,
            messages: identities(from)?,
        },
        9 => Event::Corrupt {
            at_us: number(from)?,
            reader: narrow("reader", from)?,
            topic: narrow("topic", from)?,
            epoch: number(from)?,
            offset: number(from)?,
            what: text(from)?,
        },
        10 => Event::Gap {
            at_us: number(from)?,
            reader: narrow("reader", from)?,
            topic: narrow("topic", from)?,
            from: number(from)?,
            to: number(from)?,
            cause: text(from)?,
        },
        11 => Event::ReaderEnd { at_us: number(from)?, reader: narrow("reader", from)?, why: text(from)? },
        12 => Event::Drained {
            at_us: number(from)?,
            reader: narrow("reader", from)?,
            topic: narrow("topic", from)?,
            epoch: number(from)?,
            next: number(from)?,
        },
        13 => Event::Recovered {
            at_us: number(from)?,
            topic: narrow("topic", from)?,
            epoch: number(from)?,
            oldest: number(from)?,
            next: number(from)?,
            first_read: number(from)?.checked_sub(1),
        },
        14 => Event::Fault { at_us: number(from)?, kind: fault(from)?, what: text(from)? },
        15 => Event::Healed {
            at_us: number(from)?,
            kind: fault(from)?,
            effective: number(from)? != 0,
            lost_bytes: number(from)?,
        },
        16 => Event::Connected { at_us: number(from)?, took_us: number(from)?, ok: number(from)? != 0 },
        17 => Event::Crashed { at_us: number(from)?, what: text(from)? },
        18..=21 => return queue_event(tag, from),
        22 => Event::End { at_us: number(from)? },
        23 => Event::Left {
            at_us: number(from)?,
            topic: narrow("topic", from)?,
            member: narrow("member", from)?,
        },
        24 => Event::NotStarted { at_us: number(from)?, what: text(from)? },
        25 => Event::Fast(read_fast(from)?),
        other => return Err(DecodeError::Bad { what: "event", value: other.into() }),
    })
}

fn queue_event(tag: u8, from: &mut &[u8]) -> Result<Event, DecodeError> {
    let (at_us, topic) = (number(from)?, narrow("topic", from)?);
    if tag == 21 {
        let (offset, message) = (number(from)?, Identity::of_word(number(from)?));
        return Ok(Event::DeadLetter { at_us, topic, offset, message, attempts: narrow("attempts", from)? });
    }
    let (member, offset) = (narrow("member", from)?, number(from)?);
    if tag == 18 {
        let message = Identity::of_word(number(from)?);
        return Ok(Event::Handed {
            at_us,
            topic,
            member,
            offset,
            message,
            attempt: narrow("attempt", from)?,
        });
    }
    let attempt = narrow("attempt", from)?;
    let action = match number(from)? {
        0 => Action::Ack,
        1 => Action::Nack,
        2 => Action::Extend,
        3 => Action::Dead,
        value => return Err(DecodeError::Bad { what: "action", value }),
    };
    let last = number(from)?;
    if tag == 19 {
        return Ok(Event::Settling { at_us, topic, member, offset, attempt, action, delay_us: last });
    }
    let answer = match last {
        0 => Settlement::Done,
        1 => Settlement::Stale,
        2 => Settlement::Unknown,
        value => return Err(DecodeError::Bad { what: "settlement", value }),
    };
    Ok(Event::Settled { at_us, topic, member, offset, attempt, action, answer })
}

/// A number of any width.
pub(super) fn w(number: impl Into<u64>) -> u64 {
    number.into()
}

pub(super) fn put(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    put(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn number(from: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *from.split_off_first().ok_or(DecodeError::Cut)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(DecodeError::Bad { what: "a number", value: number })
}

pub(super) fn narrow<T: TryFrom<u64>>(what: &'static str, from: &mut &[u8]) -> Result<T, DecodeError> {
    let value = number(from)?;
    T::try_from(value).map_err(|_| DecodeError::Bad { what, value })
}

pub(super) fn text(from: &mut &[u8]) -> Result<String, DecodeError> {
    let bytes = narrow("a length", from)?;
    let text = from.split_off(..bytes).ok_or(DecodeError::Cut)?;
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn fault(from: &mut &[u8]) -> Result<FaultKind, DecodeError> {
    let value = number(from)?;
    let kind = FaultKind::ALL.into_iter().find(|kind| *kind as u64 == value);
    kind.ok_or(DecodeError::Bad { what: "fault", value })
}

fn identities(from: &mut &[u8]) -> Result<Vec<Identity>, DecodeError> {
    let count: usize = narrow("a count", from)?;
    // Each takes two bytes at least, so a wrong count cannot ask for more memory than the file has.
    let mut messages = Vec::with_capacity(count.min(from.len() / 2));
    for _ in 0..count {
        messages.push(Identity { publisher: narrow("publisher", from)?, seq: number(from)? });
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<Event> {
        let (at_us, topic, reader, publisher) = (1 << 40, 3, 500, 40_000);
        let message = Identity { publisher, seq: 1 << 33 };
        let (offset, what, member, attempt) = (9, "é".to_owned(), 7, 2);
        let job =
            |action, delay_us| Event::Settling { at_us, topic, member, offset, attempt, action, delay_us };
        let done = |action, answer| Event::Settled { at_us, topic, member, offset, attempt, action, answer };
        let plan = Plan { seed: u64::MAX, live: true, max_deliver: 5, ..Plan::default() };
        let mut events = vec![
            Event::Plan(plan),
            Event::Topic { topic, disk: true, queue: false },
            Event::Stream { publisher, topic },
            Event::Invoke { at_us, publisher, first: 1, count: 300 },
            Event::Ok { at_us, publisher, first: 1, count: 1, last_offset: 0, epoch: u64::MAX, disk: true },
            Event::Refused { at_us, publisher, first: 1, count: 1, code: 17 },
            Event::Unknown { at_us, publisher, first: 1, count: 1 },
            Event::Reader { reader, from_start: true, drains: false },
            Event::Delivered { at_us, reader, topic, epoch: 5, first_offset: 8, messages: vec![message; 3] },
            Event::Corrupt { at_us, reader, topic, epoch: 5, offset, what: what.clone() },
            Event::Gap { at_us, reader, topic, from: 1, to: 5, cause: what.clone() },
            Event::ReaderEnd { at_us, reader, why: String::new() },
            Event::Drained { at_us, reader, topic, epoch: 5, next: 9 },
            Event::Recovered { at_us, topic, epoch: 5, oldest: 0, next: 9, first_read: Some(0) },
            Event::Recovered { at_us, topic, epoch: 5, oldest: 0, next: 9, first_read: None },
            Event::Connected { at_us, took_us: 3, ok: false },
            Event::Crashed { at_us, what: what.clone() },
            Event::NotStarted { at_us, what: what.clone() },
            Event::Handed { at_us, topic, member, offset, message, attempt },
            Event::DeadLetter { at_us, topic, offset, message, attempts: 5 },
            Event::End { at_us },
            Event::Left { at_us, topic, member },
        ];
        events.extend([Action::Ack, Action::Nack, Action::Extend, Action::Dead].map(|action| job(action, 9)));
        let answers = [Settlement::Done, Settlement::Stale, Settlement::Unknown];
        events.extend(answers.map(|answer| done(Action::Ack, answer)));
        for kind in FaultKind::ALL {
            events.push(Event::Fault { at_us, kind, what: what.clone() });
            events.push(Event::Healed { at_us, kind, effective: true, lost_bytes: 512 });
        }
        events.extend(crate::history::fast_codec::one_of_each().into_iter().map(Event::Fast));
        events
    }

    #[test]
    fn every_event_reads_back_as_it_was_written() {
        for event in one_of_each() {
            let mut bytes = Vec::new();
            write_event(&event, &mut bytes);
            let mut rest = &bytes[..];
            assert_eq!(read_event(&mut rest), Ok(event));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn a_cut_event_is_an_error_and_never_a_panic() {
        for event in one_of_each() {
            let mut bytes = Vec::new();
            write_event(&event, &mut bytes);
            for end in 0..bytes.len() {
                assert!(read_event(&mut &bytes[..end]).is_err(), "{event:?} cut to {end}");
            }
        }
        assert!(matches!(read_event(&mut &[99][..]), Err(DecodeError::Bad { .. })));
    }
}
