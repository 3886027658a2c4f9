//! The engine answers questions about itself: requests on `$sys/status`, `$sys/topics` and `$sys/explain`.
//!
//! These are ordinary topics with an ordinary responder in this process; the answers are JSON.

use std::sync::Arc;

use tokio::task::AbortHandle;
use twinlane_proto::limits::PAYLOAD_BYTES_MAX;

use crate::engine::{Core, Engine};
use crate::request::Request;
use crate::session::Session;
use crate::status::{EngineStatus, TopicStatus};
use crate::transport::IoThreads;

pub(crate) const STATUS: &str = "$sys/status";
pub(crate) const EXPLAIN: &str = "$sys/explain";

/// Answers until the engine is shut down. Does nothing if it already does.
pub(crate) fn start(core: &Arc<Core>, io: &IoThreads) {
    let engine = Engine::of(Arc::clone(core));
    core.answer_with(|| [STATUS, EXPLAIN].map(|topic| answer_on(core, &engine, topic, io)));
}

/// The task that answers on `topic`.
fn answer_on(core: &Arc<Core>, engine: &Engine, topic: &'static str, io: &IoThreads) -> AbortHandle {
    let declared = core.declare_own(topic);
    declared.expect("the engine's own topics are declared before any client's");
    let session = Session::local(engine);
    let weak = Arc::downgrade(core);
    let answering = async move {
        let Ok(mut responder) = session.own_responder(topic).await else { return };
        drop(session);
        while let Some(request) = responder.next().await {
            let Some(core) = weak.upgrade() else { return };
            let answer = answer(&core, topic, &request);
            drop(core);
            if let Err(error) = request.respond(&answer).await {
                tracing::debug!(%error, topic, "nobody took the answer");
            }
        }
    };
    io.handle(0).spawn(answering).abort_handle()
}

fn answer(core: &Core, topic: &str, request: &Request) -> Vec<u8> {
    match topic {
        STATUS => fitting(core.status(), EngineStatus::shorten),
        _ => {
            fitting(explain(core, request.payload()), |topic| topic.iter_mut().for_each(TopicStatus::shorten))
        }
    }
}

/// The answer as JSON, its lists cut until it fits one message.
fn fitting<T: serde::Serialize>(mut answer: T, shorten: impl Fn(&mut T)) -> Vec<u8> {
    loop {
        let json = serde_json::to_vec(&answer).unwrap_or_default();
        if json.len() <= PAYLOAD_BYTES_MAX {
            return json;
        }
        shorten(&mut answer);
    }
}

fn explain(core: &Core, name: &[u8]) -> Option<TopicStatus> {
    let name = crate::topics::parse_name(std::str::from_utf8(name).ok()?).ok()?;
    Some(core.topics.by_name(&name)?.status())
}
