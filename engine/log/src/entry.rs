//! What the log stores, as its owner says it. What the values mean is the owner's business.

/// Whose message it was: one publisher stream's number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The session that published.
    pub session: [u8; 16],
    /// The publisher stream in it. Never given to another stream of that session later.
    pub lane: u32,
    /// Number of the run's first frame in its stream; the others follow densely.
    pub first_seq: u64,
}

impl Origin {
    pub(crate) fn stream(&self) -> StreamId {
        StreamId { session: self.session, lane: self.lane }
    }
}

/// Names a publisher stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId {
    pub(crate) session: [u8; 16],
    pub(crate) lane: u32,
}

/// One thing to store.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// Declares topic `id` or gives it a new value. Its runs may follow, in the same record already.
    Topic {
        /// The owner's number of the topic.
        id: u32,
        /// Whatever the owner needs to know it again.
        value: &'a [u8],
    },
    /// Messages of one publisher stream, which get the topic's next offsets.
    Run {
        /// A declared topic.
        topic: u32,
        /// Whose they are.
        origin: Origin,
        /// How many, at least 1.
        frames: u32,
        /// The frames back to back; each begins with its length, a little-endian `u32`.
        bytes: &'a [u8],
    },
    /// A publisher stream was opened: from now on its answers are kept, until it is forgotten.
    Stream {
        /// Its session.
        session: [u8; 16],
        /// Its number there.
        lane: u32,
        /// Where it publishes.
        topic: u32,
        /// Whatever the owner needs to know it again.
        value: &'a [u8],
    },
    /// The newest snapshot under a key; deltas before it are dead. An empty value deletes the key.
    State {
        /// Unique among states.
        key: &'a [u8],
        /// The snapshot.
        value: &'a [u8],
    },
    /// A change since the key's last snapshot. Deltas keep their order.
    Delta {
        /// The snapshot's key.
        key: &'a [u8],
        /// The change.
        value: &'a [u8],
    },
}

/// Frames of one stream that got consecutive offsets: what a repeat is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Number of the first frame in its stream.
    pub first_seq: u64,
    /// How many.
    pub count: u64,
    /// Offset of the first; the others follow.
    pub first_offset: u64,
}

impl Answer {
    pub(crate) fn end_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.count)
    }

    /// Takes `next` in if it simply goes on.
    pub(crate) fn extend(&mut self, next: &Self) -> bool {
        let follows = self.end_seq() == next.first_seq
            && self.first_offset.saturating_add(self.count) == next.first_offset;
        if follows {
            self.count += next.count;
        }
        follows
    }
}
