//! The conversation on one connection: who may say what and when, liveness, credit.
//!
//! One type for both sides. It holds no socket, reads no clock and knows no topic: control frames, byte
//! counts and time go in; frames to send, events and a deadline come out. Its memory is bounded by its
//! [`SessionConfig`]. Granting requests, storing messages and spending the peer's credit are its caller's
//! business.

mod config;
mod error;
mod io;
mod lanes;

pub use config::SessionConfig;
pub use error::ProtocolError;
pub use io::{Event, Input, Output, Phase};
pub use lanes::LaneKind;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::Code;
use crate::control::{Control, Failed, Goodbye, Hello, Ping, Pong, Purpose, Sender, Welcome};
use crate::limits::{FRAME_BYTES_FLOOR, OUTPUTS_MAX, PING_INTERVAL_FLOOR};
use lanes::{Lanes, Open};

/// The conversation on one connection.
///
/// Feed it with [`Self::handle`], then drain [`Self::poll`] until [`Output::Wait`].
///
/// ```
/// use std::time::Instant;
/// use twinlane_proto::control::{Auth, Hello, Purpose};
/// use twinlane_proto::session::{Output, Phase, Session, SessionConfig};
///
/// # #[allow(clippy::disallowed_methods, reason = "an example needs a time to begin with")]
/// let now = Instant::now();
/// let hello = Hello {
///     version_min: 1,
///     version_max: 1,
///     capabilities: 0,
///     purpose: Purpose::Primary,
///     client: "example".to_owned(),
///     auth: Auth::None,
///     resume: None,
/// };
/// let mut client = Session::client(SessionConfig::default(), hello, now);
/// assert!(matches!(client.poll(), Output::Send(_)), "the hello");
/// assert!(matches!(client.poll(), Output::Wait(Some(deadline)) if deadline > now));
/// assert_eq!(client.phase(), Phase::Opening);
/// ```
#[derive(Debug)]
pub struct Session {
    role: Role,
    config: SessionConfig,
    phase: Phase,
    /// What the hello said, once there is one.
    offer: Option<Offer>,
    handshake_deadline: Instant,
    ping_interval: Duration,
    heard_at: Instant,
    /// Last sign of life asked for or heard, whichever is later.
    pinged_at: Instant,
    nonce: u64,
    lanes: Lanes,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// The part of a hello that the rest of the conversation depends on.
#[derive(Clone, Copy, Debug)]
struct Offer {
    version_min: u16,
    version_max: u16,
    capabilities: u64,
    purpose: Purpose,
    resumes: bool,
}

impl Session {
    /// The client's side; its first output sends `hello`.
    ///
    /// # Panics
    ///
    /// If `config` is contradictory, or `hello` has a token longer than the wire allows or an empty
    /// version range.
    #[must_use]
    pub fn client(config: SessionConfig, hello: Hello, now: Instant) -> Self {
        let mut session = Self::new(Role::Client, config, now);
        assert!(hello.version_min <= hello.version_max, "a client speaks at least one version");
        session.offer = Some(Offer::of(&hello));
        session.send(&Control::Hello(hello)).expect("a hello within the limits of the wire");
        session
    }

    /// The server's side; it waits for a hello.
    ///
    /// # Panics
    ///
    /// If `config` is contradictory.
    #[must_use]
    pub fn server(config: SessionConfig, now: Instant) -> Self {
        Self::new(Role::Server, config, now)
    }

    fn new(role: Role, config: SessionConfig, now: Instant) -> Self {
        config.assert_consistent();
        Self {
            role,
            phase: Phase::Opening,
            offer: None,
            handshake_deadline: now + config.handshake_timeout,
            ping_interval: config.ping_interval,
            heard_at: now,
            pinged_at: now,
            nonce: 0,
            lanes: Lanes::new(&config),
            outputs: VecDeque::new(),
            config,
        }
    }

