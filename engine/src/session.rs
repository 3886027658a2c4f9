//! A session: the one way to publish and subscribe, in this process or over the network.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use twinlane_proto::control::Declare;
use twinlane_proto::frame::ReplyTo;
use twinlane_proto::{Code, Control, TopicSpec};

use crate::client::{self, Client};
use crate::config::{ConnectOptions, PublisherOptions, SubscribeOptions};
use crate::engine::{Core, Engine};
use crate::error::{DeclareError, OpenError, RequestError};
use crate::events::ClientSocket;
use crate::events::native::{EventsClient, Link};
use crate::message::Message;
use crate::publisher::Publisher;
use crate::request::{Requests, Responder, declare_local_inbox};
use crate::server::system;
use crate::session_events::SessionEvents;
use crate::status::{EngineStatus, SessionStatus, TopicStatus};
use crate::subscription::Subscription;
use crate::topics::client_topic;
use crate::transport::ConnectError;
use crate::worker::{Queue, QueueOptions};

/// How long the questions about the server itself may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// One participant. Cheap to clone; all clones are the same session.
///
/// Publishers and subscriptions made from it have the same methods and promises in process and over the network.
/// A remote session survives lost connections; see [`Self::events`].
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    reach: Reach,
    requests: Requests,
    events: EventsClient,
}

/// How a session reaches its engine.
#[derive(Clone)]
pub(crate) enum Reach {
    Local(Arc<Local>),
    Remote(Arc<Client>),
}

/// An in-process session.
pub(crate) struct Local {
    pub(crate) core: Arc<Core>,
    pub(crate) id: String,
    /// The next number of something that is opened in this session.
    pub(crate) next_lane: AtomicU32,
    pub(crate) publishers: AtomicU64,
    pub(crate) subscriptions: AtomicU64,
}

impl Session {
    /// A session with an engine in this process: no sockets, no copies between publisher and subscriber.
    #[must_use]
    pub fn local(engine: &Engine) -> Self {
        let id = format!("{:016x}{:016x}", crate::topics::random_u64(), crate::topics::random_u64());
        let core = Arc::clone(engine.core());
        let local = Local {
            core,
            id,
            next_lane: AtomicU32::new(1),
            publishers: AtomicU64::new(0),
            subscriptions: AtomicU64::new(0),
        };
        Self::of(Reach::Local(Arc::new(local)))
    }

    /// Connects to a server; returns when the first connection is ready. The session then lives on the current
    /// tokio runtime until [`Self::close`].
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says what failed and what to do. Only the first attempt can fail so: a session that was
    /// once connected comes back by itself.
    ///
    /// ```
    /// use twinlane::{ConnectOptions, Engine, EngineConfig, ListenOptions, Session, Trust};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let engine = Engine::new(EngineConfig::default())?;
    /// let listening = engine.listen(ListenOptions::new("127.0.0.1:0".parse()?)).await?;
    /// let fingerprint = listening.fingerprint().ok_or("TLS is on by default")?;
    ///
    /// let session = Session::connect(ConnectOptions::new(listening.url(), Trust::Fingerprint(fingerprint))).await?;
    /// let ack = session.publisher("orders").await?.publish(b"one tea").await?;
    /// assert_eq!(ack.offset, Some(0));
    /// # Ok(()) }
    /// ```
    pub async fn connect(options: ConnectOptions) -> Result<Self, ConnectError> {
        Ok(Self::of(Reach::Remote(Arc::new(client::connect(options).await?))))
    }

    /// Declares a topic, or checks that it is declared so. Open fields of `spec` (0) take the server's defaults.
    /// Returns what the topic is. Cancel-safe, but the topic may have been declared.
    ///
    /// # Errors
    ///
    /// [`DeclareError::Conflict`] (in process) or [`DeclareError::Refused`] (remote) name both sides of a conflict.
    pub async fn declare(&self, topic: &str, spec: TopicSpec) -> Result<TopicSpec, DeclareError> {
        match &self.inner.reach {
            Reach::Local(local) => {
                let name = client_topic(topic)?;
                Ok(local.core.topics.declare(&name, spec, &local.declared_by())?.meta.spec)
            }
            Reach::Remote(core) => {
                let name = client_topic(topic)?.to_string();
                let ask = |request| Control::Declare(Declare { request, name: name.clone(), spec });
                match core.request(ask).await {
                    Ok(Control::Declared(declared)) => Ok(declared.spec),
                    Ok(other) => {
                        Err(refused(Code::Internal, &format!("an unexpected answer: {}", other.name())))
                    }
                    Err(OpenError::Declare(error)) => Err(error),
                    Err(other) => Err(refused(Code::Closed, &other.to_string())),
                }
            }
        }
    }

