//! What a remote client's messages mean: one connection's publishers and subscriptions.
//!
//! Subscriptions end with the connection; publisher streams belong to the session and go on.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::time::Instant;
use twinlane_log::Entry;
use twinlane_proto::control::{
    Auth, Credit as CreditMessage, Declare, Declared, Failed, Hello, JoinQueue, OpenPublisher,
    PublisherClosed, PublisherOpened, Purpose, Subscribe, Subscribed, TopicRef, Unsubscribed, Welcome,
};
use twinlane_proto::limits::FRAME_BYTES_MAX;
use twinlane_proto::numbered::Numbered;
use twinlane_proto::session::{Event, Input, SessionConfig};
use twinlane_proto::{Code, Control, Filter, Session, TopicName, TopicSpec};

use super::delivery::Binder;
use super::sessions::ServerSession;
use crate::cursors::Credit;
use crate::engine::Core;
use crate::error::DeclareError;
use crate::link::{Closing, Link, Peer, Piece, liveness};
use crate::lock::lock;
use crate::topics::ingest::{Ingest, Outcome, Taken};
use crate::topics::store::once;
use crate::topics::{StreamRecord, Topic, Watch, client_topic, failure_code, parse_name, storage_code};
use crate::transport::{Datagrams, Incoming};

/// Bytes a publisher may have on the way and waiting for room: at least twice the largest frame.
const PUBLISHER_CREDIT_BYTES: u64 = 4 << 20;
/// Answers that wait for a client to read them before nothing more is read from it: those to some thousand messages.
const ANSWERS_BYTES_MAX: usize = 64 << 10;
/// How long the last datagrams of a publisher that closed may take.
const CLOSE_GRACE: Duration = Duration::from_millis(300);
/// Credit no one counts, for fast topics.
const UNCOUNTED: u64 = u64::MAX;

/// Takes a new connection over.
pub(crate) fn accept(core: &Arc<Core>, incoming: Incoming) {
    let config = SessionConfig {
        subscriptions_max: core.config.limits.subscriptions_per_session_max,
        publishers_max: core.config.limits.publishers_per_session_max,
        ..liveness::server(incoming.datagrams.is_some())
    };
    let connection = Connection {
        core: Arc::clone(core),
        peer: incoming.stream.peer(),
        datagrams: Mutex::new(incoming.datagrams),
        session: OnceLock::new(),
        purpose: OnceLock::new(),
        lanes: Arc::default(),
        subscriptions: Mutex::default(),
        members: crate::queue::lanes::Lanes::default(),
    };
    Link::spawn(incoming.stream, Session::server(config, Instant::now().into_std()), Arc::new(connection));
}

pub(crate) struct Connection {
    core: Arc<Core>,
    peer: SocketAddr,
    /// Of a QUIC connection, until it is known whose they are.
    datagrams: Mutex<Option<Datagrams>>,
    session: OnceLock<Arc<ServerSession>>,
    purpose: OnceLock<Purpose>,
    lanes: Arc<Mutex<Numbered<Lane>>>,
    subscriptions: Mutex<Numbered<Subscription>>,
    members: crate::queue::lanes::Lanes,
}

/// A publisher on this connection.
#[derive(Clone)]
struct Lane {
    ingest: Arc<Ingest>,
    /// Bytes done with and not yet given back as credit.
    done_bytes: u64,
}

struct Subscription {
    credit: Arc<Credit>,
    /// Held for its drop.
    _watch: Watch,
}

impl Peer for Connection {
    fn event(&self, link: &Arc<Link>, event: Event) {
        match event {
            Event::Hello(hello) => {
                if let Err(closing) = self.hello(link, &hello) {
                    link.close(closing.code, &closing.reason);
                }
            }
            Event::Control(message) => self.control(link, message),
            Event::Welcome(_) => unreachable!("the session machine lets no client send a welcome"),
        }
    }

    fn frames(&self, link: &Arc<Link>, piece: Piece<'_>) -> Result<(), Closing> {
        if self.session.get().is_none() {
            return Err(Closing::new(Code::ProtocolViolation, "messages before the hello"));
        }
        // Messages may still be under way when their publisher is closed.
        let Some(lane) = lock(&self.lanes).get(&piece.lane).cloned() else { return Ok(()) };
        if !lane.ingest.topic.meta.is_fast() {
            link.spend_credit(piece.lane, piece.bytes.len())?;
        }
        let _in_order = lane.ingest.in_order();
        let taken = lane.ingest.take(piece.first, piece.bytes, piece.ends);
        let taken = taken.map_err(|error| Closing::new(error.code(), error.to_string()))?;
        if taken.stalled {
            tokio::spawn(wait_for_room(Arc::clone(&self.core), Arc::clone(&lane.ingest)));
        }
        self.report(link, &lane.ingest, taken);
        Ok(())
    }

