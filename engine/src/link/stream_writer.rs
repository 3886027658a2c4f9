//! Writes a connection's stream: control frames first, then whole runs from every ring that has something.
//!
//! Under load one write carries tens of kilobytes; when idle a single message goes out at once. The rings are read only
//! when the socket takes more: what waits for a slow peer waits there, gets into one write together, and can still be
//! replaced by something newer. Of fast topics only small pieces are read where the socket did not take the last one at
//! once.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::time::Sleep;
use twinlane_proto::frame::RunHeader;
use twinlane_proto::session::Input;
use twinlane_proto::{Code, Control};

use super::outlet::{Outlet, Verdict};
use super::write_batch::WriteBatch;
use super::{CLOSE_DEADLINE, Closing, Link};
use crate::cursors::{Cursors, Step};
use crate::lock::lock;
use crate::transport::{Stream, TLS_BYTES, TakenBytes, activity};

/// Bytes gathered into one write: measured to be where TLS stops gaining from larger ones.
const BATCH_BYTES: usize = TLS_BYTES;
/// The same while fast topics are among them: 0.13 s of a link of 1 Mbit/s, and one full TLS record.
const FRESH_BATCH_BYTES: usize = 16 << 10;
/// Bytes that each topic may have of such a write before the others get their turn.
const FRESH_TURN_BYTES: usize = 4 << 10;
/// The same two where the socket did not take the last write at once: 32 ms of a link of 1 Mbit/s. It is two turns: were
/// it one, a second topic would get what the first leaves, write after write.
const HELD_BACK_BATCH_BYTES: usize = 4 << 10;
const HELD_BACK_TURN_BYTES: usize = 2 << 10;
/// A peer that takes nothing for this long is dead. One that takes a little is slow: it may need longer for a write.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn run(link: Arc<Link>, stream: WriteHalf<Stream>, taken: TakenBytes) {
    let writer = Writer {
        timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        link: Arc::clone(&link),
        stream,
        cursors: Cursors::new(),
        batch: WriteBatch::default(),
        held_back: false,
        carries_fast: false,
    };
    let closing = writer.write_all(&taken).await;
    link.finish(closing);
}

struct Writer {
    link: Arc<Link>,
    stream: WriteHalf<Stream>,
    cursors: Cursors<Outlet>,
    batch: WriteBatch,
    /// The socket did not take the last write at once.
    held_back: bool,
    /// Fast topics go over this stream.
    carries_fast: bool,
    timer: Pin<Box<Sleep>>,
}

/// What there is to do.
enum Work {
    Write,
    Tick,
    Close(Closing),
}

impl Writer {
    /// `taken` counts what the stream has carried.
    async fn write_all(mut self, taken: &TakenBytes) -> Closing {
        loop {
            let done = match std::future::poll_fn(|cx| self.poll_work(cx)).await {
                Work::Write => {
                    // Signs of life alone are nothing to spin for.
                    if self.batch.has_runs() {
                        activity();
                    }
                    self.held_back = false;
                    let written = std::future::poll_fn(|cx| self.poll_write(cx));
                    deadline(WRITE_DEADLINE, Some(taken), written).await
                }
                Work::Tick => {
                    self.link.input(Input::Tick);
                    Ok(())
                }
                Work::Close(closing) => {
                    let _ = deadline(CLOSE_DEADLINE, None, self.stream.shutdown()).await;
                    self.link.stream.shut(&mut self.cursors);
                    return closing;
                }
            };
            if let Err(closing) = done {
                self.link.stream.shut(&mut self.cursors);
                return closing;
            }
        }
    }

