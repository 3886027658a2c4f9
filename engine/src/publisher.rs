//! Publishing: one stream of messages to one topic.

mod words;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use twinlane_proto::control::TopicRef;
use twinlane_proto::frame::stamp_topic;
use twinlane_proto::{Channel, Code, Level, TopicName, TopicSpec};
use twinlane_ring::{AppendError, Ring};

use crate::client::Client;
use crate::client::outgoing::RemotePublisher;
use crate::config::PublisherOptions;
use crate::error::{OpenError, PublishError, TryPublishError};
use crate::heads::Heads;
use crate::outcomes::Outcomes;
use crate::session::{Local, Reach};
use crate::topics::Topic;
use crate::topics::ingest::{Ingest, Outcome, Taken, stamp_delay};
use crate::topics::last::LastValues;

pub use words::{Ack, BatchAck, Flushed, MessageOptions};

/// How long the server may take to confirm the end of a stream.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// One stream of messages to one topic, in the order of the calls.
///
/// Its methods take `&mut self`: one writer, one order. Open several publishers to publish concurrently.
/// Dropping it sends in the background what was not sent; [`Self::close`] waits for that and reports.
#[derive(Debug)]
pub struct Publisher {
    out: Out,
    name: TopicName,
    spec: TopicSpec,
    /// Messages published so far: the next one has this seq plus one.
    published: u64,
    outcome_timeout: Duration,
    heads: Heads,
    /// Of messages that name none.
    deadline: Option<Duration>,
    closed: bool,
}

/// Where messages go.
enum Out {
    /// Straight into the topic.
    Local { local: Arc<Local>, topic: Arc<Topic>, source: u32 },
    /// Into the engine's log, which answers when the message is on disk.
    Durable { local: Arc<Local>, ingest: Arc<Ingest>, outcomes: Arc<Outcomes> },
    /// Into a queue that the connection sends from. What each message needs of it is at hand: with a thousand publishers
    /// one line less that is out of the cache.
    Remote {
        client: Arc<Client>,
        publisher: Arc<RemotePublisher>,
        ring: Ring,
        newest: Option<Arc<LastValues>>,
    },
}

impl Publisher {
    pub(crate) async fn open(
        reach: &Reach,
        topic: &str,
        options: PublisherOptions,
    ) -> Result<Self, OpenError> {
        match reach {
            Reach::Local(local) => {
                let topic = local.find_or_declare(topic, options.spec)?;
                Ok(Self::local(local, topic))
            }
            Reach::Remote(client) => Self::remote(client, TopicRef::Name(topic.to_owned()), options).await,
        }
    }

    /// A publisher on a topic that is only known by its number: the inbox of somebody who asked something.
    pub(crate) async fn open_inbox(reach: &Reach, id: u32) -> Result<Self, OpenError> {
        match reach {
            Reach::Local(local) => {
                let closed = || crate::error::DeclareError::Closed { why: "the asker is gone".to_owned() };
                let topic = local.core.topics.by_id(id).ok_or_else(closed)?;
                Ok(Self::local(local, topic))
            }
            Reach::Remote(client) => {
                Self::remote(client, TopicRef::Id(id), PublisherOptions::default()).await
            }
        }
    }

    fn local(local: &Arc<Local>, topic: Arc<Topic>) -> Self {
        local.publishers.fetch_add(1, Ordering::Relaxed);
        let (name, spec) = (topic.meta.name.clone(), topic.meta.spec);
        let outcome_timeout = local.core.config.block_timeout * 2;
        let out = if topic.store.is_some() {
            let lane = local.next_lane.fetch_add(1, Ordering::Relaxed);
            let ingest = Arc::new(Ingest::new(topic, local.id_bytes(), lane, 0));
            let outcomes = Arc::new(Outcomes::default());
            let (told, epoch) = (Arc::clone(&outcomes), ingest.topic.meta.epoch);
            ingest.reopen(&mut ingest.in_order(), Box::new(move |taken| tell(&told, epoch, &taken)));
            Out::Durable { local: Arc::clone(local), ingest, outcomes }
        } else {
            let source = topic.open_source();
            Out::Local { local: Arc::clone(local), topic, source }
        };
        Self::new(out, name, spec, outcome_timeout)
    }

    async fn remote(
        client: &Arc<Client>,
        topic: TopicRef,
        options: PublisherOptions,
    ) -> Result<Self, OpenError> {
        let publisher = client.open_publisher(topic, options).await?;
        let meta = Arc::clone(&crate::lock::lock(&publisher.topic));
        let (ring, newest) = (publisher.ring.clone(), publisher.newest().cloned());
        let out = Out::Remote { client: Arc::clone(client), publisher, ring, newest };
        Ok(Self::new(out, meta.name.clone(), meta.spec, client.options.outcome_timeout))
    }

