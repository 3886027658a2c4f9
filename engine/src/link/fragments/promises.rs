//! What fragmentation promises, in virtual time and with losses that a seed chooses.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use twinlane_proto::FrameError;
use twinlane_proto::frame::{
    Cut, FRAGMENT_HEADER_BYTES, Fragment, FragmentHeader, KIND_END, MessageHeader, encode_end,
};
use twinlane_proto::limits::FRAME_BYTES_MAX;

use super::check::{check, message};
use super::{OPEN_MAX, Place, REASSEMBLY_BYTES_MAX, Reassembled, Reassembly, Splitter, Whole, parity_for};

const PATH_BYTES: usize = 1_200;
const MS: Duration = Duration::from_millis(1);

/// Numbers that look random, the same ones for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn happens(&mut self, probability: f64) -> bool {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64 <= probability
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}

/// A sender, a receiver and the time.
struct Bench {
    splitter: Splitter,
    reassembly: Reassembly,
    now: Instant,
    seq: u64,
}

impl Bench {
    fn new(bytes_max: usize) -> Self {
        Self {
            splitter: Splitter::default(),
            reassembly: Reassembly::new(bytes_max),
            now: Instant::now(),
            seq: 0,
        }
    }

    /// The datagrams of one more message on `lane`, and its frame.
    fn send(&mut self, lane: u32, frame_bytes: usize, parity: usize) -> (Vec<Bytes>, Vec<u8>) {
        self.send_within(lane, frame_bytes, parity, None)
    }

    fn send_within(
        &mut self,
        lane: u32,
        frame_bytes: usize,
        parity: usize,
        budget: Option<Duration>,
    ) -> (Vec<Bytes>, Vec<u8>) {
        self.seq += 1;
        let frame = message(lane, self.seq, frame_bytes);
        let place = Place { lane, topic: lane, number: self.seq };
        let mut datagrams = Vec::new();
        self.splitter.split(place, budget, &frame, PATH_BYTES, parity, &mut datagrams).unwrap();
        (datagrams, frame)
    }

    fn take(&mut self, datagram: &[u8]) -> Option<Whole> {
        self.reassembly.take(self.now, &Fragment::decode(datagram).unwrap()).unwrap()
    }

    fn take_all(&mut self, datagrams: &[Bytes]) -> Vec<Whole> {
        datagrams.iter().filter_map(|datagram| self.take(datagram)).collect()
    }

    fn pass(&mut self, time: Duration) -> Reassembled {
        self.now += time;
        self.reassembly.expire(self.now);
        self.reassembly.counts()
    }

    /// Bytes that the open messages really hold, and what has arrived of them.
    fn held(&self) -> (usize, usize) {
        let open = &self.reassembly.open;
        let held = open.iter().map(|open| {
            open.blocks.capacity()
                + size_of::<u16>() * open.indexes.capacity()
                + size_of::<u64>() * open.is_kept.capacity()
                + open.missing.capacity()
                + size_of_val(open)
        });
        (held.sum(), open.iter().map(|open| open.blocks.len()).sum())
    }
}

#[test]
fn a_frame_of_any_size_comes_whole_and_once_in_any_order_and_with_repeats() {
    let edges = (119..=122).chain(239..=241).map(|data| data * (PATH_BYTES - FRAGMENT_HEADER_BYTES));
    let sizes = [33, 34, 256, 257, 1_159, 1_160, 1_161, 1_162, 2_320, 2_321, 20_000, 65_568, FRAME_BYTES_MAX];
    for (seed, frame_bytes) in sizes.into_iter().chain(edges).enumerate() {
        let mut random = Random(seed as u64);
        let mut bench = Bench::new(REASSEMBLY_BYTES_MAX);
        let (mut datagrams, frame) = bench.send(7, frame_bytes, 0);
        assert!(datagrams.iter().all(|datagram| datagram.len() <= PATH_BYTES));
        let place = Place { lane: 7, topic: 7, number: 1 };
        let whole = [Whole { place, frame: frame.clone().into(), waited: Duration::ZERO }];
        assert_eq!(bench.take_all(&datagrams), whole, "in order: {frame_bytes} bytes");

        let (mut again, frame) = bench.send(7, frame_bytes, 0);
        again.extend_from_within(..);
        random.shuffle(&mut again);
        let got = bench.take_all(&again);
        assert_eq!(got.len(), 1, "seed {seed}: {frame_bytes} bytes");
        assert_eq!(got[0].frame, frame);
        random.shuffle(&mut datagrams);
        assert_eq!(bench.take_all(&datagrams), [], "it was there before");
        let counts = bench.reassembly.counts();
        let spare_fragments = 2 * datagrams.len() as u64;
        assert_eq!(counts, Reassembled { whole: 2, spare_fragments, ..Reassembled::default() });
        assert_eq!((bench.held(), bench.reassembly.bytes), ((0, 0), 0));
    }
}

