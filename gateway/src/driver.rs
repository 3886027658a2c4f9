//! One session's task: reads its client, asks its [`Session`] what to do, and sends what its application has.
//!
//! One future does all of it, so an idle client costs one small task and no buffers. A session that polls has no
//! connection of its own: requests come to its task through a mailbox and wait there for their answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;
use twinlane::events::DisconnectReason;

use crate::application::{Application, Next};
use crate::engine_io::Packet;
use crate::line::{GOODBYE, Line};
use crate::mailbox::{Body, Mailbox, Request};
use crate::pipe::{End, Pipe, PipeError};
use crate::refusal::Refusal;
use crate::session::{Input, Output, Session};
use crate::shared::{Carrier, Handle, Shared, Stop};
use crate::socket_io::Framing;

/// Turns of one poll; then others have theirs.
const TURNS_MAX: usize = 32;
/// Packets read in one turn; then it is time to answer.
const PACKETS_PER_TURN_MAX: usize = 32;

/// The task.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    session: Session,
    application: Application,
    /// The connection; `None` while the session polls.
    line: Option<Line>,
    /// `None` once a connection carries the session.
    mailbox: Option<Box<Mailbox>>,
    timer: Pin<Box<Sleep>>,
    /// The application wants the end, after what came before.
    ordered: Option<DisconnectReason>,
    /// Until when a client that polls may fetch the end.
    close_by: Option<Instant>,
    ending: Option<Ending>,
    /// The application takes nothing at the moment, so the client is not read.
    is_held: bool,
}

/// A session that is over, while its last words are sent.
struct Ending {
    until: Instant,
    /// The writing side has ended.
    is_shut: bool,
}

/// How a turn went: whether anything moved.
type Turn = Result<bool, DisconnectReason>;

impl Driver {
    /// A session whose client polls.
    pub(crate) fn polling(
        shared: Arc<Shared>,
        handle: Arc<Handle>,
        session: Session,
        application: Application,
        mailbox: Mailbox,
    ) -> Self {
        Self::new(shared, handle, session, application, None, Some(Box::new(mailbox)))
    }

    /// A session with a connection. `opening` is its first packet.
    pub(crate) fn connected(
        shared: Arc<Shared>,
        handle: Arc<Handle>,
        session: Session,
        application: Application,
        pipe: Box<dyn Pipe>,
        opening: &Packet,
    ) -> Self {
        let mut line = Line::new(pipe);
        line.put(opening);
        Self::new(shared, handle, session, application, Some(line), None)
    }