    /// How far the conversation is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Feeds one input at time `now`.
    ///
    /// # Errors
    ///
    /// If the peer broke a rule, the session has already queued a goodbye and [`Output::Close`]: count
    /// the error and drain [`Self::poll`]. If the caller asked for something impossible
    /// ([`ProtocolError::is_ours`]), nothing happened.
    #[inline]
    pub fn handle(&mut self, now: Instant, input: Input<'_>) -> Result<(), ProtocolError> {
        let result = match input {
            _ if self.phase == Phase::Closed => Ok(()),
            Input::Traffic => {
                self.heard_at = now;
                Ok(())
            }
            Input::Run { lane, bytes } => self.run(now, lane, bytes),
            other => self.handle_rare(now, other),
        };
        result.inspect_err(|error| {
            if !error.is_ours() {
                self.close(error.code(), error.to_string());
            }
        })
    }

    /// Takes the next thing to do; drain until [`Output::Wait`].
    #[must_use]
    pub fn poll(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }

    /// What [`Self::handle`] does except for traffic.
    fn handle_rare(&mut self, now: Instant, input: Input<'_>) -> Result<(), ProtocolError> {
        if self.outputs.len() >= OUTPUTS_MAX {
            return Err(ProtocolError::OutputsFull { outputs_max: OUTPUTS_MAX });
        }
        match input {
            Input::Control(frame) => {
                self.heard_at = now;
                let control = Control::decode(frame)?;
                self.check_received(&control)?;
                self.receive(control)
            }
            Input::Tick => {
                self.tick(now);
                Ok(())
            }
            Input::Accept(welcome) => self.accept(welcome),
            Input::Send(control) => self.send_checked(control),
            Input::Close { code, reason } => {
                self.close(code, reason);
                Ok(())
            }
            Input::Run { .. } | Input::Traffic => unreachable!("`handle` deals with traffic"),
        }
    }

    fn run(&mut self, now: Instant, lane: u32, bytes: usize) -> Result<(), ProtocolError> {
        self.heard_at = now;
        if self.phase != Phase::Ready {
            return Err(ProtocolError::OutOfPhase { name: "Run", phase: self.phase });
        }
        self.lanes.spend(self.runs_received(), lane, bytes)
    }

    /// The kind of lane whose runs come from the peer.
    fn runs_received(&self) -> LaneKind {
        match self.role {
            Role::Client => LaneKind::Subscription,
            Role::Server => LaneKind::Publisher,
        }
    }

    fn check_received(&self, control: &Control) -> Result<(), ProtocolError> {
        let (name, phase) = (control.name(), self.phase);
        let from_wrong_side = match control.sender() {
            Sender::Client => self.role == Role::Client,
            Sender::Server => self.role == Role::Server,
            Sender::Both => false,
        };
        if from_wrong_side {
            return Err(ProtocolError::WrongSide { name });
        }
        match (phase, control) {
            (_, Control::Goodbye(_)) => Ok(()),
            (Phase::Opening, Control::Hello(_) | Control::Welcome(_)) => Ok(()),
            (_, Control::Hello(_) | Control::Welcome(_)) => Err(ProtocolError::SecondHandshake { name }),
            (Phase::Ready, _) if self.is_allowed_here(control) => Ok(()),
            (Phase::Ready, _) => Err(ProtocolError::WrongConnection { name }),
            _ => Err(ProtocolError::OutOfPhase { name, phase }),
        }
    }

    /// Whether the purpose of this connection allows `control`. One that only adds datagrams neither
    /// opens nor closes anything.
    fn is_allowed_here(&self, control: &Control) -> bool {
        let adds_datagrams = self.offer.is_some_and(|offer| offer.purpose == Purpose::Datagrams);
        !adds_datagrams
            || matches!(
                control,
                Control::Credit(_)
                    | Control::Ping(_)
                    | Control::Pong(_)
                    | Control::Goodbye(_)
                    | Control::Gap(_)
                    | Control::StreamEnd(_)
            )
    }

