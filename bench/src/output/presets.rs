//! What `twinlane bench all` runs: a plain table of command lines, in the order the report shows them.

use super::figures::Runs;
use crate::{cli::RunArgs, report::Report};

/// A part of the report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Section {
    Throughput,
    Fanout,
    ReliableLatency,
    FastLatency,
    Roundtrip,
    Mixed,
    Durable,
    Replay,
    Connections,
    Topics,
    Subscribers,
}

/// One run to make: its place and name in the report, and the words after `twinlane bench`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preset {
    pub(crate) section: Section,
    pub(crate) name: &'static str,
    pub(crate) line: &'static str,
}

const fn preset(section: Section, name: &'static str, line: &'static str) -> Preset {
    Preset { section, name, line }
}

/// All of them.
#[rustfmt::skip]
pub(crate) const PRESETS: [Preset; 39] = [
    preset(Section::Throughput, "reliable, TCP", "throughput --transport tcp"),
    preset(Section::Throughput, "reliable, TCP without TLS", "throughput --transport tcp --plain"),
    preset(Section::Throughput, "reliable, QUIC stream", "throughput --transport quic"),
    preset(Section::Throughput, "reliable, in process", "throughput --transport local"),
    preset(Section::Throughput, "fast, QUIC datagrams", "throughput --channel fast --transport quic"),
    preset(Section::Throughput, "fast, in process", "throughput --channel fast --transport local"),
    preset(Section::Fanout, "10 subscribers", "fanout --subscribers 10"),
    preset(Section::Fanout, "100 subscribers", "fanout --subscribers 100"),
    preset(Section::Fanout, "1,000 subscribers", "fanout --subscribers 1000"),
    preset(Section::ReliableLatency, "reliable, 1,000 msg/s", "latency --rate 1k"),
    preset(Section::ReliableLatency, "reliable, 10,000 msg/s", "latency --rate 10k"),
    preset(Section::ReliableLatency, "reliable, 100,000 msg/s", "latency --rate 100k"),
    preset(Section::FastLatency, "fast, 1,000 msg/s", "latency --channel fast --rate 1k"),
    preset(Section::FastLatency, "fast, 10,000 msg/s", "latency --channel fast --rate 10k"),
    preset(Section::FastLatency, "fast, 100,000 msg/s", "latency --channel fast --rate 100k"),
    preset(Section::Roundtrip, "reliable, TCP", "roundtrip --transport tcp"),
    preset(Section::Roundtrip, "reliable, QUIC stream", "roundtrip --transport quic"),
    preset(Section::Roundtrip, "fast, QUIC datagrams", "roundtrip --channel fast --transport quic"),
    preset(Section::Roundtrip, "reliable, in process", "roundtrip --transport local"),
    preset(Section::Mixed, "both channels at once", "mixed"),
    preset(Section::Durable, "publish and wait, 1 publisher", "durable --window 1"),
    preset(Section::Durable, "publish and wait, 32 publishers", "durable --window 1 --publishers 32"),
    preset(Section::Durable, "window of 1,024", "durable"),
    preset(Section::Replay, "64 MiB of 256 B, TCP", "replay --fill 64MiB"),
    preset(Section::Replay, "64 MiB of 64 B, in process", "replay --fill 64MiB --size 64 --transport local"),
    preset(Section::Connections, "TCP", "connections --transport tcp"),
    preset(Section::Connections, "QUIC", "connections --transport quic"),
    preset(Section::Topics, "1 topic, reliable", "throughput --topics 1 --warmup 10s"),
    preset(Section::Topics, "10 topics, reliable", "throughput --topics 10 --warmup 10s"),
    preset(Section::Topics, "100 topics, reliable", "throughput --topics 100 --warmup 10s"),
    preset(Section::Topics, "1,000 topics, reliable", "throughput --topics 1000 --warmup 10s"),
    preset(Section::Subscribers, "1 subscriber, reliable", "throughput --subscribers 1"),
    preset(Section::Subscribers, "10 subscribers, reliable", "throughput --subscribers 10"),
    preset(Section::Subscribers, "100 subscribers, reliable", "throughput --subscribers 100"),
    preset(Section::Subscribers, "1,000 subscribers, reliable", "throughput --subscribers 1000"),
    preset(Section::Topics, "1 topic, bursts", "throughput --topics 1 --burst 1024 --warmup 10s"),
    preset(Section::Topics, "1,000 topics, bursts", "throughput --topics 1000 --burst 1024 --warmup 10s"),
    preset(Section::Topics, "1 topic, fast", "throughput --channel fast --topics 1 --warmup 10s"),
    preset(Section::Topics, "1,000 topics, fast", "throughput --channel fast --topics 1000 --warmup 10s"),
];

