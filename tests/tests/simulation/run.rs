//! One seed from beginning to end: everybody on stage, the faults, calm, and the verdict.

use std::cell::Cell;
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use twinlane::{ConnectOptions, Engine, EngineConfig, Start, SubscribeOptions, TopicSpec, Trust};

use crate::actors::{self, Client, Stage};
use crate::history::{Activity, Heard};
use crate::network::{FIRST_PORT, Network};
use crate::plan::{ClientPlan, Fault, ORDERS, PRICES, Plan};

/// L1: after the faults every publisher has an outcome.
const OUTCOME_WITHIN: Duration = Duration::from_secs(5);
/// How long a client whose bytes a dying system had acknowledged may take to notice: it asks after 5 s of silence.
const SILENCE_NOTICED: Duration = Duration::from_secs(5);
/// L1: after the faults subscribers reach the end.
const END_WITHIN: Duration = Duration::from_secs(10);
/// L1: after the faults a new client connects.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How long a server that is stopped waits for its clients.
const DRAIN: Duration = Duration::from_secs(2);
/// No simulation lasts longer, in its own time.
const LONGEST: Duration = Duration::from_secs(600);
/// What a closed session may leave behind is gone after this.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10 + SESSION_RETENTION.as_secs());
/// Longer than all faults together.
const SESSION_RETENTION: Duration = Duration::from_secs(120);

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// What came of a seed.
#[derive(Debug)]
pub(crate) struct Ran {
    /// A number that stands for everything that happened, and how much that was.
    pub(crate) trace: (u64, u64),
    pub(crate) activity: Activity,
    /// What was broken, if anything.
    pub(crate) verdict: Result<(), String>,
}

/// Runs a seed.
pub(crate) fn seed(seed: u64, aloud: bool) -> Ran {
    count_panics();
    PANICS.set(0);
    let ran = std::panic::catch_unwind(|| simulate(seed, aloud));
    let mut ran = ran.unwrap_or_else(|_| Ran {
        trace: (0, 0),
        activity: Activity::default(),
        verdict: Err("the simulation panicked".to_owned()),
    });
    if PANICS.get() > 0 {
        ran.verdict = Err(format!("{} tasks panicked; {:?}", PANICS.get(), ran.verdict));
    }
    ran
}

fn simulate(seed: u64, aloud: bool) -> Ran {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let plan = Plan::of(seed);
        if aloud {
            eprintln!("{plan:#?}");
        }
        let routes = plan.clients.iter().map(|client| client.conditions.clone()).collect();
        let network = Network::new(seed, routes, aloud);
        let _entered = twinlane::simulation::enter(Arc::new(network.clone()));
        let stage = Stage::new(network.clone(), plan);
        let played = tokio::time::timeout(LONGEST, play(Arc::clone(&stage))).await;
        let verdict = played.unwrap_or_else(|_| Err(format!("L1: not over after {LONGEST:?}")));
        Ran { trace: network.trace(), activity: stage.history().activity(), verdict }
    })
}

async fn play(stage: Arc<Stage>) -> Result<(), String> {
    let alive_before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut engine = Some(start_server(&stage));
    let (mut publishers, mut subscribers, mut clients) = (Vec::new(), Vec::new(), Vec::new());
    for (index, plan) in stage.plan.clients.iter().enumerate() {
        let client = Client::connect(&stage, options(index, plan)).await;
        for plan in &plan.subscribers {
            subscribers.push(tokio::spawn(actors::subscribe(
                Arc::clone(&stage),
                Arc::clone(&client),
                plan.clone(),
            )));
        }
        for plan in &plan.publishers {
            publishers.push(tokio::spawn(actors::publish(
                Arc::clone(&stage),
                Arc::clone(&client),
                plan.clone(),
            )));
        }
        clients.push(client);
    }
    for (after, fault) in stage.plan.faults.clone() {
        tokio::time::sleep(after).await;
        inflict(&stage, &mut engine, fault).await;
    }
    tokio::time::sleep(stage.plan.calm_after).await;
    let engine = engine.expect("every fault that stops the server starts it again");
    become_calm(&stage, publishers).await?;
    reach_the_end(&stage, &engine).await?;
    connect_anew(&stage).await?;
    leave(&stage, subscribers, clients).await?;
    stage.broken().map_or(Ok(()), Err)?;
    stage.history().judge()?;
    forget(&stage, engine, alive_before).await
}

fn start_server(stage: &Stage) -> Engine {
    let mut config = EngineConfig::default();
    config.topics = vec![(ORDERS.to_owned(), stage.plan.orders), (PRICES.to_owned(), TopicSpec::fast())];
    config.session_retention = SESSION_RETENTION;
    let engine = Engine::new(config).unwrap();
    stage.history().lives += 1;
    stage.network.note("server", &[]);
    stage.network.start(&engine);
    engine
}

fn options(index: usize, plan: &ClientPlan) -> ConnectOptions {
    // Nobody looks at a certificate; it only says that there is TLS and so QUIC.
    let trust = Trust::Fingerprint("00".repeat(32).parse().unwrap());
    let mut options = ConnectOptions::new(format!("127.0.0.1:{}", FIRST_PORT + index as u16), trust);
    options.transports = plan.transports;
    options.name = format!("client {index}");
    // L1 is about what comes after the fault, not about how long a client was told to wait.
    options.reconnect.max = Duration::from_secs(1);
    options
}