    /// Acts on a message that may come now.
    fn receive(&mut self, control: Control) -> Result<(), ProtocolError> {
        match control {
            Control::Hello(hello) => self.receive_hello(hello),
            Control::Welcome(welcome) => self.receive_welcome(welcome),
            Control::Ping(Ping { nonce }) => self.send(&Control::Pong(Pong { nonce })),
            Control::Pong(_) => Ok(()),
            Control::Goodbye(goodbye) => {
                let Goodbye { code, reason } = goodbye.clone();
                self.queue(Output::Event(Event::Control(Control::Goodbye(goodbye))));
                self.queue(Output::Close { code, reason });
                self.phase = Phase::Closed;
                Ok(())
            }
            other => match self.lanes.follow(&other)? {
                Open::Followed => {
                    self.queue(Output::Event(Event::Control(other)));
                    Ok(())
                }
                Open::Stale => Ok(()),
                Open::Full { request, kind, max } => {
                    let message = format!("at most {max} {kind}s in one session");
                    self.send(&Control::Failed(Failed { request, code: Code::LimitReached, message }))
                }
            },
        }
    }

    fn receive_hello(&mut self, hello: Hello) -> Result<(), ProtocolError> {
        let Hello { version_min, version_max, purpose, resume, .. } = &hello;
        let SessionConfig { version_min: our_min, version_max: our_max, .. } = self.config;
        if version_min > version_max || *version_min > our_max || *version_max < our_min {
            return Err(ProtocolError::UnsupportedVersion {
                version_min: *version_min,
                version_max: *version_max,
                our_min,
                our_max,
            });
        }
        if *purpose == Purpose::Datagrams && resume.is_none() {
            return Err(ProtocolError::NoSessionToJoin);
        }
        self.offer = Some(Offer::of(&hello));
        self.phase = Phase::Deciding;
        self.queue(Output::Event(Event::Hello(hello)));
        Ok(())
    }

    fn receive_welcome(&mut self, welcome: Welcome) -> Result<(), ProtocolError> {
        let offer = self.offer.expect("a client has sent its hello");
        offer.check_answer(&welcome)?;
        let asked = Duration::from_millis(welcome.ping_interval_ms.into());
        // Zero means that the server has no opinion; a long interval must still notice a dead server.
        if asked > Duration::ZERO {
            let floor = PING_INTERVAL_FLOOR.min(self.config.ping_interval);
            self.ping_interval = asked.clamp(floor, self.config.ping_interval);
        }
        self.become_ready();
        self.queue(Output::Event(Event::Welcome(welcome)));
        Ok(())
    }

    fn accept(&mut self, welcome: Welcome) -> Result<(), ProtocolError> {
        let (Phase::Deciding, Some(offer)) = (self.phase, self.offer) else {
            return Err(ProtocolError::CannotSend { name: "Welcome", phase: self.phase });
        };
        let version = offer.version_max.min(self.config.version_max);
        let capabilities = offer.capabilities & self.config.capabilities;
        self.send(&Control::Welcome(Welcome { version, capabilities, ..welcome }))?;
        self.become_ready();
        Ok(())
    }

    fn become_ready(&mut self) {
        self.phase = Phase::Ready;
        self.pinged_at = self.heard_at;
    }

    /// Sends what the caller asked for, if this side may say it now.
    fn send_checked(&mut self, control: Control) -> Result<(), ProtocolError> {
        let (name, phase) = (control.name(), self.phase);
        let is_ours = match control.sender() {
            Sender::Client => self.role == Role::Client,
            Sender::Server => self.role == Role::Server,
            Sender::Both => true,
        };
        match control {
            Control::Goodbye(Goodbye { code, reason }) => {
                self.close(code, reason);
                Ok(())
            }
            Control::Hello(_) | Control::Welcome(_) => Err(ProtocolError::CannotSend { name, phase }),
            control if !is_ours || phase != Phase::Ready || !self.is_allowed_here(&control) => {
                Err(ProtocolError::CannotSend { name, phase })
            }
            control => {
                let frame = encoded(&control)?;
                match self.lanes.follow(&control) {
                    Ok(Open::Followed) => {}
                    Ok(Open::Stale) => return Ok(()),
                    Ok(Open::Full { kind, max, .. }) => {
                        return Err(ProtocolError::LimitReached { kind, max });
                    }
                    Err(error) => return Err(ProtocolError::Ours(Box::new(error))),
                }
                self.lanes.grant(self.runs_received(), &control);
                self.queue(Output::Send(frame));
                Ok(())
            }
        }
    }

