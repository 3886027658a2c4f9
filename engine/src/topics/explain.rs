//! What a topic promises, in sentences for people. Derived from its specification alone.

use std::time::Duration;

use twinlane_proto::{Channel, Mode, Storage, TopicSpec};

/// How a topic delivers, what it leaves out, and where that is counted.
pub(super) fn explain(spec: &TopicSpec) -> Vec<String> {
    let mut sentences = match spec.channel {
        Channel::Reliable => reliable(spec).map(str::to_owned).to_vec(),
        Channel::Fast => fast(spec),
    };
    sentences.push(format!(
        "New subscribers may start up to {} messages or {} bytes back; payloads are at most {} bytes.",
        spec.retain_messages, spec.retain_bytes, spec.payload_bytes_max
    ));
    sentences
}

fn reliable(spec: &TopicSpec) -> [&'static str; 3] {
    let over = "It travels over TCP, or over QUIC streams for sessions that use only QUIC.";
    match spec.storage {
        Storage::Disk => [
            "Every acknowledged message is on disk, survives a crash of the server, and reaches every subscriber, in one order.",
            over,
            "A subscriber that does not keep up reads from disk later, holds publishers back, or is cut off, as it chose.",
        ],
        Storage::Memory => [
            "Every acknowledged message is kept in memory and reaches every subscriber, in one order.",
            over,
            "A subscriber that does not keep up holds publishers back, or is cut off, as it chose when subscribing.",
        ],
    }
}

fn fast(spec: &TopicSpec) -> Vec<String> {
    let (order, slow) = match spec.mode {
        Mode::Ordered => (
            "Each publisher's messages come in order; one that comes after a newer one is dropped (`late`).",
            "A subscriber that does not keep up misses the oldest messages (`slow_peer`); nobody waits for it.",
        ),
        Mode::Latest => (
            "Of each key only the newest message counts: it replaces one that waits (`conflated`), and what a key is \
             left at reaches every subscriber.",
            "A subscriber that does not keep up gets the newest message of each key; nobody waits for it.",
        ),
        Mode::Unordered => (
            "Messages come in any order.",
            "A subscriber that does not keep up misses the oldest messages (`slow_peer`); nobody waits for it.",
        ),
    };
    let deadline = match spec.deadline_us {
        0 => "Messages have no deadline, unless their publisher gives them one (`deadline` counts those that passed)."
            .to_owned(),
        us => format!(
            "A message that has spent {:?} in queues is dropped (`deadline`); its publisher may give it another limit.",
            Duration::from_micros(us.into())
        ),
    };
    vec![
        "Messages may be lost but are never repeated; each one that is missing is counted, with the reason."
            .to_owned(),
        order.to_owned(),
        deadline,
        slow.to_owned(),
        "It travels in QUIC datagrams, or over TCP while a session has no QUIC connection.".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(spec: TopicSpec) -> String {
        explain(&spec).join(" ")
    }

    #[test]
    fn a_fast_topic_names_its_mode_its_deadline_and_the_counters_of_what_it_leaves_out() {
        let ordered = text(TopicSpec::fast().with_deadline(Duration::from_millis(50)));
        for part in ["in order", "`late`", "50ms", "`deadline`", "`slow_peer`", "QUIC datagrams"] {
            assert!(ordered.contains(part), "{part} is missing in: {ordered}");
        }
        let latest = text(TopicSpec::fast().with_mode(Mode::Latest));
        for part in ["`conflated`", "no deadline, unless", "newest message of each key"] {
            assert!(latest.contains(part), "{part} is missing in: {latest}");
        }
        assert!(text(TopicSpec::fast().with_mode(Mode::Unordered)).contains("any order"));
    }

    #[test]
    fn a_reliable_topic_says_nothing_of_modes_and_deadlines() {
        for spec in [TopicSpec::reliable(), TopicSpec::durable()] {
            let text = text(spec);
            assert!(text.contains("acknowledged") && !text.contains("deadline"), "{text}");
        }
    }
}
