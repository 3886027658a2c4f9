//! Any datagram: what can be read can be packed again and reads the same.

use twinlane_proto::FrameError;
use twinlane_proto::frame::erasure::{DATA_BLOCKS_MAX, PARITY_BLOCKS_MAX};
use twinlane_proto::frame::{Decoder, Fragment, Item, Packer, Push, decode_datagram};

/// One frame of a datagram with the lane and number it came under; control frames have neither.
type Frame = (Option<(u32, u32, u64)>, Vec<u8>);

/// The whole of `data` is the datagram.
pub(crate) fn check(data: &[u8]) {
    let Ok(frames) = read(data) else { return };
    let mut packer = Packer::new(data.len());
    for (place, frame) in &frames {
        let push = match *place {
            Some((lane, topic, number)) => packer.push(lane, topic, number, frame),
            None => packer.push_control(frame),
        };
        assert_eq!(push, Push::Packed, "packing needs no more room than the original");
    }
    let packed = packer.take().unwrap_or_default();
    assert!(packer.is_empty() && packed.len() <= data.len());
    assert_eq!(read(&packed), Ok(frames), "a packed datagram reads like the original");
}

fn read(datagram: &[u8]) -> Result<Vec<Frame>, FrameError> {
    let mut frames = Vec::new();
    let mut decoder = Decoder::stream(1_500);
    let result = decode_datagram(datagram, &mut decoder, |item, ends| {
        match item {
            Item::Control(frame) => frames.push((None, frame.to_vec())),
            Item::Fragment(fragment) => check_fragment(&fragment),
            Item::Frames { run, first, last, .. } => {
                assert!(last && first == run.first && ends.len() == run.frames as usize);
                for (index, message) in item.messages().enumerate() {
                    let number = first + index as u64;
                    frames.push((Some((run.lane, run.topic, number)), message.as_bytes().to_vec()));
                }
            }
        }
        Ok::<(), FrameError>(())
    });
    assert!(!decoder.is_inside_run(), "nothing continues in the next datagram");
    result.map(|()| frames)
}

/// A fragment has one encoding, and lies where it says within its frame.
fn check_fragment(fragment: &Fragment<'_>) {
    let (header, cut) = (&fragment.header, &fragment.header.cut);
    let encoded = [&header.encode()[..], fragment.bytes].concat();
    assert_eq!(Fragment::decode(&encoded).as_ref(), Ok(fragment));
    assert_eq!(encoded.len(), fragment.frame_bytes());
    let index = usize::from(header.index);
    assert!(index < cut.fragments() && fragment.bytes.len() <= cut.block_bytes());
    if index < cut.data() {
        assert_eq!(cut.range(index).len(), fragment.bytes.len());
        assert_eq!(cut.range(index).end == cut.frame_bytes(), index + 1 == cut.data());
    }
    let (code, number) = cut.place(index);
    assert!(code < cut.codes() && cut.code_data(code) <= DATA_BLOCKS_MAX);
    assert_eq!(number < cut.code_data(code), index < cut.data());
    assert!(number < cut.code_data(code) + PARITY_BLOCKS_MAX);
}
