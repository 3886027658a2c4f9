//! EVENTS.md 2.1, lines 1 to 24: what the server emits. One function for each line of the cheatsheet.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use twinlane::events::{AckError, Answers, Binary, EmitError, Events, Namespace, Socket};

use crate::Failure;
use crate::any::Any;

pub(crate) async fn line_1_basic_emit(socket: &Socket) -> Result<(), EmitError> {
    socket.emit("nothing", &()).await?;
    socket.emit("several", &(1, "two", json!({ "three": [true, null] }), 4)).await?;
    let deep = std::collections::BTreeMap::from([("deep", [Binary::from([4, 5])])]);
    socket.emit("binary", &(Binary::from([1, 2, 3]), deep, 6)).await
}

/// A callback is a task that goes on when the answer is there.
pub(crate) async fn line_2_emit_with_acknowledgement_callback(
    io: &Namespace,
    id: &str,
) -> Result<Any, Failure> {
    let (callback, answered) = tokio::sync::oneshot::channel();
    let question = io.to(id).timeout(Duration::from_secs(10));
    tokio::spawn(async move { callback.send(question.emit_with_ack("question", &1).await) });
    let answers = answered.await??;
    let (_, answer) = answers.answers().first().ok_or("no answer")?;
    Ok(Any::List(Any::arguments(answer)?))
}

pub(crate) async fn line_3_emit_with_ack(socket: &Socket) -> Result<Value, AckError> {
    socket.timeout(Duration::from_secs(10)).emit_with_ack("question", &1).await
}

pub(crate) async fn line_4_timeout_of_an_acknowledgement(
    socket: &Socket,
    wait: Duration,
) -> Result<Value, AckError> {
    let answered: Value = socket.timeout(Duration::from_secs(5)).emit_with_ack("question", &1).await?;
    let late = |answer: Result<Value, AckError>| match answer {
        Ok(_) => "answered",
        Err(AckError::Timeout(_)) => "timeout",
        Err(_) => "another error",
    };
    let first = late(socket.timeout(wait).emit_with_ack("silent", &1).await);
    let second = late(socket.timeout(wait).emit_with_ack("silent", &2).await);
    Ok(json!({ "answered": answered, "late": first, "byCallback": second }))
}

pub(crate) async fn line_5_emit_to_all(io: &Events) -> Result<(), EmitError> {
    io.emit("all", &5).await
}

pub(crate) async fn line_6_broadcast(socket: &Socket) -> Result<(), EmitError> {
    socket.broadcast().emit("others", &6).await
}

pub(crate) async fn line_7_broadcast_with_acknowledgements(
    io: &Namespace,
    wait: Duration,
) -> Result<Any, Failure> {
    gathered(&io.timeout(wait).emit_with_ack("question", &7).await?)
}

pub(crate) async fn line_8_broadcast_emit_with_ack(
    io: &Namespace,
    wait: Duration,
) -> Result<Vec<Value>, Failure> {
    Ok(io.timeout(wait).emit_with_ack("question", &8).await?.values()?)
}

pub(crate) async fn line_9_to_a_room(io: &Namespace) -> Result<(), EmitError> {
    io.to("r1").emit("to", &9).await?;
    io.within("r1").emit("in", &9).await
}

pub(crate) async fn line_10_a_room_without_the_sender(socket: &Socket) -> Result<(), EmitError> {
    socket.to("r1").emit("others", &10).await
}

pub(crate) async fn line_11_except_a_room(io: &Namespace) -> Result<(), EmitError> {
    io.except("r1").emit("except", &11).await
}

pub(crate) async fn line_12_chain_of_to_and_except(io: &Namespace) -> Result<(), EmitError> {
    io.to("r1").to(["r2", "r3"]).except("r4").emit("chain", &12).await
}

pub(crate) async fn line_13_another_namespace_and_its_rooms(io: &Events, name: &str) -> Result<(), Failure> {
    io.of(name)?.emit("all", &13).await?;
    Ok(io.of(name)?.to("r1").emit("room", &13).await?)
}

pub(crate) async fn line_14_full_chain(socket: &Socket, wait: Duration) -> Result<Any, Failure> {
    let chain = socket.to("r1").to(["r2", "r3"]).except("r4").timeout(wait);
    gathered(&chain.emit_with_ack("question", &14).await?)
}

pub(crate) async fn line_15_private_message(io: &Namespace, id: &str) -> Result<(), EmitError> {
    io.to(id).emit("private", &15).await
}

pub(crate) async fn line_16_the_room_of_an_id_without_the_sender(socket: &Socket) -> Result<(), EmitError> {
    socket.to(socket.id()).emit("others", &16).await
}

pub(crate) async fn line_17_local(io: &Namespace) -> Result<(), EmitError> {
    io.local().emit("local", &17).await?;
    io.local().to("r1").emit("local room", &17).await
}

pub(crate) async fn line_18_compress(socket: &Socket) -> Result<(), EmitError> {
    let text = "x".repeat(4_096);
    socket.compress(false).emit("plain", &(&text, 18)).await?;
    socket.compress(true).emit("compressed", &(&text, 18)).await
}

pub(crate) async fn line_19_volatile(io: &Namespace, socket: &Socket) -> Result<(), EmitError> {
    socket.volatile().emit("volatile", &19).await?;
    io.volatile().emit("volatile to all", &19).await?;
    io.to("r1").volatile().emit("volatile to a room", &19).await
}

pub(crate) async fn line_19_volatile_to_a_client_that_does_not_read(
    socket: &Socket,
    count: u64,
    bytes: usize,
) -> Result<(), EmitError> {
    for number in 0..count {
        socket.volatile().emit("volatile", &(number, Binary::from(vec![0; bytes]))).await?;
    }
    Ok(())
}

pub(crate) async fn line_24_reserved_names(socket: &Socket) -> Vec<&'static str> {
    let mut outcomes = Vec::new();
    for name in ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"] {
        outcomes.push(match socket.emit(name, &24).await {
            Ok(()) => "emitted",
            Err(EmitError::Reserved { .. }) => "refused",
            Err(_) => "another error",
        });
    }
    outcomes
}

/// The answers to a question to many, and who is missing.
fn gathered(answers: &Answers) -> Result<Any, Failure> {
    let missing: Vec<&str> = answers.missing().iter().map(Arc::as_ref).collect();
    Ok(json!({ "complete": missing.is_empty(), "answers": answers.values::<Value>()?, "missing": missing })
        .into())
}
