//! `twinlane bench`: its arguments, the checks that turn them into a [`Plan`], and the run.

use std::{fs, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use twinlane::{Fingerprint, IoPolicy};

use crate::{
    machine,
    payload::{PAYLOAD_BYTES_MIN, PUBLISHERS_MAX},
    plan::{ChannelKind, Embedded, Plan, TransportKind, Workload},
    report::Report,
    run,
    stage::Access,
};

/// Messages per second of `latency` when --rate is not given.
const LATENCY_RATE: u64 = 10_000;

/// Subscribers of `fanout` when --subscribers is not given.
const FANOUT_SUBSCRIBERS: usize = 100;

const HOW_TO_READ: &str = "\
How the figures are made:
  Publishers run on one thread, subscribers on --subscriber-threads others, an embedded server on its own
  --io-threads. Every payload carries its number and a checksum over all its bytes. Wrong content, a repeat,
  a step back in order or an unreported loss ends the run with an error. After a clean close, delivered +
  reported lost = sent must hold exactly for every subscriber; on a reliable topic lost must be 0.

  latency is an open loop. Message n is due at start + n / rate, whatever happened before, and its latency
  runs from that instant to the moment the subscriber holds it. When anything stalls, the messages due
  meanwhile are charged their wait too, so nothing has to be corrected afterwards (no coordinated omission).
  The publisher's thread spins on the clock between messages: it occupies one core.

  throughput and fanout count deliveries inside the window only, between two readings of the subscribers'
  counters. CPU is the user and system time of this whole process: publishers, subscribers and, if embedded,
  the server.

  Ratios taken in one session on one machine mean something; absolute figures move between hours.";

/// Measure this build on this machine, or a server elsewhere
#[derive(Args, Clone, Debug)]
#[command(after_long_help = HOW_TO_READ)]
pub struct BenchArgs {
    /// What to measure
    pub workload: Workload,
    /// Which promise the topic makes
    #[arg(long, default_value = "reliable")]
    pub channel: ChannelKind,
    /// What carries the messages [default: tcp for reliable, quic for fast]
    #[arg(long)]
    pub transport: Option<TransportKind>,
    /// Bytes of every payload, at least 24
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    pub size: usize,
    /// Publishers, each with a connection of its own
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub publishers: usize,
    /// Subscribers, each with a connection of its own [default: 1; fanout: 100]
    #[arg(long, value_name = "N")]
    pub subscribers: Option<usize>,
    /// Messages per second of all publishers together, as 5000, 5k or 2M [default: latency: 10k; else no limit]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<u64>,
    /// The window that counts, as 5s, 500ms or 2m
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = duration)]
    pub duration: Duration,
    /// Time before that window
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = duration)]
    pub warmup: Duration,
    /// Measure through the server at HOST:PORT instead of one embedded in this process
    #[arg(long, value_name = "ADDR")]
    pub server: Option<String>,
    /// The certificate fingerprint of that server
    #[arg(long, value_name = "HEX", requires = "server")]
    pub fingerprint: Option<Fingerprint>,
    /// A file with the access token of that server
    #[arg(long, value_name = "FILE", requires = "server")]
    pub token_file: Option<PathBuf>,
    /// TCP without TLS, on loopback, to see what TLS costs
    #[arg(long)]
    pub plain: bool,
    /// I/O threads of the embedded server
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub io_threads: usize,
    /// What those threads do when idle: park, adaptive, adaptive:50us or spin
    #[arg(long, default_value = "adaptive", value_name = "POLICY")]
    pub io_policy: IoPolicy,
    /// Threads that run subscribers
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub subscriber_threads: usize,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Runs the benchmark and prints its report on standard output.
///
/// Must be called inside a tokio runtime; the clients of the benchmark run on threads of their own.
///
/// # Errors
///
/// Arguments that contradict each other, a server that cannot be reached, and every broken promise: see
/// [`Violation`](crate::ledger::Violation).
pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let plan = args.plan()?;
    let access = args.access()?;
    let measured = run::run(&plan, access).await?;
    Report::new(plan, &measured).print(args.json)
}

