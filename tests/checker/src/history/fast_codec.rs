//! Events of fast topics as bytes, in the way of the others.

use super::codec::{DecodeError, narrow, number, put, put_text, text, w};
use super::fast::{Arrived, FastEvent, FastMode, FastPlan, FastStats, LinkCounts};

/// Appends `event` to `out`.
#[allow(clippy::too_many_lines, reason = "one arm for each event, none with a decision in it")]
pub(super) fn write_fast(event: &FastEvent, out: &mut Vec<u8>) {
    let numbers = |out: &mut Vec<u8>, tag: u8, numbers: &[u64]| {
        out.push(tag);
        numbers.iter().for_each(|number| put(*number, out));
    };
    match event {
        FastEvent::Plan(p) => {
            let faults = [w(p.lose_permille), w(p.repeat_permille), w(p.delay_permille), w(p.switches)];
            numbers(out, 0, &[p.seed, p.delivered_min, p.judged_min]);
            faults.into_iter().for_each(|fault| put(fault, out));
        }
        FastEvent::Client { client, udp, link_us } => numbers(out, 1, &[w(*client), w(*udp), *link_us]),
        FastEvent::Topic { topic, mode } => numbers(out, 2, &[w(*topic), *mode as u64]),
        FastEvent::Publisher { publisher, topic, client, opening_us, opened_us } => {
            numbers(out, 3, &[w(*publisher), w(*topic), w(*client), *opening_us, *opened_us]);
        }
        FastEvent::Published { publisher, seq, before_us, after_us, key, deadline_us } => {
            let took_us = after_us.saturating_sub(*before_us);
            numbers(out, 4, &[w(*publisher), *seq, *before_us, took_us, *deadline_us]);
            put_key(*key, out);
        }
        FastEvent::Closed { publisher, at_us, published, refused, why } => {
            numbers(out, 5, &[w(*publisher), *at_us, *published, *refused]);
            put_text(why, out);
        }
        FastEvent::Reader { reader, topic, client, opening_us, opened_us, prompt } => {
            numbers(out, 6, &[w(*reader), w(*topic), w(*client), *opening_us, *opened_us, w(*prompt)]);
        }
        FastEvent::Delivered { reader, polled_us, at_us, messages } => {
            numbers(out, 7, &[w(*reader), *polled_us, *at_us, messages.len() as u64]);
            for message in messages {
                put(w(message.source), out);
                put(message.seq, out);
                put(w(message.publisher), out);
                put(message.number, out);
                put_key(message.key, out);
            }
        }
        FastEvent::Corrupt { reader, at_us, source, seq, what } => {
            numbers(out, 8, &[w(*reader), *at_us, w(*source), *seq]);
            put_text(what, out);
        }
        FastEvent::Gap { reader, at_us, source, from, to, cause } => {
            numbers(out, 9, &[w(*reader), *at_us, w(*source), *from, *to]);
            put_text(cause, out);
        }
        FastEvent::ReaderEnd { reader, at_us, stats, why } => {
            numbers(out, 10, &[w(*reader), *at_us]);
            stats_numbers(stats).into_iter().for_each(|number| put(number, out));
            put_text(why, out);
        }
        FastEvent::Moved { client, at_us, to_udp, why } => {
            numbers(out, 11, &[w(*client), *at_us, w(*to_udp)]);
            put_text(why, out);
        }
        FastEvent::Disconnected { client, at_us, why } => {
            numbers(out, 12, &[w(*client), *at_us]);
            put_text(why, out);
        }
        FastEvent::Blocked { client, from_us, to_us } => {
            numbers(out, 13, &[w(*client), *from_us, *to_us]);
        }
        FastEvent::Link { client, counts: c } => {
            let counts = [c.datagrams, c.lost, c.repeated, c.delayed, c.overtaken, c.blocked];
            numbers(out, 14, &[w(*client)]);
            counts.into_iter().for_each(|count| put(count, out));
        }
        FastEvent::Waited { from_us, to_us, waited_us } => {
            numbers(out, 15, &[*from_us, *to_us, *waited_us]);
        }
        FastEvent::End { at_us } => numbers(out, 16, &[*at_us]),
    }
}

