//! Seeded lossy channels in virtual time: what arrives and what it costs.

use std::time::{Duration, Instant};

use twinlane_proto::frame::{Push, RUN_HEADER_BYTES};

use super::*;

const LANE: u32 = 3;
const TOPIC: u32 = 7;
const RTT: Duration = Duration::from_millis(20);
const DATAGRAM_BYTES_MAX: usize = 1_200;
/// What QUIC, UDP and IP add to a datagram.
const OVERHEAD_BYTES: usize = 60;

struct Chance(u64);

impl Chance {
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.share() * n as f64) as u64
    }
}

/// A path that loses datagrams, and notices a loss when what was sent later is acknowledged, as QUIC does.
struct Path {
    chance: Chance,
    loss: f64,
    path: PathLoss,
    sent_packets: u64,
    lost_packets: u64,
    /// When packets were sent that were lost, and those not yet acknowledged that were not.
    lost: Vec<Instant>,
    acked: Vec<Instant>,
    acked_until: Option<Instant>,
    updated: Option<Instant>,
    bytes: usize,
}

impl Path {
    fn new(seed: u64, loss: f64) -> Self {
        Self {
            chance: Chance(seed),
            loss,
            path: PathLoss::new(),
            sent_packets: 0,
            lost_packets: 0,
            lost: Vec::new(),
            acked: Vec::new(),
            acked_until: None,
            updated: None,
            bytes: 0,
        }
    }

    /// Whether a datagram sent now arrives.
    fn send(&mut self, now: Instant, datagram_bytes: usize) -> bool {
        self.sent_packets += 1;
        self.bytes += datagram_bytes + OVERHEAD_BYTES;
        let arrives = self.chance.share() >= self.loss;
        if arrives {
            self.acked.push(now);
        } else {
            self.lost.push(now);
        }
        arrives
    }

    fn update(&mut self, now: Instant) -> &PathLoss {
        if self.updated.is_none_or(|at| now >= at + Duration::from_millis(20)) {
            self.updated = Some(now);
            let acked = self.acked.iter().filter(|sent| **sent + RTT <= now).max();
            self.acked_until = self.acked_until.max(acked.copied());
            self.acked.retain(|sent| *sent + RTT > now);
            let lost = self.lost.len();
            let is_noticed = |sent: &Instant| {
                self.acked_until.is_some_and(|until| until > *sent) && *sent + RTT * 9 / 8 <= now
            };
            self.lost.retain(|sent| !is_noticed(sent));
            self.lost_packets += (lost - self.lost.len()) as u64;
            let Self { sent_packets, lost_packets, .. } = *self;
            self.path.update(now, PathCounts { sent_packets, lost_packets });
        }
        &self.path
    }
}

fn origin(number: u64) -> Origin {
    Origin { lane: LANE, topic: TOPIC, number }
}

/// How a subscriber that takes only rising seqs fares.
#[derive(Debug, Default)]
struct Fared {
    sent: u64,
    taken: u64,
    bytes_per_message: f64,
    copies: u64,
}

impl Fared {
    fn share(&self) -> f64 {
        self.taken as f64 / self.sent as f64
    }
}

/// Sends `messages` of `frame_bytes`, one every `interval`, in a datagram each, over a path with this loss.
fn stream(seed: u64, loss: f64, interval: Duration, frame_bytes: usize, messages: u64) -> Fared {
    let (mut path, mut repeats) = (Path::new(seed, loss), Repeats::new());
    let (mut newest, mut fared) = (0, Fared::default());
    let mut now = Instant::now();
    let frame = vec![7; frame_bytes];
    let mut deliver = |numbers: &[u64], fared: &mut Fared| {
        for number in numbers {
            if *number > newest {
                newest = *number;
                fared.taken += 1;
            }
        }
    };
    for number in 1..=messages {
        let due = now + interval;
        while let Some(tail) = repeats.next_due().filter(|tail| *tail < due) {
            now = tail;
            let (numbers, bytes) = copies(&mut repeats, now, DATAGRAM_BYTES_MAX);
            if !numbers.is_empty() {
                repeats.datagram_sent(now, bytes);
                if path.send(now, bytes) {
                    deliver(&numbers, &mut fared);
                }
            }
        }
        now = due;
        repeats.set_loss(path.update(now));
        let (mut numbers, mut bytes) = (Vec::new(), 0);
        if repeats.is_on() {
            (numbers, bytes) = copies(&mut repeats, now, DATAGRAM_BYTES_MAX / 2);
        }
        let continues = numbers.last() == Some(&(number - 1));
        bytes += frame_bytes + if continues { 0 } else { RUN_HEADER_BYTES };
        numbers.push(number);
        repeats.note(now, origin(number), None, &frame);
        repeats.datagram_sent(now, bytes);
        if path.send(now, bytes) {
            deliver(&numbers, &mut fared);
        }
        fared.sent += 1;
    }
    fared.bytes_per_message = path.bytes as f64 / messages as f64;
    fared.copies = repeats.stats().frames;
    fared
}

