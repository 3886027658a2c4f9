//! `twinlane bench duel`: the same messages over the same bad link, by twinlane's two channels, raw TCP and one QUIC stream.
//!
//! Each contender is an open loop, and what is told is its latency *above* the link's own delay: what the contender made
//! of the link. TCP and QUIC connect both ends directly; twinlane's messages go through its server, which stands beside
//! the end that is not across the link, so that every contender crosses the link once.

mod contender;
mod course;
mod report;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use twinlane_netlab::{Direction, Link, Share};

pub use self::{
    contender::Contender,
    course::measure,
    report::{DuelReport, Duelist, Emulator},
};
use crate::{
    arguments::{duration, rate},
    output::{self, is_stdout, print, write_file},
    payload::PAYLOAD_BYTES_MIN,
};

pub(crate) const HOW_TO_READ: &str = "\
How the figures are made:
  Two network namespaces of this machine are joined by the link asked for. Message n of every contender is due at start +
  n / rate; its latency runs from that instant to the moment the receiver holds it, verified, minus the one-way delay of
  the link. A contender that holds messages back is charged the wait of each of them.

  fast          a fast topic through the server: QUIC datagrams
  reliable      a reliable topic through the server: TCP with TLS
  raw tcp       one TCP connection without TLS and without a server, TCP_NODELAY
  quic stream   one stream of a QUIC connection without a server: quinn as it comes

  The server stands beside the publisher (--across subscriber) or beside the subscriber (--across publisher): everything
  crosses the link once. All run at the same time, unless the link has a rate: then they would take it from each
  other and run one after the other. delivered counts what was there 5 seconds after the last message was due.";

/// The losses of a series, when neither a link nor losses are given.
const LOSSES: [Share; 4] = [Share::NONE, Share::of_million(1_000), Share::percent(1), Share::percent(5)];

/// The link of that series.
const DELAY: Duration = Duration::from_millis(10);

/// As many links as a picture still shows.
const LINKS_MAX: usize = 12;

/// What to compare, and over which links.
#[derive(Args, Clone, Debug)]
pub struct DuelArgs {
    /// The link, as loss=1%,rtt=20ms,rate=10mbit [default: rtt=20ms with the losses 0,0.1,1,5]
    ///
    /// Also: jitter=2ms, queue=64KiB, burst=5, reorder=5%/10ms, duplicate=1%, mtu=1280; up: or down: before one of them
    /// means only to or from the side of the server.
    #[arg(long, value_name = "LINK")]
    pub link: Option<Link>,
    /// One run for each of these losses of the link, in percent, as 0,0.1,1,5
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', value_parser = loss)]
    pub losses: Vec<Share>,
    /// Messages per second of each contender
    #[arg(long, default_value = "1k", value_name = "N", value_parser = rate)]
    pub rate: u64,
    /// Bytes of every payload, at least 24
    #[arg(long, default_value_t = 128, value_name = "BYTES")]
    pub size: usize,
    /// The window that counts, as 20s or 500ms
    #[arg(long, default_value = "20s", value_name = "TIME", value_parser = duration)]
    pub duration: Duration,
    /// Time before that window
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = duration)]
    pub warmup: Duration,
    /// Which client is across the link; the other one is beside the server
    #[arg(long, default_value = "subscriber", value_name = "CLIENT")]
    pub across: Across,
    /// Which contenders run
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = Contender::ALL)]
    pub only: Vec<Contender>,
    /// TCP's congestion control, for the reliable topic too, as the kernel names it [default: the machine's]
    #[arg(long, value_name = "NAME")]
    pub tcp: Option<String>,
    /// What is random on the link is the same for the same seed
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Print one JSON object per link instead of tables
    #[arg(long)]
    pub json: bool,
    /// Draw the comparison into this SVG file; - is standard output, in place of the table
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Which client is across the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Across {
    /// The publisher is beside the server: the link is on the way down.
    Subscriber,
    /// The subscriber is beside the server: the link is on the way up.
    Publisher,
}

/// A checked duel over one link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DuelPlan {
    /// The link, as it is written.
    pub link: String,
    /// Its loss in the direction of the messages, in percent.
    pub loss_percent: f64,
    /// What every message takes at least, in milliseconds; latencies are above this.
    pub one_way_ms: f64,
    /// Messages per second of each contender.
    pub rate: u64,
    /// Bytes of every payload.
    pub payload_bytes: usize,
    /// The window that counts.
    pub window_seconds: f64,
    /// Time before it.
    pub warmup_seconds: f64,
    /// Which client is across the link.
    pub across: Across,
    /// Whether all contenders ran at the same time.
    pub together: bool,
    /// TCP's congestion control; empty until it is known.
    pub tcp: String,
    /// The link's seed.
    pub seed: u64,
}

