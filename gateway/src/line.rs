//! A connection and what is on its way to it.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::engine_io::Packet;
use crate::pipe::{End, Pipe, PipeError, Writer};
use crate::shared::Shared;

/// How long a client may take to end its side of a connection that is over.
pub(crate) const GOODBYE: Duration = Duration::from_secs(3);

/// A client's connection.
pub(crate) struct Line {
    pub(crate) pipe: Box<dyn Pipe>,
    pub(crate) writer: Writer,
}

impl Line {
    pub(crate) fn new(pipe: Box<dyn Pipe>) -> Self {
        Self { pipe, writer: Writer::default() }
    }

    pub(crate) fn put(&mut self, packet: &Packet) {
        self.pipe.put(packet, &mut self.writer);
    }

    pub(crate) fn poll_packet(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Packet, PipeError>>> {
        self.pipe.poll_packet(cx, &mut self.writer)
    }

    /// Whether all is written.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        shared: &Shared,
    ) -> io::Result<bool> {
        let mut written_bytes = 0;
        let result = self.writer.poll_write_all(cx, &mut *self.pipe, now, &mut written_bytes);
        shared.counters.sent(written_bytes);
        match result {
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(false),
        }
    }

    /// Closes a connection that carries no session, in a task of its own.
    pub(crate) fn abandon(mut self) {
        self.pipe.put_end(End::Normal, &mut self.writer);
        tokio::spawn(async move {
            let goodbye = poll_fn(|cx| {
                let now = tokio::time::Instant::now().into_std();
                ready!(self.writer.poll_write_all(cx, &mut *self.pipe, now, &mut 0))?;
                ready!(self.pipe.poll_shutdown(cx))?;
                self.pipe.poll_drained(cx).map(Ok::<_, io::Error>)
            });
            let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        });
    }
}
