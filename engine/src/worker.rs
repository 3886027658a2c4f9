//! Working on a queue: a worker's place in a group, the same in process and over the network.
//!
//! Which job goes where is decided by the engine; after a lost connection the group is joined again here.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use twinlane_proto::control::GroupSettings;
use twinlane_proto::{Code, SlowPolicy, Start, TopicSpec};

use crate::client::queue::Application;
use crate::config::SubscribeOptions;
use crate::error::{DeclareError, EndReason, OpenError, QueueError};
use crate::job::{Job, MemberEvents, Membership, Whose};
use crate::message::{Delivery, TopicMeta};
use crate::queue::{Ear, Joined};
use crate::session::Reach;
use crate::subscription::Subscription;

/// How much later than asked for a fetch may end: its last jobs may be under way.
const FETCH_GRACE: Duration = Duration::from_secs(1);
/// Between two attempts to join a group again.
const REJOIN_WAIT: Duration = Duration::from_millis(100);

/// How to take part in a queue group.
///
/// | field | default | why this value |
/// |---|---|---|
/// | `spec` | none | declares the topic on first use; a topic that exists must agree |
/// | `settings` | the group's | see [`QueueSettings`] |
/// | `prefetch` | 64 | jobs this worker may hold: hides the way to the server, and a crash gives back no more |
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueOptions {
    /// Declare the topic so on first use; an existing topic must agree.
    pub spec: Option<TopicSpec>,
    /// What the group should be.
    pub settings: QueueSettings,
    /// Jobs that may be with this worker at once, waiting or in its hands. 0: only what [`Queue::fetch`] asks for.
    pub prefetch: u32,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self { spec: None, settings: QueueSettings::default(), prefetch: 64 }
    }
}

/// What a queue group is. It belongs to the group: the first to join sets it, and a different wish later is refused.
/// `None` is no wish.
///
/// | field | default | why this value |
/// |---|---|---|
/// | `ack_wait` | 30 s | a crashed worker is noticed at once by its connection; this is for one that hangs |
/// | `max_deliver` | 5 | what fails five times fails for a reason |
/// | `max_in_flight` | 1 000 | bounds what a crash of all workers repeats |
/// | `max_in_flight_per_key` | no limit | 1 keeps the order of each key |
/// | `start` | [`Start::All`] | work published before the first worker came is work |
/// | `dead_letter` | `dead/<topic>/<group>` | beside the topic, out of its way |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueSettings {
    /// How long a job may take before it is given to somebody else; at most 49 days.
    pub ack_wait: Option<Duration>,
    /// Hand-overs of one message at most; then it becomes a dead letter.
    pub max_deliver: Option<u32>,
    /// Messages handed over and not settled at most, in the whole group.
    pub max_in_flight: Option<u32>,
    /// The same for the messages of one key.
    pub max_in_flight_per_key: Option<u32>,
    /// Where a new group begins.
    pub start: Option<Start>,
    /// The topic for dead letters.
    pub dead_letter: Option<String>,
}

impl QueueSettings {
    fn of(wire: &GroupSettings) -> Self {
        Self {
            ack_wait: Some(Duration::from_millis(wire.ack_wait_ms.into())),
            max_deliver: Some(wire.max_deliver),
            max_in_flight: Some(wire.max_in_flight),
            max_in_flight_per_key: Some(wire.max_in_flight_per_key).filter(|max| *max > 0),
            start: wire.start,
            dead_letter: Some(wire.dead_letter.clone()),
        }
    }

    fn to_wire(&self) -> GroupSettings {
        let ms = |wait: Duration| u32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
        GroupSettings {
            ack_wait_ms: self.ack_wait.map_or(0, ms),
            max_deliver: self.max_deliver.unwrap_or(0),
            max_in_flight: self.max_in_flight.unwrap_or(0),
            max_in_flight_per_key: self.max_in_flight_per_key.unwrap_or(0),
            start: self.start,
            dead_letter: self.dead_letter.clone().unwrap_or_default(),
        }
    }
}