async fn inflict(stage: &Stage, engine: &mut Option<Engine>, fault: Fault) {
    let network = &stage.network;
    network.note(&format!("{fault:?}"), &[]);
    match fault {
        Fault::Cut(client, directions) => network.cut(client, &directions),
        Fault::Heal(client) => network.heal(client),
        Fault::Reset(client) => network.reset(client),
        Fault::Kill { silently, down } => {
            network.kill_server(silently);
            drop(engine.take());
            tokio::time::sleep(down).await;
            *engine = Some(start_server(stage));
            if silently {
                stage.expect_silence(SILENCE_NOTICED);
            }
        }
        Fault::Restart { down } => {
            network.stop();
            if let Some(engine) = engine.take() {
                engine.shutdown(DRAIN).await;
            }
            network.kill_server(false);
            tokio::time::sleep(down).await;
            *engine = Some(start_server(stage));
        }
        Fault::Trap(client, trap) => network.set_trap(client, trap),
        Fault::BlockUdp(client) => network.change(client, |conditions| conditions.udp_blocked = true),
        Fault::Lose(client, permille) => {
            network.change(client, |conditions| conditions.loss_permille = permille);
        }
    }
}

/// All is healed: whatever publishers wait for comes.
async fn become_calm(stage: &Stage, publishers: Vec<JoinHandle<()>>) -> Result<(), String> {
    stage.network.make_peace();
    let since = stage.silent_until().map_or(Instant::now(), |until| until.max(Instant::now()));
    stage.calm_down();
    for publisher in publishers {
        if tokio::time::timeout_at(since + OUTCOME_WITHIN, publisher).await.is_err() {
            return Err(format!("L1: a publisher has no outcome {OUTCOME_WITHIN:?} after the last fault"));
        }
    }
    stage.network.note("published", &[]);
    Ok(())
}

async fn reach_the_end(stage: &Stage, engine: &Engine) -> Result<(), String> {
    all_read(stage, engine).await?;
    stage.network.note("all read", &[]);
    let status = engine.status();
    let reliable = status.topics.iter().filter(|topic| topic.name == ORDERS);
    stage.history().ends = reliable.map(|topic| (topic.name.clone(), (topic.epoch, topic.next))).collect();
    // The tails of fast streams, and who subscribed only just now: all of a long history may be before it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    all_read(stage, engine).await
}

/// Everybody who reads a reliable topic has read it to its end.
async fn all_read(stage: &Stage, engine: &Engine) -> Result<(), String> {
    let since = Instant::now();
    loop {
        let ends: Vec<_> = engine
            .status()
            .topics
            .iter()
            .map(|topic| (topic.name.clone(), topic.epoch, topic.next))
            .collect();
        let behind = {
            let history = stage.history();
            let open =
                history.subscriptions.iter().filter(|seen| !seen.fast && seen.end.is_none() && !seen.left);
            let mut behind = open.filter_map(|seen| {
                let (_, epoch, next) = ends.iter().find(|(name, ..)| name == seen.topic)?;
                let last = seen.heard.iter().rev().find_map(|heard| match heard {
                    Heard::Message { at: (epoch, offset), .. } => Some((*epoch, offset + 1)),
                    _ => None,
                });
                let reached =
                    last == Some((*epoch, *next)) || *next == 0 || last.is_none() && !seen.from_first;
                (!reached).then(|| format!("{} is at {last:x?} of {next} in {epoch:x}", seen.topic))
            });
            behind.next()
        };
        let Some(behind) = behind else { return Ok(()) };
        if END_WITHIN < since.elapsed() {
            return Err(format!("L1: {END_WITHIN:?} after the last publish a subscription of {behind}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn connect_anew(stage: &Stage) -> Result<(), String> {
    let since = Instant::now();
    let client = Client::connect(stage, options(0, &stage.plan.clients[0])).await;
    if CONNECT_WITHIN < since.elapsed() {
        return Err(format!("L1: a new client took {:?} to connect", since.elapsed()));
    }
    let mut all = SubscribeOptions::default();
    all.start = Start::All;
    let mut orders = client.subscribe(ORDERS, all).await.map_err(|error| format!("L1: {error}"))?;
    let has_orders = stage.history().ends.get(ORDERS).is_some_and(|(_, next)| *next > 0);
    if has_orders && tokio::time::timeout(CONNECT_WITHIN, orders.next()).await.is_err() {
        return Err("L1: a new subscription hears nothing".to_owned());
    }
    Ok(())
}

/// Everybody leaves; nobody is held up.
async fn leave(
    stage: &Stage,
    subscribers: Vec<JoinHandle<()>>,
    clients: Vec<Arc<Client>>,
) -> Result<(), String> {
    stage.end();
    for subscriber in subscribers {
        if tokio::time::timeout(END_WITHIN, subscriber).await.is_err() {
            return Err("L1: a subscriber cannot leave".to_owned());
        }
    }
    for client in clients {
        stage.history().reconnects += client.session.status().reconnects;
        client.session.close().await;
    }
    Ok(())
}

/// Nothing is left of anybody: no session, no connection, no task.
async fn forget(stage: &Stage, engine: Engine, alive_before: usize) -> Result<(), String> {
    tokio::time::sleep(FORGOTTEN_AFTER).await;
    let sessions = engine.status().sessions_total;
    stage.network.stop();
    drop(engine);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let connections = stage.network.connections_open();
    if (sessions, connections, alive) == (0, 0, alive_before) {
        return Ok(());
    }
    Err(format!(
        "left behind: {sessions} sessions, {connections} connections, {} tasks",
        alive - alive_before
    ))
}

/// A panic in a task is no panic of the test: it is counted, and the seed fails.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            before(panic);
        }));
    });
}