    fn datagrams_lost(&self, link: &Arc<Link>, why: &str) {
        if let Some(session) = self.session.get() {
            session.fast_moved(link.carrier.name(), &format!("the QUIC connection was lost: {why}"));
        }
    }

    /// A client that is acknowledged faster than it reads is slowed down, not cut off.
    fn answers_bytes_max(&self) -> Option<usize> {
        Some(ANSWERS_BYTES_MAX)
    }

    fn closed(&self, link: &Arc<Link>, closing: &Closing) {
        lock(&self.subscriptions).clear();
        self.members.clear();
        lock(&self.lanes).clear();
        lock(&self.datagrams).take();
        let Some(session) = self.session.get() else {
            self.core.count_refused(closing.code);
            return;
        };
        tracing::debug!(peer = %self.peer, session = %session.name(), reason = %closing.reason, "disconnected");
        if self.purpose.get() == Some(&Purpose::Primary) {
            session.disconnect(link);
        }
    }
}

impl Connection {
    fn session(&self) -> &Arc<ServerSession> {
        self.session.get().expect("the session machine lets nothing pass before the hello")
    }

    fn hello(&self, link: &Arc<Link>, hello: &Hello) -> Result<(), Closing> {
        let token = match &hello.auth {
            Auth::None => None,
            Auth::Token(token) => Some(token.as_slice()),
        };
        if !self.core.config.auth.admits(token) {
            tracing::warn!(peer = %self.peer, client = ?hello.client, "authentication failed");
            return Err(match token {
                None => Closing::new(Code::AuthRequired, "this server asks for a token"),
                Some(_) => Closing::new(Code::AuthFailed, "the token is not known here"),
            });
        }
        let purpose = hello.purpose;
        if purpose == Purpose::Datagrams && !self.core.sessions.knows(hello.resume.as_ref()) {
            return Err(Closing::new(Code::SessionExpired, "there is no such session to attach to"));
        }
        let opened = self.core.sessions.open(hello.resume, &hello.client, self.peer);
        let opened = opened.map_err(|code| Closing::new(code, "too many sessions"))?;
        let session = Arc::clone(&opened.session);
        let welcome = Welcome {
            version: 0,
            capabilities: 0,
            session: session.id,
            secret: opened.secret,
            resumed: opened.resumed,
            server: self.core.config.name.clone(),
            ping_interval_ms: liveness::client_ping_interval(link.carrier).as_millis() as u32,
            frame_bytes_max: FRAME_BYTES_MAX as u32,
        };
        let _ = self.session.set(Arc::clone(&session));
        let _ = self.purpose.set(purpose);
        if purpose == Purpose::Primary
            && let Some(earlier) = session.connect(link, self.peer)
        {
            earlier.close(Code::StaleConnection, "a newer connection of this session took over");
        }
        link.input(Input::Accept(welcome));
        tracing::debug!(peer = %self.peer, session = %session.name(), client = ?hello.client, resumed = opened.resumed, "connected");
        self.attach(link, &session, purpose);
        Ok(())
    }

    /// Puts the datagrams of a QUIC connection where the session's subscriptions are.
    fn attach(&self, link: &Arc<Link>, session: &Arc<ServerSession>, purpose: Purpose) {
        let Some(datagrams) = lock(&self.datagrams).take() else {
            return session.fast_moved(link.carrier.name(), "the client has no QUIC connection");
        };
        let target = match purpose {
            Purpose::Primary => Some(Arc::clone(link)),
            Purpose::Datagrams => session.link(),
        };
        match target {
            Some(target) => {
                session.fast_moved("quic", "QUIC works");
                target.attach(datagrams);
            }
            None => link.close(Code::SessionExpired, "the session has no connection to attach to"),
        }
    }

