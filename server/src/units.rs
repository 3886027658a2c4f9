//! The quantities people type and read: sizes, rates, durations, addresses, topic declarations.
//!
//! Parsing is strict about units and says what it would have accepted. It knows nothing of files,
//! flags or the network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use twinlane::{Channel, Last, Mode, Start, TopicName, TopicSpec};
use twinlane_proto::limits::DEADLINE_MAX;

/// The port a server listens on, and a client calls, when none is named.
pub(crate) const DEFAULT_PORT: u16 = 4747;
/// The port that browsers connect to unless told.
pub(crate) const DEFAULT_HTTP_PORT: u16 = 4780;

/// Reads a size in bytes: `4096`, `64KiB`, `8 MiB`, `1 GB` (1024s with an `i`, 1000s without).
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let accepted = || format!("`{text}` is no size: write a whole number and B, KiB, MiB, GiB, kB, MB or GB");
    let text_trimmed = text.trim();
    let digits_end =
        text_trimmed.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text_trimmed.len());
    let (digits, unit) = text_trimmed.split_at(digits_end);
    let count: u64 = digits.replace('_', "").parse().map_err(|_| accepted())?;
    let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(accepted()),
    };
    count.checked_mul(scale).ok_or_else(|| format!("`{text}` is more bytes than a 64-bit number holds"))
}

/// Writes a size the way [`parse_bytes`] reads it: the largest binary unit that loses nothing.
pub(crate) fn exact_bytes(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

/// Reads a rate in messages per second: `100`, `10k`, `2.5k/s`, `30/m`.
pub(crate) fn parse_rate(text: &str) -> Result<f64, String> {
    let refused = || format!("`{text}` is no rate: write messages per second, such as 100, 10k/s or 30/m");
    let (amount, seconds) = match text.trim().split_once('/') {
        None => (text.trim(), 1.0),
        Some((amount, "s")) => (amount, 1.0),
        Some((amount, "m")) => (amount, 60.0),
        Some(_) => return Err(refused()),
    };
    let (digits, scale) = match amount.trim().char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&amount[..at], 1e3),
        Some((at, 'm' | 'M')) => (&amount[..at], 1e6),
        _ => (amount, 1.0),
    };
    let rate = digits.trim().parse::<f64>().map_err(|_| refused())? * scale / seconds;
    // Slower than one message per day is a typing error, and would overflow the schedule's instants.
    let sane = rate.is_finite() && rate >= 1.0 / 86_400.0;
    if sane { Ok(rate) } else { Err(refused()) }
}

/// Reads a duration with its unit: `250ms`, `2s`, `1m 30s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("`{text}` is no duration: write 250ms, 2s or 5m"))
}

/// Reads where to listen: `ADDRESS:PORT`, `ADDRESS`, `:PORT` or `localhost`; port 4747 unless told.
pub(crate) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    address(text, DEFAULT_PORT)
}

/// As [`parse_listen`], with port 4780 unless told.
pub(crate) fn parse_http_listen(text: &str) -> Result<SocketAddr, String> {
    address(text, DEFAULT_HTTP_PORT)
}

fn address(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    let text_trimmed = text.trim();
    if let Ok(addr) = text_trimmed.parse::<SocketAddr>() {
        return Ok(addr);
    }
    if let Ok(ip) = text_trimmed.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, default_port));
    }
    let refused = || {
        format!(
            "`{text}` is no address: write 127.0.0.1:{default_port}, [::1]:{default_port} or 0.0.0.0:{default_port}"
        )
    };
    let (host, port) = text_trimmed.split_once(':').map_or((text_trimmed, None), |(h, p)| (h, Some(p)));
    if !matches!(host, "" | "localhost") {
        return Err(refused());
    }
    // An empty host stays on loopback too: reaching out to the world must be written, not implied.
    let port = port.map_or(Ok(default_port), |p| p.parse().map_err(|_| refused()))?;
    Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))
}

/// Reads where a subscription starts: `new`, `last`, `all`, an offset, or a time as [`start_at`] reads it.
pub(crate) fn parse_start(text: &str) -> Result<Start, String> {
    start_at(text, SystemTime::now())
}

/// [`parse_start`] at `now`: a duration is that long ago, a date and time is UTC.
fn start_at(text: &str, now: SystemTime) -> Result<Start, String> {
    match text {
        "new" => return Ok(Start::New),
        "last" => return Ok(Start::Last),
        "all" => return Ok(Start::All),
        _ => {}
    }
    if let Ok(offset) = text.parse() {
        return Ok(Start::Offset(offset));
    }
    let ago = || Some(now.checked_sub(humantime::parse_duration(text).ok()?).unwrap_or(UNIX_EPOCH));
    let time = humantime::parse_rfc3339_weak(text).ok().or_else(ago).ok_or_else(|| {
        format!(
            "`{text}` is no start: write new, last, all, an offset such as 1200, how long ago as in 10m, \
             or a time as in 2026-11-21T10:00:00Z"
        )
    })?;
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Start::Time(u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)))
}

