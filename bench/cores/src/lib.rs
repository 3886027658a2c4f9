//! Queue cores side by side: the ring and what people use instead, under the same workloads.
//!
//! Every workload checks what it handed over: each frame of each producer exactly once and in order, or
//! counted as missed where a queue may lose. It knows queues only through [`Produce`] and [`Consume`]; how
//! each of them is best used for this is in [`queues`]. It prints nothing: criterion, the rivals harness and
//! the program beside it do.
//!
//! Figures mean something only as ratios of runs interleaved in one process: [`p8`] does that.
#![forbid(unsafe_code)]

mod frame;
mod patience;

pub mod alone;
pub mod contenders;
pub mod hand_over;
pub mod p8;
pub mod publish;
pub mod queues;
pub mod stats;
pub mod wake;

pub use frame::Tally;

/// Frames that a queue holds: the same for all of them.
pub const SLOTS: usize = 4096;
/// Frames that one call hands over where a queue takes several at once.
pub const BATCH: usize = 32;

/// One way into a queue; owned by one thread.
pub trait Produce<const N: usize>: Send {
    /// Hands over one frame. `false`: full, nothing was taken; try again.
    fn try_push(&mut self, frame: &[u8; N]) -> bool;

    /// Hands over frames from the start of `frames`; how many. By default a call for each.
    fn try_push_all(&mut self, frames: &[[u8; N]]) -> usize {
        frames.iter().take_while(|frame| self.try_push(frame)).count()
    }
}

/// One way out of a queue; owned by one thread.
pub trait Consume: Send {
    /// Takes some of what is there into `tally`. `false`: nothing is.
    fn poll(&mut self, tally: &mut Tally) -> bool;
}

/// A queue with its handles. `N`: bytes of a frame.
pub trait Queue<const N: usize> {
    /// A way in.
    type Producer: Produce<N> + 'static;
    /// A way out.
    type Consumer: Consume + 'static;

    /// An empty queue of [`SLOTS`] frames. Every consumer sees every frame if there are several.
    ///
    /// # Panics
    ///
    /// If the queue is not made for so many producers or consumers.
    fn open(producers: usize, consumers: usize) -> (Vec<Self::Producer>, Vec<Self::Consumer>);
}

/// A consumer that can sleep.
pub trait Park {
    /// Sleeps until a frame is there and takes it: the number that it carries.
    fn take_parked(&mut self) -> u64;
}