    /// A publisher on `topic`. A topic that does not exist is declared reliable where the engine permits that.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says what is wrong with the topic, or that there was no answer in time.
    pub async fn publisher(&self, topic: &str) -> Result<Publisher, OpenError> {
        self.publisher_with(topic, PublisherOptions::default()).await
    }

    /// A publisher with options.
    ///
    /// # Errors
    ///
    /// As [`Self::publisher`]; and a conflict if the topic exists and is not as [`PublisherOptions::spec`] says.
    pub async fn publisher_with(
        &self,
        topic: &str,
        options: PublisherOptions,
    ) -> Result<Publisher, OpenError> {
        client_topic(topic)?;
        Publisher::open(&self.inner.reach, topic, options).await
    }

    /// A subscription to every topic that matches `filter`, now or later, from the next message on; slow reading
    /// holds publishers of reliable topics back.
    ///
    /// `*` stands for one level, `**` at the end for any number.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says what is wrong with the filter, or that there was no answer in time.
    pub async fn subscribe(&self, filter: &str) -> Result<Subscription, OpenError> {
        self.subscribe_with(filter, SubscribeOptions::default()).await
    }

    /// A subscription with options.
    ///
    /// # Errors
    ///
    /// As [`Self::subscribe`]; and a conflict if the topic exists and is not as [`SubscribeOptions::spec`] says.
    pub async fn subscribe_with(
        &self,
        filter: &str,
        options: SubscribeOptions,
    ) -> Result<Subscription, OpenError> {
        if filter.starts_with('$') {
            return Err(DeclareError::Reserved { topic: filter.to_owned() }.into());
        }
        Subscription::open(&self.inner.reach, filter, options).await
    }

    /// A worker's place in queue group `group` of `topic`: each message goes to one worker of each group.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says what is wrong with the topic or the group, or that there was no answer in time.
    pub async fn queue(&self, topic: &str, group: &str) -> Result<Queue, OpenError> {
        self.queue_with(topic, group, QueueOptions::default()).await
    }

    /// A worker's place with options.
    ///
    /// # Errors
    ///
    /// As [`Self::queue`]; and a conflict if topic or group exists and is not as [`QueueOptions`] says.
    pub async fn queue_with(
        &self,
        topic: &str,
        group: &str,
        options: QueueOptions,
    ) -> Result<Queue, OpenError> {
        client_topic(topic)?;
        Queue::open(&self.inner.reach, topic, group, options).await
    }

    /// Publishes `payload` on `topic` and waits for the first answer, at most `timeout`. Later answers are dropped.
    /// Cancel-safe, but the request may have been published.
    ///
    /// # Errors
    ///
    /// [`RequestError::Timeout`] if nobody answered in time; the others say why nothing was asked.
    pub async fn request(
        &self,
        topic: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        self.inner.requests.request(self, topic, payload, timeout).await
    }

    /// Answers requests on every topic that matches `filter`.
    ///
    /// # Errors
    ///
    /// As [`Self::subscribe`].
    pub async fn responder(&self, filter: &str) -> Result<Responder, OpenError> {
        Ok(Responder::new(self.clone(), self.subscribe(filter).await?))
    }

    /// A socket in `namespace` of the engine's event layer, not connected yet.
    #[must_use]
    pub fn socket(&self, namespace: &str) -> ClientSocket {
        ClientSocket::new(self.clone(), namespace)
    }

    /// What the sockets of this session share.
    pub(crate) async fn events_link(&self) -> Result<Arc<Link>, RequestError> {
        self.inner.events.link(self).await
    }

    /// A responder for the engine's own topics.
    pub(crate) async fn own_responder(&self, topic: &str) -> Result<Responder, OpenError> {
        let subscription = Subscription::open(&self.inner.reach, topic, SubscribeOptions::default()).await?;
        Ok(Responder::new(self.clone(), subscription))
    }

    /// A publisher on a topic that belongs to this session.
    pub(crate) async fn own_publisher(&self, topic: &str) -> Result<Publisher, OpenError> {
        declare_local_inbox(&self.inner.reach, topic)?;
        Publisher::open(&self.inner.reach, topic, PublisherOptions::default()).await
    }

