//! From arguments to a checked [`Plan`]: contradictions are refused here, each with what to change.

use std::{fs, net::IpAddr, time::Duration};

use anyhow::{Context as _, bail, ensure};
use rustix::thread::CpuSet;

use crate::{
    cli::RunArgs,
    machine,
    payload::{PAYLOAD_BYTES_MIN, STREAMS_MAX},
    plan::{ChannelKind, Embedded, Plan, TransportKind, Workload},
    stage::Access,
};

/// Messages per second of an open loop when --rate is not given.
const OPEN_LOOP_RATE: u64 = 10_000;

/// Subscribers of `fanout` when --subscribers is not given.
const FANOUT_SUBSCRIBERS: usize = 100;

/// Connections of `connections` when --subscribers is not given.
const CONNECTIONS: usize = 1_000;

/// Unacknowledged messages of a publisher of `durable` when --window is not given.
const UNACKED: u64 = 1_024;

/// The same while `replay` fills its log: as fast as it can.
const UNACKED_FILLING: u64 = 16_384;

/// What `replay` writes when --fill is not given.
const FILL_BYTES: u64 = 1 << 30;

/// As many topics as a subscription by wildcard is meant for.
const TOPICS_MAX: usize = 10_000;

/// Threads of any kind.
const THREADS_MAX: usize = 256;

/// Descriptors that are not connections: runtimes, logs, listeners.
const OPEN_FILES_RESERVED: u64 = 64;