#[test]
fn losses_up_to_the_parity_are_mended_and_one_more_is_not() {
    for seed in 0..30 {
        let mut random = Random(seed);
        let mut bench = Bench::new(REASSEMBLY_BYTES_MAX);
        let frame_bytes = 1_161 + random.below(if seed % 20 == 0 { 130_000 } else { 20_000 });
        let data = Splitter::data_fragments(frame_bytes, PATH_BYTES).unwrap();
        let parity = 1 + random.below(data + 2);
        let (mut datagrams, frame) = bench.send(7, frame_bytes, parity);
        assert_eq!(datagrams.len(), data + parity);
        random.shuffle(&mut datagrams);
        let got = bench.take_all(&datagrams[parity..]);
        assert!(got.len() == 1 && got[0].frame == frame, "seed {seed}: {data} + {parity}");

        let (mut datagrams, _) = bench.send(7, frame_bytes, parity);
        random.shuffle(&mut datagrams);
        assert_eq!(bench.take_all(&datagrams[parity + 1..]), [], "seed {seed}");
        assert_eq!(bench.pass(500 * MS).timed_out, 1);
    }
}

#[test]
fn a_megabyte_comes_through_one_and_five_percent_loss_with_the_parity_chosen_for_it() {
    for (seed, loss) in [(1, 0.01), (2, 0.05)] {
        let mut random = Random(seed);
        let mut bench = Bench::new(REASSEMBLY_BYTES_MAX);
        let parity = parity_for(Splitter::data_fragments(FRAME_BYTES_MAX, PATH_BYTES).unwrap(), loss);
        let (mut datagrams, frame) = bench.send(7, FRAME_BYTES_MAX, parity);
        datagrams.retain(|_| !random.happens(loss));
        let got = bench.take_all(&datagrams);
        assert!(got.len() == 1 && got[0].frame == frame, "seed {seed}");
        assert_eq!(bench.reassembly.counts().restored, 1);
    }
}

#[test]
fn parity_makes_a_lost_message_rarer_than_one_in_a_thousand() {
    for (data, loss, rarely) in [(17, 0.01, 0.001), (17, 0.05, 0.001), (2, 0.01, 0.001), (904, 0.01, 0.001)] {
        let parity = parity_for(data, loss);
        let cut = Cut::new(data * 1_160, data, parity).unwrap();
        let mut random = Random(data as u64);
        let tries = 200_000 / (data + parity);
        let lost = (0..tries).filter(|_| {
            let mut missing: Vec<_> = (0..cut.codes()).map(|code| cut.code_data(code)).collect();
            for index in (0..cut.fragments()).filter(|_| !random.happens(loss)) {
                let code = cut.place(index).0;
                missing[code] = missing[code].saturating_sub(1);
            }
            missing.iter().any(|missing| *missing > 0)
        });
        let lost = lost.count() as f64 / tries as f64;
        let noise = 4.0 * (rarely / tries as f64).sqrt();
        assert!(lost <= rarely + noise, "{data} + {parity} at {loss}: {lost} of {tries}");
    }
}

