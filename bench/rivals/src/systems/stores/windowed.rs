//! A hand-tuned blocking writer: one stream over one raw socket, with a window of messages that are not acknowledged.
//!
//! Whatever the window has room for is written, 64 KiB at a time; then it waits for the next acknowledgements. So the
//! batches that the server sees follow from its own pace, as those of a busy application would.

use std::{io::Write as _, net::TcpStream, sync::Arc};

use anyhow::{Context as _, Result, bail};
use rustix::{
    buffer::spare_capacity,
    io::Errno,
    net::{RecvFlags, recv},
};

use crate::{
    lean::{Connect, Role, connected},
    store::{Desk, Stream, Write},
};

/// Bytes collected before a write, and read at most at once.
const BATCH_BYTES: usize = 64 << 10;

/// A writer of `P`, whose [`answers`](crate::lean::Protocol::answers) are acknowledgements in the order of the messages.
pub(super) struct Windowed<P> {
    socket: TcpStream,
    protocol: P,
    window: u64,
    out: Vec<u8>,
    answers: Vec<u8>,
}

impl<P: Connect> Windowed<P> {
    /// Connects to `port` of loopback.
    pub(super) fn connect(port: u16, mut protocol: P, window: u64) -> Result<Self> {
        let socket = connected(port, &mut protocol, Role::Publisher)?;
        let out = Vec::with_capacity(2 * BATCH_BYTES);
        Ok(Self { socket, protocol, window, out, answers: Vec::with_capacity(BATCH_BYTES) })
    }

    fn fill(&mut self, stream: &mut Stream) -> Result<()> {
        while stream.taken() - self.protocol.answers() < self.window && self.out.len() < BATCH_BYTES {
            self.protocol.encode(stream.next_payload(), &mut self.out);
        }
        if !self.out.is_empty() {
            self.socket.write_all(&self.out).context("cannot write")?;
            self.out.clear();
        }
        Ok(())
    }

    /// Reads what is there; waits for something if `flags` do not say otherwise.
    fn take_answers(&mut self, flags: RecvFlags, desk: &Desk) -> Result<()> {
        match recv(&self.socket, spare_capacity(&mut self.answers), flags) {
            Ok((_, 0)) => bail!("the server closed the writer's connection"),
            Ok(_) => {}
            Err(Errno::AGAIN) if flags.contains(RecvFlags::DONTWAIT) => return Ok(()),
            Err(error) => return Err(error).context("no acknowledgement"),
        }
        let before = self.protocol.answers();
        let used = self.protocol.parse(&self.answers, &mut self.out, |_| {})?;
        self.answers.drain(..used);
        desk.add_acked(self.protocol.answers() - before);
        Ok(())
    }
}

impl<P: Connect> Write for Windowed<P> {
    async fn write(&mut self, desk: &Arc<Desk>) -> Result<Vec<u64>> {
        let mut stream = desk.stream(0);
        while !desk.is_enough() {
            self.fill(&mut stream)?;
            let is_full = stream.taken() - self.protocol.answers() >= self.window;
            self.take_answers(if is_full { RecvFlags::empty() } else { RecvFlags::DONTWAIT }, desk)?;
        }
        while self.protocol.answers() < stream.taken() {
            self.take_answers(RecvFlags::empty(), desk)?;
        }
        Ok(vec![stream.taken()])
    }
}
