//! The lock-free log ring: many producers append byte frames, many cursors read runs of them in place.
//!
//! Each frame gets the next offset, counted from 0 without a hole. Frames lie back to back in
//! segments; a segment is reused when it is the oldest, nobody holds it, and no gated cursor needs it.
//! The ring knows nothing about what is in a frame, allocates nothing per frame, and never grows past
//! its configured segments.
//!
//! | cursor | a reader that lags | producers |
//! | --- | --- | --- |
//! | [`Gating::Lossy`] | is moved forward and told exactly what it missed | never wait for it |
//! | [`Gating::Spared`] | the same, but not before the spare segments are used up | never wait for it |
//! | [`Gating::Gated`] | misses nothing | see [`AppendError::Full`] |
//!
//! Beside it is [`Turns`]: who of many does what all of them left to be done.
//!
//! How it works, and why it is correct, file by file: `words` (the two packed words), `segment` (memory
//! and its holders), `core` (rotation, sleep, close), `ring` (claim, copy, commit), `cursor` (read).

mod config;
mod copy;
mod core;
mod cursor;
mod directory;
mod gate;
mod prefetch;
mod quota;
mod ring;
mod room;
mod run;
mod segment;
mod sync;
mod turns;
mod wait;
mod words;

pub use config::{ConfigError, RingConfig, SEGMENT_BYTES_MAX, SEGMENT_FRAMES_MAX, SEGMENTS_MAX};
pub use cursor::{Cursor, Gating, Read, Start};
pub use gate::Gate;
pub use quota::Quota;
pub use ring::{AppendError, Appended, Ring};
pub use run::Run;
pub use turns::{Turn, Turns};