    fn control(&self, link: &Arc<Link>, message: Control) {
        match message {
            Control::Declare(declare) => match self.declare(&declare) {
                Ok(declared) => link.send(Control::Declared(declared)),
                Err(error) => fail(link, declare.request, &error),
            },
            Control::OpenPublisher(open) => {
                if let Err(error) = self.open_publisher(link, &open) {
                    fail(link, open.request, &error);
                }
            }
            Control::LeftOut(left_out) => {
                // Also of a stream that is being closed.
                if let Some(lane) = lock(&self.lanes).get(&left_out.lane) {
                    lane.ingest.left_out((&left_out).into());
                }
            }
            Control::ClosePublisher(close) => {
                if let Some(ingest) = self.session().close_publisher(close.publisher) {
                    tokio::spawn(close_publisher(
                        Arc::clone(link),
                        Arc::clone(&self.lanes),
                        ingest,
                        close.last_seq,
                    ));
                }
            }
            Control::Subscribe(subscribe) => {
                let request = subscribe.request;
                if let Err(error) = self.subscribe(link, subscribe) {
                    fail(link, request, &error);
                }
            }
            Control::Unsubscribe(unsubscribe) => {
                let subscription = unsubscribe.subscription;
                if lock(&self.subscriptions).remove(&subscription).is_some() {
                    self.session().count_subscription(-1);
                }
                link.remove_outlets(subscription);
                link.send(Control::Unsubscribed(Unsubscribed {
                    subscription,
                    code: Code::Normal,
                    reason: String::new(),
                }));
            }
            Control::Credit(credit) => {
                if let Some(subscription) = lock(&self.subscriptions).get(&credit.lane) {
                    subscription.credit.add(credit.bytes);
                }
            }
            Control::JoinQueue(join) => {
                if let Err(error) = self.join_queue(link, &join) {
                    fail(link, join.request, &error);
                }
            }
            Control::Want(want) => self.members.want(&want),
            Control::Settle(settle) => self.members.settle(link, &settle),
            Control::LeaveQueue(leave) => self.members.leave(link, leave),
            // The client is done for good; anything else is a connection that it may come back from.
            Control::Goodbye(goodbye) if goodbye.code == Code::Normal => {
                if let (Some(session), Some(Purpose::Primary)) = (self.session.get(), self.purpose.get()) {
                    self.core.forget_session(session);
                }
            }
            _ => {}
        }
    }

    fn declare(&self, declare: &Declare) -> Result<Declared, DeclareError> {
        let name = client_topic(&declare.name)?;
        let topic = self.find_or_declare(&name, Some(declare.spec))?;
        Ok(Declared {
            request: declare.request,
            topic: topic.meta.id,
            epoch: topic.meta.epoch,
            spec: topic.meta.spec,
        })
    }

    /// The topic, made now if the client may and says what it should be.
    fn find_or_declare(&self, name: &TopicName, spec: Option<TopicSpec>) -> Result<Arc<Topic>, DeclareError> {
        let declared_by = || format!("client {:?} at {}", self.session().client, self.peer);
        self.core.topics.find_or_declare(name, spec, self.core.config.declare_on_use, declared_by)
    }

    fn open_publisher(&self, link: &Arc<Link>, open: &OpenPublisher) -> Result<(), DeclareError> {
        let topic = match &open.topic {
            TopicRef::Id(id) => self.core.topics.by_id(*id),
            TopicRef::Name(name) => match parse_name(name)? {
                // Where its own events go.
                name if name.as_str() == crate::events::native::uplink(&self.session().name()) => {
                    Some(self.declare_own(&name)?)
                }
                // Requests to the server and answers to other clients: only where such a topic exists.
                name if name.is_reserved() => self.core.topics.by_name(&name),
                name => Some(self.find_or_declare(&name, open.spec)?),
            },
        };
        let session = self.session();
        let is_anothers =
            |topic: &Topic| !crate::events::native::may_publish(&topic.meta.name, &session.name());
        let Some(topic) = topic.filter(|topic| !is_anothers(topic)) else {
            return Err(DeclareError::Reserved { topic: format!("{:?}", open.topic) });
        };
        let mut is_new = false;
        let ingest = session.publisher(open.publisher, || {
            is_new = true;
            Ingest::new(topic, session.id, open.publisher, open.resume_seq)
        });
        let opening = Opening {
            link: Arc::downgrade(link),
            session: Arc::downgrade(session),
            lanes: Arc::clone(&self.lanes),
            ingest,
            open: open.clone(),
        };
        match &opening.ingest.topic.store {
            // A session is resumed after a restart if the log knows of its streams: before the first message.
            Some(store) if is_new => {
                let ingest = &opening.ingest;
                let (client, source, seq_base) = (session.client.clone(), ingest.source, ingest.seq_base);
                let value = StreamRecord { client, source, seq_base }.encode();
                let (topic, lane) = (ingest.topic.meta.id, open.publisher);
                let stream = Entry::Stream { session: session.id, lane, topic, value: &value };
                let (store, durable) = (Arc::clone(store), Arc::clone(&ingest.topic));
                let staged = durable.append(&store, stream, once(move |written| opening.finish(written)));
                staged.map_err(|error| {
                    session.close_publisher(lane);
                    let topic = durable.meta.name.to_string();
                    DeclareError::Storage { topic, code: storage_code(&error) }
                })
            }
            _ => {
                opening.finish(Ok(()));
                Ok(())
            }
        }
    }

