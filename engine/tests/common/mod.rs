//! A client of the event layer without a wire: it says and hears packets.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use twinlane::events::peer::{FromClient, Handshake, OutboxLimits, ToClient};
use twinlane::events::{Connection, DisconnectReason, Events, EventsOptions, Outbox, Payload};
use twinlane::{Engine, EngineConfig};

pub(crate) fn events() -> Events {
    with(EventsOptions::default())
}

pub(crate) fn with(options: EventsOptions) -> Events {
    Events::with(&Engine::new(EngineConfig::default()).unwrap(), options).unwrap()
}

/// A list that handlers write to.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub(crate) fn add(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// A client without a wire.
pub(crate) struct Client {
    pub(crate) io: Events,
    pub(crate) connection: Connection,
    pub(crate) outbox: Outbox,
    /// Events that came and were not asked for yet.
    pub(crate) heard: VecDeque<(String, Value, Option<u64>)>,
    pub(crate) sid: String,
    pub(crate) pid: String,
    pub(crate) offset: Option<String>,
}

impl Client {
    /// In namespace `/`.
    pub(crate) async fn join(io: &Events) -> Self {
        Self::connect(io, "/", json!({})).await.unwrap()
    }

    /// In `namespace`, or what it is refused with.
    pub(crate) async fn connect(io: &Events, namespace: &str, auth: Value) -> Result<Self, Value> {
        let mut client = Self::unconnected(io, OutboxLimits::default());
        client.knock(namespace, &auth);
        match client.next().await {
            ToClient::Connected { sid, pid, .. } => {
                client.sid = sid.to_string();
                client.pid = pid.map(|pid| pid.to_string()).unwrap_or_default();
                Ok(client)
            }
            ToClient::Refused { error, .. } => Err(serde_json::from_slice(&error).unwrap()),
            other => panic!("{other:?} before it is in"),
        }
    }

    pub(crate) fn unconnected(io: &Events, limits: OutboxLimits) -> Self {
        let handshake = Handshake {
            address: None,
            headers: vec![("origin".into(), "http://here".into())],
            query: Vec::new(),
            url: "/socket.io/".into(),
            secure: false,
            cross_origin: false,
            issued: SystemTime::now(),
        };
        let (connection, outbox) = io.connect(handshake, limits);
        let (heard, sid, pid, offset) = (VecDeque::new(), String::new(), String::new(), None);
        Self { io: io.clone(), connection, outbox, heard, sid, pid, offset }
    }

    pub(crate) fn knock(&self, namespace: &str, auth: &Value) {
        let auth = Some(auth.to_string().into());
        self.connection.receive(FromClient::Connect { namespace: namespace.into(), auth }).unwrap();
    }

    /// Comes back as whoever it was.
    pub(crate) async fn return_as(io: &Events, before: &Self) -> Self {
        let mut auth = json!({ "pid": before.pid });
        if let Some(offset) = &before.offset {
            auth["offset"] = offset.clone().into();
        }
        Self::connect(io, "/", auth).await.unwrap()
    }

    pub(crate) fn emit(&self, namespace: &str, event: &Value, ack: Option<u64>) {
        let payload = Payload { json: event.to_string().into(), attachments: Vec::new() };
        let event = FromClient::Event { namespace: namespace.into(), ack, payload };
        self.connection.receive(event).unwrap();
    }

    pub(crate) fn answer(&self, ack: u64, answer: &Value) {
        let payload = Payload { json: answer.to_string().into(), attachments: Vec::new() };
        self.connection.receive(FromClient::Ack { namespace: "/".into(), ack, payload }).unwrap();
    }

    pub(crate) async fn next(&mut self) -> ToClient {
        tokio::time::timeout(Duration::from_secs(5), self.outbox.next())
            .await
            .expect("something comes")
            .unwrap()
    }

    /// The next event: name and arguments without the offset, and its question's number.
    pub(crate) async fn event(&mut self) -> (Value, Option<u64>) {
        loop {
            if let Some((_, event, ack)) = self.heard.pop_front() {
                return (event, ack);
            }
            let next = self.next().await;
            self.take(next);
        }
    }

    /// All events that have come. Asking for the status makes sure that what was emitted is under way.
    pub(crate) fn events(&mut self) -> Vec<Value> {
        let _ = self.io.status();
        while let Some(next) = self.outbox.try_next() {
            self.take(next);
        }
        self.heard.drain(..).map(|(_, event, _)| event).collect()
    }

    pub(crate) fn take(&mut self, told: ToClient) {
        let ToClient::Burst(burst) = told else { panic!("{told:?} instead of an event") };
        for event in burst.events() {
            let mut value: Value = serde_json::from_slice(&event.payload.json).unwrap();
            let name = value[0].as_str().unwrap().to_owned();
            // As the official client does: where an answer is asked for there is no offset.
            if name != "$gap" && event.ack.is_none() {
                let offset = value.as_array_mut().unwrap().pop().unwrap();
                self.offset = Some(offset.as_str().unwrap().to_owned());
            }
            self.heard.push_back((name, value, event.ack));
        }
    }

    pub(crate) fn lose(&self) {
        self.connection.close(DisconnectReason::TransportClose);
    }
}
