//! Links as text: what people write on a command line, and back.

use std::{fmt, str::FromStr, time::Duration};

use thiserror::Error;

use crate::link::{Block, Direction, Link, Reorder, Share};

/// How far a packet is held back when `reorder` does not say.
const REORDER_BY: Duration = Duration::from_millis(10);
/// What a time may be at most: a packet that takes longer is not delayed, it is kept.
const TIME_MAX: Duration = Duration::from_secs(60);
/// As long as a burst may be: enough to lose everything for a while, and the chance of its end is still a number.
const BURST_MAX: u32 = 10_000;
/// The smallest packet that IPv4 hosts must let through in one piece.
const MTU_MIN: u32 = 576;

/// A link that is not written as it should be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LinkError {
    /// A part without `=`.
    #[error("{0:?} is not name=value; a link is written as in loss=1%,rtt=20ms,rate=10mbit, or clean")]
    NoValue(String),
    /// A name that there is not.
    #[error(
        "there is no {0:?}; there are loss, burst, rtt, delay, jitter, rate, queue, reorder, duplicate, mtu and block"
    )]
    Unknown(String),
    /// A value that does not fit its name.
    #[error("{name}={value}: give {wanted}")]
    Value {
        /// What it is the value of.
        name: String,
        /// What was written.
        value: String,
        /// What should be.
        wanted: &'static str,
    },
    /// One thing said twice.
    #[error("{0} is given twice for the same direction")]
    Twice(String),
    /// Something that means nothing without something else.
    #[error("{name} means nothing without {needs}: give both")]
    Needs {
        /// What was given.
        name: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// More is lost than bursts of that length leave room for: between two of them at least one packet arrives.
    #[error("loss={loss} takes bursts of at least {burst_min} packets: raise burst or leave it out")]
    BurstTooShort {
        /// What should be lost.
        loss: Share,
        /// Packets of a burst that it takes.
        burst_min: u32,
    },
    /// `rtt` for one direction.
    #[error("rtt is both ways together: for one direction say delay, as in {0}:delay=10ms")]
    OneWayRtt(&'static str),
}

impl FromStr for Link {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let (mut up, mut down) = (Written::default(), Written::default());
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty() && *part != "clean") {
            let (name, value) = part.split_once('=').ok_or_else(|| LinkError::NoValue(part.to_owned()))?;
            let (name, value) = (name.trim(), value.trim());
            match name.split_once(':') {
                None => {
                    up.read(name, value)?;
                    down.read(name, value)?;
                }
                Some(("up", "rtt")) => return Err(LinkError::OneWayRtt("up")),
                Some(("down", "rtt")) => return Err(LinkError::OneWayRtt("down")),
                Some(("up", name)) => up.read(name, value)?,
                Some(("down", name)) => down.read(name, value)?,
                Some(_) => return Err(LinkError::Unknown(name.to_owned())),
            }
        }
        Ok(Self { up: up.checked()?, down: down.checked()? })
    }
}

/// A direction while it is read, and the names that were given.
#[derive(Default)]
struct Written {
    direction: Direction,
    names: Vec<String>,
}

impl Written {
    fn read(&mut self, name: &str, value: &str) -> Result<(), LinkError> {
        // One thing under two names.
        let key = if name == "rtt" { "delay" } else { name };
        if self.names.iter().any(|known| known == key) {
            return Err(LinkError::Twice(name.to_owned()));
        }
        let wrong = |wanted| LinkError::Value { name: name.to_owned(), value: value.to_owned(), wanted };
        let direction = &mut self.direction;
        match name {
            "loss" => direction.loss = share(value).ok_or_else(|| wrong(SHARE))?,
            "duplicate" => direction.duplicate = share(value).ok_or_else(|| wrong(SHARE))?,
            "burst" => direction.burst = count(value, 1, BURST_MAX).ok_or_else(|| wrong(BURST))?,
            "rtt" => direction.delay = time(value).ok_or_else(|| wrong(TIME))? / 2,
            "delay" => direction.delay = time(value).ok_or_else(|| wrong(TIME))?,
            "jitter" => direction.jitter = time(value).ok_or_else(|| wrong(TIME))?,
            "rate" => direction.rate_bits = rate(value).ok_or_else(|| wrong(RATE))?,
            "queue" => direction.queue_bytes = bytes(value).ok_or_else(|| wrong(BYTES))?,
            "reorder" => direction.reorder = reorder(value).ok_or_else(|| wrong(REORDER))?,
            "mtu" => direction.mtu = count(value, MTU_MIN, 1_500).ok_or_else(|| wrong(MTU))?,
            "block" => direction.block = block(value).ok_or_else(|| wrong(BLOCK))?,
            _ => return Err(LinkError::Unknown(name.to_owned())),
        }
        self.names.push(key.to_owned());
        Ok(())
    }