impl Section {
    /// All of them, in the order of the report.
    pub(crate) const ALL: [Self; 11] = [
        Self::Throughput,
        Self::Fanout,
        Self::ReliableLatency,
        Self::FastLatency,
        Self::Roundtrip,
        Self::Mixed,
        Self::Durable,
        Self::Replay,
        Self::Connections,
        Self::Topics,
        Self::Subscribers,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Throughput => "Throughput",
            Self::Fanout => "Fan-out",
            Self::ReliableLatency => "Latency, reliable channel",
            Self::FastLatency => "Latency, fast channel",
            Self::Roundtrip => "Round trip",
            Self::Mixed => "Both channels at once",
            Self::Durable => "Topics on disk",
            Self::Replay => "Starting again",
            Self::Connections => "Connections",
            Self::Topics => "Cost of more topics",
            Self::Subscribers => "Cost of more subscribers",
        }
    }

    /// One sentence on how to read the section's plot.
    pub(crate) fn how_to_read(self) -> &'static str {
        match self {
            Self::Throughput => {
                "One publisher sends as fast as the queues take it to one subscriber; a bar is the median of the \
                 runs, its whisker reaches from the slowest to the fastest run."
            }
            Self::Fanout => {
                "One publisher, many subscribers, each on a connection of its own; a bar counts the deliveries to \
                 all of them together."
            }
            Self::ReliableLatency | Self::FastLatency => {
                "Messages are due at fixed instants and timed from that instant; a curve at 99 % and 50 µs says that \
                 99 of 100 messages were in the subscriber's hands within 50 µs, and each step to the right is one \
                 message in ten times as many."
            }
            Self::Roundtrip => {
                "One client publishes, waits until the message is back through the server, and only then sends the \
                 next: what one user waits for one answer on an idle server."
            }
            Self::Mixed => {
                "The fast channel carries its fixed rate while the reliable channel takes all it can on the same \
                 sessions: the closer the fast channel's curve is to its curve alone, the less the two disturb each \
                 other."
            }
            Self::Durable => {
                "Every message is acknowledged once it is on disk, and all of them are read back from a server that \
                 started again; a bar counts acknowledgements."
            }
            Self::Replay => {
                "A log is written, the server starts again, and one subscriber reads everything from the beginning; \
                 the files are still in the system's memory."
            }
            Self::Connections => {
                "Every connection has a session and one subscription; memory and CPU are the server's own, measured \
                 from outside its process."
            }
            Self::Topics => {
                "The same load spread over more topics, message by message or in bursts of 1,024 to each, once their \
                 histories are filled; a point inside the band costs within 20 % of what one topic costs for each \
                 delivery."
            }
            Self::Subscribers => {
                "The same load to more subscribers; a point inside the band costs within 20 % of what one subscriber \
                 costs for each delivery, and below the band it costs less."
            }
        }
    }
}

impl Preset {
    /// The run, as the command line would have it.
    pub(crate) fn args(&self) -> anyhow::Result<RunArgs> {
        RunArgs::from_line(self.line)
    }

    /// The number its name begins with and the channel it ends with, where something grows from preset to preset.
    pub(crate) fn step(&self) -> Option<(f64, &'static str)> {
        let (number, rest) = self.name.split_once(' ')?;
        let (_, channel) = rest.split_once(", ")?;
        Some((number.replace(',', "").parse().ok()?, channel))
    }
}

/// What came out of one preset.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) preset: Preset,
    pub(crate) reports: Vec<Report>,
    /// The errors of the runs that failed.
    pub(crate) failures: Vec<String>,
}

impl Outcome {
    /// What the runs say about `figure`, by the place of the result within its report.
    pub(crate) fn across(&self, figure: &super::figures::Figure, result: usize) -> Option<Runs> {
        figure.across(self.reports.iter().filter_map(|report| report.results.get(result)))
    }

    /// The run in the middle, by the latency of its last result, or else by its rate: the one worth drawing.
    pub(crate) fn middle(&self) -> Option<&Report> {
        let mut sorted: Vec<&Report> = self.reports.iter().collect();
        sorted.sort_by(|a, b| order(a).total_cmp(&order(b)));
        sorted.get(sorted.len().saturating_sub(1) / 2).copied()
    }
}

fn order(report: &Report) -> f64 {
    let Some(last) = report.results.last() else { return 0.0 };
    last.latency.as_ref().map_or(last.deliveries_per_second, |latency| latency.p99_us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples;

    #[test]
    fn every_preset_is_a_valid_command_line() {
        for preset in PRESETS {
            preset.args().unwrap_or_else(|error| panic!("{}: {error}", preset.line));
        }
    }

    #[test]
    fn every_section_has_presets_with_names_of_their_own() {
        for section in Section::ALL {
            let of_section = || PRESETS.iter().filter(|preset| preset.section == section);
            assert!(of_section().next().is_some(), "{section:?}");
            for preset in of_section() {
                assert_eq!(
                    of_section().filter(|other| other.name == preset.name).count(),
                    1,
                    "{}",
                    preset.name
                );
            }
        }
    }

    #[test]
    fn steps_of_growth_begin_at_one_and_name_their_kind() {
        let growing = [Section::Topics, Section::Subscribers];
        let steps: Vec<_> = PRESETS
            .iter()
            .filter(|preset| growing.contains(&preset.section))
            .map(|preset| preset.step().expect(preset.name))
            .collect();
        assert_eq!(steps[0], (1.0, "reliable"));
        assert_eq!(steps[3], (1_000.0, "reliable"));
        assert!(steps.contains(&(1_000.0, "fast")), "{steps:?}");
    }

    #[test]
    fn the_run_worth_drawing_is_the_one_in_the_middle() {
        let reports = [1.4, 1.0, 1.2].map(samples::latency).to_vec();
        let outcome = Outcome { preset: PRESETS[0], reports, failures: Vec::new() };
        let latency = outcome.middle().unwrap().results[0].latency.clone().unwrap();
        assert_eq!(latency.p50_us, 20.0 * 1.2);
    }
}
