//! An in-process subscription's way to its topics: cursors on their rings, nothing in between.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use twinlane_proto::Filter;

use crate::config::SubscribeOptions;
use crate::cursors::{Cursors, Step};
use crate::error::{EndReason, OpenError};
use crate::fast::Ended;
use crate::incoming::Incoming;
use crate::lock::lock;
use crate::session::Local;
use crate::topics::{Miss, Subscribed, Subscriber, Topic, Watch};

/// Bytes taken from one topic before the others get their turn.
const TURN_BYTES: usize = 256 << 10;

pub(crate) struct LocalSource {
    local: Arc<Local>,
    cursors: Cursors<Seat>,
    found: Arc<Found>,
    end: Option<EndReason>,
    /// What goes before the next run.
    next: VecDeque<Incoming>,
    /// Held for its drop.
    _watch: Watch,
}

/// One topic of the subscription.
struct Seat {
    topic: Arc<Topic>,
    subscriber: Arc<Subscriber>,
}

/// Topics that were found and not yet taken in.
#[derive(Default)]
struct Found {
    topics: Mutex<Vec<(Arc<Topic>, Subscribed)>>,
    reader: AtomicWaker,
}

impl LocalSource {
    pub(crate) fn open(
        local: &Arc<Local>,
        filter: Filter,
        options: SubscribeOptions,
    ) -> Result<Self, OpenError> {
        if let (Some(name), Some(spec)) = (filter.as_name(), options.spec) {
            local.find_or_declare(name.as_str(), Some(spec))?;
        }
        let found = Arc::new(Found::default());
        let (posting, session) = (Arc::clone(&found), local.id.clone());
        let watch = local.core.topics.watch(filter, move |topic, is_new| {
            let start = if is_new { twinlane_proto::Start::All } else { options.start };
            let subscribed = topic.subscribe(start, None, options.slow, &session, "local");
            lock(&posting.topics).push((topic, subscribed));
            posting.reader.wake();
        });
        local.subscriptions.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            local: Arc::clone(local),
            cursors: Cursors::new(),
            found,
            end: None,
            next: VecDeque::new(),
            _watch: watch,
        })
    }

    pub(crate) fn end_reason(&self) -> Option<EndReason> {
        self.end.clone()
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        if self.end.is_some() {
            return Poll::Ready(None);
        }
        if let Some(next) = self.take_found().or_else(|| self.next.pop_front()) {
            return Poll::Ready(Some(next));
        }
        loop {
            let Poll::Ready((key, step)) = self.cursors.poll_next(cx, TURN_BYTES) else {
                while let Some(seat) = self.cursors.take_touched() {
                    if let Some(left_out) = seat.left_out(true) {
                        return Poll::Ready(Some(left_out));
                    }
                }
                self.found.reader.register(cx.waker());
                return self.take_found().map_or(Poll::Pending, |bound| Poll::Ready(Some(bound)));
            };
            let seat = self.cursors.tag(key);
            let topic = Arc::clone(&seat.topic.meta);
            match step {
                Step::Run(run) => {
                    let first = run.first_offset();
                    seat.subscriber.position.store(run.end_offset(), Ordering::Relaxed);
                    let run = Incoming::Run { topic, first, bytes: run.into_bytes() };
                    let Some(left_out) = seat.left_out(false) else { return Poll::Ready(Some(run)) };
                    self.next.push_back(run);
                    return Poll::Ready(Some(left_out));
                }
                Step::Missed { from, to } => match seat.topic.missed(&seat.subscriber, from, to) {
                    Miss::Skip(cause) => {
                        return Poll::Ready(Some(Incoming::Skipped { topic, from, to, cause }));
                    }
                    Miss::Dropped(ended) => {
                        let end = |Ended { source, last_seq, .. }| Incoming::StreamEnd {
                            topic: Arc::clone(&topic),
                            source,
                            last_seq,
                        };
                        self.next.extend(ended.into_iter().map(end));
                        return Poll::Ready(seat.left_out(true));
                    }
                    Miss::End(code, reason) => {
                        self.end = Some(EndReason { code, reason });
                        return Poll::Ready(None);
                    }
                },
                Step::Closed => drop(self.cursors.remove(key)),
            }
        }
    }

    fn take_found(&mut self) -> Option<Incoming> {
        let (topic, subscribed) = lock(&self.found.topics).pop()?;
        let Subscribed { cursor, subscriber, next_offset, next_source, outcome } = subscribed;
        let meta = Arc::clone(&topic.meta);
        self.cursors.insert(cursor, Seat { topic, subscriber }, None);
        Some(Incoming::Bound { topic: meta, next_offset, next_source, outcome, again: false })
    }
}

impl Seat {
    /// What the subscriber should hear now of messages that were left out. `at_once`: nothing follows that would tell it
    /// later.
    fn left_out(&self, at_once: bool) -> Option<Incoming> {
        let counts = self.topic.left_out_for(&self.subscriber, at_once)?;
        Some(Incoming::LeftOut { topic: Arc::clone(&self.topic.meta), counts })
    }
}

impl Drop for LocalSource {
    fn drop(&mut self) {
        self.local.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }
}