/// Reads a delivery mode of a fast topic.
pub(crate) fn parse_mode(text: &str) -> Result<Mode, String> {
    match text {
        "ordered" => Ok(Mode::Ordered),
        "latest" => Ok(Mode::Latest),
        "unordered" => Ok(Mode::Unordered),
        _ => Err(format!("`{text}` is no mode: write ordered, latest or unordered")),
    }
}

/// Reads which last values a reliable topic keeps.
pub(crate) fn parse_last(text: &str) -> Result<Last, String> {
    match text {
        "topic" => Ok(Last::Topic),
        "key" => Ok(Last::Key),
        _ => Err(format!("`{text}` is no last value: write topic or key")),
    }
}

/// Reads how long a message may spend in queues. No time at all would mean "without limit", so that is left out instead.
pub(crate) fn parse_deadline(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err(format!("`{text}` is no deadline: leave it out where messages have none")),
        deadline if deadline > DEADLINE_MAX => Err(format!(
            "`{text}` is no deadline: {} is the longest; a reliable topic keeps messages for a time, as in age=2h",
            humantime::format_duration(DEADLINE_MAX)
        )),
        deadline => Ok(deadline),
    }
}

/// Reads a payload limit.
pub(crate) fn parse_payload_bytes(text: &str) -> Result<u32, String> {
    narrow(parse_bytes(text)?)
}

/// Reads how long a topic keeps its messages. No time at all would mean "for ever", so that is left out instead.
pub(crate) fn parse_age(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => {
            Err(format!("`{text}` is no age: leave it out to keep messages however old they are"))
        }
        age => Ok(age),
    }
}

