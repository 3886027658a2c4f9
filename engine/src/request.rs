//! Requests and answers: a message that says where its answer should go, and the answer that goes there.
//!
//! Each session that asks has one inbox topic; numbers tell its answers apart. Nothing else is special: questions
//! and answers are ordinary messages.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use twinlane_proto::frame::ReplyTo;
use twinlane_proto::{Outcome, Start, TopicName, TopicSpec};

use crate::config::{PublisherOptions, SubscribeOptions};
use crate::error::{OpenError, PublishError, RequestError};
use crate::lock::lock;
use crate::message::{Delivery, Message};
use crate::publisher::{MessageOptions, Publisher};
use crate::session::{Reach, Session};
use crate::subscription::Subscription;

/// Publishers a session keeps open for asking or answering; beyond that the oldest make way.
const PUBLISHERS_MAX: usize = 64;

/// The inbox topic of a session.
pub(crate) fn inbox_name(session: &str) -> String {
    format!("$inbox/{session}")
}

/// What inboxes and the engine's own topics are: small, because an answer is taken at once.
pub(crate) fn inbox_spec() -> TopicSpec {
    TopicSpec::reliable().with_retain_bytes(256 << 10).with_retain_messages(1_024)
}

/// A session's side of asking.
#[derive(Default)]
pub(crate) struct Requests {
    next: AtomicU64,
    inbox: AsyncMutex<Option<Inbox>>,
    publishers: Publishers<String>,
}

/// Who waits for what, by number.
type Waiting = Mutex<HashMap<u64, Waiter>>;

enum Waiter {
    /// For one answer.
    Once(oneshot::Sender<Message>),
    /// For all that come, until the inbox is lost.
    Each(mpsc::Sender<Message>),
}

/// Where answers arrive.
struct Inbox {
    session: String,
    topic: u32,
    waiting: Arc<Waiting>,
    /// Ends with the session: reading an inbox that is gone is over by itself.
    reading: tokio::task::JoinHandle<()>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Requests {
    pub(crate) async fn request(
        &self,
        session: &Session,
        topic: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        let asked = async {
            let correlation = self.next.fetch_add(1, Ordering::Relaxed);
            let (answer, answered) = oneshot::channel();
            let (inbox, waiting) = self.inbox(session).await?;
            lock(&waiting).insert(correlation, Waiter::Once(answer));
            let _forget = Forget { waiting: &waiting, correlation };
            let publisher = self
                .publishers
                .find(topic, || Publisher::open(session.reach(), topic, PublisherOptions::default()));
            let publisher = publisher.await?;
            let reply_to = Some(ReplyTo { topic: inbox, correlation });
            let options = MessageOptions { reply_to, ..MessageOptions::default() };
            publisher.lock().await.publish_with(payload, options).await?;
            answered
                .await
                .map_err(|_| RequestError::from(PublishError::Closed { why: "the session ended".to_owned() }))
        };
        tokio::time::timeout(timeout, asked).await.map_err(|_| RequestError::Timeout(timeout))?
    }

    /// A number under which messages are answered again and again, and where they come: at most `messages_max` wait, then
    /// the inbox does. Ends when the inbox is lost or emptied behind our back: what was answered may be missing then.
    pub(crate) async fn stream(
        &self,
        session: &Session,
        messages_max: usize,
    ) -> Result<(ReplyTo, mpsc::Receiver<Message>), RequestError> {
        let correlation = self.next.fetch_add(1, Ordering::Relaxed);
        let (answers, answered) = mpsc::channel(messages_max);
        let (topic, waiting) = self.inbox(session).await?;
        let mut waiting = lock(&waiting);
        // Those that nobody reads any more are found when there is a new one.
        waiting.retain(|_, waiter| !matches!(waiter, Waiter::Each(each) if each.is_closed()));
        waiting.insert(correlation, Waiter::Each(answers));
        Ok((ReplyTo { topic, correlation }, answered))
    }

    /// The inbox's topic number, and who waits for what. Opened at the first request, and again for a new session.
    async fn inbox(&self, session: &Session) -> Result<(u32, Arc<Waiting>), RequestError> {
        let id = session.id();
        let mut inbox = self.inbox.lock().await;
        let usable = inbox.as_ref().filter(|inbox| inbox.session == id && !inbox.reading.is_finished());
        if usable.is_none() {
            *inbox = Some(open_inbox(session, id).await?);
        }
        let inbox = inbox.as_ref().expect("it was opened above");
        Ok((inbox.topic, Arc::clone(&inbox.waiting)))
    }
}

/// Takes a request that is over, answered or not, off the list.
struct Forget<'a> {
    waiting: &'a Waiting,
    correlation: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.correlation);
    }
}

