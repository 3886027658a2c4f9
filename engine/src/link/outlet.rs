//! A cursor that feeds a connection, and the mailbox through which outlets reach the task that reads them.

use std::sync::{Arc, Mutex};

use atomic_waker::AtomicWaker;
use twinlane_proto::Control;
use twinlane_proto::control::{Gap, Unsubscribed};

use super::Link;
use crate::cursors::{Credit, Cursors};
use crate::lock::lock;
use crate::topic_cursor::TopicCursor;

/// What a connection sends from one ring, under which name.
#[derive(Clone)]
pub(crate) struct Outlet {
    pub(crate) lane: u32,
    /// The topic number the frames carry.
    pub(crate) topic: u32,
    /// What is added to a ring offset to get the number in the run: 0 for offsets, 1 for seqs.
    pub(crate) first_number: u64,
    /// May travel in datagrams.
    pub(crate) fast: bool,
    /// The newest value of each key arrives for certain, so long as nothing newer comes.
    pub(crate) settles: bool,
    pub(crate) owner: Arc<dyn OutletOwner>,
}

/// An outlet with its cursor: all that moves between the stream's writer and the datagram writer.
pub(crate) struct Seat {
    pub(crate) outlet: Outlet,
    pub(crate) cursor: TopicCursor,
    pub(crate) credit: Option<Arc<Credit>>,
}

/// Whoever wants to know what becomes of an outlet's frames.
pub(crate) trait OutletOwner: Send + Sync {
    /// Everything before ring offset `position` was given to the transport.
    fn sent(&self, position: u64);
    /// Frames were overwritten before they could be sent.
    fn missed(&self, link: &Arc<Link>, from: u64, to: u64) -> Verdict;
    /// What to tell the peer of messages that were left out, if it should hear of them now. `at_once`: nothing follows
    /// that would tell it later.
    fn left_out(&self, at_once: bool) -> Option<Control>;
    /// A frame does not fit the path's datagrams and was dropped.
    fn too_big(&self);
    /// The ring is closed and everything was sent.
    fn closed(&self, link: &Arc<Link>);
}

/// What follows from missed frames.
pub(crate) enum Verdict {
    /// Goes on; the peer is told first.
    Skip(Option<Gap>),
    /// The outlet ends; the peer is told why.
    End(Unsubscribed),
}

/// The mailbox of a writer task.
pub(crate) struct Commands {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

struct Queue {
    open: bool,
    commands: Vec<Command>,
}

enum Command {
    Add(Box<Seat>),
    Remove(u32),
    MoveFast,
    Move(u32),
}

/// Outlets that are to leave for the other writer, with the numbers that their cursors had.
pub(crate) type Leaving = Vec<(u32, Box<Seat>)>;

impl Commands {
    pub(crate) fn new() -> Self {
        Self { queue: Mutex::new(Queue { open: true, commands: Vec::new() }), waker: AtomicWaker::new() }
    }

    /// A mailbox nobody reads yet.
    pub(crate) fn closed() -> Self {
        Self { queue: Mutex::new(Queue { open: false, commands: Vec::new() }), waker: AtomicWaker::new() }
    }

    pub(crate) fn open(&self) {
        lock(&self.queue).open = true;
    }

    /// Hands the seat back if nobody reads this mailbox.
    pub(crate) fn add(&self, seat: Box<Seat>) -> Result<(), Box<Seat>> {
        {
            let mut queue = lock(&self.queue);
            if !queue.open {
                return Err(seat);
            }
            queue.commands.push(Command::Add(seat));
        }
        self.waker.wake();
        Ok(())
    }

    pub(crate) fn remove(&self, lane: u32) {
        self.push(Command::Remove(lane));
    }

    pub(crate) fn move_fast(&self) {
        self.push(Command::MoveFast);
    }

    /// The outlets of `lane` are to go over the other writer.
    pub(crate) fn move_lane(&self, lane: u32) {
        self.push(Command::Move(lane));
    }

    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    pub(crate) fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// Applies what was posted to `cursors`; returns the outlets that are to leave.
    pub(crate) fn apply(&self, cursors: &mut Cursors<Outlet>) -> Leaving {
        let commands = std::mem::take(&mut lock(&self.queue).commands);
        let mut leaving = Vec::new();
        for command in commands {
            match command {
                Command::Add(seat) => {
                    let Seat { outlet, cursor, credit } = *seat;
                    cursors.insert(cursor, outlet, credit);
                }
                Command::Remove(lane) => {
                    for key in cursors.keys(|outlet| outlet.lane == lane) {
                        cursors.remove(key);
                    }
                }
                Command::Move(lane) => leaving.extend(take_out(cursors, |outlet| outlet.lane == lane)),
                Command::MoveFast => leaving.extend(take_out(cursors, |outlet| outlet.fast)),
            }
        }
        leaving
    }

    /// Nobody reads this mailbox any more: returns all outlets, also those still in the mail.
    pub(crate) fn shut(&self, cursors: &mut Cursors<Outlet>) -> Leaving {
        lock(&self.queue).open = false;
        let mut leaving = self.apply(cursors);
        leaving.extend(take_out(cursors, |_| true));
        leaving
    }

    fn push(&self, command: Command) {
        let mut queue = lock(&self.queue);
        if queue.open {
            queue.commands.push(command);
            drop(queue);
            self.waker.wake();
        }
    }
}

fn take_out(cursors: &mut Cursors<Outlet>, chosen: impl FnMut(&Outlet) -> bool) -> Leaving {
    let keys = cursors.keys(chosen);
    let seats = keys.into_iter().filter_map(|key| Some((key, cursors.take(key)?)));
    seats.map(|(key, (cursor, outlet, credit))| (key, Box::new(Seat { outlet, cursor, credit }))).collect()
}