#[test]
fn parity_is_none_on_a_clean_path_grows_with_the_loss_and_has_a_bound() {
    for data in [1, 2, 17, 120, 121, 904] {
        assert_eq!([0.0, 0.000_49, -1.0, f64::NAN].map(|loss| parity_for(data, loss)), [0; 4]);
        let mut before = 0;
        for loss in [0.000_5, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 0.9, 1.0] {
            let parity = parity_for(data, loss);
            assert!((before..=data / 2 + 2).contains(&parity), "{parity} for {data} at {loss}");
            before = parity;
        }
        assert_eq!(before, data / 2 + 2);
    }
    assert_eq!([0.01, 0.05].map(|loss| parity_for(17, loss)), [2, 5]);
    assert_eq!(parity_for(0, 0.1), 0);
}

#[test]
fn memory_is_what_arrived_and_never_above_its_bound() {
    let bytes_max = 200_000;
    for seed in 0..5 {
        let mut random = Random(seed);
        let mut bench = Bench::new(bytes_max);
        let mut opened = 0;
        for _ in 0..100 {
            let (datagrams, _) = bench.send(random.below(40) as u32, 1_200 + random.below(30_000), 0);
            let share = 1 + random.below(datagrams.len() - 1);
            opened += 1;
            for datagram in &datagrams[..share] {
                assert_eq!(bench.take(datagram), None);
                let (held, arrived) = bench.held();
                let bound = bench.reassembly.bytes;
                assert!(held <= bound && bound <= bytes_max, "seed {seed}: {held} {bound}");
                let books = bench.reassembly.open.len() * (4 * PATH_BYTES + 1_000);
                assert!(held <= 2 * arrived + books, "seed {seed}: {held} for {arrived}");
            }
        }
        let counts = bench.reassembly.counts();
        assert_eq!(counts.no_room, opened - bench.reassembly.open.len() as u64, "seed {seed}");
        assert_eq!((counts.whole, counts.spare_fragments), (0, 0));
    }
}

#[test]
fn the_oldest_message_makes_room_and_one_that_never_fits_takes_none() {
    let mut bench = Bench::new(30_000);
    let (first, _) = bench.send(1, 12_000, 0);
    let (second, frame) = bench.send(2, 12_000, 0);
    let (huge, _) = bench.send(3, 30_000, 0);
    let (third, _) = bench.send(4, 12_000, 0);
    for datagrams in [&first, &second, &huge, &third] {
        bench.take(&datagrams[0]);
    }
    assert_eq!(bench.reassembly.counts().no_room, 2, "the first and the huge one");
    assert_eq!(bench.take_all(&first[1..]), []);
    assert_eq!(bench.take_all(&huge[1..]), []);
    assert_eq!(bench.take_all(&second[1..])[0].frame, frame);
    let spare = (first.len() + huge.len() - 2) as u64;
    assert_eq!(bench.reassembly.counts().spare_fragments, spare);
}

#[test]
fn the_number_of_open_messages_has_a_bound() {
    let mut bench = Bench::new(REASSEMBLY_BYTES_MAX);
    for _ in 0..=OPEN_MAX {
        let (datagrams, _) = bench.send(7, 1_200, 0);
        bench.take(&datagrams[0]);
    }
    assert_eq!((bench.reassembly.open.len(), bench.reassembly.counts().no_room), (OPEN_MAX, 1));
}

#[test]
fn a_message_is_given_up_once_eight_later_ones_of_its_topic_are_complete() {
    let mut bench = Bench::new(REASSEMBLY_BYTES_MAX);
    let (stuck, frame) = bench.send(1, 5_000, 0);
    let (other, _) = bench.send(2, 5_000, 0);
    bench.take_all(&stuck[1..]);
    bench.take_all(&other[1..]);
    for later in 1..=8 {
        let (datagrams, _) = bench.send(1, 5_000, 0);
        assert_eq!(bench.reassembly.counts().superseded, 0, "before later message {later}");
        assert_eq!(bench.take_all(&datagrams).len(), 1);
    }
    assert_eq!(bench.reassembly.counts().superseded, 1);
    assert_eq!(bench.take(&stuck[0]), None, "{} bytes too late", frame.len());
    assert!(bench.take(&other[0]).is_some(), "another topic waits for nobody");
}

