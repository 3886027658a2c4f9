//! The chat from a terminal: the same events as the page's, over twinlane's own protocol.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use twinlane::events::{ClientSocket, Event, HandlerError};
use twinlane::{ConnectOptions, Session, Transports, Trust};

use crate::rooms::Said;
use crate::server::{NAMESPACE, Person};

/// Why we are gone when we went ourselves.
const LEFT: &str = "client namespace disconnect";

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Deserialize)]
#[serde(untagged)]
enum Entered {
    Yes { people: Vec<Person>, messages: Vec<Said> },
    No { error: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Kept { n: u64 },
    Refused { error: String },
}

/// Chats as `name` until the input ends.
pub(crate) async fn run(server: SocketAddr, name: &str, room: &str) -> Result<(), Failure> {
    let session = Session::connect(options(server)).await?;
    let chat = session.socket(NAMESPACE);
    chat.set_auth(json!({ "name": name }));
    let current = Arc::new(Mutex::new(room.to_owned()));
    listen(&chat, &current);
    chat.connect().await?;
    enter(&chat, room).await?;
    show("write, or: /room NAME, /quit");

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("", _) => {}
            ("/quit", _) => break,
            ("/room", room) => {
                if enter(&chat, room.trim()).await? {
                    *lock(&current) = room.trim().to_owned();
                }
            }
            _ => {
                let room = lock(&current).clone();
                say(&chat, &room, line.trim()).await?;
            }
        }
    }
    chat.disconnect().await;
    session.close().await;
    Ok(())
}

/// On loopback there is nobody in between.
fn options(server: SocketAddr) -> ConnectOptions {
    let mut options = ConnectOptions::new(server.to_string(), Trust::KnownHosts(PathBuf::new()));
    options.transports = Transports::TcpOnly;
    options.plain = true;
    options
}

fn listen(chat: &ClientSocket, current: &Arc<Mutex<String>>) {
    chat.on("said", |_, event: Event| async move {
        show_said(&event.arg(0)?);
        Ok::<_, HandlerError>(())
    });
    chat.on("here", |_, event: Event| async move { tell(&event, "came in") });
    chat.on("gone", |_, event: Event| async move { tell(&event, "left") });
    chat.on("recovered", |_, _| async { show("here again; nothing was missed") });
    chat.on_disconnect(|_, why: String| async move {
        if why != LEFT {
            show(&format!("the connection is lost ({why}); what you write waits"));
        }
    });
    let current = Arc::clone(current);
    chat.on_gap(move |chat: ClientSocket, _| {
        let room = lock(&current).clone();
        async move {
            show("away for too long; this is what was said last");
            enter(&chat, &room).await.map(drop)
        }
    });
}

/// Goes into a room and shows what was said there; whether it could.
async fn enter(chat: &ClientSocket, room: &str) -> Result<bool, Failure> {
    match chat.emit_with_ack("enter", &json!({ "room": room })).await? {
        Entered::No { error } => {
            show(&error);
            Ok(false)
        }
        Entered::Yes { people, messages } => {
            let names: Vec<String> = people.into_iter().map(|person| person.name).collect();
            show(&format!("#{room}: {}", names.join(", ")));
            messages.iter().for_each(show_said);
            Ok(true)
        }
    }
}

async fn say(chat: &ClientSocket, room: &str, text: &str) -> Result<(), Failure> {
    let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let key = format!("{}-{at}", chat.id().unwrap_or_default());
    match chat.emit_with_ack("say", &json!({ "room": room, "key": key, "text": text })).await? {
        Answer::Kept { n } => show(&format!("✓✓ kept as number {n}")),
        Answer::Refused { error } => show(&error),
    }
    Ok(())
}

fn tell(event: &Event, what: &str) -> Result<(), HandlerError> {
    let Person { name, .. } = event.arg(0)?;
    show(&format!("{} {what}", harmless(&name)));
    Ok(())
}

fn show_said(said: &Said) {
    let mut out = std::io::stdout().lock();
    // Nobody may be there to read it.
    let _closed = writeln!(out, "{}: {}", harmless(&said.name), harmless(&said.text));
}

fn show(note: &str) {
    let _closed = writeln!(std::io::stdout().lock(), "  · {note}");
}

/// What others write must not move this terminal's cursor.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