    fn new(out: Out, name: TopicName, spec: TopicSpec, outcome_timeout: Duration) -> Self {
        let deadline = (spec.deadline_us > 0).then(|| Duration::from_micros(spec.deadline_us.into()));
        Self { out, name, spec, published: 0, outcome_timeout, heads: Heads::new(), deadline, closed: false }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.name
    }

    /// What the topic is.
    #[must_use]
    pub fn spec(&self) -> TopicSpec {
        self.spec
    }

    /// Publishes one message. On a reliable topic returns when it is stored; on a fast topic when it is in the
    /// send queue. Waits while the queue is full, at most [`ConnectOptions::outcome_timeout`](crate::ConnectOptions).
    ///
    /// At most [`TopicSpec::payload_bytes_max`] bytes. Cancel-safe: a dropped future has published nothing, or one
    /// message whose outcome is not told.
    ///
    /// # Errors
    ///
    /// [`PublishError::Refused`] and [`PublishError::TooLarge`]: certainly not stored. [`PublishError::Unknown`] and
    /// [`PublishError::Timeout`]: perhaps stored.
    pub async fn publish(&mut self, payload: &[u8]) -> Result<Ack, PublishError> {
        self.publish_with(payload, MessageOptions::default()).await
    }

    /// As [`Self::publish`], with a key or headers.
    ///
    /// # Errors
    ///
    /// As [`Self::publish`], and [`PublishError::BadOptions`].
    pub async fn publish_with(
        &mut self,
        payload: &[u8],
        options: MessageOptions<'_>,
    ) -> Result<Ack, PublishError> {
        self.prepare(payload, &options)?;
        let (seq, waiting) = self.queue(payload, true).await?;
        match (waiting, &self.out) {
            (Queued::Stored(offset), Out::Local { topic, .. }) => {
                let level = (!topic.meta.is_fast()).then_some(Level::Memory);
                Ok(Ack { seq, offset: Some(offset), epoch: topic.meta.epoch, level })
            }
            (Queued::Expected(answer), _) => self.outcome(answer).await,
            (_, Out::Remote { publisher, .. }) => {
                Ok(Ack { seq, offset: None, epoch: publisher.epoch(), level: None })
            }
            (_, Out::Local { .. } | Out::Durable { .. }) => {
                unreachable!("in process a message is stored or answered")
            }
        }
    }

    /// Publishes one message without waiting for anything; returns its seq.
    /// What becomes of it on a reliable topic, [`Self::flush`] tells.
    ///
    /// # Errors
    ///
    /// [`TryPublishError`]: nothing was queued.
    pub fn try_publish(&mut self, payload: &[u8]) -> Result<u64, TryPublishError> {
        self.prepare(payload, &MessageOptions::default()).map_err(|error| match error {
            PublishError::TooLarge { payload_bytes, limit } => {
                TryPublishError::TooLarge { payload_bytes, limit }
            }
            other => TryPublishError::Closed { why: other.to_string() },
        })?;
        match self.append(payload) {
            Ok(_) => {
                self.published += 1;
                Ok(self.published)
            }
            Err(AppendError::Full) => Err(TryPublishError::QueueFull),
            Err(_) => Err(TryPublishError::Closed { why: self.why_closed() }),
        }
    }

    /// Queues one message; waits only for room. Returns its seq. What becomes of it on a reliable topic,
    /// [`Self::flush`] tells: this is the way to publish many messages fast.
    ///
    /// Cancel-safe: a dropped future has queued nothing or one message.
    ///
    /// # Errors
    ///
    /// As [`Self::publish`], of this message or of an earlier one that nobody waited for.
    pub async fn send(&mut self, payload: &[u8]) -> Result<u64, PublishError> {
        self.prepare(payload, &MessageOptions::default())?;
        match self.queue_at_once(payload) {
            Some(seq) => Ok(seq),
            None => self.queue_later(payload).await,
        }
    }

    /// As [`Self::send`], with a key, headers or a delay.
    ///
    /// # Errors
    ///
    /// As [`Self::send`], and [`PublishError::BadOptions`].
    pub async fn send_with(
        &mut self,
        payload: &[u8],
        options: MessageOptions<'_>,
    ) -> Result<u64, PublishError> {
        self.prepare(payload, &options)?;
        match self.queue_at_once(payload) {
            Some(seq) => Ok(seq),
            None => self.queue_later(payload).await,
        }
    }