    fn checked(self) -> Result<Direction, LinkError> {
        let direction = self.direction;
        if direction.queue_bytes > 0 && direction.rate_bits == 0 {
            return Err(LinkError::Needs { name: "queue", needs: "rate" });
        }
        if direction.burst > 0 && direction.loss == Share::NONE {
            return Err(LinkError::Needs { name: "burst", needs: "loss" });
        }
        let (lost, kept) = (direction.loss.per_million(), 1_000_000 - direction.loss.per_million());
        let burst_min = lost.div_ceil(kept.max(1));
        if direction.burst > 0 && direction.burst < burst_min {
            return Err(LinkError::BurstTooShort { loss: direction.loss, burst_min });
        }
        Ok(direction)
    }
}

const SHARE: &str = "percent of the packets, 0 to 100, as in 1% or 0.05%";
const BURST: &str = "packets that are lost in a row on average, 1 to 10000";
const TIME: &str = "a time up to a minute in us, ms or s, as in 20ms";
const RATE: &str = "bits per second, as in 500kbit, 10mbit or 1gbit";
const BYTES: &str = "bytes, as in 1500B, 64KiB or 1MiB";
const REORDER: &str = "percent of the packets and how far they are held back, as in 5%/10ms";
const MTU: &str = "bytes of the largest packet with its IP header, 576 to 1500";
const BLOCK: &str = "udp, tcp, all or nothing";

fn number(text: &str) -> Option<f64> {
    let is_plain = !text.is_empty() && text.chars().all(|letter| letter.is_ascii_digit() || letter == '.');
    is_plain.then(|| text.parse().ok())?
}

fn count(text: &str, least: u32, most: u32) -> Option<u32> {
    text.parse().ok().filter(|count| (least..=most).contains(count))
}

fn share(text: &str) -> Option<Share> {
    let percent = number(text.strip_suffix('%')?.trim_end())?;
    (percent <= 100.0).then(|| Share::of_million((percent * 1e4).round() as u32))
}

fn time(text: &str) -> Option<Duration> {
    let (number, micros) = scaled(text, &[("us", 1.0), ("ms", 1e3), ("s", 1e6)])?;
    Some(Duration::from_micros((number * micros).round() as u64)).filter(|time| *time <= TIME_MAX)
}

fn rate(text: &str) -> Option<u64> {
    let (number, bits) = scaled(text, &[("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)])?;
    let bits = number * bits;
    (1e3..=1e11).contains(&bits).then_some(bits.round() as u64)
}

fn bytes(text: &str) -> Option<u64> {
    let (number, bytes) = scaled(text, &[("KiB", 1024.0), ("MiB", 1_048_576.0), ("B", 1.0)])?;
    let bytes = number * bytes;
    (1.0..=1e9).contains(&bytes).then_some(bytes.round() as u64)
}

fn reorder(text: &str) -> Option<Reorder> {
    let (part, by) = match text.split_once('/') {
        Some((part, by)) => (part, time(by).filter(|by| !by.is_zero())?),
        None => (text, REORDER_BY),
    };
    let share = share(part)?;
    // Nothing is held back, however far.
    Some(if share == Share::NONE { Reorder::default() } else { Reorder { share, by } })
}

fn block(text: &str) -> Option<Block> {
    Some(match text {
        "udp" => Block::Udp,
        "tcp" => Block::Tcp,
        "all" => Block::All,
        "nothing" => Block::Nothing,
        _ => return None,
    })
}

/// The number before the first of `units` that `text` ends with, and what the unit stands for.
fn scaled(text: &str, units: &[(&str, f64)]) -> Option<(f64, f64)> {
    units.iter().find_map(|(unit, size)| Some((number(text.strip_suffix(unit)?.trim_end())?, *size)))
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (up, down) = (parts(&self.up), parts(&self.down));
        let mut words = Vec::new();
        if self.up.delay == self.down.delay && !self.up.delay.is_zero() {
            words.push(format!("rtt={}", Time(self.up.delay * 2)));
        }
        for (name, value) in &up {
            match down.iter().any(|other| other == &(*name, value.clone())) {
                true if *name == "delay" => {}
                true => words.push(format!("{name}={value}")),
                false => words.push(format!("up:{name}={value}")),
            }
        }
        for (name, value) in down.iter().filter(|part| !up.contains(part)) {
            words.push(format!("down:{name}={value}"));
        }
        if words.is_empty() { f.write_str("clean") } else { f.write_str(&words.join(",")) }
    }
}

/// Everything that a direction does, as name and value.
fn parts(direction: &Direction) -> Vec<(&'static str, String)> {
    let Direction { loss, burst, delay, jitter, rate_bits, queue_bytes, reorder, duplicate, mtu, block } =
        *direction;
    let time = |time: Duration| Time(time).to_string();
    let all = [
        ("loss", loss != Share::NONE, loss.to_string()),
        ("burst", burst > 0, burst.to_string()),
        ("delay", !delay.is_zero(), time(delay)),
        ("jitter", !jitter.is_zero(), time(jitter)),
        ("rate", rate_bits > 0, Rate(rate_bits).to_string()),
        ("queue", queue_bytes > 0, Bytes(queue_bytes).to_string()),
        ("reorder", reorder.share != Share::NONE, format!("{}/{}", reorder.share, Time(reorder.by))),
        ("duplicate", duplicate != Share::NONE, duplicate.to_string()),
        ("mtu", mtu > 0, mtu.to_string()),
        ("block", block != Block::Nothing, block.to_string()),
    ];
    all.into_iter().filter(|(_, is_given, _)| *is_given).map(|(name, _, value)| (name, value)).collect()
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.per_million()) / 1e4)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::All => "all",
        })
    }
}

