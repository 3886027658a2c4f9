//! An event that a client emitted, as listeners get it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::json::reserved;
use super::payload::Payload;
use super::peer::PacketError;

/// An event. Cheap to clone; of all clones one answers.
#[derive(Debug, Clone)]
pub struct Event {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: Box<str>,
    payload: Payload,
    ack: Option<Answer>,
}

/// The way an answer takes: its number goes along.
struct Answer {
    ack: u64,
    give: Give,
    is_given: AtomicBool,
}

pub(super) type Give = Box<dyn Fn(u64, Payload) + Send + Sync>;

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({})", self.ack)
    }
}

impl Event {
    /// An event that came. `answer`: the number it is to be answered with, and the way.
    pub(super) fn new(payload: Payload, answer: Option<(u64, Give)>) -> Result<Self, PacketError> {
        let name = name_of(&payload).ok_or(PacketError::NoName)?;
        if is_reserved(&name) {
            return Err(PacketError::Reserved(name));
        }
        let ack = answer.map(|(ack, give)| Answer { ack, give, is_given: AtomicBool::new(false) });
        let inner = Inner { name: name.into(), payload, ack };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Name and arguments as they came.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.inner.payload
    }

    /// Argument `index`, from 0.
    ///
    /// # Errors
    ///
    /// There is none, or it is no `T`.
    pub fn arg<T: DeserializeOwned>(&self, index: usize) -> serde_json::Result<T> {
        self.inner.payload.argument(index + 1)
    }

    /// All arguments, as a tuple; more than it has are passed over.
    ///
    /// # Errors
    ///
    /// There are too few, or they are others.
    pub fn args<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        self.inner.payload.arguments(1)
    }

    /// Whether the client waits for an answer that was not given yet.
    #[must_use]
    pub fn wants_ack(&self) -> bool {
        self.inner.ack.as_ref().is_some_and(|answer| !answer.is_given.load(Ordering::Relaxed))
    }

    /// Answers, if an answer is wanted: `arguments` as in an emit. The first answer counts; returns whether this is it.
    /// An answer that cannot be serialized is none, and is logged.
    pub fn ack(&self, arguments: &(impl Serialize + ?Sized)) -> bool {
        if !self.wants_ack() {
            return false;
        }
        match Payload::answer(arguments) {
            Ok(payload) => self.ack_payload(payload),
            Err(error) => {
                tracing::error!(event = self.name(), %error, "an acknowledgement cannot be serialized");
                false
            }
        }
    }

    /// As [`Self::ack`], with `[...arguments]` as they are.
    pub fn ack_payload(&self, payload: Payload) -> bool {
        let Some(answer) = &self.inner.ack else { return false };
        if answer.is_given.swap(true, Ordering::AcqRel) {
            return false;
        }
        (answer.give)(answer.ack, payload);
        true
    }
}

/// The name of an event: the first element, a text or a number.
pub(super) fn name_of(payload: &Payload) -> Option<String> {
    match payload.argument(0).ok()? {
        serde_json::Value::String(name) => Some(name),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(super) fn is_reserved(name: &str) -> bool {
    reserved(name).is_some()
}
