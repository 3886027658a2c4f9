//! Zenoh by its own crate: two sessions that talk directly over TCP, UDP or QUIC, and through a router process.
//!
//! Settings are the library's defaults. Over TCP and QUIC the publisher waits when the link is full
//! (`CongestionControl::Block`); over UDP it drops, which is what a best-effort link is for. Discovery is off, so that
//! a hundred subscribers make a star and not a mesh.
//!
//! A subscriber is a session with a link of its own. Its callback runs on Zenoh's receiving threads and hands the
//! payload over through an [`Inbox`], like the library's own FIFO handler but without a queue slot per message.
//!
//! Zenoh's threads belong to the process and outlive a session, so they take over the pinning of each run's thread. Its
//! calls refuse to block on a current-thread runtime: all but `put` are made on a thread without one.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    process::Pid,
    thread::{sched_getaffinity, sched_setaffinity},
};
use serde_json::{Value, json};
use zenoh::{
    Config, Session, Wait as _,
    pubsub::{Publisher, Subscriber},
    qos::{CongestionControl, Reliability},
    sample::Sample,
};

use super::{
    certificate::Certificate,
    inbox::{Batch, Inbox},
};
use crate::{
    measure::Workload,
    process::{Process, free_port},
    system::{AnySystem, Publish, Setup, Subscribe, System, TOPIC},
};

/// More sessions than any run has; the library's default is 1,000.
const SESSIONS_MAX: usize = 4_096;

/// Sessions that are opened at once.
const OPENERS: usize = 16;

/// First names of the threads that the library starts.
const THREADS: [&str; 5] = ["app-", "acc-", "tx-", "rx-", "net-"];

pub(super) fn systems() -> Vec<Box<dyn AnySystem>> {
    vec![
        Box::new(Zenoh { name: "zenoh-tcp", about: "Zenoh peers over TCP, no broker", link: Link::Tcp }),
        Box::new(Zenoh {
            name: "zenoh-udp",
            about: "Zenoh peers over UDP, best effort, no broker",
            link: Link::Udp,
        }),
        Box::new(Zenoh { name: "zenoh-quic", about: "Zenoh peers over QUIC, no broker", link: Link::Quic }),
        Box::new(Zenoh {
            name: "zenoh-router",
            about: "Zenoh clients through a router over TCP",
            link: Link::Router,
        }),
    ]
}

