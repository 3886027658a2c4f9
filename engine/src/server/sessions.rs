//! The sessions of remote clients: who they are, what they publish, and how they come back.
//!
//! A session outlives its connections. Its publisher streams stay, so that nothing is stored twice; its
//! subscriptions do not: a returning client says where it was.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::time::Instant;
use twinlane_proto::Code;
use twinlane_proto::control::Resume;

use crate::link::Link;
use crate::lock::lock;
use crate::status::{SessionRow, Switches};
use crate::topics::ingest::Ingest;

pub(crate) type Id = [u8; 16];

/// Bytes of a secret that are random; the other 11 (88 bits) are a proof that can only be guessed over the network.
const SALT_BYTES: usize = 5;

/// What resume secrets are made with, so that a server that was restarted knows its own.
#[derive(Clone)]
pub(crate) struct ResumeKey([u8; 32]);

pub(crate) struct Sessions {
    sessions_max: usize,
    key: Arc<ResumeKey>,
    /// In an order that the same seed repeats.
    by_id: Mutex<BTreeMap<Id, Arc<ServerSession>>>,
}

pub(crate) struct ServerSession {
    pub(crate) id: Id,
    pub(crate) client: String,
    state: Mutex<State>,
}

struct State {
    secrets: Secrets,
    peer: SocketAddr,
    link: Option<Arc<Link>>,
    why_fast: String,
    switches: Switches,
    subscriptions: u64,
    disconnected_at: Option<Instant>,
    publishers: HashMap<u32, Arc<Ingest>>,
}

/// Which secrets resume a session.
enum Secrets {
    /// The secret a client was given last, and the one it used, which stays good until the new one is used: the
    /// answer that carried the new one may have been lost.
    Given { latest: Id, used: Id },
    /// The server was restarted and remembers none: any that it made for this session is good, once.
    Recovered,
}

/// A session for a connection, and whether it is an earlier one.
pub(crate) struct Opened {
    pub(crate) session: Arc<ServerSession>,
    pub(crate) secret: Id,
    pub(crate) resumed: bool,
}

impl Sessions {
    pub(crate) fn new(sessions_max: usize, key: Arc<ResumeKey>) -> Self {
        Self { sessions_max, key, by_id: Mutex::default() }
    }

    /// Puts a publisher stream back that the log remembers, with its session, which may be resumed from now on.
    pub(crate) fn restore(&self, id: Id, client: &str, publisher: Ingest) {
        let mut by_id = lock(&self.by_id);
        let session = by_id.entry(id).or_insert_with(|| {
            let state = State {
                secrets: Secrets::Recovered,
                peer: SocketAddr::from(([0, 0, 0, 0], 0)),
                link: None,
                why_fast: String::new(),
                switches: Switches::default(),
                subscriptions: 0,
                disconnected_at: Some(Instant::now()),
                publishers: HashMap::new(),
            };
            Arc::new(ServerSession { id, client: client.to_owned(), state: Mutex::new(state) })
        });
        lock(&session.state).publishers.insert(publisher.lane, Arc::new(publisher));
    }

    /// The session that `resume` proves to own, or a new one.
    pub(crate) fn open(
        &self,
        resume: Option<Resume>,
        client: &str,
        peer: SocketAddr,
    ) -> Result<Opened, Code> {
        let mut by_id = lock(&self.by_id);
        let earlier = resume.and_then(|resume| Some((by_id.get(&resume.session)?, resume.secret)));
        if let Some((session, secret)) = earlier
            && let Some(secret) = lock(&session.state).secrets.rotate(&self.key, &session.id, &secret)
        {
            return Ok(Opened { session: Arc::clone(session), secret, resumed: true });
        }
        if by_id.len() >= self.sessions_max {
            return Err(Code::LimitReached);
        }
        let id = random_id();
        let secret = self.key.secret(&id);
        let state = State {
            secrets: Secrets::Given { latest: secret, used: secret },
            peer,
            link: None,
            why_fast: String::new(),
            switches: Switches::default(),
            subscriptions: 0,
            disconnected_at: None,
            publishers: HashMap::new(),
        };
        let session = Arc::new(ServerSession { id, client: client.to_owned(), state: Mutex::new(state) });
        by_id.insert(id, Arc::clone(&session));
        Ok(Opened { session, secret, resumed: false })
    }