    fn queue(&mut self, output: Output) {
        // Most often there is one at a time, and a queue would begin with room for four.
        if self.outputs.is_empty() {
            self.outputs.reserve_exact(1);
        }
        self.outputs.push_back(output);
    }

    fn send(&mut self, control: &Control) -> Result<(), ProtocolError> {
        self.queue(Output::Send(encoded(control)?));
        Ok(())
    }

    fn tick(&mut self, now: Instant) {
        if self.phase != Phase::Ready {
            if now >= self.handshake_deadline {
                let timeout = self.config.handshake_timeout;
                self.close(Code::AuthTimeout, format!("no handshake within {timeout:?}"));
            }
            return;
        }
        let silence = now.saturating_duration_since(self.heard_at);
        if silence >= self.config.dead_after {
            self.close(Code::Dead, format!("nothing heard for {silence:?}"));
        } else if now >= self.ping_at() {
            self.pinged_at = now;
            self.nonce = self.nonce.wrapping_add(1);
            let ping = Control::Ping(Ping { nonce: self.nonce });
            self.send(&ping).expect("a ping is within the limits of the wire");
        }
    }

    /// Says goodbye and ends.
    fn close(&mut self, code: Code, reason: String) {
        let goodbye = Control::Goodbye(Goodbye { code, reason: reason.clone() });
        self.send(&goodbye).expect("a goodbye is cut to the limits of the wire");
        self.queue(Output::Close { code, reason });
        self.phase = Phase::Closed;
        self.lanes.clear();
    }

    fn ping_at(&self) -> Instant {
        self.pinged_at.max(self.heard_at) + self.ping_interval
    }

    fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Opening | Phase::Deciding => Some(self.handshake_deadline),
            Phase::Ready => Some(self.ping_at().min(self.heard_at + self.config.dead_after)),
            Phase::Closed => None,
        }
    }
}

impl Offer {
    fn of(hello: &Hello) -> Self {
        Self {
            version_min: hello.version_min,
            version_max: hello.version_max,
            capabilities: hello.capabilities,
            purpose: hello.purpose,
            resumes: hello.resume.is_some(),
        }
    }

    /// Whether `welcome` takes up this offer and nothing else.
    fn check_answer(&self, welcome: &Welcome) -> Result<(), ProtocolError> {
        let Welcome { version, capabilities, resumed, frame_bytes_max, .. } = *welcome;
        if !(self.version_min..=self.version_max).contains(&version) {
            let (version_min, version_max) = (self.version_min, self.version_max);
            return Err(ProtocolError::VersionNotOffered { version, version_min, version_max });
        }
        if capabilities & !self.capabilities != 0 {
            return Err(ProtocolError::CapabilityNotOffered {
                capabilities: capabilities & !self.capabilities,
            });
        }
        if resumed && !self.resumes {
            return Err(ProtocolError::ResumeNotAsked);
        }
        if (frame_bytes_max as usize) < FRAME_BYTES_FLOOR {
            return Err(ProtocolError::FrameLimitTooLow {
                frame_bytes_max,
                frame_bytes_floor: FRAME_BYTES_FLOOR,
            });
        }
        Ok(())
    }
}

fn encoded(control: &Control) -> Result<Bytes, ProtocolError> {
    // Most control frames fit: one allocation.
    let mut frame = Vec::with_capacity(64);
    match control.try_encode(&mut frame) {
        Ok(()) => Ok(frame.into()),
        Err(error) => Err(ProtocolError::Ours(Box::new(error.into()))),
    }
}
