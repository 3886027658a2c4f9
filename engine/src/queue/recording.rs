//! What is told and sent only once it is recorded, with a store that records when the test says so.

use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use twinlane_proto::control::{Action, GroupSettings, Verdict};
use twinlane_proto::frame::{Frames, Job};
use twinlane_proto::{Code, TopicSpec};
use twinlane_ring::{Gating, Read, Start};

use super::group::Group;
use super::letters::Letters;
use super::progress::{Delta, Progress};
use super::settings::Settings;
use super::shared::{Parts, QueueGroup};
use super::store::{GroupStore, Recorded, StoreFull};
use super::{Ear, begin, leases};
use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::lock::lock;
use crate::session::Session;
use crate::topics::{Topic, parse_name};

/// Takes everything, and says that it is recorded when it is told to.
#[derive(Default)]
struct Patient {
    held: Mutex<Vec<Recorded>>,
    progress: Mutex<Progress>,
}

impl Patient {
    fn release(&self, outcome: Result<(), Code>) {
        let held = std::mem::take(&mut *lock(&self.held));
        held.into_iter().for_each(|recorded| recorded(outcome));
    }

    fn holds(&self) -> usize {
        lock(&self.held).len()
    }
}

impl GroupStore for Patient {
    fn record(&self, delta: &Delta, _floor: u64, recorded: Recorded) -> Result<(), StoreFull> {
        lock(&self.progress).apply(delta.as_bytes()).unwrap();
        lock(&self.held).push(recorded);
        Ok(())
    }

    fn bury(
        &self,
        delta: &Delta,
        letters: &Arc<Topic>,
        letter: &[u8],
        recorded: Recorded,
    ) -> Result<(), StoreFull> {
        letters.ring.append(&[letter], |_, _| ()).unwrap();
        self.record(delta, 0, recorded)
    }

    fn poll_room(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

#[derive(Default)]
struct Listening(Mutex<Option<Code>>);

impl Ear for Listening {
    fn want_ended(&self, _unused: u32) {}

    fn closed(&self, code: Code, _reason: &str) {
        *lock(&self.0) = Some(code);
    }
}

/// A group whose one member wants everything.
struct Bench {
    engine: Engine,
    store: Arc<Patient>,
    group: Arc<QueueGroup>,
    inbox: Arc<Topic>,
    ear: Arc<Listening>,
    outcomes: Arc<Mutex<Vec<Code>>>,
}

impl Bench {
    fn new() -> Self {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let topics = Arc::clone(&engine.core().topics);
        let declare =
            |name| topics.declare(&parse_name(name).unwrap(), TopicSpec::reliable(), "a test").unwrap();
        let (topic, inbox, letters) = (declare("work"), declare("inbox"), declare("dead"));
        let asked =
            GroupSettings { max_deliver: 1, dead_letter: "dead".to_owned(), ..GroupSettings::default() };
        let settings = Settings::new(&asked, "work", "crew");
        let (gate, floor) = begin(&topic, settings.start);
        let store = Arc::<Patient>::default();
        let group = QueueGroup::new(Parts {
            topic,
            name: "crew".to_owned(),
            letters: Letters::new(letters),
            group: Group::new(settings.rules, Progress::starting_at(floor), leases()),
            settings,
            store: Some(Arc::clone(&store) as Arc<dyn GroupStore>),
            gate,
            topics,
            registry: Weak::new(),
            retention: None,
        });
        let ear = Arc::<Listening>::default();
        let member = group.join(Arc::clone(&inbox), Arc::clone(&ear) as Arc<dyn Ear>).unwrap();
        group.want(member, 100, 0);
        Self { engine, store, group, inbox, ear, outcomes: Arc::default() }
    }

    async fn publish(&self) {
        let session = Session::local(&self.engine);
        session.publisher("work").await.unwrap().publish(b"job").await.unwrap();
    }

    /// The job that was sent last.
    fn job(&self) -> Option<Job> {
        let mut cursor = self.inbox.ring.cursor(Start::Oldest, Gating::Lossy);
        let Read::Run(run) = cursor.read(usize::MAX) else { return None };
        Frames::new(run.bytes()).last()?.options().ok()?.job
    }

    fn settle(&self, job: &Job, action: Action) {
        let Job { lease, offset, attempt, .. } = *job;
        let verdict = Verdict { lease, offset, attempt, action, delay_ms: 0, reason: String::new() };
        let outcomes = Arc::clone(&self.outcomes);
        self.group.settle(1, &[verdict], Box::new(move |codes| lock(&outcomes).extend(codes)));
    }

    fn outcomes(&self) -> Vec<Code> {
        lock(&self.outcomes).clone()
    }
}

/// Lets other tasks run until `condition` holds, in virtual time.
async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{what} does not happen");
}

/// Whatever is going to happen without the store has happened after this.
async fn settle_down() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_is_sent_once_its_hand_over_is_recorded_and_an_ack_is_told_once_it_is() {
    let bench = Bench::new();
    bench.publish().await;
    until("the hand-over", || bench.store.holds() == 1).await;
    settle_down().await;
    assert!(bench.job().is_none(), "Q2: an attempt that is not recorded would not survive a restart");
    bench.store.release(Ok(()));
    until("the job", || bench.job().is_some()).await;

    bench.settle(&bench.job().unwrap(), Action::Ack);
    settle_down().await;
    assert!(bench.outcomes().is_empty(), "Q3: an ack is told when it is recorded");
    bench.store.release(Ok(()));
    until("the outcome", || bench.outcomes() == [Code::Normal]).await;
    assert_eq!(lock(&bench.store.progress).floor(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_told_once_it_is_stored_and_tried_again_on_a_full_disk() {
    let bench = Bench::new();
    bench.publish().await;
    until("the hand-over", || bench.store.holds() == 1).await;
    bench.store.release(Ok(()));
    until("the job", || bench.job().is_some()).await;
    bench.settle(&bench.job().unwrap(), Action::Dead);
    until("the burial", || bench.store.holds() == 1).await;
    settle_down().await;
    assert!(bench.outcomes().is_empty());
    bench.store.release(Err(Code::NoSpace));
    settle_down().await;
    assert_eq!((bench.store.holds(), bench.group.row().dead), (0, 0), "not at once");
    until("the second try", || bench.store.holds() == 1).await;
    bench.store.release(Ok(()));
    until("the outcome", || bench.outcomes() == [Code::Normal]).await;
    assert_eq!(bench.group.row().dead, 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_ends_the_group_and_tells_everybody() {
    let bench = Bench::new();
    bench.publish().await;
    until("the hand-over", || bench.store.holds() == 1).await;
    bench.store.release(Ok(()));
    until("the job", || bench.job().is_some()).await;
    bench.settle(&bench.job().unwrap(), Action::Ack);
    bench.store.release(Err(Code::StorageFailed));
    until("the outcome", || bench.outcomes() == [Code::StorageFailed]).await;
    until("the end", || *lock(&bench.ear.0) == Some(Code::StorageFailed)).await;
}