#[test]
fn an_overtaken_message_has_a_tenth_of_a_second_and_others_are_not_overtaken() {
    let mut bench = Bench::new(REASSEMBLY_BYTES_MAX);
    let [(stuck, _), (late, _), (between, _), (newest, _)] = [(); 4].map(|()| bench.send(1, 5_000, 0));
    for datagrams in [&stuck, &late, &newest] {
        bench.take_all(&datagrams[1..]);
    }
    assert_eq!(bench.take_all(&between).len(), 1);
    assert_eq!(bench.pass(99 * MS).superseded, 0);
    let whole = bench.take(&late[0]).unwrap();
    assert_eq!(whole.waited, 99 * MS);
    assert_eq!(bench.reassembly.next_expiry(), Some(bench.now + MS));
    assert_eq!(bench.pass(MS).superseded, 1);
    assert!(bench.take(&newest[0]).is_some() && bench.take(&stuck[0]).is_none());
}

#[test]
fn a_message_without_a_budget_is_given_up_when_nothing_comes_for_half_a_second() {
    let mut bench = Bench::new(REASSEMBLY_BYTES_MAX);
    let (datagrams, frame) = bench.send(1, 20_000, 0);
    for datagram in &datagrams[..10] {
        assert_eq!(bench.take(datagram), None);
        assert_eq!(bench.pass(499 * MS).timed_out, 0, "a slow path is no reason");
    }
    bench.take(&datagrams[9]);
    assert_eq!(bench.pass(MS).timed_out, 1, "a repeat is no progress");
    assert_eq!(bench.reassembly.next_expiry(), None);

    let (datagrams, next) = bench.send(1, 20_000, 0);
    bench.take_all(&datagrams[1..]);
    bench.now += 500 * MS;
    assert_eq!(bench.take(&datagrams[0]), None, "it is too late although nobody called `expire`");
    assert_eq!((frame.len(), bench.reassembly.counts().timed_out), (next.len(), 2));
}

#[test]
fn a_message_with_a_budget_is_given_up_when_that_is_spent() {
    let mut bench = Bench::new(REASSEMBLY_BYTES_MAX);
    let (datagrams, _) = bench.send_within(1, 20_000, 0, Some(20 * MS));
    bench.take_all(&datagrams[2..]);
    assert_eq!(bench.pass(19 * MS).timed_out, 0);
    bench.take(&datagrams[1]);
    assert_eq!(bench.reassembly.next_expiry(), Some(bench.now + MS));
    assert_eq!(bench.pass(MS).timed_out, 1);
    assert_eq!(bench.take(&datagrams[0]), None);

    let (datagrams, _) = bench.send_within(1, 20_000, 0, Some(Duration::ZERO));
    bench.take(&datagrams[0]);
    assert_eq!(bench.pass(MS).timed_out, 2, "nothing left is not the same as no limit");
}

#[test]
fn the_count_of_messages_may_wrap_round() {
    let mut bench = Bench::new(REASSEMBLY_BYTES_MAX);
    bench.splitter.message = u32::MAX - 1;
    let sent = [(); 4].map(|()| bench.send(1, 5_000, 0).0);
    bench.take(&sent[3][0]);
    for datagrams in &sent[..3] {
        assert_eq!(bench.take_all(datagrams).len(), 1);
        assert_eq!(bench.take_all(datagrams), []);
    }
    assert_eq!(
        bench.take_all(&sent[3][1..]).len(),
        1,
        "what came later was not overtaken by what came before"
    );
}

#[test]
fn a_message_far_behind_the_newest_is_not_begun() {
    let mut bench = Bench::new(REASSEMBLY_BYTES_MAX);
    let (old, _) = bench.send(1, 5_000, 0);
    bench.splitter.message += 1_023;
    let (newest, _) = bench.send(2, 5_000, 0);
    bench.take(&newest[0]);
    assert_eq!(bench.take_all(&old), []);
    assert_eq!(bench.reassembly.counts().spare_fragments, old.len() as u64);
}

