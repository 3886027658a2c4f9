//! Any byte stream: the decoder hands out the same frames however the stream is cut.

use twinlane_proto::FrameError;
use twinlane_proto::frame::{Decoder, Frames, Item, MessageRef, RunHeader};

const FRAME_BYTES_MAX: usize = 2_048;

/// What a decoder made of a stream, without the pieces its runs came in.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    frames: Vec<Frame>,
    error: Option<FrameError>,
    bytes_left: usize,
}

#[derive(Debug, PartialEq)]
enum Frame {
    Control(Vec<u8>),
    Message { run: RunHeader, number: u64, frame: Vec<u8>, ends_run: bool },
}

/// The first byte chooses how the rest, the stream, is cut.
pub(crate) fn check(data: &[u8]) {
    let Some((seed, stream)) = data.split_first() else { return };
    let mut state = u32::from(*seed);
    let uncut = read(stream, || stream.len());
    let cut = read(stream, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1 + (state >> 24) as usize % (1 + usize::from(*seed))
    });
    assert_eq!(uncut, cut, "the cut of the stream changed what was read");
}

fn read(stream: &[u8], mut chunk_bytes: impl FnMut() -> usize) -> Seen {
    let mut decoder = Decoder::stream(FRAME_BYTES_MAX);
    let mut seen = Seen::default();
    let (mut taken, mut received) = (0, 0);
    while received < stream.len() {
        received = stream.len().min(received + chunk_bytes());
        loop {
            let buf = &stream[taken..received];
            match decoder.next(buf) {
                Ok(Some(item)) => {
                    note(item, &decoder, &mut seen);
                    taken += item.consumed();
                }
                Ok(None) => {
                    let wanted = decoder.bytes_wanted();
                    assert!(buf.len() < wanted && wanted <= FRAME_BYTES_MAX + 32, "wanted {wanted}");
                    break;
                }
                Err(error) => return Seen { error: Some(error), ..seen },
            }
        }
    }
    Seen { bytes_left: stream.len() - taken, ..seen }
}

fn note(item: Item<'_>, decoder: &Decoder, seen: &mut Seen) {
    match item {
        Item::Control(frame) => seen.frames.push(Frame::Control(frame.to_vec())),
        Item::Frames { run, first, frames, bytes, last } => {
            let ends = decoder.ends();
            assert!(frames > 0 && ends.len() == frames, "a piece has frames and their ends");
            let mut begin = 0;
            for (index, (end, message)) in ends.iter().zip(Frames::new(bytes)).enumerate() {
                let frame = &bytes[begin..*end as usize];
                assert_eq!(message.as_bytes(), frame, "ends and frames agree");
                MessageRef::parse(frame).expect("a scanned frame");
                let ends_run = last && index + 1 == frames;
                let number = first + index as u64;
                seen.frames.push(Frame::Message { run, number, frame: frame.to_vec(), ends_run });
                begin = *end as usize;
            }
            assert_eq!((begin, decoder.is_inside_run()), (bytes.len(), !last));
        }
        Item::Fragment(fragment) => panic!("{fragment:?} in a stream"),
    }
}