    /// Publishes all `payloads` in order and, on a reliable topic, waits until all are stored.
    ///
    /// # Errors
    ///
    /// As [`Self::publish`]; earlier messages of the batch may be stored.
    pub async fn publish_batch<P: AsRef<[u8]>>(&mut self, payloads: &[P]) -> Result<BatchAck, PublishError> {
        let first_seq = self.published + 1;
        let mut last_offset = None;
        for payload in payloads {
            self.prepare(payload.as_ref(), &MessageOptions::default())?;
            if let (_, Queued::Stored(offset)) = self.queue(payload.as_ref(), false).await? {
                last_offset = Some(offset);
            }
        }
        if self.outcomes().is_some() && !payloads.is_empty() {
            self.flush().await?;
            last_offset = self.outcomes().and_then(|outcomes| outcomes.progress().last_offset);
        }
        Ok(BatchAck { first_seq, count: self.published + 1 - first_seq, last_offset })
    }

    /// Waits until every message so far has an outcome (reliable) or has left this process (fast). Cancel-safe.
    ///
    /// # Errors
    ///
    /// The first bad outcome of a message that nobody waited for, since the last call; or
    /// [`PublishError::Timeout`].
    pub async fn flush(&mut self) -> Result<Flushed, PublishError> {
        let flushed = match &self.out {
            Out::Local { .. } => return Ok(Flushed { acked: self.published, refused: 0 }),
            Out::Durable { outcomes, .. } => {
                self.settled(outcomes.wait_until(|| outcomes.progress().answered_seq >= self.published))
                    .await?;
                outcomes
            }
            Out::Remote { publisher, .. } => {
                self.settled(publisher.settled(self.published)).await?;
                publisher.outcomes()
            }
        };
        if let Some(error) = flushed.take_bad() {
            return Err(error);
        }
        let progress = flushed.progress();
        if self.spec.channel == Channel::Fast {
            return Ok(Flushed { acked: self.published, refused: 0 });
        }
        if progress.answered_seq < self.published {
            return Err(PublishError::Closed { why: self.why_closed() });
        }
        Ok(Flushed { acked: progress.acked, refused: progress.refused })
    }

    /// Flushes and ends the stream.
    ///
    /// # Errors
    ///
    /// As [`Self::flush`]; the stream is ended all the same.
    pub async fn close(mut self) -> Result<Flushed, PublishError> {
        let flushed = self.flush().await;
        let confirmed = self.end();
        if let (Some(confirmed), true) = (confirmed, self.spec.channel == Channel::Fast) {
            // Until then the last datagrams may be under way, and closing the session would lose them.
            let _ = tokio::time::timeout(CLOSE_PATIENCE, confirmed).await;
        }
        flushed
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.ring().is_closed()
    }

    /// Waits for outcomes, but not for ever.
    async fn settled(&self, settled: impl Future<Output = ()>) -> Result<(), PublishError> {
        if self.published == 0 {
            return Ok(());
        }
        let settled = tokio::time::timeout(self.outcome_timeout, settled).await;
        settled.map_err(|_| PublishError::Timeout { waited: self.outcome_timeout })
    }

    /// Where outcomes arrive; `None`: a message has none, or has it at once.
    fn outcomes(&self) -> Option<&Outcomes> {
        match &self.out {
            Out::Durable { outcomes, .. } => Some(outcomes),
            Out::Remote { publisher, .. } if !publisher.is_fast() => Some(publisher.outcomes()),
            Out::Local { .. } | Out::Remote { .. } => None,
        }
    }

    /// Checks the message and encodes its head.
    #[inline]
    fn prepare(&mut self, payload: &[u8], options: &MessageOptions<'_>) -> Result<(), PublishError> {
        let limit = self.spec.payload_bytes_max as usize;
        if payload.len() > limit {
            return Err(PublishError::TooLarge { payload_bytes: payload.len(), limit });
        }
        let (topic, source) = match &self.out {
            Out::Local { topic, source, .. } => (topic.meta.id, *source),
            Out::Durable { ingest, .. } => (ingest.topic.meta.id, ingest.source),
            // The server knows.
            Out::Remote { .. } => (0, 0),
        };
        let place = (topic, source, self.published + 1);
        let is_awaited = self.ring().is_awaited();
        if self.deadline.is_some() || options.deadline.is_some() {
            return self.prepare_with_deadline(place, payload, options);
        }
        let encoded = self.heads.encode(place, options, payload.len(), is_awaited);
        encoded.map_err(|error| PublishError::BadOptions(error.to_string()))
    }