struct Time(Duration);
struct Rate(u64);
struct Bytes(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_micros() {
            micros if micros < 1_000 => write!(f, "{micros}us"),
            micros => write!(f, "{}ms", micros as f64 / 1e3),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits < 1_000_000 => write!(f, "{}kbit", bits as f64 / 1e3),
            bits if bits < 1_000_000_000 => write!(f, "{}mbit", bits as f64 / 1e6),
            bits => write!(f, "{}gbit", bits as f64 / 1e9),
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % 1_048_576 == 0 => write!(f, "{}MiB", bytes >> 20),
            bytes if bytes % 1_024 == 0 => write!(f, "{}KiB", bytes >> 10),
            bytes => write!(f, "{bytes}B"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Link {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_link_is_written_as_people_say_it() {
        let link =
            read("loss=1%, rtt=20ms, jitter=2ms, rate=10mbit, queue=64KiB, reorder=50%, duplicate=0.5%");
        let one_way = Direction {
            loss: Share::percent(1),
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(2),
            rate_bits: 10_000_000,
            queue_bytes: 65_536,
            reorder: Reorder { share: Share::percent(50), by: REORDER_BY },
            duplicate: Share::of_million(5_000),
            ..Direction::default()
        };
        assert_eq!(link, Link::both(one_way));
        assert_eq!(link.round_trip(), Duration::from_millis(20));
    }

    #[test]
    fn a_prefix_means_one_direction_only() {
        let link = read("up:loss=2%,down:rate=1mbit,delay=5ms");
        assert_eq!((link.up.loss, link.down.loss), (Share::percent(2), Share::NONE));
        assert_eq!((link.up.rate_bits, link.down.rate_bits), (0, 1_000_000));
        assert_eq!(link.up.delay, link.down.delay);
    }

    #[test]
    fn nothing_and_clean_are_a_link_that_does_nothing() {
        assert_eq!(read(""), Link::default());
        assert_eq!(read("clean"), Link::default());
        assert_eq!(Link::default().to_string(), "clean");
    }

    #[test]
    fn what_is_written_is_read_back_as_the_same_link() {
        for text in [
            "clean",
            "loss=0.05%,rtt=20ms",
            "rtt=0.5ms",
            "rtt=333us,jitter=1.5ms",
            "up:delay=3ms,down:delay=4ms",
            "loss=30%,burst=7,reorder=5%/2.5ms,duplicate=100%",
            "rate=1.5mbit,queue=1501B",
            "up:rate=64kbit,down:rate=2gbit,up:queue=1MiB",
            "mtu=1280,block=udp",
            "up:block=all,down:block=tcp",
            "rtt=60s",
        ] {
            let link = read(text);
            assert_eq!(read(&link.to_string()), link, "{text} became {link}");
        }
        assert_eq!(read("loss=1%,rtt=20ms").to_string(), "rtt=20ms,loss=1%");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_write() {
        for (text, part) in [
            ("loss", "is not name=value"),
            ("lost=1%", "there are loss, burst"),
            ("loss=1", "as in 1%"),
            ("loss=101%", "0 to 100"),
            ("loss=-1%", "0 to 100"),
            ("loss=NaN%", "0 to 100"),
            ("rtt=20", "as in 20ms"),
            ("rtt=20m", "as in 20ms"),
            ("rtt=2000s", "up to a minute"),
            ("rate=10", "10mbit"),
            ("rate=0mbit", "10mbit"),
            ("queue=5KiB", "queue means nothing without rate"),
            ("burst=3", "burst means nothing without loss"),
            ("burst=0,loss=1%", "1 to 10000"),
            ("burst=2,loss=90%", "bursts of at least 9 packets"),
            ("reorder=5%/0ms", "as in 5%/10ms"),
            ("mtu=100", "576 to 1500"),
            ("block=icmp", "udp, tcp, all"),
            ("loss=1%,loss=2%", "given twice"),
            ("rtt=1ms,up:delay=2ms", "given twice"),
            ("up:rtt=1ms", "up:delay=10ms"),
            ("left:loss=1%", "there is no \"left:loss\""),
        ] {
            let said = text.parse::<Link>().expect_err(text).to_string();
            assert!(said.contains(part), "{text}: {said}");
        }
    }

    #[test]
    fn a_queue_that_is_not_given_holds_fifty_milliseconds_of_the_rate() {
        assert_eq!(read("rate=100mbit").up.queue_bytes_max(), 625_000);
        assert_eq!(read("rate=1mbit").up.queue_bytes_max(), 16_384);
        assert_eq!(read("rate=1mbit,queue=3KiB").up.queue_bytes_max(), 3_072);
    }
}
