//! One direction of a byte stream as TCP would carry it: late, in pieces of any size, never out of order.
//!
//! A lost segment is late, not gone, and so is all that follows it. While the path is cut nothing arrives; what was
//! on the way comes after it is healed. Who decides that is the network.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::network::{Direction, Path};
use crate::wire::Wire;

/// One direction. Shared by its two ends and by the network, which cuts and heals it.
pub(crate) struct Pipe {
    direction: Direction,
    capacity_bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// On the way or unread, in order of arrival. `None`: not before the path is healed.
    segments: VecDeque<(Option<Instant>, Bytes)>,
    held_bytes: usize,
    end: Option<(Option<Instant>, End)>,
    /// When the last thing sent arrives.
    last_at: Option<Instant>,
    /// The writing end has sent its last.
    finished: bool,
    /// The writing end knows that the connection is gone.
    broken: bool,
    /// There is no reading end.
    deaf: bool,
    /// Something was sent to nobody.
    unheard: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Reset,
}

impl Pipe {
    pub(crate) fn new(direction: Direction, capacity_bytes: usize) -> Arc<Self> {
        Arc::new(Self { direction, capacity_bytes, state: Mutex::default() })
    }

    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    /// What has not arrived by now does not arrive before [`Self::heal`].
    pub(crate) fn cut(&self) {
        let (now, mut state) = (Instant::now(), self.lock());
        let State { segments, end, .. } = &mut *state;
        let ats = segments.iter_mut().map(|(at, _)| at).chain(end.iter_mut().map(|(at, _)| at));
        ats.filter(|at| at.is_some_and(|at| now < at)).for_each(|at| *at = None);
    }

    /// What was held back is sent again and arrives after `late`.
    pub(crate) fn heal(&self, late: Duration) {
        let at = Instant::now() + late;
        let mut state = self.lock();
        let State { segments, end, last_at, reader, .. } = &mut *state;
        let ats = segments.iter_mut().map(|(at, _)| at).chain(end.iter_mut().map(|(at, _)| at));
        for held in ats.filter(|held| held.is_none()) {
            *held = Some(at);
            *last_at = Some(at);
        }
        reader.take().into_iter().for_each(Waker::wake);
    }

    /// The reading end finds the connection gone, after what arrived before. `at` as an arrival.
    pub(crate) fn break_reader(&self, at: Option<Instant>) {
        let mut state = self.lock();
        if matches!(state.end, Some((_, End::Reset))) {
            return;
        }
        if let Some(at) = at {
            state.segments.retain(|(arrives, _)| arrives.is_some_and(|arrives| arrives <= at));
        }
        state.held_bytes = state.segments.iter().map(|(_, bytes)| bytes.len()).sum();
        state.end = Some((at, End::Reset));
        state.wake();
    }

    /// The writing end finds the connection gone.
    pub(crate) fn break_writer(&self) {
        let mut state = self.lock();
        state.broken = true;
        state.wake();
    }

    /// Nobody reads any more: what is sent is answered by a reset, once the other end can be reached.
    pub(crate) fn deafen(&self) {
        let mut state = self.lock();
        state.deaf = true;
        let now = Instant::now();
        // What nobody acknowledged is sent again until somebody answers.
        state.unheard |= state.segments.iter().any(|(at, _)| at.is_none_or(|at| now < at));
        state.segments.clear();
        state.held_bytes = 0;
        state.wake();
    }

    /// Bytes on the way and unread.
    pub(crate) fn held_bytes(&self) -> usize {
        self.lock().held_bytes
    }