#[test]
fn what_cannot_be_split_appends_nothing() {
    let mut datagrams = Vec::new();
    let place = Place { lane: 1, topic: 1, number: 1 };
    let mut split = |frame_bytes: usize, datagram_bytes_max: usize| {
        Splitter::default().split(place, None, &vec![0; frame_bytes], datagram_bytes_max, 1, &mut datagrams)
    };
    assert!(matches!(split(FRAME_BYTES_MAX + 1, 1_200), Err(FrameError::FrameTooLarge { .. })));
    for datagram_bytes_max in [0, 39, 40, 41, 200] {
        assert!(matches!(split(2_000, datagram_bytes_max), Err(FrameError::BadCut { .. })));
    }
    assert!(datagrams.is_empty());
}

/// Fragments of bytes that need not be a message.
fn fragments_of(frame: &[u8], topic: u32, number: u64) -> Vec<Bytes> {
    let mut datagrams = Vec::new();
    let place = Place { lane: 1, topic, number };
    Splitter::default().split(place, None, frame, PATH_BYTES, 0, &mut datagrams).unwrap();
    datagrams
}

#[test]
fn what_is_not_one_message_of_its_topic_is_an_error() {
    let error = |datagrams: &[Bytes]| {
        let mut reassembly = Reassembly::new(REASSEMBLY_BYTES_MAX);
        let taken = datagrams
            .iter()
            .map(|datagram| reassembly.take(Instant::now(), &Fragment::decode(datagram).unwrap()));
        taken.last().unwrap().unwrap_err()
    };
    let good = message(1, 1, 5_000);
    let mut too_long = good.clone();
    too_long.push(0);
    let mismatch = FrameError::LengthMismatch { bytes: 5_001, frame_bytes: 5_000 };
    assert_eq!(error(&fragments_of(&too_long, 1, 1)), mismatch);
    let end = encode_end(&MessageHeader { topic: 1, source: 1, seq: 1, time_us: 0 });
    assert_eq!(error(&fragments_of(&end, 1, 1)), FrameError::OutsideRun { kind: KIND_END });
    let changed = [fragments_of(&good, 1, 1)[0].clone(), fragments_of(&good, 1, 2)[1].clone()];
    assert_eq!(error(&changed), FrameError::FragmentChanged { message: 0 });
}

#[test]
fn a_budget_keeps_its_unit_on_the_wire() {
    let mut bench = Bench::new(REASSEMBLY_BYTES_MAX);
    let budgets = [None, Some(20 * MS), Some(Duration::ZERO), Some(Duration::from_secs(10_000))];
    let on_the_wire = budgets.map(|budget| {
        let (datagrams, _) = bench.send_within(1, 5_000, 2, budget);
        let headers: Vec<FragmentHeader> =
            datagrams.iter().map(|datagram| Fragment::decode(datagram).unwrap().header).collect();
        assert!(headers.iter().all(|header| header.agrees(&headers[0])));
        headers[0].budget_us
    });
    assert_eq!(on_the_wire, [0, 20_000, 1, u32::MAX]);
}

#[test]
fn any_script_leaves_the_books_straight() {
    for seed in 0..100 {
        let mut random = Random(seed);
        // Few broken datagrams: they end a script.
        let highest = if seed % 3 == 0 { 256 } else { 240 };
        let script: Vec<u8> =
            (0..400).map(|at| random.below(if at % 2 == 0 { highest } else { 256 }) as u8).collect();
        eprintln!("seed {seed}");
        check(&script);
    }
}

#[test]
fn every_seed_of_the_reassembly_corpus_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/reassembly");
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        eprintln!("{}", path.display());
        check(&std::fs::read(&path).unwrap());
        seeds += 1;
    }
    assert!(seeds > 0, "{} has no seeds", folder.display());
}