/// Takes one event off the front of `from`.
#[allow(clippy::too_many_lines, reason = "one arm for each event, none with a decision in it")]
pub(super) fn read_fast(from: &mut &[u8]) -> Result<FastEvent, DecodeError> {
    let tag = *from.split_off_first().ok_or(DecodeError::Cut)?;
    Ok(match tag {
        0 => FastEvent::Plan(FastPlan {
            seed: number(from)?,
            delivered_min: number(from)?,
            judged_min: number(from)?,
            lose_permille: narrow("a share", from)?,
            repeat_permille: narrow("a share", from)?,
            delay_permille: narrow("a share", from)?,
            switches: number(from)? != 0,
        }),
        1 => FastEvent::Client {
            client: narrow("client", from)?,
            udp: number(from)? != 0,
            link_us: number(from)?,
        },
        2 => FastEvent::Topic { topic: narrow("topic", from)?, mode: mode(from)? },
        3 => FastEvent::Publisher {
            publisher: narrow("publisher", from)?,
            topic: narrow("topic", from)?,
            client: narrow("client", from)?,
            opening_us: number(from)?,
            opened_us: number(from)?,
        },
        4 => {
            let (publisher, seq, before_us) = (narrow("publisher", from)?, number(from)?, number(from)?);
            let after_us = before_us.saturating_add(number(from)?);
            let (deadline_us, key) = (number(from)?, key(from)?);
            FastEvent::Published { publisher, seq, before_us, after_us, key, deadline_us }
        }
        5 => FastEvent::Closed {
            publisher: narrow("publisher", from)?,
            at_us: number(from)?,
            published: number(from)?,
            refused: number(from)?,
            why: text(from)?,
        },
        6 => FastEvent::Reader {
            reader: narrow("reader", from)?,
            topic: narrow("topic", from)?,
            client: narrow("client", from)?,
            opening_us: number(from)?,
            opened_us: number(from)?,
            prompt: number(from)? != 0,
        },
        7 => FastEvent::Delivered {
            reader: narrow("reader", from)?,
            polled_us: number(from)?,
            at_us: number(from)?,
            messages: arrivals(from)?,
        },
        8 => FastEvent::Corrupt {
            reader: narrow("reader", from)?,
            at_us: number(from)?,
            source: narrow("source", from)?,
            seq: number(from)?,
            what: text(from)?,
        },
        9 => FastEvent::Gap {
            reader: narrow("reader", from)?,
            at_us: number(from)?,
            source: narrow("source", from)?,
            from: number(from)?,
            to: number(from)?,
            cause: text(from)?,
        },
        10 => FastEvent::ReaderEnd {
            reader: narrow("reader", from)?,
            at_us: number(from)?,
            stats: stats(from)?,
            why: text(from)?,
        },
        11 => FastEvent::Moved {
            client: narrow("client", from)?,
            at_us: number(from)?,
            to_udp: number(from)? != 0,
            why: text(from)?,
        },
        12 => FastEvent::Disconnected {
            client: narrow("client", from)?,
            at_us: number(from)?,
            why: text(from)?,
        },
        13 => FastEvent::Blocked {
            client: narrow("client", from)?,
            from_us: number(from)?,
            to_us: number(from)?,
        },
        14 => FastEvent::Link { client: narrow("client", from)?, counts: link_counts(from)? },
        15 => FastEvent::Waited { from_us: number(from)?, to_us: number(from)?, waited_us: number(from)? },
        16 => FastEvent::End { at_us: number(from)? },
        other => return Err(DecodeError::Bad { what: "event of a fast topic", value: other.into() }),
    })
}

fn put_key(key: Option<u64>, out: &mut Vec<u8>) {
    out.push(key.is_some().into());
    if let Some(key) = key {
        put(key, out);
    }
}

fn key(from: &mut &[u8]) -> Result<Option<u64>, DecodeError> {
    match *from.split_off_first().ok_or(DecodeError::Cut)? {
        0 => Ok(None),
        _ => Ok(Some(number(from)?)),
    }
}