    /// Encodes the head of a message with a deadline. Readers of the queue look for deadlines from now on. Apart, so that
    /// messages without one are encoded in line.
    #[cold]
    #[inline(never)]
    fn prepare_with_deadline(
        &mut self,
        place: (u32, u32, u64),
        payload: &[u8],
        options: &MessageOptions<'_>,
    ) -> Result<(), PublishError> {
        let flow = match &self.out {
            Out::Local { topic, .. } => topic.flow.as_ref(),
            Out::Remote { publisher, .. } => publisher.flow.as_ref(),
            Out::Durable { .. } => None,
        };
        let only_fast = || {
            PublishError::BadOptions(
                "only messages of fast topics have a deadline; publish without".to_owned(),
            )
        };
        flow.ok_or_else(only_fast)?.expect_deadlines();
        let options = MessageOptions { deadline: options.deadline.or(self.deadline), ..*options };
        let encoded = self.heads.encode(place, &options, payload.len(), true);
        encoded.map_err(|error| PublishError::BadOptions(error.to_string()))
    }

    #[inline]
    fn append(&self, payload: &[u8]) -> Result<u64, AppendError> {
        match &self.out {
            Out::Durable { ingest, outcomes, .. } => self.stage(ingest, outcomes, payload),
            Out::Local { topic, .. } => topic.ring.append(&[self.heads.bytes(), payload], |offset, frame| {
                stamp_delay(frame);
                if topic.flow.is_some() {
                    stamp_topic(frame, offset as u32);
                }
                topic.note_last(offset, frame);
            }),
            Out::Remote { ring, newest, .. } => {
                ring.append(&[self.heads.bytes(), payload], |offset, frame| {
                    newest.as_ref().inspect(|newest| newest.note(offset, frame));
                })
            }
        }
    }

    /// Appends the prepared message if there is room; returns its seq.
    #[inline]
    fn queue_at_once(&mut self, payload: &[u8]) -> Option<u64> {
        self.append(payload).ok()?;
        self.published += 1;
        Some(self.published)
    }

    /// Appends the prepared message as soon as there is room. Boxed: waiting is rare, and its size would be every call's.
    fn queue_later<'a>(&'a mut self, payload: &'a [u8]) -> Later<'a> {
        Box::pin(async move { Ok(self.queue(payload, false).await?.0) })
    }

    /// Hands the prepared message to the log. It has no offset yet: what is returned means nothing.
    fn stage(&self, ingest: &Arc<Ingest>, outcomes: &Outcomes, payload: &[u8]) -> Result<u64, AppendError> {
        let frame = Bytes::from([self.heads.bytes(), payload].concat());
        let telling = ingest.in_order();
        let ends = [frame.len() as u32];
        let taken = ingest.take(self.published + 1, frame, &ends);
        let taken =
            taken.expect("this publisher numbers its messages itself, and has checked this one's size");
        if taken.stalled {
            ingest.give_back_waiting();
            return Err(AppendError::Full);
        }
        let is_over = taken.ended.is_some();
        tell(outcomes, ingest.topic.meta.epoch, &taken);
        drop(telling);
        if is_over { Err(AppendError::Closed) } else { Ok(0) }
    }

    #[inline]
    fn ring(&self) -> &Ring {
        match &self.out {
            Out::Local { topic, .. } => &topic.ring,
            Out::Durable { ingest, .. } => &ingest.topic.ring,
            Out::Remote { ring, .. } => ring,
        }
    }

    /// Appends the prepared message as soon as there is room. `expect`: its outcome will be waited for.
    async fn queue(&mut self, payload: &[u8], expect: bool) -> Result<(u64, Queued), PublishError> {
        let seq = self.published + 1;
        // Asked for before the message can be answered.
        let expected = self.outcomes().filter(|_| expect).map(|outcomes| outcomes.expect(seq));
        let mut waited = Duration::ZERO;
        let offset = loop {
            match self.append(payload) {
                Ok(offset) => break offset,
                Err(AppendError::Full) => self.wait_for_room(&mut waited).await?,
                Err(AppendError::TooLarge { frame_bytes, .. }) => {
                    let limit = self.spec.payload_bytes_max as usize;
                    return Err(PublishError::TooLarge { payload_bytes: frame_bytes, limit });
                }
                Err(_) => return Err(self.closed_error(seq)),
            }
        };
        self.published = seq;
        Ok((
            seq,
            match (expected, &self.out) {
                (Some(answer), _) => Queued::Expected(answer),
                (None, Out::Local { .. }) => Queued::Stored(offset),
                (None, Out::Remote { .. } | Out::Durable { .. }) => Queued::Sent,
            },
        ))
    }

