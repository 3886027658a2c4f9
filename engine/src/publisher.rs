//! Publishing: one stream of messages to one topic.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use twinlane_proto::control::TopicRef;
use twinlane_proto::frame::ReplyTo;
use twinlane_proto::{Channel, Level, TopicName, TopicSpec};
use twinlane_ring::{AppendError, Ring};

use crate::client::Client;
use crate::client::outgoing::RemotePublisher;
use crate::config::PublisherOptions;
use crate::error::{OpenError, PublishError, TryPublishError};
use crate::heads::Heads;
use crate::session::{Local, Reach};
use crate::topics::Topic;
use crate::topics::ingest::LEVEL;

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
    closed: bool,
}

/// Where messages go.
enum Out {
    /// Straight into the topic.
    Local { local: Arc<Local>, topic: Arc<Topic>, source: u32 },
    /// Into a queue that the connection sends from.
    Remote { client: Arc<Client>, publisher: Arc<RemotePublisher> },
}

/// The outcome of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ack {
    /// The message's place in this publisher's stream, from 1.
    pub seq: u64,
    /// Its place in the topic. `None` on a fast topic of a remote engine: nobody answers for it.
    pub offset: Option<u64>,
    /// The epoch the offset belongs to.
    pub epoch: u64,
    /// How safely it is kept. `None` on a fast topic.
    pub level: Option<Level>,
}

/// The outcome of [`Publisher::publish_batch`]: all of them are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchAck {
    /// The first message's seq; the others follow densely.
    pub first_seq: u64,
    /// How many there are.
    pub count: u64,
    /// The last message's place in the topic; `None` on a fast topic.
    pub last_offset: Option<u64>,
}

/// Outcomes of everything published so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Flushed {
    /// Messages stored (reliable) or sent (fast).
    pub acked: u64,
    /// Messages certainly not stored.
    pub refused: u64,
}

/// What a message carries besides its payload.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct MessageOptions<'a> {
    /// A hash of what the message is about.
    pub key: Option<u64>,
    /// Names and values for the subscribers: at most 32, together 4 KiB.
    pub headers: &'a [(&'a str, &'a [u8])],
    pub(crate) reply_to: Option<ReplyTo>,
    pub(crate) correlation: Option<u64>,
}

impl<'a> MessageOptions<'a> {
    /// Sets the key.
    #[must_use]
    pub fn with_key(mut self, key: u64) -> Self {
        self.key = Some(key);
        self
    }

