//! `tokio::sync::broadcast`: one producer's frames to every receiver; one that lags is told what it missed.

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{Receiver, Sender, channel};

use crate::frame::number_of;
use crate::{Consume, Park, Produce, Queue, SLOTS, Tally};

/// Receivers are moved on when they lag.
pub struct Broadcast;

impl<const N: usize> Queue<N> for Broadcast {
    type Producer = Sender<[u8; N]>;
    type Consumer = Receiver<[u8; N]>;

    fn open(producers: usize, consumers: usize) -> (Vec<Sender<[u8; N]>>, Vec<Receiver<[u8; N]>>) {
        assert_eq!(producers, 1, "what a reader missed of several producers cannot be told apart");
        let (sender, _) = channel(SLOTS);
        let receivers = (0..consumers).map(|_| sender.subscribe()).collect();
        (vec![sender], receivers)
    }
}

impl<const N: usize> Produce<N> for Sender<[u8; N]> {
    #[inline]
    fn try_push(&mut self, frame: &[u8; N]) -> bool {
        // Without a receiver left the frame is gone, and the tally knows.
        let _ = self.send(*frame);
        true
    }
}

impl<const N: usize> Consume for Receiver<[u8; N]> {
    #[inline]
    fn poll(&mut self, tally: &mut Tally) -> bool {
        match self.try_recv() {
            Ok(frame) => tally.take(&frame),
            Err(TryRecvError::Lagged(missed)) => tally.miss(missed),
            Err(TryRecvError::Empty) => return false,
            Err(TryRecvError::Closed) => panic!("the sender lives"),
        }
        true
    }
}

impl<const N: usize> Park for Receiver<[u8; N]> {
    fn take_parked(&mut self) -> u64 {
        match self.blocking_recv() {
            Ok(frame) => number_of(&frame),
            Err(error @ (RecvError::Lagged(_) | RecvError::Closed)) => panic!("{error}"),
        }
    }
}