    /// A number under which this session is answered again and again, and where the answers come.
    pub(crate) async fn answers(
        &self,
        messages_max: usize,
    ) -> Result<(ReplyTo, mpsc::Receiver<Message>), RequestError> {
        self.inner.requests.stream(self, messages_max).await
    }

    /// The session and its connections at this moment.
    #[must_use]
    pub fn status(&self) -> SessionStatus {
        match &self.inner.reach {
            Reach::Remote(core) => core.status(),
            Reach::Local(local) => SessionStatus {
                id: local.id.clone(),
                server: local.core.config.name.clone(),
                state: "local".to_owned(),
                reliable_over: "local".to_owned(),
                fast_over: "local".to_owned(),
                why: "the engine is in this process".to_owned(),
                switches: Vec::new(),
                reconnects: 0,
                udp: None,
                publishers: local.publishers.load(Ordering::Relaxed),
                subscriptions: local.subscriptions.load(Ordering::Relaxed),
            },
        }
    }

    /// The engine on the other side, at this moment.
    ///
    /// # Errors
    ///
    /// [`RequestError`] if a remote server does not answer within 5 s.
    pub async fn server_status(&self) -> Result<EngineStatus, RequestError> {
        match &self.inner.reach {
            Reach::Local(local) => Ok(local.core.status()),
            Reach::Remote(_) => self.ask_server(system::STATUS, b"").await,
        }
    }

    /// One topic as the engine sees it.
    ///
    /// # Errors
    ///
    /// [`RequestError`] if there is no such topic, or a remote server does not answer within 5 s.
    pub async fn explain(&self, topic: &str) -> Result<TopicStatus, RequestError> {
        let found: Option<TopicStatus> = match &self.inner.reach {
            Reach::Local(local) => {
                let name = client_topic(topic).map_err(OpenError::from)?;
                local.core.topics.by_name(&name).map(|topic| topic.status())
            }
            Reach::Remote(_) => self.ask_server(system::EXPLAIN, topic.as_bytes()).await?,
        };
        found.ok_or_else(|| RequestError::NoSuchTopic { topic: topic.to_owned() })
    }

    async fn ask_server<T: serde::de::DeserializeOwned>(
        &self,
        topic: &str,
        payload: &[u8],
    ) -> Result<T, RequestError> {
        let answer = self.request(topic, payload, STATUS_TIMEOUT).await?;
        serde_json::from_slice(answer.payload()).map_err(|error| RequestError::BadAnswer(error.to_string()))
    }

    /// What happens to this session's connections from now on. An in-process session has none.
    #[must_use]
    pub fn events(&self) -> SessionEvents {
        let receiver = match &self.inner.reach {
            Reach::Local(_) => None,
            Reach::Remote(core) => Some(core.events()),
        };
        SessionEvents { receiver }
    }

    /// Says goodbye. Publishers and subscriptions of this session are closed; messages that have no outcome yet
    /// get none: [`flush`](Publisher::flush) first. An in-process session has nothing to close. A remote session
    /// also closes when its last clone, publisher and subscription are dropped.
    pub async fn close(&self) {
        if let Reach::Remote(core) = &self.inner.reach {
            core.close(Code::Normal, "").await;
        }
    }

    /// The name of this session's inbox topic.
    pub(crate) fn id(&self) -> String {
        self.status().id
    }

    pub(crate) fn reach(&self) -> &Reach {
        &self.inner.reach
    }

    fn of(reach: Reach) -> Self {
        let (requests, events) = (Requests::default(), EventsClient::default());
        Self { inner: Arc::new(Inner { reach, requests, events }) }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("status", &self.status()).finish()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.core.remove_inbox(&self.id);
    }
}

impl Local {
    /// The session's number, as the log knows it.
    pub(crate) fn id_bytes(&self) -> [u8; 16] {
        let number =
            u128::from_str_radix(&self.id, 16).expect("an in-process session's name is a hex number");
        number.to_be_bytes()
    }

    pub(crate) fn declared_by(&self) -> String {
        format!("in-process session {}", self.id)
    }

    /// The topic, made now if it does not exist and may be.
    pub(crate) fn find_or_declare(
        &self,
        topic: &str,
        spec: Option<TopicSpec>,
    ) -> Result<Arc<crate::topics::Topic>, DeclareError> {
        let name = crate::topics::parse_name(topic)?;
        let may_declare = self.core.config.declare_on_use;
        self.core.topics.find_or_declare(&name, spec, may_declare, || self.declared_by())
    }
}

fn refused(code: Code, message: &str) -> DeclareError {
    DeclareError::Refused { code, message: message.to_owned() }
}