    /// Whether `resume` proves to own a session.
    pub(crate) fn knows(&self, resume: Option<&Resume>) -> bool {
        let by_id = lock(&self.by_id);
        let session = resume.and_then(|resume| Some((by_id.get(&resume.session)?, resume.secret)));
        session.is_some_and(|(session, secret)| {
            lock(&session.state).secrets.knows(&self.key, &session.id, &secret)
        })
    }

    /// A session whose client said goodbye needs no memory.
    pub(crate) fn remove(&self, session: &ServerSession) {
        lock(&self.by_id).remove(&session.id);
    }

    /// Forgets sessions that have been without a connection for `retention`.
    /// Returns them.
    pub(crate) fn sweep(&self, retention: Duration) -> Vec<Arc<ServerSession>> {
        let mut expired = Vec::new();
        lock(&self.by_id).retain(|_, session| {
            let alive = lock(&session.state).disconnected_at.is_none_or(|since| since.elapsed() < retention);
            if !alive {
                expired.push(Arc::clone(session));
            }
            alive
        });
        expired
    }

    pub(crate) fn all(&self) -> Vec<Arc<ServerSession>> {
        lock(&self.by_id).values().cloned().collect()
    }
}

impl Secrets {
    fn knows(&self, key: &ResumeKey, session: &Id, offered: &Id) -> bool {
        match self {
            Self::Given { latest, used } => bool::from(latest.ct_eq(offered) | used.ct_eq(offered)),
            Self::Recovered => key.made(session, offered),
        }
    }

    fn rotate(&mut self, key: &ResumeKey, session: &Id, offered: &Id) -> Option<Id> {
        self.knows(key, session, offered).then(|| {
            let latest = key.secret(session);
            *self = Self::Given { latest, used: *offered };
            latest
        })
    }
}

impl ResumeKey {
    pub(crate) fn random() -> Self {
        let mut key = [0; 32];
        crate::random::fill(&mut key);
        Self(key)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A new secret: random bytes, and the proof that this server made them for this session.
    fn secret(&self, session: &Id) -> Id {
        let mut secret = random_id();
        let proof = self.proof(session, &secret[..SALT_BYTES]);
        secret[SALT_BYTES..].copy_from_slice(&proof);
        secret
    }

    fn made(&self, session: &Id, offered: &Id) -> bool {
        let (salt, proof) = offered.split_at(SALT_BYTES);
        self.proof(session, salt).ct_eq(proof).into()
    }

    fn proof(&self, session: &Id, salt: &[u8]) -> [u8; 16 - SALT_BYTES] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length is good");
        mac.update(session);
        mac.update(salt);
        let tag = mac.finalize().into_bytes();
        tag.first_chunk().copied().expect("a tag has 32 bytes")
    }
}

impl ServerSession {
    pub(crate) fn name(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.id))
    }

    /// `link` is the session's connection from now on; returns the one it replaces.
    pub(crate) fn connect(&self, link: &Arc<Link>, peer: SocketAddr) -> Option<Arc<Link>> {
        let mut state = lock(&self.state);
        state.disconnected_at = None;
        state.peer = peer;
        state.link.replace(Arc::clone(link))
    }

    /// `link` is over. Nothing changes if a newer one has taken its place.
    pub(crate) fn disconnect(&self, link: &Arc<Link>) {
        let mut state = lock(&self.state);
        if state.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            state.link = None;
            state.subscriptions = 0;
            state.disconnected_at = Some(Instant::now());
        }
    }

    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        lock(&self.state).link.clone()
    }

    /// Fast topics go over `to` now.
    pub(crate) fn fast_moved(&self, to: &'static str, why: &str) {
        let mut state = lock(&self.state);
        why.clone_into(&mut state.why_fast);
        state.switches.note(to, why);
    }

    pub(crate) fn count_subscription(&self, change: i64) {
        let mut state = lock(&self.state);
        state.subscriptions = state.subscriptions.saturating_add_signed(change);
    }

    /// The publisher stream on `lane`: an earlier one, or the one that `open` makes.
    pub(crate) fn publisher(&self, lane: u32, open: impl FnOnce() -> Ingest) -> Arc<Ingest> {
        Arc::clone(lock(&self.state).publishers.entry(lane).or_insert_with(|| Arc::new(open())))
    }

    /// The session is over for good: nothing of its publisher streams is needed any more.
    pub(crate) fn forget(&self) {
        lock(&self.state).publishers.values().for_each(|publisher| publisher.forget());
    }

    pub(crate) fn close_publisher(&self, lane: u32) -> Option<Arc<Ingest>> {
        lock(&self.state).publishers.remove(&lane)
    }

    pub(crate) fn row(&self) -> SessionRow {
        let state = lock(&self.state);
        let (reliable_over, fast_over) = match &state.link {
            None => ("-".to_owned(), "-".to_owned()),
            Some(link) => {
                let fast = if link.has_datagrams() { "quic".to_owned() } else { link.carrier.to_string() };
                (link.carrier.to_string(), fast)
            }
        };
        SessionRow {
            id: self.name(),
            client: self.client.clone(),
            peer: state.peer.to_string(),
            reliable_over,
            fast_over,
            why: state.why_fast.clone(),
            publishers: state.publishers.len() as u64,
            subscriptions: state.subscriptions,
            udp: state.link.as_ref().and_then(|link| link.udp_path()),
            switches: state.switches.rows(),
        }
    }
}

