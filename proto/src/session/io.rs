//! What goes into a session and what comes out of it.

use std::time::Instant;

use bytes::Bytes;

use crate::Code;
use crate::control::{Control, Hello, Welcome};

/// How far the conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Client: the hello was sent. Server: none has come.
    Opening,
    /// Server: the caller was given the hello and has not answered it.
    Deciding,
    /// The handshake is done.
    Ready,
    /// It ended; every further input is ignored.
    Closed,
}

/// Something that happened, for [`Session::handle`](super::Session::handle).
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A whole control frame came from the peer.
    Control(&'a [u8]),
    /// Bytes of frames came in a run of a reliable topic. Leave out runs of fast topics, which need no
    /// credit. A lane that is not open (any more) is not judged: drop its frames.
    Run {
        /// Lane of the run.
        lane: u32,
        /// Bytes of the frames received, without the run's header.
        bytes: usize,
    },
    /// Bytes came from the peer, whatever they are.
    Traffic,
    /// Time passed; due at the [`Output::Wait`] deadline.
    Tick,
    /// Server, deciding: the client is accepted. `version` and `capabilities` are filled in by the session.
    Accept(Welcome),
    /// Send this to the peer. What is about a queue member that closed meanwhile is dropped, as the peer would.
    Send(Control),
    /// Say goodbye and end. A server that is deciding rejects the client this way.
    Close {
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
    },
}

/// Something to do, from [`Session::poll`](super::Session::poll).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this control frame.
    Send(Bytes),
    /// Look at this.
    Event(Event),
    /// Flush what was sent, then close the connection.
    Close {
        /// Why, for programs.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// Nothing until the next input, or until this time: then [`Input::Tick`].
    Wait(Option<Instant>),
}

/// What the peer said, already checked for role, phase and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Server: answer with [`Input::Accept`] or [`Input::Close`].
    Hello(Hello),
    /// Client: the server accepted.
    Welcome(Welcome),
    /// Anything else except pings and pongs.
    Control(Control),
}
