//! Rust clients at the event layer: their packets come on a topic of their session's, answers go to its inbox.

use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use twinlane_proto::frame::{Frames, ReplyTo};
use twinlane_proto::{Filter, SlowPolicy, Start, TopicName};

use super::UPLINKS;
use super::packet::{self, Kind, NativeError, Packet};
use crate::engine::Engine;
use crate::events::burst::Wire;
use crate::events::connection::Connection;
use crate::events::json::{ATTACHMENTS_MAX, PayloadError, check_ack, check_event};
use crate::events::layer::Layer;
use crate::events::outbox::Outbox;
use crate::events::payload::Payload;
use crate::events::peer::{FromClient, Handshake, OutboxLimits, PacketError, ToClient};
use crate::events::socket::DisconnectReason;
use crate::publisher::{MessageOptions, Publisher};
use crate::session::Session;
use crate::topic_cursor::TopicRead;
use crate::topics::{Subscribed, Topic, Watch};

/// Bytes of a message to a client, beyond which a burst is sent event by event.
const MESSAGE_BYTES: usize = 256 << 10;
/// Bytes of a client's packets taken at a time.
const RUN_BYTES: usize = 64 << 10;

/// Serves Rust clients for as long as what is returned is kept.
pub(in crate::events) fn serve(layer: &Arc<Layer>) -> Watch {
    let filter = Filter::parse(&format!("{UPLINKS}*")).expect("the filter of uplinks is one");
    let (layer_then, runtime) = (Arc::downgrade(layer), layer.settings.runtime.clone());
    layer.settings.core.topics.watch(filter, move |topic, _| {
        runtime.spawn(serve_client(Weak::clone(&layer_then), topic));
    })
}

/// Serves one client until its session is over: then its topic is closed.
async fn serve_client(layer: Weak<Layer>, uplink: Arc<Topic>) {
    let Some(strong) = layer.upgrade() else { return };
    let session = Session::local(&Engine::of(Arc::clone(&strong.settings.core)));
    drop(strong);
    let Subscribed { mut cursor, subscriber, .. } =
        uplink.subscribe(Start::All, None, SlowPolicy::Block, "the event layer", "local");
    let mut client = None;
    loop {
        let run = match poll_fn(|cx| cursor.poll_read(cx, RUN_BYTES)).await {
            TopicRead::Run(run) => run,
            TopicRead::Missed { .. } => continue,
            TopicRead::Closed => return,
        };
        for frame in Frames::new(run.bytes()) {
            // A client that begins says where it is to be answered; one that begins again says so again.
            if let Some(reply_to) = frame.options().ok().and_then(|options| options.reply_to) {
                let Some(layer) = layer.upgrade() else { return };
                client = Client::open(&layer, &session, reply_to, &uplink.meta.name).await;
            }
            if let Some(serving) = &client
                && let Err(error) = serving.take(frame.payload()).await
            {
                tracing::info!(uplink = %uplink.meta.name, %error, "an event client is disconnected");
                serving.connection.close(DisconnectReason::ParseError);
                client = None;
            }
        }
        subscriber.position.store(run.end_offset(), Ordering::Relaxed);
    }
}

struct Client {
    connection: Connection,
    telling: tokio::task::JoinHandle<()>,
}

#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error(transparent)]
    Native(#[from] NativeError),
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error("text that is no UTF-8")]
    Text,
    #[error("{0} attachments, where {ATTACHMENTS_MAX} is the limit")]
    Attachments(usize),
    #[error("a client does not send {0:?}")]
    Kind(Kind),
}

impl Client {
    async fn open(
        layer: &Arc<Layer>,
        session: &Session,
        reply_to: ReplyTo,
        uplink: &TopicName,
    ) -> Option<Self> {
        let publisher = Publisher::open_inbox(session.reach(), reply_to.topic).await.ok()?;
        let handshake = Handshake {
            address: None,
            headers: Vec::new(),
            query: Vec::new(),
            url: uplink.to_string(),
            secure: false,
            cross_origin: false,
            issued: SystemTime::now(),
        };
        let (connection, outbox) = Connection::open(layer, handshake, OutboxLimits::default());
        let telling = tokio::spawn(tell(outbox, publisher, reply_to.correlation));
        Some(Self { connection, telling })
    }