/// Reads `NAME=SPEC`, where SPEC is a channel and options: `prices=fast,latest,deadline=50ms,payload=512`,
/// `orders=durable,retain=10GiB,age=7d,last=key`.
pub(crate) fn parse_topic(text: &str) -> Result<(String, TopicSpec), String> {
    let (name, spec) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` lacks its `=`: write NAME=fast, NAME=reliable or NAME=durable"))?;
    let name = TopicName::parse(name.trim()).map_err(|error| error.to_string())?;
    Ok((name.to_string(), parse_spec(spec)?))
}

fn parse_spec(text: &str) -> Result<TopicSpec, String> {
    let mut words = text.split(',').map(str::trim);
    let mut spec = match words.next() {
        Some("fast") => TopicSpec::fast(),
        Some("reliable") => TopicSpec::reliable(),
        Some("durable") => TopicSpec::durable(),
        other => {
            let other = other.unwrap_or_default();
            return Err(format!("`{other}` is no channel: write fast, reliable or durable"));
        }
    };
    for word in words {
        match word.split_once('=') {
            Some(("payload", size)) => spec.payload_bytes_max = parse_payload_bytes(size)?,
            Some(("retain", size)) => spec.retain_bytes = parse_bytes(size)?,
            Some(("messages", count)) => {
                spec.retain_messages =
                    count.parse().map_err(|_| format!("`{count}` is no number of messages"))?;
            }
            Some(("age", age)) => spec = spec.with_retain_age(parse_age(age)?),
            Some(("deadline", _)) if spec.channel == Channel::Reliable => {
                return Err(format!(
                    "`{word}`: a reliable topic delivers every message, however late: make it fast, or keep its messages \
                     for a time only, as in age=1m"
                ));
            }
            Some(("deadline", deadline)) => spec = spec.with_deadline(parse_deadline(deadline)?),
            Some(("last", _)) if spec.channel == Channel::Fast => {
                return Err(format!(
                    "`{word}`: a fast topic keeps no last values; with `latest` it has the newest of each key at hand"
                ));
            }
            Some(("last", which)) => spec.last = parse_last(which)?,
            Some((other, _)) => {
                return Err(format!(
                    "`{other}` is unknown: write deadline=, payload=, retain=, messages=, age= or last="
                ));
            }
            None if spec.channel == Channel::Reliable => {
                return Err(format!("`{word}`: a reliable topic is always ordered and has no mode"));
            }
            None => spec.mode = parse_mode(word)?,
        }
    }
    Ok(spec)
}

/// A payload limit fits the 32 bits a frame has for its length.
pub(crate) fn narrow(bytes: u64) -> Result<u32, String> {
    u32::try_from(bytes).map_err(|_| format!("a payload of {bytes} bytes is above what a frame can carry"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4_096),
            ("1_000", 1_000),
            ("64KiB", 65_536),
            ("8 MiB", 8 << 20),
            ("1 GB", 1_000_000_000),
            ("2k", 2_048),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5 MiB", "8 apples", "99999999999 GiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_written_size_reads_back_as_itself() {
        for bytes in [0, 1, 1_000, 1_024, 8 << 20, (8 << 20) + 1, 3 << 30, u64::MAX] {
            assert_eq!(parse_bytes(&exact_bytes(bytes)), Ok(bytes));
        }
    }

    #[test]
    fn rates_are_messages_per_second() {
        for (text, rate) in
            [("100", 100.0), ("10k/s", 10_000.0), ("2.5k", 2_500.0), ("30/m", 0.5), ("1M/s", 1e6)]
        {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for text in ["", "0", "-1", "k", "inf", "nan", "5/h", "1e-300"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_without_a_port_gets_4747_and_an_empty_host_stays_on_loopback() {
        for (text, addr) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("0.0.0.0", "0.0.0.0:4747"),
            ("::1", "[::1]:4747"),
            ("[::1]", "[::1]:4747"),
            ("localhost", "127.0.0.1:4747"),
            ("localhost:80", "127.0.0.1:80"),
            (":5000", "127.0.0.1:5000"),
        ] {
            assert_eq!(parse_listen(text).unwrap().to_string(), addr);
        }
        for text in ["example.org:80", "127.0.0.1:99999", "localhost:x"] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_topic_declaration_carries_channel_mode_and_limits() {
        let (name, spec) = parse_topic("prices/eur=fast,latest,payload=512,retain=1MiB,messages=9").unwrap();
        assert_eq!(name, "prices/eur");
        assert_eq!((spec.channel, spec.mode), (Channel::Fast, Mode::Latest));
        assert_eq!((spec.payload_bytes_max, spec.retain_bytes, spec.retain_messages), (512, 1 << 20, 9));
        for text in [
            "prices",
            "a=slow",
            "a=",
            "a=reliable,latest",
            "a=fast,colour=red",
            "a//b=fast",
            "a=fast,payload=8GiB",
            "a=fast,last=key",
            "a=durable,latest",
            "a=durable,last=all",
            "a=durable,age=0s",
            "a=durable,age=7",
        ] {
            assert!(parse_topic(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_fast_topic_may_have_a_deadline_and_a_reliable_one_is_told_what_to_do_instead() {
        let (_, spec) = parse_topic("positions=fast,latest,deadline=50ms").unwrap();
        let expected = TopicSpec::fast().with_mode(Mode::Latest);
        assert_eq!(spec, expected.with_deadline(Duration::from_millis(50)));
        for text in ["a=reliable,deadline=50ms", "a=durable,deadline=1s"] {
            let refused = parse_topic(text).unwrap_err();
            assert!(refused.contains("make it fast") && refused.contains("age=1m"), "{refused}");
        }
        for (text, words) in
            [("a=fast,deadline=0s", "leave it out"), ("a=fast,deadline=31m", "30m is the longest")]
        {
            let refused = parse_topic(text).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn a_durable_topic_is_a_reliable_one_on_disk() {
        let (_, spec) = parse_topic("orders=durable,retain=10GiB,age=7d,last=key").unwrap();
        let expected = TopicSpec::durable()
            .with_retain_bytes(10 << 30)
            .with_retain_age(Duration::from_secs(7 * 86_400))
            .with_last(Last::Key);
        assert_eq!(spec, expected);
        assert_eq!(
            parse_topic("a=reliable,last=topic").unwrap().1,
            TopicSpec::reliable().with_last(Last::Topic)
        );
    }

    #[test]
    fn a_start_is_a_word_an_offset_a_time_or_how_long_ago() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let start = |text| start_at(text, now);
        assert_eq!(start("all"), Ok(Start::All));
        assert_eq!(start("12"), Ok(Start::Offset(12)));
        assert_eq!(start("10m"), Ok(Start::Time(400_000_000)));
        assert_eq!(start("1m 30s"), Ok(Start::Time(910_000_000)));
        assert_eq!(start("2years"), Ok(Start::Time(0)), "before time began is the beginning");
        for text in ["1970-01-02T00:00:01Z", "1970-01-02T00:00:01", "1970-01-02 00:00:01"] {
            assert_eq!(start(text), Ok(Start::Time(86_401_000_000)), "{text}");
        }
        for text in ["-1", "begin", "", "10 apples", "2026-13-01T00:00:00Z"] {
            assert!(start(text).is_err(), "{text}");
        }
    }
}
