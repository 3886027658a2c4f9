//! What the sockets of one session share: the topic that their packets go out on, and the task that hears what comes.
//! When the server has forgotten them it says again who they are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc};
use twinlane_proto::frame::ReplyTo;

use super::client::Inner;
use super::packet::{self, Kind};
use super::uplink;
use crate::error::RequestError;
use crate::events::error::EmitError;
use crate::lock::lock;
use crate::message::Message;
use crate::publisher::{MessageOptions, Publisher};
use crate::session::Session;

/// Messages from the server that wait to be heard.
const MESSAGES_MAX: usize = 1_024;
/// How long to wait before trying again, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The link of a session, made when it is first needed.
#[derive(Default)]
pub(crate) struct EventsClient {
    link: AsyncMutex<Option<Arc<Link>>>,
}

pub(crate) struct Link {
    out: AsyncMutex<Option<Publisher>>,
    sockets: Mutex<HashMap<String, Weak<Inner>>>,
    /// The way out is broken: begin again.
    broken: Notify,
}

impl EventsClient {
    pub(crate) async fn link(&self, session: &Session) -> Result<Arc<Link>, RequestError> {
        let mut link = self.link.lock().await;
        if let Some(link) = &*link {
            return Ok(Arc::clone(link));
        }
        let (out, answers) = open(session, None).await?;
        let made = Arc::new(Link {
            out: AsyncMutex::new(Some(out)),
            sockets: Mutex::default(),
            broken: Notify::new(),
        });
        tokio::spawn(hear(Arc::downgrade(&made), answers));
        Ok(Arc::clone(link.insert(made)))
    }
}

impl Link {
    /// Whether its namespace was free.
    pub(super) fn add(&self, socket: &Arc<Inner>) -> bool {
        let mut sockets = lock(&self.sockets);
        let known = sockets.get(&socket.namespace).and_then(Weak::upgrade);
        if known.is_some_and(|known| !Arc::ptr_eq(&known, socket)) {
            return false;
        }
        sockets.insert(socket.namespace.clone(), Arc::downgrade(socket));
        true
    }

    pub(super) fn remove(&self, socket: &Inner) {
        lock(&self.sockets).remove(&socket.namespace);
    }

    /// Sends packets. Waits for room, and while the event layer cannot be reached.
    pub(super) async fn send(&self, packets: &[u8]) -> Result<(), EmitError> {
        let mut out = self.out.lock().await;
        let publisher = out.as_mut().ok_or(EmitError::Closed)?;
        if let Err(error) = publisher.send(packets).await {
            tracing::debug!(%error, "the event layer cannot be reached");
            self.broken.notify_one();
            return Err(EmitError::Closed);
        }
        Ok(())
    }

    fn sockets(&self) -> Vec<Arc<Inner>> {
        lock(&self.sockets).values().filter_map(Weak::upgrade).collect()
    }

    fn take(self: &Arc<Self>, message: &Message) {
        let mut rest = message.payload_bytes();
        while !rest.is_empty() {
            match packet::take(&mut rest) {
                Ok(packet) if packet.kind == Kind::Close => {
                    let reason: String = serde_json::from_slice(&packet.payload.json).unwrap_or_default();
                    self.sockets().iter().for_each(|socket| socket.left(&reason));
                    self.broken.notify_one();
                }
                Ok(packet) => {
                    let socket = lock(&self.sockets).get(&packet.namespace).and_then(Weak::upgrade);
                    if let Some(socket) = socket {
                        socket.take(packet, self);
                    }
                }
                Err(error) => return tracing::warn!(%error, "the server sent something that is no packet"),
            }
        }
    }

    /// Begins again, and says who is there. Tries until it works or nobody is left.
    async fn begin_again(&self) -> Option<mpsc::Receiver<Message>> {
        let mut delay = RETRY_FIRST;
        loop {
            let sockets = self.sockets();
            sockets.iter().for_each(|socket| socket.left("transport close"));
            let session = sockets.first()?.session.clone();
            let mut out = self.out.lock().await;
            // As long as it can be used: then what was said before still comes before.
            let usable = out.take().filter(|publisher| !publisher.is_closed());
            if let Ok((mut publisher, answers)) = open(&session, usable).await {
                let mut sent = Ok(0);
                for socket in &sockets {
                    sent = publisher.send(&socket.knock()).await;
                }
                if sent.is_ok() {
                    *out = Some(publisher);
                    return Some(answers);
                }
            }
            drop(out);
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_MAX);
        }
    }
}

/// The way to the server's event layer, and what comes back. The first message says where it is to come.
async fn open(
    session: &Session,
    usable: Option<Publisher>,
) -> Result<(Publisher, mpsc::Receiver<Message>), RequestError> {
    let (reply_to, answers): (ReplyTo, _) = session.answers(MESSAGES_MAX).await?;
    let mut out = match usable {
        Some(publisher) => publisher,
        None => session.own_publisher(&uplink(&session.id())).await?,
    };
    let options = MessageOptions { reply_to: Some(reply_to), ..MessageOptions::default() };
    out.send_with(b"", options).await?;
    Ok((out, answers))
}

/// Hears what comes for as long as there is a link.
async fn hear(link: Weak<Link>, mut answers: mpsc::Receiver<Message>) {
    loop {
        let Some(strong) = link.upgrade() else { return };
        let message = tokio::select! {
            message = answers.recv() => message,
            () = strong.broken.notified() => None,
        };
        match message {
            Some(message) => strong.take(&message),
            None => match strong.begin_again().await {
                Some(again) => answers = again,
                None => return,
            },
        }
    }
}