    /// Writes the batch. TLS keeps what the socket did not take: the rings are read on when that is gone, too.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let done = match self.batch.poll_write_all(cx, &mut self.stream) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_flush(cx),
            other => other,
        };
        self.held_back |= done.is_pending();
        done
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Work> {
        self.link.writer.register(cx.waker());
        self.link.stream.register(cx.waker());
        for (_, seat) in self.link.stream.apply(&mut self.cursors) {
            if let Err(seat) = self.link.datagrams.add(seat) {
                // The QUIC connection is gone again.
                let _ = self.link.stream.add(seat);
            }
        }
        self.carries_fast &= !self.link.has_datagrams();
        let (closing, next_tick) = self.take_control();
        if closing.is_none() {
            self.gather(cx);
        }
        if !self.batch.is_empty() {
            return Poll::Ready(Work::Write);
        }
        if let Some(closing) = closing {
            return Poll::Ready(Work::Close(closing));
        }
        if self.link.is_over() {
            return Poll::Ready(Work::Close(Closing::new(Code::Normal, "")));
        }
        if let Some(at) = next_tick {
            let at = tokio::time::Instant::from_std(at);
            if self.timer.deadline() != at {
                self.timer.as_mut().reset(at);
            }
            if self.timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Work::Tick);
            }
        }
        Poll::Pending
    }

    /// Puts waiting control frames into the batch.
    fn take_control(&mut self) -> (Option<Closing>, Option<std::time::Instant>) {
        let mut state = lock(&self.link.state);
        if !state.control.is_empty() {
            let answers_bytes = state.control.len();
            self.batch.push_head(&state.control);
            state.control.clear();
            state.control.shrink_to(1 << 10);
            if self.link.peer.answers_bytes_max().is_some_and(|bytes_max| bytes_max < answers_bytes) {
                self.link.reader.wake();
            }
        }
        (state.closing.clone(), state.deadline)
    }

    /// There is nothing to send: whoever missed something hears of it now.
    fn tell_left_out(&mut self) {
        let mut told = false;
        while let Some(outlet) = self.cursors.take_touched() {
            if let Some(left_out) = outlet.owner.left_out(true) {
                self.link.send(left_out);
                told = true;
            }
        }
        if told {
            self.take_control();
        }
    }

    /// Fills the batch from the rings, round robin.
    fn gather(&mut self, cx: &mut Context<'_>) {
        let (batch_bytes, turn_bytes) = match (self.carries_fast, self.held_back) {
            (true, true) => (HELD_BACK_BATCH_BYTES, HELD_BACK_TURN_BYTES),
            (true, false) => (FRESH_BATCH_BYTES, FRESH_TURN_BYTES),
            (false, _) => (BATCH_BYTES, BATCH_BYTES),
        };
        while let Some(room_bytes) = self.batch.room(batch_bytes) {
            let Poll::Ready((key, step)) = self.cursors.poll_next(cx, turn_bytes.min(room_bytes)) else {
                return self.tell_left_out();
            };
            let outlet = self.cursors.tag(key);
            self.carries_fast |= outlet.fast;
            match step {
                Step::Run(run) => {
                    let position = run.end_offset();
                    let header = RunHeader {
                        lane: outlet.lane,
                        topic: outlet.topic,
                        first: run.first_offset() + outlet.first_number,
                        frames: run.frames() as u32,
                        run_bytes: run.bytes().len() as u32,
                    };
                    self.batch.push_head(&header.encode());
                    self.batch.push_run(run);
                    outlet.owner.sent(position);
                    if let Some(told) = outlet.owner.left_out(false) {
                        self.link.send(told);
                    }
                }
                Step::Missed { from, to } => {
                    match outlet.owner.missed(&self.link, from, to) {
                        Verdict::Skip(gap) => {
                            gap.into_iter().for_each(|gap| self.link.send(Control::Gap(gap)));
                        }
                        Verdict::End(ended) => {
                            self.cursors.remove(key);
                            self.link.send(Control::Unsubscribed(ended));
                        }
                    }
                    // What there is to say goes before the messages that follow.
                    self.take_control();
                }
                Step::Closed => {
                    let owner = Arc::clone(&outlet.owner);
                    if let Some(left_out) = owner.left_out(true) {
                        self.link.send(left_out);
                        self.take_control();
                    }
                    self.cursors.remove(key);
                    owner.closed(&self.link);
                }
            }
        }
    }
}

/// Waits for `work` until for `limit` nothing was `taken`, or no longer than `limit` in all. A write that is done at
/// once, as most are, costs no timer.
async fn deadline(
    limit: Duration,
    taken: Option<&TakenBytes>,
    work: impl Future<Output = std::io::Result<()>>,
) -> Result<(), Closing> {
    let mut work = pin!(work);
    let at_once = std::future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
    let done = match at_once {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => loop {
            let before = taken.map(TakenBytes::count);
            let done = tokio::time::timeout(limit, work.as_mut()).await;
            if done.is_ok() || before == taken.map(TakenBytes::count) {
                break done;
            }
        },
    };
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Closing::new(Code::Normal, error.to_string())),
        Err(_) => Err(Closing::new(Code::Dead, format!("the peer took nothing for {limit:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::Instant;

    use super::*;
    use crate::transport::Carrier;

    const PIPE_BYTES: usize = 1 << 10;
    const WRITE_BYTES: usize = 64 * PIPE_BYTES;

    /// One write into a pipe, with the deadline of a write.
    fn write() -> (DuplexStream, impl Future<Output = Result<(), Closing>>) {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let peer = "127.0.0.1:1".parse().expect("an address");
        let mut stream = Stream::foreign(Box::new(near), Carrier::Tcp, peer);
        let taken = stream.taken();
        let written = async move {
            deadline(WRITE_DEADLINE, Some(&taken), async { stream.write_all(&[7; WRITE_BYTES]).await }).await
        };
        (far, written)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_a_little_now_and_then_is_slow_and_not_dead() {
        let (mut far, written) = write();
        let started = Instant::now();
        let slow = tokio::spawn(async move {
            for _ in 0..WRITE_BYTES / PIPE_BYTES {
                tokio::time::sleep(WRITE_DEADLINE / 2).await;
                far.read_exact(&mut [0; PIPE_BYTES]).await.expect("there is more");
            }
        });
        assert!(written.await.is_ok());
        assert!(started.elapsed() > 10 * WRITE_DEADLINE);
        slow.await.expect("it has read everything");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_dead_after_the_deadline() {
        let (_far, written) = write();
        let started = Instant::now();
        let closing = written.await.expect_err("nothing was taken");
        assert_eq!(closing.code, Code::Dead);
        assert!((WRITE_DEADLINE..=2 * WRITE_DEADLINE).contains(&started.elapsed()));
    }
}