    /// Whether bytes were sent that nobody can read: their sender's system sends them again until it is answered.
    pub(crate) fn is_unheard(&self) -> bool {
        self.lock().unheard
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn poll_read(
        &self,
        cx: &mut Context<'_>,
        sleep: &mut Option<Pin<Box<Sleep>>>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let now = Instant::now();
        let mut state = self.lock();
        let before = buf.filled().len();
        while let Some((Some(at), bytes)) = state.segments.front_mut()
            && *at <= now
            && buf.remaining() > 0
        {
            let taken = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..taken]);
            bytes.advance(taken);
            if bytes.is_empty() {
                state.segments.pop_front();
            }
            state.held_bytes -= taken;
        }
        if before < buf.filled().len() {
            state.writer.take().into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(()));
        }
        let next = state.segments.front().map(|(at, _)| *at).or(state.end.map(|(at, _)| at));
        match (next, state.end) {
            (Some(Some(at)), Some((_, End::Finished))) if at <= now => return Poll::Ready(Ok(())),
            (Some(Some(at)), Some((_, End::Reset))) if at <= now => {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            _ => {}
        }
        state.reader = Some(cx.waker().clone());
        drop(state);
        if let Some(Some(at)) = next {
            wait_until(at, sleep, cx);
        }
        Poll::Pending
    }

    fn poll_write(&self, cx: &mut Context<'_>, path: &Path, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if state.broken || state.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if state.deaf {
            state.broken = path.answers();
            state.unheard = true;
            return Poll::Ready(Ok(buf.len()));
        }
        let room = self.capacity_bytes.saturating_sub(state.held_bytes);
        if room == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = buf.len().min(room);
        for segment in buf[..taken].chunks(path.segment_bytes()) {
            let at = path
                .arrival(self.direction, segment.len())
                .map(|at| state.last_at.map_or(at, |last| last.max(at)));
            // Never past what is held back.
            let at = if state.segments.back().is_some_and(|(last, _)| last.is_none()) { None } else { at };
            state.last_at = at.or(state.last_at);
            state.segments.push_back((at, Bytes::copy_from_slice(segment)));
        }
        state.held_bytes += taken;
        state.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(taken))
    }

    fn is_carrying(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        let carrying = state.held_bytes > 0 && !state.broken;
        state.writer = carrying.then(|| cx.waker().clone());
        carrying
    }

    fn finish(&self, path: &Path) {
        let mut state = self.lock();
        if state.finished || state.broken || state.end.is_some() {
            return;
        }
        state.finished = true;
        let at = path.arrival(self.direction, 0).map(|at| state.last_at.map_or(at, |last| last.max(at)));
        let held = state.segments.back().is_some_and(|(last, _)| last.is_none());
        state.end = Some((if held { None } else { at }, End::Finished));
        state.reader.take().into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn wake(&mut self) {
        self.reader.take().into_iter().for_each(Waker::wake);
        self.writer.take().into_iter().for_each(Waker::wake);
    }
}

/// One end of a stream.
pub(crate) struct StreamEnd {
    pub(crate) incoming: Arc<Pipe>,
    pub(crate) outgoing: Arc<Pipe>,
    pub(crate) path: Path,
    /// Held for the network, which reaches connections that are open.
    pub(crate) _wire: Arc<Wire>,
    pub(crate) waits_for_last: bool,
    pub(crate) sleep: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for StreamEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { incoming, sleep, .. } = self.get_mut();
        incoming.poll_read(cx, sleep, buf)
    }
}

impl AsyncWrite for StreamEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.outgoing.poll_write(cx, &self.path, buf);
        if self.outgoing.is_unheard() && self.path.answers() {
            self.incoming.break_reader(Some(Instant::now() + self.path.latency() * 2));
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.finish(&self.path);
        // Over QUIC closing the connection would lose what is on the way.
        if self.waits_for_last && self.outgoing.is_carrying(cx) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl Drop for StreamEnd {
    /// As the kernel does: where bytes are left unread the peer gets a reset instead of an end.
    fn drop(&mut self) {
        if self.incoming.held_bytes() > 0 {
            self.outgoing.break_reader(self.path.arrival(self.outgoing.direction(), 0));
        } else {
            self.outgoing.finish(&self.path);
        }
        self.incoming.deafen();
    }
}

/// Arms `sleep` for `at`.
pub(crate) fn wait_until(at: Instant, sleep: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) {
    let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
    if sleep.deadline() != at {
        sleep.as_mut().reset(at);
    }
    if sleep.as_mut().poll(cx).is_ready() {
        cx.waker().wake_by_ref();
    }
}
