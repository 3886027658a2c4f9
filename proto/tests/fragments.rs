//! Fragments and the erasure code: what is cut comes back from any fragments that suffice, nothing else is taken.
#![allow(clippy::unwrap_used, reason = "the helpers of tests may unwrap as tests do")]

use twinlane_proto::FrameError;
use twinlane_proto::frame::erasure::{DATA_BLOCKS_MAX, PARITY_BLOCKS_MAX, Restoration, make_parity};
use twinlane_proto::frame::{
    Cut, Decoder, FRAGMENT_HEADER_BYTES, Fragment, FragmentHeader, Item, KIND_FRAGMENT, decode_datagram,
};
use twinlane_proto::limits::{FRAGMENT_BYTES_MIN, FRAME_BYTES_MAX};

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

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}

/// Multiplication in the field, bit by bit, as the document says it.
fn times(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        product ^= if b & 1 == 1 { a } else { 0 };
        a = a << 1 ^ if a & 0x80 == 0 { 0 } else { 0x1d };
        b >>= 1;
    }
    product
}

fn inverse(a: u8) -> u8 {
    (1..=255).find(|b| times(a, *b) == 1).unwrap()
}

#[test]
fn parity_is_what_the_document_says() {
    let mut random = Random(1);
    for data in [1, 2, 3, 17, DATA_BLOCKS_MAX] {
        let blocks: Vec<Vec<u8>> = (0..data).map(|_| random.bytes(70)).collect();
        let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        for row in [0, 1, 2, 50, PARITY_BLOCKS_MAX - 1] {
            let mut parity = vec![0xaa; 70];
            make_parity(row, &slices, &mut parity);
            for (at, byte) in parity.iter().enumerate() {
                let products = (0..data as u8).map(|i| {
                    let factor = times(128 ^ i, inverse((128 + row as u8) ^ i));
                    times(factor, blocks[usize::from(i)][at])
                });
                assert_eq!(*byte, products.fold(0, |sum, product| sum ^ product), "row {row} of {data}");
            }
        }
    }
}

#[test]
fn any_blocks_that_suffice_restore_the_others() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let data = 1 + random.below(if seed % 10 == 0 { DATA_BLOCKS_MAX } else { 20 });
        let rows = random.below(PARITY_BLOCKS_MAX + 1);
        let block_bytes = 1 + random.below(130);
        let blocks: Vec<Vec<u8>> = (0..data).map(|_| random.bytes(block_bytes)).collect();
        let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        let parity: Vec<Vec<u8>> = (0..rows)
            .map(|row| {
                let mut out = vec![0; block_bytes];
                make_parity(row, &slices, &mut out);
                out
            })
            .collect();
        let mut all: Vec<(usize, &[u8])> =
            blocks.iter().chain(&parity).map(Vec::as_slice).enumerate().collect();
        random.shuffle(&mut all);
        let restoration = Restoration::new(data, &all[..data]);
        let mut lost: Vec<usize> = all[data..].iter().map(|known| known.0).filter(|n| *n < data).collect();
        lost.sort_unstable();
        assert_eq!(restoration.lost().collect::<Vec<_>>(), lost, "seed {seed}");
        for number in lost {
            let mut out = vec![0xaa; block_bytes];
            restoration.restore(number, &mut out);
            assert_eq!(out, blocks[number], "seed {seed}: block {number} of {data} + {rows}");
        }
    }
}

fn header(cut: Cut, index: usize) -> FragmentHeader {
    FragmentHeader { lane: 4, topic: 7, number: 41, message: 3, cut, index: index as u16, budget_us: 20_000 }
}

#[test]
fn data_fragments_lie_back_to_back_and_fill_the_frame() {
    let mut cuts = 0;
    for frame_bytes in [32, 33, 256, 257, 512, 513, 1_200, 20_000, 65_536, 1 << 20, FRAME_BYTES_MAX] {
        for datagram_bytes_max in [296, 600, 1_162, 1_200, 1_452, 9_000, 65_000] {
            let Ok(cut) = Cut::fitting(frame_bytes, datagram_bytes_max) else {
                assert!(datagram_bytes_max < 2 * FRAGMENT_BYTES_MIN + FRAGMENT_HEADER_BYTES);
                continue;
            };
            let mut at = 0;
            for index in 0..cut.data() {
                assert_eq!(cut.range(index).start, at);
                at = cut.range(index).end;
                assert!(FRAGMENT_HEADER_BYTES + cut.fragment_bytes(index) <= datagram_bytes_max);
            }
            assert_eq!(at, frame_bytes);
            let mut places: Vec<_> = (0..cut.fragments()).map(|index| cut.place(index)).collect();
            places.sort_unstable();
            let codes = (0..cut.codes()).flat_map(|code| (0..cut.code_data(code)).map(move |n| (code, n)));
            assert!(places.into_iter().eq(codes), "each code has its data once");
            cuts += 1;
        }
    }
    assert!(cuts > 50);
}