    fn new(
        shared: Arc<Shared>,
        handle: Arc<Handle>,
        session: Session,
        application: Application,
        line: Option<Line>,
        mailbox: Option<Box<Mailbox>>,
    ) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(session.deadline().into()));
        Self {
            shared,
            handle,
            session,
            application,
            line,
            mailbox,
            timer,
            ordered: None,
            close_by: None,
            ending: None,
            is_held: false,
        }
    }

    /// Does what there is to do once.
    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        match self.shared.stop() {
            Stop::Not => {}
            Stop::Soon => {
                self.ordered.get_or_insert(DisconnectReason::ServerShutdown);
            }
            Stop::Now => return Err(DisconnectReason::ServerShutdown),
        }
        if self.is_held {
            self.session.handle(now, Input::Held);
        }
        let mut moved = false;
        if let Some(output) = self.session.tick(now) {
            self.act(output)?;
            moved = true;
        }
        if let Some(line) = &self.line
            && line.writer.deadline(self.shared.options.http.write_timeout).is_some_and(|due| due <= now)
        {
            return Err(DisconnectReason::SlowConsumer);
        }
        if let (Some(reason), Some(by)) = (self.ordered, self.close_by)
            && by <= now
        {
            return Err(reason);
        }
        if self.mailbox.is_some() {
            // First of all: requests that were sent after the upgrade are to be refused.
            moved |= self.take_probe(cx, now)?;
            moved |= self.take_requests(cx, now)?;
            moved |= self.take_body(cx, now)?;
        }
        if self.line.is_some() {
            moved |= self.take_packets(cx, now)?;
            moved |= self.give_line(cx, now)?;
        } else {
            moved |= self.give_poll(cx, now)?;
        }
        Ok(moved)
    }

    /// Does what the session has decided.
    fn act(&mut self, output: Output) -> Result<(), DisconnectReason> {
        match output {
            Output::Deliver(data) => self.application.receive(data)?,
            Output::Ping => match (&mut self.line, &mut self.mailbox) {
                (Some(line), _) => line.put(&Packet::Ping(bytes::Bytes::new())),
                (None, Some(mailbox)) => mailbox.put(&Packet::Ping(bytes::Bytes::new())),
                (None, None) => {}
            },
            Output::AnswerProbe(data) => {
                if let Some(line) = self.probe() {
                    line.put(&Packet::Pong(data));
                }
            }
            Output::Switch => self.switch(),
            Output::DropProbe => {
                if let Some(mailbox) = &mut self.mailbox {
                    mailbox.drop_probe();
                }
            }
            Output::Close(reason) => return Err(reason),
        }
        Ok(())
    }

    fn probe(&mut self) -> Option<&mut Line> {
        self.mailbox.as_mut()?.probe.as_mut()
    }

    /// The probing connection takes over.
    fn switch(&mut self) {
        let Some(mut mailbox) = self.mailbox.take() else { return };
        let Some(mut line) = mailbox.probe.take() else { return };
        for packet in mailbox.end_polling() {
            line.put(&packet);
        }
        let carrier = match line.pipe.framing() {
            Framing::WebTransport => Carrier::WebTransport,
            _ => Carrier::WebSocket,
        };
        self.shared.counters.upgraded(self.handle.carrier(), carrier);
        self.handle.set_carrier(carrier);
        self.line = Some(line);
    }

    /// Serves requests of a client that polls.
    fn take_requests(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let Some(mailbox) = &mut self.mailbox else { return Ok(false) };
        if mailbox.poll_left(cx) {
            self.session.handle(now, Input::PollEnded);
        }
        let Some(request) = mailbox.poll_request(cx) else { return Ok(false) };
        match request {
            Request::Poll(answer) => match self.session.handle(now, Input::Poll) {
                Some(output) => {
                    let _ = answer.send(Err(Refusal::BadRequest));
                    self.act(output)?;
                }
                None => mailbox.wait(answer),
            },
            Request::Packets(packets, answer) => mailbox.body = Some(Body { packets, answer }),
            Request::Probe(pipe) => match self.session.handle(now, Input::Probe) {
                Some(_) => Line::new(pipe).abandon(),
                None => mailbox.probe = Some(Line::new(pipe)),
            },
            Request::Overlap => {
                if let Some(output) = self.session.handle(now, Input::Overlap) {
                    self.act(output)?;
                }
            }
        }
        Ok(true)
    }

    /// Takes the packets of the body that is there, as fast as the application takes them.
    fn take_body(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let Some(mut body) = self.mailbox.as_mut().and_then(|mailbox| mailbox.body.take()) else {
            return Ok(false);
        };
        let mut taken = 0;
        let result = loop {
            self.is_held = self.application.poll_ready(cx).is_pending();
            if self.is_held || taken == PACKETS_PER_TURN_MAX {
                if let Some(mailbox) = &mut self.mailbox {
                    mailbox.body = Some(body);
                }
                return Ok(taken > 0);
            }
            taken += 1;
            let packet = match body.packets.next() {
                Some(Ok(packet)) => packet,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a client sent no Engine.IO packet");
                    break Err(DisconnectReason::ParseError);
                }
                None => break Ok(true),
            };
            if let Some(output) = self.session.handle(now, Input::Packet(packet))
                && let Err(reason) = self.act(output)
            {
                break Err(reason);
            }
        };
        let is_fine = matches!(result, Ok(_) | Err(DisconnectReason::TransportClose));
        let _ = body.answer.send(if is_fine { Ok(()) } else { Err(Refusal::BadRequest) });
        result
    }

    /// Serves the connection that wants to take over.
    fn take_probe(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let shared = Arc::clone(&self.shared);
        let mut moved = false;
        while let Some(line) = self.probe() {
            let input = match line.poll_packet(cx) {
                Poll::Ready(Some(Ok(packet))) => Input::ProbePacket(packet),
                Poll::Ready(_) => Input::ProbeLost,
                Poll::Pending if line.poll_write(cx, now, &shared).is_err() => Input::ProbeLost,
                Poll::Pending => break,
            };
            moved = true;
            let is_lost = matches!(input, Input::ProbeLost);
            if let Some(output) = self.session.handle(now, input) {
                self.act(output)?;
            }
            if is_lost && let Some(mailbox) = &mut self.mailbox {
                mailbox.drop_probe();
            }
        }
        Ok(moved)
    }

    /// Reads what the client says over its connection.
    fn take_packets(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        for taken in 0..PACKETS_PER_TURN_MAX {
            let Some(line) = &mut self.line else { return Ok(false) };
            self.is_held = self.application.poll_ready(cx).is_pending();
            if self.is_held {
                return Ok(taken > 0);
            }
            let packet = match line.poll_packet(cx) {
                Poll::Ready(packet) => packet,
                Poll::Pending => return Ok(taken > 0),
            };
            self.shared.counters.received(line.pipe.take_received_bytes());
            let packet = match packet {
                Some(Ok(packet)) => packet,
                None | Some(Err(PipeError::Io(_))) => return Err(DisconnectReason::TransportClose),
                Some(Err(PipeError::Transport(error))) => {
                    tracing::debug!(%error, "a client broke its transport's rules");
                    return Err(DisconnectReason::TransportError);
                }
                Some(Err(PipeError::Packet(error))) => {
                    tracing::debug!(%error, "a client sent no Engine.IO packet");
                    return Err(DisconnectReason::ParseError);
                }
            };
            if let Some(output) = self.session.handle(now, Input::Packet(packet)) {
                self.act(output)?;
            }
        }
        Ok(true)
    }

    /// Sends what there is over the connection.
    fn give_line(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let Some(line) = &mut self.line else { return Ok(false) };
        let framing = line.pipe.framing();
        while self.ordered.is_none() && line.writer.has_room() {
            match self.application.poll_next(cx, framing, line.writer.chunks()) {
                Poll::Ready(Next::Chunks { joined }) => {
                    if joined {
                        self.session.handle(now, Input::Joined);
                    }
                }
                Poll::Ready(Next::Close(reason)) => self.ordered = Some(reason),
                Poll::Pending => break,
            }
        }
        let moved = !line.writer.is_done();
        match line.poll_write(cx, now, &self.shared) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(_) => return Err(DisconnectReason::TransportClose),
        }
        match self.ordered {
            Some(reason) => Err(reason),
            None => Ok(moved),
        }
    }

    /// Answers the poll that waits, if there is something to say.
    fn give_poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let Some(mailbox) = &mut self.mailbox else { return Ok(false) };
        if !mailbox.has_poll() {
            // What is said to a client that never asks again is of no use; its ping timeout ends that.
            return match self.shared.stop() {
                Stop::Not => Ok(false),
                _ => Err(DisconnectReason::ServerShutdown),
            };
        }
        while self.ordered.is_none() && mailbox.has_room() {
            match self.application.poll_next(cx, Framing::Polling, mailbox.chunks()) {
                Poll::Ready(Next::Chunks { joined }) => {
                    if joined {
                        self.session.handle(now, Input::Joined);
                    }
                }
                Poll::Ready(Next::Close(reason)) => self.ordered = Some(reason),
                Poll::Pending => break,
            }
        }
        let is_last = self.ordered.is_some() && mailbox.is_empty();
        if is_last {
            mailbox.put(&Packet::Close);
        } else if self.ordered.is_some() {
            // Not together with what came before: clients look at it first, and take their server for lost.
            self.close_by.get_or_insert(now + GOODBYE);
        } else if mailbox.is_empty() {
            if !self.session.releases_polls() {
                return Ok(false);
            }
            mailbox.put(&Packet::Noop);
        }
        self.session.handle(now, Input::PollEnded);
        let sent_bytes = mailbox.answer_poll();
        self.shared.counters.sent(sent_bytes);
        match self.ordered {
            Some(reason) if is_last => Err(reason),
            _ => Ok(true),
        }
    }

    /// The session is over: tells everyone, and begins to say good-bye.
    fn end(&mut self, reason: DisconnectReason, now: Instant) {
        self.application.close(reason);
        self.shared.forget(&self.handle, reason);
        if let Some(mut mailbox) = self.mailbox.take() {
            mailbox.drop_probe();
            let word = if reason == DisconnectReason::TransportClose { Packet::Noop } else { Packet::Close };
            mailbox.end(&word);
        }
        if let Some(line) = &mut self.line {
            let end = match reason {
                DisconnectReason::ServerShutdown => End::GoingAway,
                DisconnectReason::ParseError => End::Protocol,
                _ => End::Normal,
            };
            line.pipe.put_end(end, &mut line.writer);
        }
        self.ending = Some(Ending { until: now + GOODBYE, is_shut: false });
    }

    /// Sends the last words; `Ready` when the connection can be dropped.
    fn poll_ending(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let (Some(line), Some(ending)) = (&mut self.line, &mut self.ending) else { return Poll::Ready(()) };
        if ending.until <= now || self.shared.stop() == Stop::Now {
            return Poll::Ready(());
        }
        if !ending.is_shut {
            match line.poll_write(cx, now, &self.shared) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(_) => return Poll::Ready(()),
            }
            match line.pipe.poll_shutdown(cx) {
                Poll::Ready(Ok(())) => ending.is_shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        line.pipe.poll_drained(cx)
    }

    /// Sets the timer to the next moment at which something is due. `true`: that is now.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let due = match (&self.ending, &self.line) {
            (Some(ending), _) => ending.until,
            (None, Some(line)) => {
                let write = line.writer.deadline(self.shared.options.http.write_timeout);
                write.map_or(self.session.deadline(), |write| write.min(self.session.deadline()))
            }
            (None, None) => {
                self.close_by.map_or(self.session.deadline(), |by| by.min(self.session.deadline()))
            }
        };
        let due = tokio::time::Instant::from_std(due);
        // A timer that fires too early costs one turn, setting it at every pong costs a lock each time.
        if due < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(due);
        }
        self.timer.as_mut().poll(cx).is_ready()
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = &mut *self;
        driver.handle.register(cx.waker());
        for _ in 0..TURNS_MAX {
            let now = tokio::time::Instant::now().into_std();
            if driver.ending.is_some() {
                if driver.poll_ending(cx, now).is_ready() {
                    return Poll::Ready(());
                }
            } else {
                match driver.turn(cx, now) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(reason) => {
                        driver.end(reason, now);
                        continue;
                    }
                }
            }
            if !driver.poll_timer(cx) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Only a panic or the end of the runtime comes by here without `end`.
        if self.ending.is_none() {
            self.application.close(DisconnectReason::TransportError);
            self.shared.forget(&self.handle, DisconnectReason::TransportError);
        }
    }
}

#[cfg(test)]
mod tests;