    /// Tells the publisher what became of its messages, and that it may send as much again.
    fn report(&self, link: &Arc<Link>, ingest: &Ingest, mut taken: Taken) {
        let bytes_done = std::mem::take(&mut taken.bytes_done);
        tell(link, ingest.lane, taken);
        if ingest.topic.meta.is_fast() {
            return;
        }
        let mut lanes = lock(&self.lanes);
        let Some(lane) = lanes.get_mut(&ingest.lane) else { return };
        lane.done_bytes += bytes_done as u64;
        if lane.done_bytes >= PUBLISHER_CREDIT_BYTES / 4 {
            let bytes = std::mem::take(&mut lane.done_bytes);
            drop(lanes);
            link.send(Control::Credit(CreditMessage { lane: ingest.lane, bytes }));
        }
    }

    fn subscribe(&self, link: &Arc<Link>, subscribe: Subscribe) -> Result<(), DeclareError> {
        let filter = Filter::parse(&subscribe.filter)?;
        let session = self.session();
        if let Some(name) = filter.as_name() {
            self.prepare_named(&name, subscribe.spec)?;
        } else if subscribe.filter.starts_with('$') {
            return Err(DeclareError::Reserved { topic: subscribe.filter });
        }
        let lane = subscribe.subscription;
        let credit = Credit::new(subscribe.credit_bytes);
        let binder = Binder {
            lane,
            session: session.name(),
            start: subscribe.start,
            slow: subscribe.slow,
            positions: subscribe
                .positions
                .into_iter()
                .map(|at| (at.topic_name, (at.epoch, at.offset)))
                .collect(),
            credit: Arc::clone(&credit),
            link: Arc::downgrade(link),
        };
        let watch = self.core.topics.watch(filter, move |topic, is_new| binder.bind(&topic, is_new));
        lock(&self.subscriptions).insert(lane, Subscription { credit, _watch: watch });
        session.count_subscription(1);
        link.send(Control::Subscribed(Subscribed { request: subscribe.request, subscription: lane }));
        Ok(())
    }

    fn join_queue(&self, link: &Arc<Link>, join: &JoinQueue) -> Result<(), DeclareError> {
        let topic = self.find_or_declare(&client_topic(&join.topic)?, join.spec)?;
        self.members.join(link, &self.core.queues, &topic, &self.session().name(), join)
    }

    /// A topic that belongs to this session alone.
    fn declare_own(&self, name: &TopicName) -> Result<Arc<Topic>, DeclareError> {
        let declared_by = format!("session {}", self.session().name());
        self.core.topics.declare(name, crate::request::inbox_spec(), &declared_by)
    }

    /// Subscribing to one topic by name may declare it; an inbox belongs to its session alone.
    fn prepare_named(&self, name: &TopicName, spec: Option<TopicSpec>) -> Result<(), DeclareError> {
        if name.is_reserved() {
            let own_jobs = name.as_str().starts_with(&crate::queue::inbox_prefix(&self.session().name()));
            if own_jobs && self.core.topics.by_name(name).is_some() {
                return Ok(());
            }
            if name.as_str() != crate::request::inbox_name(&self.session().name()) {
                return Err(DeclareError::Reserved { topic: name.to_string() });
            }
            return self.declare_own(name).map(drop);
        }
        match spec {
            Some(spec) => self.find_or_declare(name, Some(spec)).map(|_| ()),
            None => Ok(()),
        }
    }
}

/// A publisher stream that is opened on a connection.
struct Opening {
    link: Weak<Link>,
    session: Weak<ServerSession>,
    lanes: Arc<Mutex<Numbered<Lane>>>,
    ingest: Arc<Ingest>,
    open: OpenPublisher,
}