    /// Waits for room a while. In process, subscribers that give none for too long are cut off.
    async fn wait_for_room(&self, waited: &mut Duration) -> Result<(), PublishError> {
        let patience = match &self.out {
            Out::Local { local, .. } | Out::Durable { local, .. } => local.core.config.block_timeout,
            Out::Remote { .. } => self.outcome_timeout,
        };
        if *waited >= self.outcome_timeout {
            return Err(PublishError::Timeout { waited: *waited });
        }
        let topic = match &self.out {
            Out::Local { topic, .. } => Some(topic),
            Out::Durable { ingest, .. } => Some(&ingest.topic),
            Out::Remote { .. } => None,
        };
        let room = async {
            match topic {
                Some(topic) => topic.room().await,
                None => self.ring().room().await,
            }
        };
        if tokio::time::timeout(patience, room).await.is_err() {
            *waited += patience;
            if let Some(topic) = topic {
                topic.evict_blockers();
            }
        }
        Ok(())
    }

    async fn outcome(
        &self,
        answer: oneshot::Receiver<Result<Ack, PublishError>>,
    ) -> Result<Ack, PublishError> {
        match tokio::time::timeout(self.outcome_timeout, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(PublishError::Closed { why: self.why_closed() }),
            Err(_) => Err(PublishError::Timeout { waited: self.outcome_timeout }),
        }
    }

    /// What becomes of message `seq` where nothing is accepted any more.
    fn closed_error(&self, seq: u64) -> PublishError {
        let code = match &self.out {
            Out::Remote { publisher, .. } => publisher.refused_from_now_on(),
            Out::Durable { .. } => Some(Code::StorageFailed),
            Out::Local { .. } => None,
        };
        match code {
            Some(code) => PublishError::Refused { seq, code },
            None => PublishError::Closed { why: self.why_closed() },
        }
    }

    fn why_closed(&self) -> String {
        let goodbye = match &self.out {
            Out::Local { .. } | Out::Durable { .. } => None,
            Out::Remote { client, .. } => client.closed(),
        };
        goodbye.map_or_else(|| "the topic is closed".to_owned(), |goodbye| goodbye.code.to_string())
    }

    fn end(&mut self) -> Option<oneshot::Receiver<()>> {
        if std::mem::replace(&mut self.closed, true) {
            return None;
        }
        match &self.out {
            Out::Local { local, topic, source } => {
                local.publishers.fetch_sub(1, Ordering::Relaxed);
                topic.close_source(*source, self.published);
                None
            }
            Out::Durable { local, ingest, .. } => {
                local.publishers.fetch_sub(1, Ordering::Relaxed);
                ingest.end(self.published);
                None
            }
            Out::Remote { client, publisher, .. } => Some(client.close_publisher(publisher)),
        }
    }
}

type Later<'a> = Pin<Box<dyn Future<Output = Result<u64, PublishError>> + Send + 'a>>;

/// What queueing a message led to.
enum Queued {
    /// It has this offset.
    Stored(u64),
    /// Its outcome will come here.
    Expected(oneshot::Receiver<Result<Ack, PublishError>>),
    /// It is on its way.
    Sent,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let (false, Out::Remote { client, publisher, .. }) = (self.closed, &self.out)
            && publisher.progress().answered_seq < self.published
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // What was queued still goes out; nobody waits for it here.
            let (client, publisher) = (Arc::clone(client), Arc::clone(publisher));
            let (published, patience) = (self.published, self.outcome_timeout);
            runtime.spawn(async move {
                let _ = tokio::time::timeout(patience, publisher.settled(published)).await;
                drop(client.close_publisher(&publisher));
            });
            return;
        }
        let _ = self.end();
    }
}

/// Passes on what became of an in-process publisher's messages.
fn tell(outcomes: &Outcomes, epoch: u64, taken: &Taken) {
    for outcome in &taken.outcomes {
        match outcome {
            Outcome::Acked(acked) => outcomes.acked(acked, epoch),
            Outcome::Refused(refused) => outcomes.refused(refused),
        }
    }
    if taken.ended.is_some() {
        outcomes.give_up_expected();
    }
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Local { .. } => "Local",
            Self::Durable { .. } => "Durable",
            Self::Remote { .. } => "Remote",
        })
    }
}