#[test]
fn a_cut_that_cannot_be_is_refused() {
    let bad = |frame_bytes, data, parity| Err(FrameError::BadCut { frame_bytes, data, parity });
    for (frame_bytes, data, parity) in [
        (31, 1, 0),
        (1_000, 0, 0),
        (1_000, 1, 4),
        (1_000, 3, 6),
        (1_000, 4, 0),
        (FRAGMENT_BYTES_MIN, 2, 0),
        (FRAME_BYTES_MAX, 65_535, 0),
        // 399 of 256 bytes are enough already.
        (102_100, 400, 0),
        (usize::from(u16::MAX), usize::MAX, 0),
    ] {
        assert_eq!(Cut::new(frame_bytes, data, parity), bad(frame_bytes, data, parity));
    }
    assert!(Cut::new(1_000, 3, 5).is_ok());
    let too_large =
        FrameError::FrameTooLarge { frame_bytes: FRAME_BYTES_MAX + 1, frame_bytes_max: FRAME_BYTES_MAX };
    assert_eq!(Cut::new(FRAME_BYTES_MAX + 1, 1_000, 0), Err(too_large));
}

#[test]
fn a_fragment_stands_in_a_datagram_and_nowhere_else() {
    let cut = Cut::new(1_000, 3, 2).unwrap();
    let bytes = vec![9; 334];
    let fragment = [&header(cut, 4).encode()[..], &bytes].concat();
    let mut seen = Vec::new();
    decode_datagram(&[&fragment[..], &fragment].concat(), &mut Decoder::stream(1_200), |item, ends| {
        let Item::Fragment(Fragment { header, bytes }) = item else { panic!("{item:?}") };
        assert_eq!((item.consumed(), item.messages().count(), ends.len()), (374, 0, 0));
        seen.push((header, bytes.to_vec()));
        Ok::<(), FrameError>(())
    })
    .unwrap();
    assert_eq!(seen, [(header(cut, 4), bytes.clone()), (header(cut, 4), bytes)]);

    let refused = FrameError::OutsideDatagram { kind: KIND_FRAGMENT };
    assert_eq!(Decoder::stream(4_096).next(&fragment), Err(refused));
}

#[test]
fn every_cut_and_every_byte_changed_of_a_fragment_gives_an_error_or_another_one() {
    let cut = Cut::new(1_000, 3, 2).unwrap();
    let fragment = [&header(cut, 2).encode()[..], &[9; 332]].concat();
    let decode = |bytes: &[u8]| Fragment::decode(bytes).map(|fragment| fragment.header);
    for bytes in 0..fragment.len() {
        let cut_short = decode(&fragment[..bytes]);
        assert_eq!(cut_short, Err(FrameError::DatagramIncomplete { bytes }));
    }
    for at in 0..FRAGMENT_HEADER_BYTES {
        for edge in [0, 1, 4, 5, 0x7f, 0x80, 0xff] {
            let mut hostile = fragment.clone();
            hostile[at] = edge;
            if let Ok(header) = decode(&hostile) {
                assert_eq!(header.encode(), hostile[..FRAGMENT_HEADER_BYTES], "byte {at} = {edge}");
            }
        }
    }
    let with = |at: usize, value: u16| {
        let mut hostile = fragment.clone();
        hostile[at..at + 2].copy_from_slice(&value.to_le_bytes());
        decode(&hostile).unwrap_err()
    };
    assert_eq!(with(6, 5), FrameError::NoSuchFragment { index: 5, fragments: 5 });
    let length = |fragment_bytes, fragment_bytes_needed| FrameError::FragmentLength {
        fragment_bytes,
        fragment_bytes_needed,
    };
    assert_eq!(with(6, 1), length(372, 374));
    assert_eq!(with(0, 371), length(371, 372));
    assert_eq!(with(32, 4), FrameError::BadCut { frame_bytes: 1_000, data: 4, parity: 2 });
    assert_eq!(with(34, 6), FrameError::BadCut { frame_bytes: 1_000, data: 3, parity: 6 });
    assert_eq!(with(4, 0x0105), FrameError::UnknownFlags { kind: 5, flags: 1, extra: 2 });
}
