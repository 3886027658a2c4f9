//! The events of a history.
//!
//! `at_us` is when the recording task saw it: before an invocation is made, after an outcome or delivery came.
//! That way an interval in the history contains the interval in which it really happened.

use super::fast::FastEvent;
use crate::payload::Identity;

/// What a verdict needs besides the events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Seed of everything random in the run.
    pub seed: u64,
    /// Fewer acknowledged messages say nothing.
    pub acked_min: u64,
    /// Fewer faults say nothing.
    pub faults_min: u64,
    /// Whether outcomes, deliveries and connections have to come in time (L1).
    pub live: bool,
    /// Attempts before a queue's job goes to the dead letters.
    pub max_deliver: u32,
    /// How long a queue's lease lasts without an answer.
    pub ack_wait_us: u64,
}

/// What was done to the server, its disk or its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FaultKind {
    /// SIGKILL; what was written stays.
    Kill = 0,
    /// SIGKILL, and what no sync covered is lost.
    Forget = 1,
    /// SIGSTOP for a while.
    Stop = 2,
    /// A sync fails once, and what it should have covered is lost.
    Eio = 3,
    /// The disk is full for a while.
    NoSpace = 4,
    /// The server's wall clock jumps.
    Clock = 5,
    /// Nothing gets through the network.
    Partition = 6,
    /// One direction of the network is silent.
    HalfOpen = 7,
    /// The network answers with resets.
    Reset = 8,
    /// Packets are lost at random.
    Loss = 9,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Kill,
        Self::Forget,
        Self::Stop,
        Self::Eio,
        Self::NoSpace,
        Self::Clock,
        Self::Partition,
        Self::HalfOpen,
        Self::Reset,
        Self::Loss,
    ];

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Forget => "forget",
            Self::Stop => "stop",
            Self::Eio => "eio",
            Self::NoSpace => "nospace",
            Self::Clock => "clock",
            Self::Partition => "partition",
            Self::HalfOpen => "half-open",
            Self::Reset => "reset",
            Self::Loss => "loss",
        }
    }

    /// Whether the server process ends and is started again.
    #[must_use]
    pub fn restarts(self) -> bool {
        matches!(self, Self::Kill | Self::Forget | Self::Eio)
    }
}

impl std::str::FromStr for FaultKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("`{text}` is no fault; these are: {}", known()))
    }
}

/// What a queue's member says about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Action {
    /// Done.
    Ack = 0,
    /// Again, please.
    Nack = 1,
    /// More time, please.
    Extend = 2,
    /// Never again: to the dead letters.
    Dead = 3,
}

/// What the server answered to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Settlement {
    /// Recorded.
    Done = 0,
    /// The lease is not (any more) the member's.
    Stale = 1,
    /// No answer: it may have been recorded.
    Unknown = 2,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields' names say it, units are in them")]
pub enum Event {
    /// How to judge; once per history.
    Plan(Plan),
    /// A topic of the run. `disk`: acknowledged messages survive the loss of the page cache. `queue`: a group works
    /// through all of it.
    Topic { topic: u16, disk: bool, queue: bool },
    /// A publisher stream of the run.
    Stream { publisher: u16, topic: u16 },
    /// Messages `first..first + count` are about to be published.
    Invoke { at_us: u64, publisher: u16, first: u64, count: u32 },
    /// They were stored; the last one has this offset. `disk`: they were acknowledged with level `disk`.
    Ok { at_us: u64, publisher: u16, first: u64, count: u32, last_offset: u64, epoch: u64, disk: bool },
    /// They were certainly not stored.
    Refused { at_us: u64, publisher: u16, first: u64, count: u32, code: u16 },
    /// Nobody can tell what became of them.
    Unknown { at_us: u64, publisher: u16, first: u64, count: u32 },
    /// A reader begins; `from_start`: with the oldest message there is; `drains`: it is the final drain.
    Reader { reader: u16, from_start: bool, drains: bool },
    /// Messages with dense offsets arrived, every byte of them right.
    Delivered { at_us: u64, reader: u16, topic: u16, epoch: u64, first_offset: u64, messages: Vec<Identity> },
    /// A message arrived that is not what anybody published.
    Corrupt { at_us: u64, reader: u16, topic: u16, epoch: u64, offset: u64, what: String },
    /// The reader was told that these offsets will not come.
    Gap { at_us: u64, reader: u16, topic: u16, from: u64, to: u64, cause: String },
    /// The reader goes away, because it was asked to or because of `why`.
    ReaderEnd { at_us: u64, reader: u16, why: String },
    /// The final drain: this reader has read the topic from its oldest offset up to `next`.
    Drained { at_us: u64, reader: u16, topic: u16, epoch: u64, next: u64 },
    /// What the server said of the topic soon after a restart; `first_read`: the first offset that a reader got.
    Recovered { at_us: u64, topic: u16, epoch: u64, oldest: u64, next: u64, first_read: Option<u64> },
    /// A fault begins.
    Fault { at_us: u64, kind: FaultKind, what: String },
    /// It is over, and the server works again. `effective`: it was felt. `lost_bytes`: files were put back by this much.
    Healed { at_us: u64, kind: FaultKind, effective: bool, lost_bytes: u64 },
    /// A new session was opened at `at_us`, or not, after `took_us`.
    Connected { at_us: u64, took_us: u64, ok: bool },
    /// The server ended and nobody had asked it to.
    Crashed { at_us: u64, what: String },
    /// The server was started after a fault and refused: what it said. Nothing more was done.
    NotStarted { at_us: u64, what: String },
    /// A queue's member was handed a job.
    Handed { at_us: u64, topic: u16, member: u16, offset: u64, message: Identity, attempt: u32 },
    /// It is about to say what to do with it.
    Settling { at_us: u64, topic: u16, member: u16, offset: u64, attempt: u32, action: Action, delay_us: u64 },
    /// The answer to that.
    Settled {
        at_us: u64,
        topic: u16,
        member: u16,
        offset: u64,
        attempt: u32,
        action: Action,
        answer: Settlement,
    },
    /// A queue's member goes away with whatever it has.
    Left { at_us: u64, topic: u16, member: u16 },
    /// A dead letter about the topic's message at `offset` was read in the final drain.
    DeadLetter { at_us: u64, topic: u16, offset: u64, message: Identity, attempts: u32 },
    /// The workload ended: nobody publishes any more and all that was possible was read.
    End { at_us: u64 },
    /// Of a run with fast topics, which has no other events.
    Fast(FastEvent),
}