/// A Zenoh router; runs until it is killed.
///
/// # Errors
///
/// The port is taken, or the library fails.
pub(crate) fn router(port: u16) -> Result<()> {
    let _session = open(&json!({
        "mode": "router",
        "listen": { "endpoints": [format!("tcp/127.0.0.1:{port}")] },
    }))?;
    loop {
        // The session works on threads of its own.
        thread::park();
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Link {
    Tcp,
    Udp,
    Quic,
    Router,
}

struct Zenoh {
    name: &'static str,
    about: &'static str,
    link: Link,
}

/// Where the sessions meet, and the sessions themselves: they are closed outside of any runtime, with the server.
struct Meeting {
    sessions: Mutex<Vec<Session>>,
    router: Option<Process>,
    /// What a client session is opened with.
    client: Value,
}

/// A declared publisher.
struct ZenohPublisher {
    /// `None` only while it is dropped.
    publisher: Option<Publisher<'static>>,
}

/// Subscribers, each on its own session, with one inbox.
struct ZenohSubscribers {
    inbox: Arc<Inbox>,
    batch: Batch,
    subscribers: Vec<Subscriber<()>>,
}

impl System for Zenoh {
    type Server = Meeting;
    type Publisher = ZenohPublisher;
    type Subscribers = ZenohSubscribers;

    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn takes_part(&self, workload: Workload) -> bool {
        workload != Workload::Idle || self.link == Link::Router
    }

    fn start(&self, setup: &Setup) -> Result<Meeting> {
        let port = free_port()?;
        let protocol = match self.link {
            Link::Tcp | Link::Router => "tcp",
            Link::Udp => "udp",
            Link::Quic => "quic",
        };
        let endpoint = format!("{protocol}/127.0.0.1:{port}");
        let connect =
            json!({ "endpoints": [endpoint], "retry": { "period_init_ms": 20, "period_max_ms": 200 } });
        if self.link == Link::Router {
            let mut router = Process::harness(setup, "zenoh-router", &[port.to_string()])?;
            router.wait_for_port(port)?;
            let client = json!({ "mode": "client", "connect": connect });
            return Ok(Meeting { sessions: Mutex::default(), router: Some(router), client });
        }
        let certificate =
            (self.link == Link::Quic).then(|| Certificate::make(&setup.directory)).transpose()?;
        let tls = certificate.map_or_else(
            || json!({}),
            |Certificate { certificate, key }| {
                json!({
                    "root_ca_certificate": certificate,
                    "listen_certificate": certificate,
                    "listen_private_key": key,
                })
            },
        );
        let transport = json!({ "link": { "tls": tls } });
        let listening =
            open(&json!({ "mode": "peer", "listen": { "endpoints": [endpoint] }, "transport": transport }))?;
        let client = json!({ "mode": "peer", "listen": { "endpoints": [] }, "connect": connect, "transport": transport });
        Ok(Meeting { sessions: Mutex::new(vec![listening]), router: None, client })
    }

    fn processes(&self, server: &Meeting) -> Vec<u32> {
        server.router.iter().map(Process::id).collect()
    }

    async fn publisher(&self, _setup: &Setup, server: &Meeting) -> Result<ZenohPublisher> {
        let listening = server.lock().first().filter(|_| self.link != Link::Router).cloned();
        let (congestion, reliability) = match self.link {
            Link::Udp => (CongestionControl::Drop, Reliability::BestEffort),
            _ => (CongestionControl::Block, Reliability::Reliable),
        };
        elsewhere(|| {
            let session = listening.map_or_else(|| server.connect(), Ok)?;
            let publisher =
                session.declare_publisher(TOPIC).congestion_control(congestion).reliability(reliability);
            Ok(ZenohPublisher { publisher: Some(publisher.wait().map_err(failed)?) })
        })
    }

    async fn subscribers(&self, _setup: &Setup, server: &Meeting, count: usize) -> Result<ZenohSubscribers> {
        let inbox = Arc::new(Inbox::default());
        let subscribe = |number| {
            let session = server.connect()?;
            let inbox = Arc::clone(&inbox);
            let callback = move |sample: Sample| inbox.push(number, &sample.payload().to_bytes());
            session.declare_subscriber(TOPIC).callback(callback).wait().map_err(failed)
        };
        let subscribers = opened(count, subscribe)?;
        Ok(ZenohSubscribers { inbox, batch: Batch::default(), subscribers })
    }
}

impl Meeting {
    fn connect(&self) -> Result<Session> {
        let session = zenoh::open(configuration(&self.client)?).wait().map_err(failed)?;
        self.lock().push(session.clone());
        Ok(session)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        for session in self.lock().drain(..) {
            // It may have lost its peer already.
            let _ = session.close().wait();
        }
    }
}

impl Publish for ZenohPublisher {
    async fn send(&mut self, payload: &[u8]) -> Result<()> {
        let publisher = self.publisher.as_ref().expect("the publisher lives as long as this structure");
        publisher.put(payload).await.map_err(failed)
    }

    /// The transmitting thread sends by itself.
    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Subscribe for ZenohSubscribers {
    async fn recv(&mut self, each: &mut impl FnMut(usize, &[u8])) -> Result<()> {
        self.inbox.take(&mut self.batch);
        self.batch.deliver(each);
        Ok(())
    }
}

impl Drop for ZenohPublisher {
    fn drop(&mut self) {
        let publisher = self.publisher.take();
        elsewhere(|| drop(publisher));
    }
}

impl Drop for ZenohSubscribers {
    fn drop(&mut self) {
        self.inbox.close();
        let subscribers = std::mem::take(&mut self.subscribers);
        elsewhere(|| drop(subscribers));
    }
}

/// Opens `count` of something on a few threads at once: a handshake is mostly waiting.
fn opened<T: Send>(count: usize, open: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let open = &open;
    thread::scope(|scope| {
        let share =
            |first: usize| move || (first..count).step_by(OPENERS).map(open).collect::<Result<Vec<_>>>();
        let openers: Vec<_> = (0..OPENERS).map(|first| scope.spawn(share(first))).collect();
        let mut all = Vec::with_capacity(count);
        for opener in openers {
            all.extend(opener.join().map_err(|_| anyhow!("opening a session panicked"))??);
        }
        Ok(all)
    })
}

/// Runs `call` on a thread that has no runtime.
fn elsewhere<T: Send>(call: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(call).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Opens a session outside of any runtime, and has the library's threads run where the calling thread may.
fn open(settings: &Value) -> Result<Session> {
    let session = zenoh::open(configuration(settings)?).wait().map_err(failed)?;
    let cores = sched_getaffinity(None)?;
    for thread in fs::read_dir("/proc/self/task")? {
        let thread = thread?.path();
        let name = fs::read_to_string(thread.join("comm")).unwrap_or_default();
        let number =
            thread.file_name().and_then(|number| number.to_str()).and_then(|number| number.parse().ok());
        if let Some(pid) = number.and_then(Pid::from_raw)
            && THREADS.iter().any(|first| name.starts_with(first))
        {
            sched_setaffinity(Some(pid), &cores)?;
        }
    }
    Ok(session)
}

/// `settings` over the library's defaults, without discovery.
fn configuration(settings: &Value) -> Result<Config> {
    let mut config = Config::from_json5(&settings.to_string()).map_err(failed)?;
    for (key, value) in [
        ("scouting/multicast/enabled", "false".to_owned()),
        ("scouting/gossip/enabled", "false".to_owned()),
        ("transport/unicast/max_sessions", SESSIONS_MAX.to_string()),
        ("transport/unicast/accept_pending", SESSIONS_MAX.to_string()),
    ] {
        config.insert_json5(key, &value).map_err(failed).with_context(|| key.to_owned())?;
    }
    Ok(config)
}

/// The library's errors are boxed without a bound that `anyhow` can take.
#[expect(clippy::needless_pass_by_value, reason = "the argument of map_err")]
fn failed(error: zenoh::Error) -> anyhow::Error {
    anyhow!("zenoh: {error}")
}