    /// Sets the headers.
    #[must_use]
    pub fn with_headers(mut self, headers: &'a [(&'a str, &'a [u8])]) -> Self {
        self.headers = headers;
        self
    }

    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        let Self { key, headers, reply_to, correlation } = self;
        key.is_none() && headers.is_empty() && reply_to.is_none() && correlation.is_none()
    }
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
        let (name, spec, source) = (topic.meta.name.clone(), topic.meta.spec, topic.open_source());
        let outcome_timeout = local.core.config.block_timeout * 2;
        Self::new(Out::Local { local: Arc::clone(local), topic, source }, name, spec, outcome_timeout)
    }

    async fn remote(
        client: &Arc<Client>,
        topic: TopicRef,
        options: PublisherOptions,
    ) -> Result<Self, OpenError> {
        let publisher = client.open_publisher(topic, options).await?;
        let meta = Arc::clone(&crate::lock::lock(&publisher.topic));
        let out = Out::Remote { client: Arc::clone(client), publisher };
        Ok(Self::new(out, meta.name.clone(), meta.spec, client.options.outcome_timeout))
    }

    fn new(out: Out, name: TopicName, spec: TopicSpec, outcome_timeout: Duration) -> Self {
        Self { out, name, spec, published: 0, outcome_timeout, heads: Heads::new(), closed: false }
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
                let level = (!topic.meta.is_fast()).then_some(LEVEL);
                Ok(Ack { seq, offset: Some(offset), epoch: topic.meta.epoch, level })
            }
            (Queued::Expected(answer), _) => self.outcome(answer).await,
            (_, Out::Remote { publisher, .. }) => {
                Ok(Ack { seq, offset: None, epoch: publisher.epoch(), level: None })
            }
            (Queued::Sent, Out::Local { .. }) => unreachable!("in process a message is stored at once"),
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
        if self.append(payload).is_ok() {
            self.published += 1;
            return Ok(self.published);
        }
        let (seq, _) = self.queue(payload, false).await?;
        Ok(seq)
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
        if let Out::Remote { publisher, .. } = &self.out
            && !publisher.is_fast()
            && !payloads.is_empty()
        {
            self.flush().await?;
            last_offset = self.remote_offset();
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
        let Out::Remote { publisher, .. } = &self.out else {
            return Ok(Flushed { acked: self.published, refused: 0 });
        };
        if self.published > 0 {
            let settled = tokio::time::timeout(self.outcome_timeout, publisher.settled(self.published));
            settled.await.map_err(|_| PublishError::Timeout { waited: self.outcome_timeout })?;
        }
        if let Some(error) = publisher.take_bad_outcome() {
            return Err(error);
        }
        let progress = publisher.progress();
        if progress.answered_seq < self.published {
            return Err(PublishError::Closed { why: self.why_closed() });
        }
        let acked = if publisher.is_fast() { self.published } else { progress.acked };
        Ok(Flushed { acked, refused: progress.refused })
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

    /// Checks the message and encodes its head.
    #[inline]
    fn prepare(&mut self, payload: &[u8], options: &MessageOptions<'_>) -> Result<(), PublishError> {
        let limit = self.spec.payload_bytes_max as usize;
        if payload.len() > limit {
            return Err(PublishError::TooLarge { payload_bytes: payload.len(), limit });
        }
        let (topic, source) = match &self.out {
            Out::Local { topic, source, .. } => (topic.meta.id, *source),
            // The server knows.
            Out::Remote { .. } => (0, 0),
        };
        let place = (topic, source, self.published + 1);
        let is_awaited = self.ring().is_awaited();
        let encoded = self.heads.encode(place, options, payload.len(), is_awaited);
        encoded.map_err(|error| PublishError::BadOptions(error.to_string()))
    }

    #[inline]
    fn append(&self, payload: &[u8]) -> Result<u64, AppendError> {
        self.ring().append(&[self.heads.bytes(), payload], |_, _| ())
    }

    #[inline]
    fn ring(&self) -> &Ring {
        match &self.out {
            Out::Local { topic, .. } => &topic.ring,
            Out::Remote { publisher, .. } => &publisher.ring,
        }
    }

    /// Appends the prepared message as soon as there is room. `expect`: its outcome will be waited for.
    async fn queue(&mut self, payload: &[u8], expect: bool) -> Result<(u64, Queued), PublishError> {
        let seq = self.published + 1;
        let expected = match &self.out {
            // Asked for before the message can be answered.
            Out::Remote { publisher, .. } if expect && !publisher.is_fast() => Some(publisher.expect(seq)),
            _ => None,
        };
        let mut waited = Duration::ZERO;
        let offset = loop {
            match self.append(payload) {
                Ok(offset) => break offset,
                Err(AppendError::Full) => self.wait_for_room(&mut waited).await?,
                Err(AppendError::TooLarge { frame_bytes, .. }) => {
                    let limit = self.spec.payload_bytes_max as usize;
                    return Err(PublishError::TooLarge { payload_bytes: frame_bytes, limit });
                }
                Err(_) => return Err(PublishError::Closed { why: self.why_closed() }),
            }
        };
        self.published = seq;
        Ok((
            seq,
            match (expected, &self.out) {
                (Some(answer), _) => Queued::Expected(answer),
                (None, Out::Local { .. }) => Queued::Stored(offset),
                (None, Out::Remote { .. }) => Queued::Sent,
            },
        ))
    }

    /// Waits for room a while. In process, subscribers that give none for too long are cut off.
    async fn wait_for_room(&self, waited: &mut Duration) -> Result<(), PublishError> {
        let patience = match &self.out {
            Out::Local { local, .. } => local.core.config.block_timeout,
            Out::Remote { .. } => self.outcome_timeout,
        };
        if *waited >= self.outcome_timeout {
            return Err(PublishError::Timeout { waited: *waited });
        }
        if tokio::time::timeout(patience, self.ring().room()).await.is_err() {
            *waited += patience;
            if let Out::Local { topic, .. } = &self.out {
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

    fn remote_offset(&self) -> Option<u64> {
        match &self.out {
            Out::Local { .. } => None,
            Out::Remote { publisher, .. } => publisher.progress().last_offset,
        }
    }

    fn why_closed(&self) -> String {
        let goodbye = match &self.out {
            Out::Local { .. } => None,
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
            Out::Remote { client, publisher } => Some(client.close_publisher(publisher)),
        }
    }
}

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
        if let (false, Out::Remote { client, publisher }) = (self.closed, &self.out)
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

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Local { .. } => "Local",
            Self::Remote { .. } => "Remote",
        })
    }
}