impl Opening {
    /// Tells the publisher where to go on. `written`: the log knows of the stream.
    fn finish(self, written: Result<(), twinlane_log::Failure>) {
        let Self { link: weak, session, lanes, ingest, open } = self;
        let Some(link) = weak.upgrade() else { return };
        if let Err(why) = written {
            session.upgrade().and_then(|session| session.close_publisher(open.publisher));
            let (topic, code) = (ingest.topic.meta.name.to_string(), failure_code(&why));
            return fail(&link, open.request, &DeclareError::Storage { topic, code });
        }
        let lane = open.publisher;
        let credit_bytes = if ingest.topic.meta.is_fast() { UNCOUNTED } else { PUBLISHER_CREDIT_BYTES };
        let mut telling = ingest.in_order();
        ingest.reopen(
            &mut telling,
            Box::new(move |taken| {
                if let Some(link) = weak.upgrade() {
                    tell(&link, lane, taken);
                }
            }),
        );
        lock(&lanes).insert(lane, Lane { ingest: Arc::clone(&ingest), done_bytes: 0 });
        ingest.forget_dedup_after(open.resume_seq);
        link.send(Control::PublisherOpened(PublisherOpened {
            request: open.request,
            publisher: lane,
            topic: ingest.topic.meta.id,
            source: ingest.source,
            epoch: ingest.topic.meta.epoch,
            last_seq: ingest.last_seq(),
            spec: ingest.topic.meta.spec,
            credit_bytes,
        }));
        for outcome in ingest.outcomes_after(open.resume_seq) {
            send_outcome(&link, outcome);
        }
    }
}

/// Tells a publisher what was found out after its messages were taken, and that it may send as much again.
fn tell(link: &Arc<Link>, lane: u32, taken: Taken) {
    for outcome in taken.outcomes {
        send_outcome(link, outcome);
    }
    if taken.bytes_done > 0 {
        link.send(Control::Credit(CreditMessage { lane, bytes: taken.bytes_done as u64 }));
    }
    if let Some(code) = taken.ended {
        let reason = "the log on disk failed; what has no outcome may have been stored".to_owned();
        link.send(Control::PublisherClosed(PublisherClosed { publisher: lane, code, reason }));
    }
}

/// Stores a publisher's waiting messages as room comes. Subscribers that give none for too long are cut off.
async fn wait_for_room(core: Arc<Core>, ingest: Arc<Ingest>) {
    let mut waited_since = Instant::now();
    loop {
        let patience =
            core.config.block_timeout.saturating_sub(waited_since.elapsed()).max(Duration::from_millis(1));
        if tokio::time::timeout(patience, ingest.topic.room()).await.is_err() {
            ingest.topic.evict_blockers();
        }
        let telling = ingest.in_order();
        let taken = ingest.retry();
        if taken.bytes_done > 0 {
            waited_since = Instant::now();
        }
        let stalled = taken.stalled;
        telling.iter().for_each(|tell| tell(taken.clone()));
        drop(telling);
        if !stalled {
            return;
        }
    }
}

/// Ends a publisher stream once its last message is here, or does not come any more, and tells the publisher.
async fn close_publisher(
    link: Arc<Link>,
    lanes: Arc<Mutex<Numbered<Lane>>>,
    ingest: Arc<Ingest>,
    last_seq: u64,
) {
    // Datagrams may still be under way; what a reliable publisher sent came before it closed.
    let grace_over = Instant::now() + CLOSE_GRACE;
    while ingest.topic.meta.is_fast() && ingest.last_seq() < last_seq && Instant::now() < grace_over {
        tokio::time::sleep(CLOSE_GRACE / 20).await;
    }
    lock(&lanes).remove(&ingest.lane);
    ingest.end(last_seq);
    ingest.forget();
    let (publisher, reason) = (ingest.lane, String::new());
    link.send(Control::PublisherClosed(PublisherClosed { publisher, code: Code::Normal, reason }));
}

fn send_outcome(link: &Arc<Link>, outcome: Outcome) {
    link.send(match outcome {
        Outcome::Acked(acked) => Control::Acked(acked),
        Outcome::Refused(refused) => Control::Refused(refused),
    });
}

fn fail(link: &Arc<Link>, request: u32, error: &DeclareError) {
    let mut message = error.to_string();
    message.truncate(message.floor_char_boundary(twinlane_proto::limits::MESSAGE_BYTES_MAX));
    link.send(Control::Failed(Failed { request, code: error.code(), message }));
}