/// Runs the duel over every link and tells what came out.
///
/// # Errors
///
/// No lab on this machine, a contender that cannot connect, and a payload that is wrong, repeated or out of order.
pub async fn run(args: &DuelArgs) -> anyhow::Result<()> {
    let mut reports = Vec::new();
    for link in args.links()? {
        let report = measure(args, link).await.with_context(|| format!("over the link {link}"))?;
        if args.json {
            print(&serde_json::to_string(&report)?)?;
        } else if !args.svg.as_deref().is_some_and(is_stdout) {
            print(&report.table())?;
        }
        reports.push(report);
    }
    match &args.svg {
        Some(path) => write_file(path, &output::duel::plot(&reports)),
        None => Ok(()),
    }
}

impl DuelArgs {
    /// Checks the arguments and gives back the links, in order.
    fn links(&self) -> anyhow::Result<Vec<Link>> {
        ensure!(
            self.size >= PAYLOAD_BYTES_MIN,
            "--size {} is too small: a payload's proof takes {PAYLOAD_BYTES_MIN} bytes",
            self.size
        );
        ensure!(!self.duration.is_zero(), "--duration must be longer than nothing");
        ensure!(!self.only.is_empty(), "--only names nobody");
        let losses = match (&self.link, self.losses.as_slice()) {
            (Some(link), []) => return Ok(vec![*link]),
            (None, []) => &LOSSES,
            (_, losses) => losses,
        };
        ensure!(losses.len() <= LINKS_MAX, "--losses are at most {LINKS_MAX}");
        let link = self.link.unwrap_or(Link::both(Direction { delay: DELAY, ..Direction::default() }));
        let with = |direction: Direction, loss| Direction {
            loss,
            // Without losses there are no bursts of them.
            burst: if loss == Share::NONE { 0 } else { direction.burst },
            ..direction
        };
        let links = losses.iter().map(|&loss| Link { up: with(link.up, loss), down: with(link.down, loss) });
        Ok(links.collect())
    }

    fn plan(&self, link: Link) -> DuelPlan {
        let direction = self.across.direction(&link);
        DuelPlan {
            link: link.to_string(),
            loss_percent: f64::from(direction.loss.per_million()) / 1e4,
            one_way_ms: direction.delay.as_secs_f64() * 1e3,
            rate: self.rate,
            payload_bytes: self.size,
            window_seconds: self.duration.as_secs_f64(),
            warmup_seconds: self.warmup.as_secs_f64(),
            across: self.across,
            together: direction.rate_bits == 0,
            tcp: self.tcp.clone().unwrap_or_default(),
            seed: self.seed,
        }
    }
}

impl Across {
    /// The direction in which messages cross the link.
    pub(crate) fn direction(self, link: &Link) -> Direction {
        match self {
            Self::Subscriber => link.down,
            Self::Publisher => link.up,
        }
    }
}

/// Reads a loss in percent, with or without the sign.
fn loss(text: &str) -> Result<Share, String> {
    let percent = text.trim().trim_end_matches('%').trim_end().parse::<f64>();
    match percent {
        Ok(percent) if (0.0..=100.0).contains(&percent) => {
            Ok(Share::of_million((percent * 1e4).round() as u32))
        }
        _ => Err("a loss is 0 to 100 percent, as in 0.1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        duel: DuelArgs,
    }

    fn links(line: &str) -> anyhow::Result<Vec<String>> {
        let words = std::iter::once("duel").chain(line.split_whitespace());
        let links = Line::try_parse_from(words)?.duel.links()?;
        Ok(links.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn without_arguments_it_makes_the_series_of_the_readme() {
        let expected = ["rtt=20ms", "rtt=20ms,loss=0.1%", "rtt=20ms,loss=1%", "rtt=20ms,loss=5%"];
        assert_eq!(links("").unwrap(), expected);
    }

    #[test]
    fn a_link_stands_for_itself_and_losses_replace_its_own() {
        assert_eq!(links("--link loss=2%,rtt=50ms").unwrap(), ["rtt=50ms,loss=2%"]);
        assert_eq!(
            links("--link loss=2%,burst=3,delay=25ms --losses 0,0.5%").unwrap(),
            ["rtt=50ms", "rtt=50ms,loss=0.5%,burst=3"]
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, part) in [
            ("--losses 1,101", "0 to 100 percent"),
            ("--size 8", "24 bytes"),
            ("--duration 0s", "--duration"),
            ("--only carrots", "raw-tcp"),
            ("--link loss", "name=value"),
        ] {
            let said = links(line).expect_err(line).to_string();
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
