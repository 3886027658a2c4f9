//! Those who publish and subscribe, and what each does next: all of it from the seed.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use twinlane::{
    Code, ConnectOptions, DeclareError, Delivery, OpenError, PublishError, Publisher, PublisherOptions,
    Session, SlowPolicy, Start, SubscribeOptions, Subscription,
};
use twinlane_tests::Seeded;

use crate::history::{Heard, History, Seen, Told, payload};
use crate::network::Network;
use crate::plan::{Plan, PublisherPlan, SubscriberPlan};

/// What all actors of a simulation share.
pub(crate) struct Stage {
    pub(crate) network: Network,
    pub(crate) plan: Plan,
    history: Mutex<History>,
    /// Nothing more goes wrong: publishers finish, subscribers do not dawdle.
    calm: AtomicBool,
    /// Everything is over.
    over: AtomicBool,
    changed: Notify,
    next_publisher: AtomicU32,
    broken: Mutex<Option<String>>,
    silent_until: Mutex<Option<Instant>>,
}

/// One client: its session, shared by its publishers and subscribers.
pub(crate) struct Client {
    pub(crate) session: Session,
    /// Who waits together for a connection is woken in an order that no seed repeats: so one at a time.
    opening: tokio::sync::Mutex<()>,
}

impl Stage {
    pub(crate) fn new(network: Network, plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            network,
            plan,
            history: Mutex::default(),
            calm: AtomicBool::new(false),
            over: AtomicBool::new(false),
            changed: Notify::new(),
            next_publisher: AtomicU32::new(1),
            broken: Mutex::default(),
            silent_until: Mutex::default(),
        })
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// A fault is over for a client only when it can have noticed it, which may take `silence` from now.
    pub(crate) fn expect_silence(&self, silence: Duration) {
        *self.silent_until.lock().expect("no holder of this lock panics") = Some(Instant::now() + silence);
    }

    pub(crate) fn silent_until(&self) -> Option<Instant> {
        *self.silent_until.lock().expect("no holder of this lock panics")
    }

    /// Something happened that no fault explains.
    pub(crate) fn fail(&self, why: String) {
        self.broken.lock().expect("no holder of this lock panics").get_or_insert(why);
    }

    pub(crate) fn broken(&self) -> Option<String> {
        self.broken.lock().expect("no holder of this lock panics").clone()
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Waits for `wait`, or until the mood changes.
    async fn pause(&self, wait: Duration) {
        tokio::select! {
            biased;
            () = self.changed.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Client {
    /// Connects, as often as it takes.
    pub(crate) async fn connect(stage: &Stage, options: ConnectOptions) -> Arc<Self> {
        loop {
            match Session::connect(options.clone()).await {
                Ok(session) => return Arc::new(Self { session, opening: tokio::sync::Mutex::default() }),
                Err(error) => stage.network.note(&format!("not connected: {error}"), &[]),
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn publisher(&self, topic: &str, options: PublisherOptions) -> Result<Publisher, OpenError> {
        let _one = self.opening.lock().await;
        self.session.publisher_with(topic, options).await
    }

    pub(crate) async fn subscribe(
        &self,
        topic: &str,
        options: SubscribeOptions,
    ) -> Result<Subscription, OpenError> {
        let _one = self.opening.lock().await;
        self.session.subscribe_with(topic, options).await
    }
}

/// Publishes until all is calm; every message has an outcome then.
pub(crate) async fn publish(stage: Arc<Stage>, client: Arc<Client>, plan: PublisherPlan) {
    let mut random = Seeded::new(plan.seed);
    let mut options = PublisherOptions::default();
    options.queue_bytes = 64 << 10;
    while !stage.is_calm() {
        let mut publisher = match client.publisher(plan.topic, options).await {
            Ok(publisher) => publisher,
            Err(OpenError::Timeout(_)) if !stage.is_calm() => continue,
            Err(error) => return stage.fail(format!("L1: no publisher of {}: {error}", plan.topic)),
        };
        let id = stage.next_publisher.fetch_add(1, Ordering::Relaxed);
        let mut number = 0;
        let count = 1 + random.below(plan.messages_max);
        while number < count && !stage.is_calm() {
            number += 1;
            if plan.awaits || plan.fast {
                publish_one(&stage, &mut publisher, &plan, id, number).await;
            } else {
                let burst = 1 + random.below(plan.burst_max);
                number = publish_burst(&stage, &mut publisher, &plan, id, number, burst).await;
            }
            stage.pause(Duration::from_micros(random.below(plan.pause_max.as_micros() as u64 + 1))).await;
        }
        if random.chance(500) {
            let closing = tokio::time::timeout(Duration::from_secs(40), publisher.close()).await;
            stage.network.note("closed", &[u64::from(id), u64::from(closing.is_ok())]);
        } else {
            drop(publisher);
        }
    }
}

async fn publish_one(stage: &Stage, publisher: &mut Publisher, plan: &PublisherPlan, id: u32, number: u64) {
    stage.history().begin(plan.topic, id, number);
    let outcome = publisher.publish(&payload(id, number, plan.payload_bytes_max)).await;
    let told = match outcome {
        Ok(ack) => match ack.offset {
            Some(offset) => Told::At { epoch: ack.epoch, offset },
            None => Told::Done,
        },
        Err(error) => why(stage, &error),
    };
    let numbers = match told {
        Told::At { offset, .. } => [u64::from(id), number, offset],
        _ => [u64::from(id), number, u64::MAX],
    };
    stage.network.note("outcome", &numbers);
    stage.history().tell(id, number, told);
}

/// Sends a few and waits for all of them; returns the last number.
async fn publish_burst(
    stage: &Stage,
    publisher: &mut Publisher,
    plan: &PublisherPlan,
    id: u32,
    first: u64,
    burst: u64,
) -> u64 {
    let last = first + burst - 1;
    let mut sent = Vec::new();
    for number in first..=last {
        stage.history().begin(plan.topic, id, number);
        match publisher.send(&payload(id, number, plan.payload_bytes_max)).await {
            Ok(_) => sent.push(number),
            Err(error) => {
                why(stage, &error);
            }
        }
    }
    let told = match publisher.flush().await {
        Ok(_) => Told::Done,
        Err(error) => why(stage, &error),
    };
    stage.network.note("flushed", &[u64::from(id), last, u64::from(told == Told::Done)]);
    for number in sent.into_iter().filter(|_| told == Told::Done) {
        stage.history().tell(id, number, told);
    }
    last
}

/// What an error of a publish means. Within one session's life an outcome is known or is waited for.
fn why(stage: &Stage, error: &PublishError) -> Told {
    stage.network.note(&format!("publish: {error}"), &[]);
    match error {
        PublishError::Timeout { .. } if !stage.is_calm() => Told::Nothing,
        other => {
            stage.fail(format!("L1: {other}"));
            Told::Nothing
        }
    }
}

/// Subscribes, again and again, until everything is over.
pub(crate) async fn subscribe(stage: Arc<Stage>, client: Arc<Client>, plan: SubscriberPlan) {
    let mut random = Seeded::new(plan.seed);
    let mut options = SubscribeOptions::default();
    options.slow = if plan.blocks { SlowPolicy::Block } else { SlowPolicy::Disconnect };
    options.queue_bytes = plan.queue_bytes;
    options.ahead_bytes = plan.queue_bytes;
    while !stage.is_over() {
        options.start = if random.chance(600) { Start::All } else { Start::New };
        let subscription = match client.subscribe(plan.topic, options).await {
            Ok(subscription) => subscription,
            Err(OpenError::Timeout(_)) if !stage.is_calm() => continue,
            Err(OpenError::Declare(DeclareError::Closed { .. })) if stage.is_over() => return,
            Err(error) => return stage.fail(format!("L1: no subscription of {}: {error}", plan.topic)),
        };
        let index = {
            let mut history = stage.history();
            let opened = history.moment();
            history.subscriptions.push(Seen {
                topic: plan.topic,
                fast: plan.fast,
                from_first: options.start == Start::All && stage.plan.keeps_all,
                opened,
                heard: Vec::new(),
                stats: subscription.stats(),
                end: None,
                left: false,
                to_the_end: false,
            });
            history.subscriptions.len() - 1
        };
        // The last one stays to the end.
        let stays = random.chance(500).then(|| Duration::from_millis(random.below(8_000)));
        read(&stage, subscription, index, &plan, stays, &mut random).await;
    }
}

/// Reads until the subscription ends, is left, or all is over.
async fn read(
    stage: &Stage,
    mut subscription: Subscription,
    index: usize,
    plan: &SubscriberPlan,
    stays: Option<Duration>,
    random: &mut Seeded,
) {
    let leave_at = stays.map(|stays| Instant::now() + stays);
    loop {
        let leaving = leave_at.filter(|_| !stage.is_calm());
        if stage.is_over() || leaving.is_some_and(|at| at <= Instant::now()) {
            let seen = &mut stage.history().subscriptions[index];
            (seen.to_the_end, seen.left) = (stage.is_over(), true);
            return;
        }
        let far = Instant::now() + Duration::from_secs(3_600);
        let next = tokio::select! {
            biased;
            next = subscription.next() => next,
            () = stage.changed.notified() => continue,
            () = tokio::time::sleep_until(leaving.unwrap_or(far)) => continue,
        };
        if !record(stage, &subscription, index, next) {
            return stage.pause(Duration::from_millis(10)).await;
        }
        if !stage.is_calm() && random.chance(plan.dawdles_permille) {
            stage.pause(Duration::from_micros(random.below(plan.dawdle_max.as_micros() as u64))).await;
        }
    }
}

/// Notes what came. Returns whether there is more to come.
fn record(stage: &Stage, subscription: &Subscription, index: usize, next: Option<Delivery>) -> bool {
    let mut history = stage.history();
    let seen = &mut history.subscriptions[index];
    seen.stats = subscription.stats();
    let Some(delivery) = next else {
        seen.end = subscription.end();
        let (what, topic) = (format!("ended: {:?}", seen.end), seen.topic);
        let excused = seen.end.as_ref().is_some_and(|end| end.code == Code::SlowConsumer);
        drop(history);
        stage.network.note(&what, &[index as u64]);
        if !excused && !stage.is_over() {
            stage.fail(format!("R9: a subscription of {topic} {what}"));
        }
        return false;
    };
    let numbers = match &delivery {
        Delivery::Message(message) => [index as u64, message.offset(), message.seq()],
        _ => [index as u64, u64::MAX, 0],
    };
    seen.heard.push(Heard::of(&delivery));
    drop(history);
    stage.network.note("delivered", &numbers);
    true
}