async fn open_inbox(session: &Session, id: String) -> Result<Inbox, RequestError> {
    let options = SubscribeOptions { start: Start::New, ..SubscribeOptions::default() };
    let mut subscription = Subscription::open_inbox(session.reach(), &inbox_name(&id), options).await?;
    let topic =
        subscription.first_topic_id().await.ok_or_else(|| RequestError::BadAnswer("no inbox".to_owned()))?;
    let waiting: Arc<Waiting> = Arc::default();
    let answers = Arc::clone(&waiting);
    let reading = tokio::spawn(async move {
        while let Some(delivery) = subscription.next().await {
            match delivery {
                Delivery::Message(message) => answer(&answers, message).await,
                // Answers may have been among what is missing: streams begin again.
                Delivery::Gap(_) | Delivery::Resumed { outcome: Outcome::Fresh | Outcome::Gap(_), .. } => {
                    lock(&answers).retain(|_, waiter| matches!(waiter, Waiter::Once(_)));
                }
                Delivery::Resumed { .. } => {}
            }
        }
        lock(&answers).clear();
    });
    Ok(Inbox { session: id, topic, waiting, reading })
}

/// Hands an answer to whoever waits for it.
async fn answer(waiting: &Waiting, message: Message) {
    let Some(correlation) = message.options().correlation else { return };
    let each = {
        let mut waiting = lock(waiting);
        match waiting.get(&correlation) {
            Some(Waiter::Each(each)) => each.clone(),
            Some(Waiter::Once(_)) => {
                if let Some(Waiter::Once(once)) = waiting.remove(&correlation) {
                    let _ = once.send(message);
                }
                return;
            }
            None => return,
        }
    };
    if each.send(message).await.is_err() {
        lock(waiting).remove(&correlation);
    }
}

/// Answers requests, one after another or, with clones of what [`Request`] holds, concurrently.
#[derive(Debug)]
pub struct Responder {
    session: Session,
    subscription: Subscription,
    publishers: Arc<Publishers<u32>>,
}

impl Responder {
    pub(crate) fn new(session: Session, subscription: Subscription) -> Self {
        Self { session, subscription, publishers: Arc::default() }
    }

    /// The next request; `None` when the subscription ended. Messages that are no requests are passed over.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Request> {
        loop {
            let Delivery::Message(message) = self.subscription.next().await? else { continue };
            let Some(reply_to) = message.options().reply_to else { continue };
            let (session, publishers) = (self.session.clone(), Arc::clone(&self.publishers));
            return Some(Request { message, reply_to, session, publishers });
        }
    }
}

/// A message that waits for an answer.
#[derive(Debug)]
pub struct Request {
    message: Message,
    reply_to: ReplyTo,
    session: Session,
    publishers: Arc<Publishers<u32>>,
}

impl Request {
    /// The payload of the question.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.message.payload()
    }

    /// The topic it was asked on.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        self.message.topic()
    }

    /// The question as a message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Answers; returns when the answer is stored for the asker.
    ///
    /// # Errors
    ///
    /// [`PublishError`]: the asker is gone, or the answer is too large.
    pub async fn respond(self, payload: &[u8]) -> Result<(), PublishError> {
        let inbox = self.reply_to.topic;
        let publisher =
            self.publishers.find(&inbox, || Publisher::open_inbox(self.session.reach(), inbox)).await;
        let publisher = publisher.map_err(|error| PublishError::Closed { why: error.to_string() })?;
        let correlation = Some(self.reply_to.correlation);
        let options = MessageOptions { correlation, ..MessageOptions::default() };
        publisher.lock().await.publish_with(payload, options).await.map(|_| ())
    }
}

/// Publishers kept open because the next question or answer is likely to need them.
struct Publishers<K> {
    open: AsyncMutex<Vec<(K, Arc<AsyncMutex<Publisher>>)>>,
}

impl<K> Default for Publishers<K> {
    fn default() -> Self {
        Self { open: AsyncMutex::new(Vec::new()) }
    }
}

impl<K> std::fmt::Debug for Publishers<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publishers")
    }
}

impl<K> Publishers<K> {
    async fn find<Q, F>(
        &self,
        key: &Q,
        open: impl FnOnce() -> F,
    ) -> Result<Arc<AsyncMutex<Publisher>>, OpenError>
    where
        Q: PartialEq<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = Result<Publisher, OpenError>>,
    {
        let mut known = self.open.lock().await;
        if let Some(at) = known.iter().position(|(other, _)| key == other) {
            let publisher = Arc::clone(&known[at].1);
            if !publisher.lock().await.is_closed() {
                return Ok(publisher);
            }
            // It did not survive a reconnect.
            known.remove(at);
        }
        if known.len() == PUBLISHERS_MAX {
            known.remove(0);
        }
        let publisher = Arc::new(AsyncMutex::new(open().await?));
        known.push((key.to_owned(), Arc::clone(&publisher)));
        Ok(publisher)
    }
}

/// In-process inboxes need no server to declare them.
pub(crate) fn declare_local_inbox(reach: &Reach, name: &str) -> Result<(), OpenError> {
    if let Reach::Local(local) = reach {
        let name = crate::topics::parse_name(name).map_err(crate::error::DeclareError::from)?;
        local.core.topics.declare(&name, inbox_spec(), &local.declared_by())?;
    }
    Ok(())
}
