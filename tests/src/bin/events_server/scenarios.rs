//! What the server does when a test asks for it, by the scenario's name.

use std::time::Duration;

use serde_json::Value;
use twinlane::events::{Events, Namespace, Socket};

use crate::any::{Any, Arguments};
use crate::sockets::World;
use crate::{Failure, api, lines, plain};

/// The arguments of a scenario.
pub(crate) struct Ask<'a> {
    pub(crate) io: &'a Events,
    pub(crate) world: &'a World,
    arguments: Any,
}

pub(crate) async fn run(name: &str, io: &Events, arguments: Any, world: &World) -> Result<Any, Failure> {
    let ask = Ask { io, world, arguments };
    if name.starts_with("line ") {
        line(name, &ask).await
    } else if let Some(answer) = api::run(name, &ask).await? {
        Ok(answer)
    } else {
        moves(name, &ask).await
    }
}

async fn line(name: &str, ask: &Ask<'_>) -> Result<Any, Failure> {
    let done = |()| Any::default();
    Ok(match name {
        "line 1: basic emit" => done(lines::line_1_basic_emit(&ask.socket()?).await?),
        "line 2: emit with acknowledgement callback" => {
            lines::line_2_emit_with_acknowledgement_callback(&ask.namespace()?, &ask.text("id")?).await?
        }
        "line 3: emitWithAck" => lines::line_3_emit_with_ack(&ask.socket()?).await?.into(),
        "line 4: timeout of an acknowledgement" => {
            lines::line_4_timeout_of_an_acknowledgement(&ask.socket()?, ask.wait()?).await?.into()
        }
        "line 5: emit to all clients of the main namespace" => done(lines::line_5_emit_to_all(ask.io).await?),
        "line 6: broadcast to all but the sender" => done(lines::line_6_broadcast(&ask.socket()?).await?),
        "line 7: broadcast with acknowledgements, partial answers on timeout" => {
            lines::line_7_broadcast_with_acknowledgements(&ask.namespace()?, ask.wait()?).await?
        }
        "line 8: broadcast emitWithAck" => {
            lines::line_8_broadcast_emit_with_ack(&ask.namespace()?, ask.wait()?).await?.into()
        }
        "line 9: to a room, in a room" => done(lines::line_9_to_a_room(&ask.namespace()?).await?),
        "line 10: a room without the sender" => {
            done(lines::line_10_a_room_without_the_sender(&ask.socket()?).await?)
        }
        "line 11: except a room" => done(lines::line_11_except_a_room(&ask.namespace()?).await?),
        "line 12: chain of to and except" => {
            done(lines::line_12_chain_of_to_and_except(&ask.namespace()?).await?)
        }
        "line 13: another namespace and its rooms" => {
            done(lines::line_13_another_namespace_and_its_rooms(ask.io, &ask.text("nsp")?).await?)
        }
        "line 14: full chain with timeout and acknowledgements" => {
            lines::line_14_full_chain(&ask.socket()?, ask.wait()?).await?
        }
        "line 15: private message by socket id" => {
            done(lines::line_15_private_message(&ask.namespace()?, &ask.text("id")?).await?)
        }
        "line 16: the room of a socket's id, without the sender" => {
            done(lines::line_16_the_room_of_an_id_without_the_sender(&ask.socket()?).await?)
        }
        "line 17: local" => done(lines::line_17_local(&ask.namespace()?).await?),
        "line 18: compress" => done(lines::line_18_compress(&ask.socket()?).await?),
        "line 19: volatile" => done(lines::line_19_volatile(&ask.namespace()?, &ask.socket()?).await?),
        "line 19: volatile to a client that does not read" => {
            let (count, bytes) = (ask.number("count")?, ask.number("bytes")? as usize);
            done(lines::line_19_volatile_to_a_client_that_does_not_read(&ask.socket()?, count, bytes).await?)
        }
        "line 24: reserved names" => lines::line_24_reserved_names(&ask.socket()?).await.into(),
        _ => return Err(format!("no scenario {name:?}").into()),
    })
}

/// What tests need in between.
async fn moves(name: &str, ask: &Ask<'_>) -> Result<Any, Failure> {
    match name {
        "join" => {
            let socket = ask.socket()?;
            ask.texts("rooms").iter().try_for_each(|room| socket.join(room))?;
        }
        "leave" => ask.socket()?.leave(&ask.text("room")?),
        "mark" => ask.namespace()?.emit("mark", &ask.number("number")?).await?,
        "noted" => {
            let nsp = ask.text("nsp")?;
            return plain(ask.world.note(|notes| notes.noted.get(&nsp).cloned().unwrap_or_default()));
        }
        "emit" => {
            let mut emit = ask.namespace()?.to(ask.texts("to"));
            if ask.flag("volatile") {
                emit = emit.volatile();
            }
            emit.emit(&ask.text("name")?, &ask.list("args")).await?;
        }
        "emit with ack" => {
            let socket = ask.namespace()?.to(ask.text("id")?).timeout(ask.wait()?);
            let answers = socket.emit_with_ack(&ask.text("name")?, &ask.list("args")).await?;
            return Ok(match answers.values::<Value>()?.pop() {
                Some(answer) => Any::object([("answer", answer.into())]),
                None => Any::object([("timeout", true.into())]),
            });
        }
        "stream" => {
            tokio::spawn(stream(ask.namespace()?, ask.number("count")?, ask.number("perSecond")?));
        }
        _ => return Err(format!("no scenario {name:?}").into()),
    }
    Ok(Any::default())
}

/// Numbered events at a steady rate.
async fn stream(namespace: Namespace, count: u64, per_second: u64) -> Result<(), Failure> {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let started = ticks.tick().await;
    let mut number = 0;
    while number < count {
        let due = (ticks.tick().await - started).as_millis() as u64 * per_second / 1_000;
        while number < due.min(count) {
            namespace.emit("numbered", &(number, Value::Object(serde_json::Map::new()))).await?;
            number += 1;
        }
    }
    Ok(namespace.emit("finished", &count).await?)
}

impl Ask<'_> {
    pub(crate) fn namespace(&self) -> Result<Namespace, Failure> {
        Ok(self.io.of(&self.text("nsp")?)?)
    }

    pub(crate) fn socket(&self) -> Result<Socket, Failure> {
        let id = self.text("id")?;
        self.namespace()?.socket(&id).ok_or_else(|| format!("no socket {id}").into())
    }

    pub(crate) fn text(&self, name: &str) -> Result<String, Failure> {
        match self.arguments.field(name) {
            Some(Any::Plain(Value::String(text))) => Ok(text.clone()),
            other => Err(format!("argument {name:?} is no text: {other:?}").into()),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<u64, Failure> {
        let number = self.json(name).as_u64();
        number.ok_or_else(|| format!("argument {name:?} is no number").into())
    }

    pub(crate) fn wait(&self) -> Result<Duration, Failure> {
        self.number("ms").map(Duration::from_millis)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.json(name) == Value::Bool(true)
    }

    /// A list of texts; none is an empty one.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        serde_json::from_value(self.json(name)).unwrap_or_default()
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        self.arguments.field(name).map(Any::json).unwrap_or_default()
    }

    /// A list whose elements become arguments each.
    fn list(&self, name: &str) -> Arguments {
        match self.arguments.field(name) {
            Some(Any::List(items)) => Arguments(items.clone()),
            _ => Arguments(Vec::new()),
        }
    }
}