fn mode(from: &mut &[u8]) -> Result<FastMode, DecodeError> {
    let value = number(from)?;
    let mode = FastMode::ALL.into_iter().find(|mode| *mode as u64 == value);
    mode.ok_or(DecodeError::Bad { what: "mode", value })
}

fn arrivals(from: &mut &[u8]) -> Result<Vec<Arrived>, DecodeError> {
    let count: usize = narrow("a count", from)?;
    // Each takes five bytes at least, so a wrong count cannot ask for more memory than the file has.
    let mut messages = Vec::with_capacity(count.min(from.len() / 5));
    for _ in 0..count {
        messages.push(Arrived {
            source: narrow("source", from)?,
            seq: number(from)?,
            publisher: narrow("publisher", from)?,
            number: number(from)?,
            key: key(from)?,
        });
    }
    Ok(messages)
}

fn stats_numbers(s: &FastStats) -> [u64; 9] {
    let FastStats { delivered, lost, late, expired, coalesced, .. } = *s;
    let FastStats { dropped_slow, no_route, not_retained, discarded, .. } = *s;
    [delivered, lost, late, expired, coalesced, dropped_slow, no_route, not_retained, discarded]
}

fn stats(from: &mut &[u8]) -> Result<FastStats, DecodeError> {
    Ok(FastStats {
        delivered: number(from)?,
        lost: number(from)?,
        late: number(from)?,
        expired: number(from)?,
        coalesced: number(from)?,
        dropped_slow: number(from)?,
        no_route: number(from)?,
        not_retained: number(from)?,
        discarded: number(from)?,
    })
}

fn link_counts(from: &mut &[u8]) -> Result<LinkCounts, DecodeError> {
    Ok(LinkCounts {
        datagrams: number(from)?,
        lost: number(from)?,
        repeated: number(from)?,
        delayed: number(from)?,
        overtaken: number(from)?,
        blocked: number(from)?,
    })
}

/// One of each, for the tests of the way it is written.
#[cfg(test)]
pub(super) fn one_of_each() -> Vec<FastEvent> {
    let (client, reader, publisher, topic, at_us, source) = (3, 500, 40_000, 7, 1 << 40, u32::MAX);
    let (opening_us, opened_us, why) = (1, 2, "é".to_owned());
    let arrived = |key| Arrived { source, seq: 9, publisher, number: 10, key };
    let stats = FastStats { delivered: 1, lost: 2, late: 3, expired: 4, coalesced: 5, ..Default::default() };
    let counts = LinkCounts { datagrams: 300, lost: 200, blocked: 1, ..Default::default() };
    let plan = FastPlan { seed: u64::MAX, lose_permille: 300, switches: true, ..Default::default() };
    let published = |key| FastEvent::Published {
        publisher,
        seq: 1,
        before_us: at_us,
        after_us: at_us + 7,
        key,
        deadline_us: 50_000,
    };
    vec![
        FastEvent::Plan(plan),
        FastEvent::Client { client, udp: true, link_us: 12_000 },
        FastEvent::Topic { topic, mode: FastMode::Unordered },
        FastEvent::Publisher { publisher, topic, client, opening_us, opened_us },
        published(Some(u64::MAX)),
        published(None),
        FastEvent::Closed { publisher, at_us, published: 5, refused: 1, why: why.clone() },
        FastEvent::Reader { reader, topic, client, opening_us, opened_us, prompt: true },
        FastEvent::Delivered {
            reader,
            polled_us: at_us,
            at_us,
            messages: vec![arrived(None), arrived(Some(0))],
        },
        FastEvent::Corrupt { reader, at_us, source, seq: 1, what: why.clone() },
        FastEvent::Gap { reader, at_us, source, from: 1, to: 5, cause: why.clone() },
        FastEvent::ReaderEnd { reader, at_us, stats, why: why.clone() },
        FastEvent::Moved { client, at_us, to_udp: true, why: why.clone() },
        FastEvent::Disconnected { client, at_us, why },
        FastEvent::Blocked { client, from_us: 1, to_us: 2 },
        FastEvent::Link { client, counts },
        FastEvent::Waited { from_us: 1, to_us: 2, waited_us: 3 },
        FastEvent::End { at_us },
    ]
}
