//! Any datagram: what can be read can be packed again and reads the same.

use twinlane_proto::FrameError;
use twinlane_proto::frame::{Decoder, Item, Packer, Push, decode_datagram};

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