    async fn take(&self, packets: &[u8]) -> Result<(), ClientError> {
        let mut rest = Bytes::copy_from_slice(packets);
        while !rest.is_empty() {
            self.connection.receive(from_client(packet::take(&mut rest)?)?)?;
            self.connection.ready().await;
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.telling.abort();
    }
}

/// Sends a client what its outbox has, until there is nothing more or nobody takes it.
async fn tell(mut outbox: Outbox, mut publisher: Publisher, correlation: u64) {
    let options = MessageOptions { correlation: Some(correlation), ..MessageOptions::default() };
    while let Some(told) = outbox.next().await {
        let is_last = matches!(told, ToClient::Close(_));
        for message in messages(&told) {
            if let Err(error) = publisher.send_with(&message, options).await {
                tracing::debug!(%error, "an event client is gone");
                return;
            }
        }
        if is_last {
            return;
        }
    }
}

/// The messages that tell a client something.
fn messages(told: &ToClient) -> Vec<Bytes> {
    let one = |kind, ack, namespace: &str, payload: &Payload| {
        let mut out = Vec::new();
        packet::put(&mut out, kind, ack, namespace, payload);
        vec![out.into()]
    };
    let json = |json: String| Payload { json: json.into(), attachments: Vec::new() };
    match told {
        ToClient::Burst(burst) if burst.weight_bytes() > MESSAGE_BYTES => {
            let each = burst.events().iter();
            each.flat_map(|event| one(Kind::Event, event.ack, burst.namespace(), &event.payload)).collect()
        }
        ToClient::Burst(burst) => vec![burst.encoded(Wire::Native, packet::encode_burst).clone()],
        ToClient::Ack { namespace, ack, payload } => one(Kind::Ack, Some(*ack), namespace, payload),
        ToClient::Connected { namespace, sid, pid } => {
            let numbers = serde_json::json!({ "sid": **sid, "pid": pid.as_deref() });
            one(Kind::Connected, None, namespace, &json(numbers.to_string()))
        }
        ToClient::Refused { namespace, error } => {
            one(Kind::Refused, None, namespace, &Payload { json: error.clone(), attachments: Vec::new() })
        }
        ToClient::Disconnect { namespace } => one(Kind::Disconnect, None, namespace, &Payload::default()),
        ToClient::Close(reason) => {
            one(Kind::Close, None, "", &json(serde_json::json!(reason.as_str()).to_string()))
        }
    }
}

fn from_client(packet: Packet) -> Result<FromClient, ClientError> {
    let Packet { kind, ack, namespace, payload } = packet;
    // As strictly as what browsers send: it may be passed on to them as it is.
    let (text, attachments) = (std::str::from_utf8(&payload.json), payload.attachments.len());
    let text = text.map_err(|_| ClientError::Text)?;
    if attachments > ATTACHMENTS_MAX {
        return Err(ClientError::Attachments(attachments));
    }
    match kind {
        Kind::Event => check_event(text, attachments)?,
        Kind::Ack => check_ack(text, attachments)?,
        _ => {}
    }
    match (kind, ack) {
        (Kind::Connect, _) => {
            let auth = Some(payload.json).filter(|json| !json.is_empty());
            Ok(FromClient::Connect { namespace, auth })
        }
        (Kind::Event, ack) => Ok(FromClient::Event { namespace, ack, payload }),
        (Kind::Ack, Some(ack)) => Ok(FromClient::Ack { namespace, ack, payload }),
        (Kind::Disconnect, _) => Ok(FromClient::Disconnect { namespace }),
        (kind, _) => Err(ClientError::Kind(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &'static [u8], attachments: usize) -> Result<FromClient, ClientError> {
        let payload =
            Payload { json: Bytes::from_static(json), attachments: vec![Bytes::new(); attachments] };
        from_client(Packet { kind: Kind::Event, ack: None, namespace: "/".to_owned(), payload })
    }

    #[test]
    fn what_would_break_browsers_when_it_is_passed_on_is_refused() {
        assert!(event(br#"["name",{"_placeholder":true,"num":0}]"#, 1).is_ok());
        assert!(matches!(event(b"[\"name\",\xFF]", 0), Err(ClientError::Text)));
        assert!(matches!(event(br#"["name",]"#, 0), Err(ClientError::Payload(PayloadError::NotJson { .. }))));
        assert!(matches!(event(br#"["connect"]"#, 0), Err(ClientError::Payload(PayloadError::Reserved(_)))));
        assert!(matches!(event(br#"["name"]"#, 1), Err(ClientError::Payload(PayloadError::Placeholder))));
        assert!(matches!(event(br#"["name"]"#, 65), Err(ClientError::Attachments(65))));
    }
}