/// A worker's place in a queue group. Each message of the topic goes to one worker of the group, and to another one
/// if that does not say in time that it is done.
///
/// Dropping it leaves the group: jobs that are not settled are handed to others at once. It joins again by itself
/// after a lost connection; jobs from before are then [stale](crate::SettleError::Stale).
///
/// ```
/// use twinlane::{Engine, EngineConfig, Session};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::local(&Engine::new(EngineConfig::default())?);
/// session.publisher("orders").await?.publish(b"one tea").await?;
///
/// let mut orders = session.queue("orders", "kitchen").await?;
/// let job = orders.next().await.ok_or("ended")?;
/// assert_eq!((job.payload(), job.attempt()), (&b"one tea"[..], 1));
/// job.ack().await?;
/// # Ok(()) }
/// ```
pub struct Queue {
    reach: Reach,
    application: Application,
    prefetch: u32,
    settings: QueueSettings,
    seat: Option<Seat>,
    joining: Option<JoinHandle<Result<Seat, OpenError>>>,
    /// Jobs that a fetch took before it was dropped.
    fetched: VecDeque<Job>,
    end: Option<EndReason>,
}

/// One membership: it ends with its connection.
struct Seat {
    membership: Arc<Membership>,
    settings: QueueSettings,
    jobs: Subscription,
    /// The topic whose messages the jobs are.
    topic: Arc<TopicMeta>,
    /// Wants of fetches that have not ended.
    wants: u32,
    /// Messages of these that may still come.
    wanted: u64,
    /// The fetch under way has said what it wants.
    has_asked: bool,
}

impl Queue {
    pub(crate) async fn open(
        reach: &Reach,
        topic: &str,
        group: &str,
        options: QueueOptions,
    ) -> Result<Self, OpenError> {
        let QueueOptions { spec, settings, prefetch } = options;
        let (topic, group) = (topic.to_owned(), group.to_owned());
        let application = Application { topic, group, spec, settings: settings.to_wire() };
        let seat = Seat::take(reach, &application, prefetch).await?;
        let (reach, settings) = (reach.clone(), seat.settings.clone());
        Ok(Self {
            reach,
            application,
            prefetch,
            settings,
            seat: Some(seat),
            joining: None,
            fetched: VecDeque::new(),
            end: None,
        })
    }