impl BenchArgs {
    /// Checks the arguments against each other.
    ///
    /// # Errors
    ///
    /// The first contradiction, with what to change.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let transport = self.transport.unwrap_or(match self.channel {
            ChannelKind::Fast => TransportKind::Quic,
            ChannelKind::Reliable => TransportKind::Tcp,
        });
        let fanout = self.workload == Workload::Fanout;
        let plan = Plan {
            workload: self.workload,
            channel: self.channel,
            transport,
            encrypted: !self.plain && transport != TransportKind::Local,
            payload_bytes: self.size,
            publishers: self.publishers,
            subscribers: self.subscribers.unwrap_or(if fanout { FANOUT_SUBSCRIBERS } else { 1 }),
            rate: self.rate.or((self.workload == Workload::Latency).then_some(LATENCY_RATE)),
            warmup: self.warmup,
            window: self.duration,
            server: self.server.clone(),
            embedded: self.server.is_none().then(|| self.embedded()),
            subscriber_threads: self.subscriber_threads,
        };
        self.check_addresses(transport)?;
        check_counts(&plan)?;
        check_open_files(&plan)?;
        Ok(plan)
    }

    fn embedded(&self) -> Embedded {
        Embedded { io_threads: self.io_threads, io_policy: self.io_policy.to_string() }
    }

    fn check_addresses(&self, transport: TransportKind) -> anyhow::Result<()> {
        ensure!(
            !self.plain || transport == TransportKind::Tcp,
            "--plain needs --transport tcp: QUIC is always encrypted"
        );
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

    fn access(&self) -> anyhow::Result<Access> {
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
}

fn check_counts(plan: &Plan) -> anyhow::Result<()> {
    let payload_bytes = plan.payload_bytes;
    ensure!(
        payload_bytes >= PAYLOAD_BYTES_MIN,
        "--size {payload_bytes} is too small: a payload's proof takes {PAYLOAD_BYTES_MIN} bytes"
    );
    ensure!(
        (1..=PUBLISHERS_MAX).contains(&plan.publishers),
        "--publishers must be 1 to {PUBLISHERS_MAX}, not {}",
        plan.publishers
    );
    ensure!(
        plan.workload != Workload::Fanout || plan.publishers == 1,
        "fanout has one publisher: leave out --publishers"
    );
    ensure!(plan.subscribers > 0, "--subscribers must be at least 1");
    let io_threads = plan.embedded.as_ref().map_or(1, |embedded| embedded.io_threads);
    ensure!((1..=256).contains(&io_threads), "--io-threads must be 1 to 256");
    ensure!((1..=256).contains(&plan.subscriber_threads), "--subscriber-threads must be 1 to 256");
    ensure!(!plan.window.is_zero(), "--duration must be longer than nothing");
    Ok(())
}

/// Refuses a run that would end in "too many open files" halfway through connecting.
fn check_open_files(plan: &Plan) -> anyhow::Result<()> {
    if plan.transport == TransportKind::Local {
        return Ok(());
    }
    let ends = if plan.server.is_some() { 1 } else { 2 };
    let needed = (plan.publishers + plan.subscribers) as u64 * ends + 64;
    match machine::open_files_max() {
        Some(limit) if limit < needed => {
            bail!("this run needs {needed} open files, the limit is {limit}: run `ulimit -n {needed}` first")
        }
        _ => Ok(()),
    }
}

fn is_loopback(server: &str) -> bool {
    let server = server.strip_prefix("twinlane://").unwrap_or(server);
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Reads `5s`, `500ms`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
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
fn rate(text: &str) -> Result<u64, String> {
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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Wrapper {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn plan(line: &str) -> anyhow::Result<Plan> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Wrapper::try_parse_from(words)?.bench.plan()
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
    }

    #[test]
    fn each_workload_has_its_own_defaults() {
        let latency = plan("latency").unwrap();
        assert_eq!((latency.rate, latency.subscribers), (Some(10_000), 1));
        let fanout = plan("fanout").unwrap();
        assert_eq!((fanout.rate, fanout.subscribers), (None, 100));
        assert_eq!(plan("fanout --subscribers 7").unwrap().subscribers, 7);
    }

    #[test]
    fn contradictions_are_refused_with_what_to_do() {
        assert!(refusal("throughput --size 23").contains("24 bytes"));
        assert!(refusal("throughput --plain --transport quic").contains("--transport tcp"));
        assert!(refusal("throughput --server h:1").contains("--fingerprint"));
        assert!(refusal("throughput --server h:1 --plain").contains("loopback"));
        assert!(refusal("throughput --transport local --server h:1").contains("leave out --server"));
        assert!(refusal("fanout --publishers 2").contains("one publisher"));
        assert!(refusal("fanout --subscribers 100000000").contains("ulimit -n"));
        assert!(refusal("throughput --subscribers 0").contains("at least 1"));
        assert!(refusal("throughput --duration 0s").contains("--duration"));
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