/// Packs a datagram's copies: their numbers and bytes.
fn copies(repeats: &mut Repeats, now: Instant, room_bytes: usize) -> (Vec<u64>, usize) {
    let (mut numbers, mut bytes, mut next) = (Vec::new(), 0, None);
    repeats.pack_due(now, room_bytes, |origin, frame| {
        assert!(!numbers.contains(&origin.number), "{origin:?} twice in one datagram");
        bytes += frame.len() + if next == Some(origin.number) { 0 } else { RUN_HEADER_BYTES };
        next = Some(origin.number + 1);
        numbers.push(origin.number);
        Push::Packed
    });
    assert!(numbers.is_sorted(), "oldest first: {numbers:?}");
    assert!(bytes <= room_bytes, "{bytes} of {room_bytes} B");
    (numbers, bytes)
}

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn nothing_is_repeated_on_a_clean_path() {
    let fared = stream(1, 0.0, MILLISECOND, 160, 20_000);
    assert_eq!((fared.taken, fared.copies), (20_000, 0), "{fared:?}");
}

#[test]
fn at_1_percent_loss_999_of_1000_messages_arrive() {
    for seed in 1..=5 {
        let fared = stream(seed, 0.01, MILLISECOND, 160, 50_000);
        assert!(fared.share() >= 0.999, "seed {seed}: {} {fared:?}", fared.share());
    }
}

#[test]
fn at_10_percent_loss_99_of_100_messages_arrive() {
    for seed in 1..=5 {
        let fared = stream(seed, 0.1, MILLISECOND, 160, 20_000);
        assert!(fared.share() >= 0.99, "seed {seed}: {} {fared:?}", fared.share());
    }
}

#[test]
fn a_slow_publishers_messages_are_covered_by_datagrams_of_copies_alone() {
    let fared = stream(2, 0.05, 50 * MILLISECOND, 160, 5_000);
    assert!(fared.share() >= 0.99, "{} {fared:?}", fared.share());
}

#[test]
fn repeats_of_a_fast_publisher_stay_within_their_budget() {
    // 20,000 messages/s of 160 B: 3.2 MB/s.
    let (seconds, frame_bytes) = (2, 160);
    let messages = seconds * 20_000;
    let fared = stream(3, 0.05, MILLISECOND / 20, frame_bytes, messages);
    let copied = fared.copies * frame_bytes as u64;
    let sent = messages * (frame_bytes + RUN_HEADER_BYTES) as u64;
    assert!(copied <= sent / 4 + seconds * 200_000 + 20_000, "{copied} B of copies: {fared:?}");
    assert!(fared.share() > 0.96, "{} {fared:?}", fared.share());
}

#[test]
fn nothing_is_repeated_while_there_is_no_room_and_nobody_is_kept_busy() {
    let now = Instant::now();
    let mut repeats = lossy_repeats(now);
    repeats.note(now, origin(1), None, &[1; 64]);
    repeats.datagram_sent(now, 96);
    let (mut at, mut tries) = (now, 0);
    while let Some(due) = repeats.next_due() {
        assert!(due > at, "a time that is over is no time to wait for");
        (at, tries) = (due, tries + 1);
        assert_eq!(copies(&mut repeats, at, 0).0, Vec::<u64>::new());
    }
    assert!(tries <= 51 && at - now <= 60 * MILLISECOND, "{tries} tries in {:?}", at - now);
}

#[test]
fn a_frame_is_in_each_datagram_once_and_only_in_the_next_ones() {
    let now = Instant::now();
    let mut repeats = lossy_repeats(now);
    repeats.set_loss(&lossy_path(now, 0.05));
    for datagram in 0..4 {
        let wanted: &[u64] = if matches!(datagram, 1 | 2) { &[1] } else { &[] };
        assert_eq!(copies(&mut repeats, now, 1_200).0, wanted, "datagram {datagram}");
        if datagram == 0 {
            repeats.note(now, origin(1), None, &[1; 64]);
        }
        assert_eq!(copies(&mut repeats, now, 1_200).0, Vec::<u64>::new(), "again in datagram {datagram}");
        repeats.datagram_sent(now, 96);
    }
    assert_eq!(repeats.next_due(), None);
}

#[test]
fn copies_stay_away_while_new_frames_wait_for_room() {
    let now = Instant::now();
    let mut repeats = lossy_repeats(now);
    repeats.note(now, origin(1), None, &[1; 64]);
    repeats.datagram_sent(now, 96);
    repeats.held_up(now);
    assert_eq!(copies(&mut repeats, now + 9 * MILLISECOND, 1_200).0, Vec::<u64>::new());
    assert_eq!(copies(&mut repeats, now + 10 * MILLISECOND, 1_200).0, [1]);
}