impl RunArgs {
    /// Checks the arguments against each other.
    ///
    /// # Errors
    ///
    /// The first contradiction, with what to change.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let channel = self.channel();
        let transport = self.transport.unwrap_or(match channel {
            ChannelKind::Fast => TransportKind::Quic,
            ChannelKind::Reliable => TransportKind::Tcp,
            ChannelKind::Both => TransportKind::Both,
        });
        let workload = self.workload;
        let open_loop = matches!(workload, Workload::Latency | Workload::Mixed);
        let on_disk = matches!(workload, Workload::Durable | Workload::Replay);
        let plan = Plan {
            workload,
            channel,
            transport,
            encrypted: !self.plain && transport != TransportKind::Local,
            payload_bytes: self.size.unwrap_or(if on_disk { 256 } else { 64 }),
            publishers: self.publishers.unwrap_or((workload != Workload::Connections).into()),
            subscribers: self.subscribers.unwrap_or(match workload {
                Workload::Fanout => FANOUT_SUBSCRIBERS,
                Workload::Connections => CONNECTIONS,
                _ => 1,
            }),
            topics: self.topics,
            burst: self.burst,
            sessions: self.sessions.unwrap_or(1),
            rate: self.rate.or(open_loop.then_some(OPEN_LOOP_RATE)),
            warmup: self.warmup,
            window: self.duration,
            server: self.server.clone(),
            embedded: self.server.is_none().then(|| self.embedded()),
            subscriber_threads: self.subscriber_threads,
            unacked_max: match workload {
                Workload::Durable => Some(self.window.unwrap_or(UNACKED)),
                Workload::Replay => Some(UNACKED_FILLING),
                _ => None,
            },
            dir: self.dir.clone(),
            fill_bytes: (workload == Workload::Replay).then(|| self.fill.unwrap_or(FILL_BYTES)),
            pin: self.pin,
            link: self.link,
            link_seed: self.link_seed,
        };
        self.check_workload()?;
        self.check_addresses(transport)?;
        check_counts(&plan)?;
        check_threads(&plan)?;
        check_open_files(&plan)?;
        Ok(plan)
    }

    /// How to reach the server.
    pub(crate) fn access(&self) -> anyhow::Result<Access> {
        let token = self.token_file.as_ref().map(|path| {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read the token file {}", path.display()));
            text.map(|text| text.trim().to_owned())
        });
        Ok(Access {
            fingerprint: self.fingerprint,
            token: token.transpose()?,
            plain: self.plain,
            io_policy: self.io_policy,
        })
    }

    fn channel(&self) -> ChannelKind {
        let default =
            if self.workload == Workload::Mixed { ChannelKind::Both } else { ChannelKind::Reliable };
        self.channel.unwrap_or(default)
    }

    fn embedded(&self) -> Embedded {
        Embedded { io_threads: self.io_threads, io_policy: self.io_policy.to_string() }
    }

    /// Whether every argument given means something to the workload.
    fn check_workload(&self) -> anyhow::Result<()> {
        let workload = self.workload;
        let only = |is_given: bool, argument: &str, meant_for: &[Workload]| {
            let words: Vec<String> = meant_for.iter().map(ToString::to_string).collect();
            ensure!(
                !is_given || meant_for.contains(&workload),
                "{argument} is for {}: {workload} does not use it",
                words.join(", ")
            );
            Ok(())
        };
        use Workload::{Connections, Durable, Fanout, Latency, Mixed, Replay, Roundtrip, Throughput};
        only(self.sessions.is_some(), "--sessions", &[Roundtrip])?;
        only(self.channel.is_some(), "--channel", &[Throughput, Latency, Roundtrip, Fanout])?;
        only(self.topics != 1, "--topics", &[Throughput, Latency, Fanout])?;
        only(self.burst != 1, "--burst", &[Throughput, Latency, Fanout])?;
        only(self.rate.is_some(), "--rate", &[Throughput, Latency, Fanout, Mixed])?;
        only(self.publishers.is_some(), "--publishers", &[Throughput, Latency, Mixed, Durable, Replay])?;
        only(self.window.is_some(), "--window", &[Durable])?;
        only(self.dir.is_some(), "--dir", &[Durable, Replay])?;
        only(self.fill.is_some(), "--fill", &[Replay])?;
        only(self.link.is_some(), "--link", &[Throughput, Latency, Roundtrip, Fanout, Mixed])?;
        ensure!(
            !matches!(workload, Durable | Replay) || self.server.is_none(),
            "{workload} starts its server again: leave out --server"
        );
        let has_subscribers = [Throughput, Latency, Fanout, Mixed, Connections];
        only(self.subscribers.is_some(), "--subscribers", &has_subscribers)?;
        ensure!(
            workload != Connections
                || matches!(self.transport, None | Some(TransportKind::Tcp | TransportKind::Quic)),
            "connections are counted one by one: give --transport tcp or quic"
        );
        Ok(())
    }

    fn check_addresses(&self, transport: TransportKind) -> anyhow::Result<()> {
        ensure!(
            !self.plain || transport == TransportKind::Tcp,
            "--plain needs --transport tcp: QUIC is always encrypted"
        );
        if self.link.is_some() {
            ensure!(
                self.server.is_none(),
                "--link lies between the run's own server and its clients: leave out --server"
            );
            ensure!(transport != TransportKind::Local, "--transport local has no link: leave out --link");
            ensure!(!self.plain, "--plain is for loopback only: leave out --link");
        }
        let Some(server) = &self.server else { return Ok(()) };
        ensure!(transport != TransportKind::Local, "--transport local has no server: leave out --server");
        ensure!(
            self.plain || self.fingerprint.is_some(),
            "--server needs --fingerprint HEX, printed by `twinlane serve` at its start (or --plain on loopback)"
        );
        ensure!(
            !self.plain || is_loopback(server),
            "--plain sends in the clear: only to a loopback server, not {server}"
        );
        Ok(())
    }
}

fn check_counts(plan: &Plan) -> anyhow::Result<()> {
    let Plan { payload_bytes, publishers, subscribers, topics, sessions, .. } = *plan;
    ensure!(
        payload_bytes >= PAYLOAD_BYTES_MIN,
        "--size {payload_bytes} is too small: a payload's proof takes {PAYLOAD_BYTES_MIN} bytes"
    );
    ensure!(plan.workload == Workload::Connections || publishers > 0, "--publishers must be at least 1");
    ensure!(subscribers > 0, "--subscribers must be at least 1");
    ensure!((1..=TOPICS_MAX).contains(&topics), "--topics must be 1 to {TOPICS_MAX}, not {topics}");
    ensure!(plan.burst > 0, "--burst must be at least 1");
    ensure!((1..=2).contains(&sessions), "--sessions must be 1 or 2, not {sessions}");
    // A publisher with a window has two streams.
    let streams = publishers.saturating_mul(topics.max(if plan.unacked_max.is_some() { 2 } else { 1 }));
    ensure!(
        streams <= STREAMS_MAX,
        "{publishers} publishers on {topics} topics are {streams} streams, at most {STREAMS_MAX} can be told apart: \
         lower --publishers or --topics"
    );
    ensure!(!plan.window.is_zero(), "--duration must be longer than nothing");
    Ok(())
}