fn random_id() -> Id {
    let mut id = [0; 16];
    crate::random::fill(&mut id);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> SocketAddr {
        "127.0.0.1:9".parse().unwrap()
    }

    #[test]
    fn a_resume_secret_is_replaced_at_each_use_and_the_replaced_one_dies_with_the_next() {
        let sessions = Sessions::new(10, Arc::new(ResumeKey::random()));
        let first = sessions.open(None, "a", peer()).unwrap();
        let resume = |secret| Some(Resume { session: first.session.id, secret });
        let second = sessions.open(resume(first.secret), "a", peer()).unwrap();
        assert!(second.resumed);
        let again = sessions.open(resume(first.secret), "a", peer()).unwrap();
        assert!(again.resumed, "the answer with the second secret may have been lost");
        assert!(!sessions.open(resume(second.secret), "a", peer()).unwrap().resumed, "it was superseded");
        let third = sessions.open(resume(again.secret), "a", peer()).unwrap();
        assert!(third.resumed);
        assert!(!sessions.open(resume(first.secret), "a", peer()).unwrap().resumed, "long used up");
    }

    #[test]
    fn a_guessed_secret_opens_a_new_session_and_never_the_old_one() {
        let sessions = Sessions::new(10, Arc::new(ResumeKey::random()));
        let mine = sessions.open(None, "a", peer()).unwrap();
        let guess = Some(Resume { session: mine.session.id, secret: [7; 16] });
        let theirs = sessions.open(guess, "b", peer()).unwrap();
        assert!(!theirs.resumed);
        assert_ne!(theirs.session.id, mine.session.id);
    }

    #[test]
    fn a_restarted_server_resumes_the_sessions_that_it_made_and_no_others() {
        let key = Arc::new(ResumeKey::random());
        let before = Sessions::new(10, Arc::clone(&key));
        let first = before.open(None, "a", peer()).unwrap();
        let after = Sessions::new(10, key);
        let resume = |secret| Some(Resume { session: first.session.id, secret });
        assert!(!after.knows(resume(first.secret).as_ref()), "it had nothing in the log");
        after.restore(first.session.id, "a", a_stream(first.session.id));
        assert!(!after.open(resume([7; 16]), "a", peer()).unwrap().resumed);
        let again = after.open(resume(first.secret), "a", peer()).unwrap();
        assert!(again.resumed);
        assert!(after.open(resume(again.secret), "a", peer()).unwrap().resumed);
        assert!(!after.open(resume(first.secret), "a", peer()).unwrap().resumed, "used up");
    }

    fn a_stream(session: Id) -> Ingest {
        let name = twinlane_proto::TopicName::parse("orders").unwrap();
        let spec = twinlane_proto::TopicSpec {
            payload_bytes_max: 8,
            retain_bytes: 8,
            ..twinlane_proto::TopicSpec::reliable()
        };
        let topic = Arc::new(crate::topics::Topic::new(1, name, spec, "a test".into(), 1));
        Ingest::new(topic, session, 1, 0)
    }

    #[test]
    fn sessions_are_bounded_and_expire() {
        let sessions = Sessions::new(1, Arc::new(ResumeKey::random()));
        let one = sessions.open(None, "a", peer()).unwrap();
        assert_eq!(sessions.open(None, "b", peer()).err(), Some(Code::LimitReached));
        sessions.sweep(Duration::ZERO);
        assert_eq!(sessions.all().len(), 1, "never connected, not yet given up");
        lock(&one.session.state).disconnected_at = Some(Instant::now());
        sessions.sweep(Duration::ZERO);
        assert!(sessions.all().is_empty());
    }
}