#[test]
fn large_expired_and_forgotten_frames_are_not_repeated() {
    let now = Instant::now();
    let mut repeats = lossy_repeats(now);
    repeats.note(now, origin(1), None, &[1; repeats::FRAME_BYTES_MAX + 1]);
    repeats.note(now, origin(2), Some(now + MILLISECOND), &[2; 64]);
    repeats.note(now, Origin { lane: LANE + 1, ..origin(3) }, None, &[3; 64]);
    repeats.note(now, origin(4), None, &[4; 64]);
    repeats.datagram_sent(now, 1_000);
    repeats.forget_lane(LANE + 1);
    assert_eq!(copies(&mut repeats, now + MILLISECOND, 1_200).0, [4]);
}

#[test]
fn whatever_is_noted_copies_are_the_frames_they_are_copies_of() {
    for seed in 1..=20 {
        let mut chance = Chance(seed);
        let mut now = Instant::now();
        let mut repeats = lossy_repeats(now);
        let mut number = 0;
        for _ in 0..100 {
            repeats.pack_due(now, 64 << 10, |origin, frame| {
                assert!(frame.iter().all(|byte| *byte == origin.number as u8), "seed {seed}: {origin:?}");
                assert!(origin.number + 1_000 > number, "seed {seed}");
                Push::Packed
            });
            for _ in 0..chance.below(300) {
                number += 1;
                let frame_bytes = 1 + chance.below(repeats::FRAME_BYTES_MAX as u64) as usize;
                repeats.note(now, origin(number), None, &vec![number as u8; frame_bytes]);
            }
            // So much that every copy is within the budget.
            repeats.datagram_sent(now, 100_000);
            now += Duration::from_micros(chance.below(20_000));
        }
        assert!(repeats.stats().frames > 1_000, "seed {seed}: {:?}", repeats.stats());
    }
}

#[test]
fn loss_is_noticed_quickly_and_forgotten_slowly() {
    let mut path = Path::new(9, 0.0);
    let mut now = Instant::now();
    let mut run = |path: &mut Path, loss: f64, packets: u32| {
        path.loss = loss;
        for _ in 0..packets {
            now += MILLISECOND;
            path.send(now, 100);
            path.update(now);
        }
    };
    assert!((0.04..0.06).contains(&path.path.sure_share()), "unknown");
    run(&mut path, 0.0, 10_000);
    assert!(!path.path.is_lossy());
    run(&mut path, 0.1, 500);
    assert!(path.path.is_lossy() && path.path.share() > 0.05, "{:?}", path.path);
    run(&mut path, 0.0, 3_000);
    assert!(path.path.is_lossy(), "too early to call it clean: {:?}", path.path);
    run(&mut path, 0.0, 60_000);
    assert!(!path.path.is_lossy(), "{:?}", path.path);
    for loss in [0.01, 0.05, 0.3] {
        run(&mut path, loss, 20_000);
        let (share, sure) = (path.path.share(), path.path.sure_share());
        assert!((share / loss - 1.0).abs() < 0.5 && sure >= loss, "{loss}: {share} {sure}");
    }
}

#[test]
fn a_path_at_the_edge_of_being_lossy_does_not_change_its_mind_all_the_time() {
    let mut now = Instant::now();
    let mut path = lossy_path(now, 0.002);
    let mut counts = PathCounts { sent_packets: 10_000, lost_packets: 20 };
    while path.share() >= 0.000_5 {
        assert!(path.is_lossy(), "{}", path.share());
        now += MILLISECOND;
        counts.sent_packets += 10;
        path.update(now, counts);
    }
    assert!(!path.is_lossy());
}

fn lossy_path(now: Instant, loss: f64) -> PathLoss {
    let mut path = PathLoss::new();
    let lost_packets = (10_000.0 * loss) as u64;
    path.update(now, PathCounts { sent_packets: 10_000, lost_packets });
    path
}

fn lossy_repeats(now: Instant) -> Repeats {
    let mut repeats = Repeats::new();
    repeats.set_loss(&lossy_path(now, 0.02));
    assert!(repeats.is_on());
    repeats
}

/// `cargo test -p twinlane --lib link::redundancy -- --ignored --nocapture`
#[test]
#[ignore = "prints what redundancy gains and costs"]
fn gains_and_costs() {
    println!(
        "1,000 messages/s of 160 B frames, rising seqs only; bytes with 60 B of QUIC, UDP and IP a datagram"
    );
    println!("{:>7} {:>10} {:>12} {:>10}", "loss", "delivered", "B/message", "copies");
    for loss in [0.0, 0.001, 0.01, 0.05, 0.1, 0.3] {
        let fared = stream(1, loss, MILLISECOND, 160, 100_000);
        let (share, copies) = (100.0 * fared.share(), fared.copies as f64 / fared.sent as f64);
        println!("{:>6.1}% {share:>9.3}% {:>12.1} {copies:>10.2}", 100.0 * loss, fared.bytes_per_message);
    }
}