fn check_threads(plan: &Plan) -> anyhow::Result<()> {
    let io_threads = plan.embedded.as_ref().map_or(1, |embedded| embedded.io_threads);
    ensure!((1..=THREADS_MAX).contains(&io_threads), "--io-threads must be 1 to {THREADS_MAX}");
    ensure!(
        (1..=THREADS_MAX).contains(&plan.subscriber_threads),
        "--subscriber-threads must be 1 to {THREADS_MAX}"
    );
    if let Some(core) = plan.pin {
        ensure!(core < CpuSet::MAX_CPU, "--pin {core}: cores are counted from 0 to {}", CpuSet::MAX_CPU - 1);
    }
    Ok(())
}

/// Refuses a run that would end in "too many open files" halfway through connecting.
fn check_open_files(plan: &Plan) -> anyhow::Result<()> {
    let sockets_each = match plan.transport {
        TransportKind::Local => return Ok(()),
        TransportKind::Tcp | TransportKind::Quic => 1,
        TransportKind::Both => 2,
    };
    // A server inside this process has the other end of every connection open too.
    let ends = if plan.server.is_some() || plan.workload == Workload::Connections { 1 } else { 2 };
    let sessions = (plan.publishers as u64).saturating_add(plan.subscribers as u64);
    let needed = sessions.saturating_mul(ends * sockets_each).saturating_add(OPEN_FILES_RESERVED);
    match machine::open_files_max(needed) {
        Some(limit) if limit < needed => bail!(
            "this run needs {needed} open files, and the hard limit is {limit}: lower --subscribers, or raise the \
             limit (`ulimit -Hn {needed}` as root, then try again)"
        ),
        _ => Ok(()),
    }
}

fn is_loopback(server: &str) -> bool {
    let server = server.strip_prefix("twinlane://").unwrap_or(server);
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Reads `5s`, `500ms`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err("give a number and a unit: ms, s or m, as in 500ms".into()),
    };
    let seconds = number.parse::<f64>().map_err(|_| format!("{number:?} is not a number"))? * scale;
    if seconds > 86_400.0 {
        return Err("a run is at most a day".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Reads `5000`, `5k`, `2.5M`, with or without `/s`.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    let (number, scale) = match number.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => number.strip_suffix('M').map_or((number, 1.0), |number| (number, 1e6)),
    };
    let per_second =
        number.parse::<f64>().map_err(|_| format!("{text:?} is not a rate such as 10k"))? * scale;
    if !(1.0..=1e9).contains(&per_second) {
        return Err("a rate is 1 to 1000M messages per second".into());
    }
    Ok(per_second.round() as u64)
}