    /// The group's name.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.application.group
    }

    /// What the group is, as the server said last.
    #[must_use]
    pub fn settings(&self) -> &QueueSettings {
        &self.settings
    }

    /// The next job. `None`: it is over, see [`Self::end`]. Cancel-safe.
    ///
    /// At most [`QueueOptions::prefetch`] jobs are with a worker: drop or settle some to get more.
    pub async fn next(&mut self) -> Option<Job> {
        if let Some(job) = self.fetched.pop_front() {
            return Some(job);
        }
        std::future::poll_fn(|cx| self.poll_job(cx)).await
    }

    /// Up to `count` jobs: returns when there are so many, or with what there is after `max_wait`. Cancel-safe: jobs
    /// that a dropped call has got come with the next one.
    ///
    /// With [`QueueOptions::prefetch`] above 0 it takes only what is pushed to this worker anyway.
    ///
    /// # Errors
    ///
    /// [`QueueError`]: the queue is over and no jobs come any more.
    pub async fn fetch(&mut self, count: usize, max_wait: Duration) -> Result<Vec<Job>, QueueError> {
        let deadline = Instant::now() + max_wait;
        self.seat.iter_mut().for_each(|seat| seat.has_asked = false);
        while self.fetched.len() < count {
            let wait = deadline.saturating_duration_since(Instant::now());
            let missing = (count - self.fetched.len()) as u64;
            let until = if self.prefetch == 0 { deadline + FETCH_GRACE } else { deadline };
            if let Some(seat) = &mut self.seat
                && self.prefetch == 0
                && seat.wanted < missing
                && !seat.has_asked
            {
                seat.want(missing - seat.wanted, wait);
            }
            let next = std::future::poll_fn(|cx| self.poll_fetch(cx));
            match tokio::time::timeout_at(until, next).await {
                Ok(Fetched::Job(job)) => self.fetched.push_back(job),
                // Joined again meanwhile: it was not asked on this seat.
                Ok(Fetched::Nothing) if Instant::now() < deadline && !self.has_asked() => {}
                Ok(Fetched::Nothing) => break,
                Ok(Fetched::Over(EndReason { code, reason })) if self.fetched.is_empty() => {
                    return Err(QueueError { code, reason });
                }
                Ok(Fetched::Over(_)) | Err(_) => break,
            }
        }
        Ok(std::mem::take(&mut self.fetched).into())
    }

    /// Why it is over; `None` while it lives.
    #[must_use]
    pub fn end(&self) -> Option<EndReason> {
        self.end.clone()
    }

    /// Leaves the group, as dropping it does.
    pub async fn close(self) {
        drop(self);
    }

    fn poll_job(&mut self, cx: &mut Context<'_>) -> Poll<Option<Job>> {
        loop {
            if self.end.is_some() {
                return Poll::Ready(None);
            }
            let Some(seat) = &mut self.seat else {
                std::task::ready!(self.poll_join(cx));
                continue;
            };
            match seat.poll_job(cx, self.prefetch) {
                Poll::Ready(Some(job)) => return Poll::Ready(Some(job)),
                Poll::Ready(None) => self.lose_seat(),
                Poll::Pending => {
                    seat.membership.renew(1);
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_fetch(&mut self, cx: &mut Context<'_>) -> Poll<Fetched> {
        match self.poll_job(cx) {
            Poll::Ready(Some(job)) => Poll::Ready(Fetched::Job(job)),
            Poll::Ready(None) => {
                let unknown = || EndReason { code: Code::Closed, reason: String::new() };
                Poll::Ready(Fetched::Over(self.end.clone().unwrap_or_else(unknown)))
            }
            Poll::Pending => match &mut self.seat {
                Some(seat) if self.prefetch == 0 => {
                    seat.note_ended_wants();
                    if seat.wants == 0 && seat.wanted == 0 {
                        Poll::Ready(Fetched::Nothing)
                    } else {
                        Poll::Pending
                    }
                }
                _ => Poll::Pending,
            },
        }
    }

    fn has_asked(&self) -> bool {
        self.seat.as_ref().is_none_or(|seat| seat.has_asked)
    }

    /// Goes on where the seat was lost, unless that cannot help.
    fn lose_seat(&mut self) {
        let Some(seat) = self.seat.take() else { return };
        let end = seat.membership.events().end().or_else(|| seat.jobs.end());
        let end = end.unwrap_or(EndReason { code: Code::Closed, reason: "the jobs ended".to_owned() });
        drop(seat);
        if matches!(end.code, Code::Closed | Code::Normal) {
            self.join_again();
        } else {
            self.end = Some(end);
        }
    }

    fn join_again(&mut self) {
        let (reach, application, prefetch) = (self.reach.clone(), self.application.clone(), self.prefetch);
        // A task of its own: a dropped call of `next` must not forget a membership half-way.
        self.joining = Some(tokio::spawn(async move {
            loop {
                match Seat::take(&reach, &application, prefetch).await {
                    Err(error) if is_passing(&error) => tokio::time::sleep(REJOIN_WAIT).await,
                    outcome => return outcome,
                }
            }
        }));
    }

    fn poll_join(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(joining) = &mut self.joining else {
            self.join_again();
            return Poll::Ready(());
        };
        let joined = std::task::ready!(Pin::new(joining).poll(cx));
        self.joining = None;
        match joined {
            Ok(Ok(seat)) => {
                self.settings = seat.settings.clone();
                self.seat = Some(seat);
            }
            Ok(Err(OpenError::Declare(DeclareError::Refused { code, message }))) => {
                self.end = Some(EndReason { code, reason: message });
            }
            Ok(Err(error)) => self.end = Some(EndReason { code: Code::Closed, reason: error.to_string() }),
            Err(_) => {
                self.end = Some(EndReason { code: Code::Closed, reason: "the runtime is gone".to_owned() });
            }
        }
        Poll::Ready(())
    }
}

/// Whether joining again may work: the connection was lost half-way, or nobody answered.
fn is_passing(error: &OpenError) -> bool {
    match error {
        OpenError::Timeout(_) => true,
        OpenError::Declare(DeclareError::Refused { code, .. }) => {
            matches!(code, Code::Closed | Code::ReservedName)
        }
        _ => false,
    }
}

enum Fetched {
    Job(Job),
    /// Everything that was wanted came, or will not.
    Nothing,
    Over(EndReason),
}

impl Drop for Queue {
    fn drop(&mut self) {
        if let Some(joining) = &self.joining {
            joining.abort();
        }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Application { topic, group, .. } = &self.application;
        f.debug_struct("Queue").field("topic", topic).field("group", group).finish_non_exhaustive()
    }
}

impl Seat {
    async fn take(reach: &Reach, application: &Application, prefetch: u32) -> Result<Self, OpenError> {
        let mut options = SubscribeOptions::default();
        (options.start, options.slow) = (Start::All, SlowPolicy::Block);
        let (membership, settings, topic, inbox) = match reach {
            Reach::Local(local) => {
                let Application { topic, group, spec, settings } = application;
                let topic = local.find_or_declare(topic, *spec)?;
                let events = Arc::<MemberEvents>::default();
                let ear = Arc::clone(&events) as Arc<dyn Ear>;
                let joined = local.core.queues.join(&topic, group, settings, &local.id, ear)?;
                let Joined { group, member, inbox } = joined;
                let settings = QueueSettings::of(&group.settings());
                let whose = Whose::Local { group, member, events };
                let inbox = inbox.meta.name.to_string();
                (Membership::new(whose, prefetch), settings, Arc::clone(&topic.meta), inbox)
            }
            Reach::Remote(client) => {
                let (member, joined) = client.join_queue(application).await?;
                let whose = Whose::Remote { client: Arc::clone(client), member };
                let membership = Membership::new(whose, prefetch);
                let name = crate::topics::parse_name(&application.topic).map_err(DeclareError::from)?;
                let spec = application.spec.unwrap_or_else(TopicSpec::reliable);
                let topic = TopicMeta { id: joined.topic, name, epoch: joined.epoch, spec };
                (membership, QueueSettings::of(&joined.settings), Arc::new(topic), joined.inbox)
            }
        };
        let jobs = Subscription::open(reach, &inbox, options).await?;
        if prefetch > 0 {
            membership.want(prefetch, 0);
        }
        Ok(Self {
            membership: Arc::new(membership),
            settings,
            jobs,
            topic,
            wants: 0,
            wanted: 0,
            has_asked: false,
        })
    }

    /// `None`: the membership is over.
    fn poll_job(&mut self, cx: &mut Context<'_>, prefetch: u32) -> Poll<Option<Job>> {
        let events = self.membership.events();
        events.reader.register(cx.waker());
        if events.end().is_some() {
            return Poll::Ready(None);
        }
        loop {
            let delivery = std::task::ready!(Pin::new(&mut self.jobs).poll_next(cx));
            let Some(delivery) = delivery else { return Poll::Ready(None) };
            let Delivery::Message(message) = delivery else { continue };
            let Some(option) = message.options().job else { continue };
            self.wanted = self.wanted.saturating_sub(1);
            let message = message.on(Arc::clone(&self.topic), option.offset);
            let membership = Arc::clone(&self.membership);
            return Poll::Ready(Some(Job::new(message, option, membership, prefetch > 0)));
        }
    }

    fn want(&mut self, messages: u64, wait: Duration) {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        // 0 would be for ever.
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
        self.has_asked = true;
        self.wants += 1;
        self.wanted += u64::from(messages);
        self.membership.want(messages, wait_ms);
    }

    fn note_ended_wants(&mut self) {
        let (ended, unused) = self.membership.events().take_ended();
        self.wants = self.wants.saturating_sub(ended);
        self.wanted = self.wanted.saturating_sub(unused);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.membership.leave();
    }
}