/// Reads `1GiB`, `64MiB`, `4KiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let split = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let bytes = split.and_then(|(number, shift)| number.parse::<u64>().ok()?.checked_mul(1 << shift));
    bytes.ok_or_else(|| "give a whole number and a unit: KiB, MiB or GiB, as in 64MiB".into())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;
    use crate::cli::BenchArgs;

    #[derive(Debug, Parser)]
    struct Wrapper {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn plan(line: &str) -> anyhow::Result<Plan> {
        RunArgs::from_line(line)?.plan()
    }

    fn refusal(line: &str) -> String {
        plan(line).expect_err(line).to_string()
    }

    #[test]
    fn the_arguments_are_a_valid_clap_command() {
        Wrapper::command().debug_assert();
    }

    #[test]
    fn each_channel_has_its_natural_transport() {
        assert_eq!(plan("throughput").unwrap().transport, TransportKind::Tcp);
        assert_eq!(plan("throughput --channel fast").unwrap().transport, TransportKind::Quic);
        assert_eq!(plan("throughput --channel fast --transport tcp").unwrap().transport, TransportKind::Tcp);
        assert_eq!(plan("mixed").unwrap().transport, TransportKind::Both);
    }

    #[test]
    fn each_workload_has_its_own_defaults() {
        let latency = plan("latency").unwrap();
        assert_eq!((latency.rate, latency.subscribers), (Some(10_000), 1));
        let fanout = plan("fanout").unwrap();
        assert_eq!((fanout.rate, fanout.subscribers), (None, 100));
        assert_eq!(plan("fanout --subscribers 7").unwrap().subscribers, 7);
        let connections = plan("connections").unwrap();
        assert_eq!((connections.publishers, connections.subscribers), (0, 1_000));
        let mixed = plan("mixed").unwrap();
        assert_eq!((mixed.rate, mixed.channel), (Some(10_000), ChannelKind::Both));
        assert_eq!(plan("roundtrip").unwrap().sessions, 1);
    }

    #[test]
    fn contradictions_are_refused_with_what_to_do() {
        for (line, part) in [
            ("throughput --size 23", "24 bytes"),
            ("throughput --plain --transport quic", "--transport tcp"),
            ("throughput --server h:1", "--fingerprint"),
            ("throughput --server h:1 --plain", "loopback"),
            ("throughput --transport local --server h:1", "leave out --server"),
            ("fanout --publishers 2", "--publishers is for throughput, latency, mixed"),
            ("fanout --subscribers 100000000", "lower --subscribers"),
            ("throughput --subscribers 0", "at least 1"),
            ("throughput --publishers 0", "at least 1"),
            ("throughput --duration 0s", "--duration"),
            ("throughput --topics 0", "--topics must be 1 to"),
            ("throughput --burst 0", "--burst must be at least 1"),
            ("mixed --burst 2", "--burst is for throughput, latency"),
            ("throughput --topics 10000 --publishers 7", "lower --publishers or --topics"),
            ("throughput --window 2", "--window is for durable"),
            ("durable --fill 1GiB", "--fill is for replay"),
            ("durable --subscribers 2", "--subscribers is for"),
            ("replay --server h:1 --plain", "leave out --server"),
            ("throughput --sessions 2", "--sessions is for roundtrip"),
            ("roundtrip --sessions 3", "--sessions must be 1 or 2"),
            ("roundtrip --rate 5", "--rate is for"),
            ("mixed --channel fast", "--channel is for"),
            ("connections --transport local", "tcp or quic"),
            ("latency --pin 99999", "--pin 99999"),
            ("latency --link rtt=20ms --server h:1 --plain", "leave out --server"),
            ("latency --link rtt=20ms --transport local", "leave out --link"),
            ("latency --link rtt=20ms --plain", "leave out --link"),
            ("connections --link rtt=20ms", "--link is for throughput"),
        ] {
            let refusal = refusal(line);
            assert!(refusal.contains(part), "{line}: {refusal}");
        }
    }

    #[test]
    fn plain_is_for_loopback_by_any_name() {
        for server in ["127.0.0.1:4747", "localhost:1", "[::1]:4747", "twinlane://127.0.0.9:1"] {
            let plan = plan(&format!("throughput --plain --server {server}")).expect(server);
            assert!(!plan.encrypted, "{server}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["5", "s", "", "5h", "-1s", "1e9s", "99999999m", "."] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn rates_may_be_abbreviated() {
        assert_eq!(rate("5000"), Ok(5_000));
        assert_eq!(rate("10k/s"), Ok(10_000));
        assert_eq!(rate("2.5M"), Ok(2_500_000));
        for wrong in ["0", "-1", "k", "", "2G", "nan", "inf", "1001M"] {
            assert!(rate(wrong).is_err(), "{wrong:?}");
        }
    }
}
