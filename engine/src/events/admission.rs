//! How a client gets into a namespace: middlewares first, then as somebody new or as who it was before.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use super::away::Absent;
use super::burst::{Burst, Outgoing};
use super::connection::Client;
use super::data::Data;
use super::namespace::{Connecting, Namespace};
use super::payload::Payload;
use super::peer::ToClient;
use super::record::Offset;
use super::socket::{Parts, Socket};
use super::state::{Missed, State};

/// Bytes of a socket's numbers.
const ID_BYTES: usize = 15;

/// Lets `client` into `namespace`, if the middlewares do.
pub(super) async fn admit(client: Arc<Client>, namespace: Namespace, auth: Value) {
    let data = Data::default();
    let connecting = Connecting {
        namespace: Arc::clone(namespace.name_shared()),
        handshake: Arc::clone(&client.handshake),
        auth: auth.clone(),
        data: data.clone(),
    };
    if let Err(refusal) = namespace.door().admits(&connecting).await {
        client.refuse(namespace.name_shared(), &refusal);
        return;
    }
    let wanted = Wanted::of(&auth);
    if let Some(wanted) = &wanted {
        let elsewhere = namespace.hub().hold().live(&wanted.pid);
        elsewhere.into_iter().for_each(|socket| socket.give_way());
    }
    let hub = namespace.hub();
    let mut held = hub.hold();
    let absent = wanted.as_ref().and_then(|wanted| held.take_absent(&wanted.pid));
    let returned = match (&wanted, absent) {
        (Some(wanted), Some(absent)) => find_missed(&mut held, &namespace, wanted, absent),
        (Some(wanted), None) => {
            let to = held.drained();
            Err(wanted.next.filter(|from| *from <= to).map(|from| Missed { from, to }))
        }
        (None, _) => Err(None),
    };
    let (parts, stays, missed) = match returned {
        Ok((absent, events)) => {
            let Absent { id, pid, stays, data, since, answered } = absent;
            let parts = (id, Some(pid), data, since, answered);
            (parts, Some(stays), Told::Events(events))
        }
        Err(missed) => {
            let pid = hub.settings.recovers().then(random_id);
            let told = if wanted.is_some() { Told::Gap(missed) } else { Told::Nothing };
            ((random_id(), pid, data, held.drained(), VecDeque::new()), None, told)
        }
    };
    let (id, pid, data, since, answered) = parts;
    let is_recovered = matches!(missed, Told::Events(_));
    let socket = Socket::new(
        Arc::clone(hub),
        Parts {
            id: Arc::clone(&id),
            pid: pid.clone(),
            client: Arc::downgrade(&client),
            outbox: Arc::clone(&client.outbox),
            handshake: Arc::clone(&client.handshake),
            auth,
            data,
            since,
            is_recovered,
            answered,
        },
    );
    held.insert(&socket, stays);
    let name = Arc::clone(namespace.name_shared());
    client.outbox.push(ToClient::Connected { namespace: Arc::clone(&name), sid: id, pid }, false);
    for events in missed.bursts() {
        client.outbox.push(ToClient::Burst(Arc::new(Burst::new(Arc::clone(&name), events))), false);
    }
    drop(held);
    if let Err(reason) = client.seat(&socket, || namespace.door().welcome(&socket)) {
        socket.end(reason);
    }
}

/// Who a client says it was, and how far it got.
struct Wanted {
    pid: String,
    /// The first event that it has not got. `None`: it got nothing.
    next: Option<u64>,
}

impl Wanted {
    fn of(auth: &Value) -> Option<Self> {
        let pid = auth.get("pid")?.as_str()?.to_owned();
        let offset = auth.get("offset").and_then(Value::as_str).and_then(Offset::parse);
        Some(Self { pid, next: offset.map(|Offset(offset)| offset.saturating_add(1)) })
    }
}

/// What a client is told first.
enum Told {
    Nothing,
    /// What it missed.
    Events(Vec<Outgoing>),
    /// That it missed events; which, if it is known.
    Gap(Option<Missed>),
}

impl Told {
    fn bursts(self) -> Vec<Vec<Outgoing>> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Events(events) => super::state::in_bursts(events),
            Self::Gap(missed) => vec![vec![gap(missed)]],
        }
    }
}

/// What the absent one missed, or that it cannot be found any more.
fn find_missed(
    held: &mut State,
    namespace: &Namespace,
    wanted: &Wanted,
    absent: Absent,
) -> Result<(Absent, Vec<Outgoing>), Option<Missed>> {
    // Nobody is told what came before it was there.
    let from = wanted.next.unwrap_or(absent.since).max(absent.since);
    if from > held.drained() {
        return Err(None);
    }
    let found = held.missed(&namespace.hub().topic, from, &absent);
    found.map(|events| (absent, events)).map_err(Some)
}

fn gap(missed: Option<Missed>) -> Outgoing {
    let range = missed.map(|Missed { from, to }| (Offset(from).text(), Offset(to).text()));
    let cause = if range.is_some() { "retention" } else { "unknown" };
    let (from, to) = range.unzip();
    let gap = serde_json::json!({ "from": from, "to": to, "cause": cause });
    let payload = Payload::event("$gap", &gap).expect("texts have a JSON form");
    Outgoing { payload, ack: None, volatile: false, compress: false }
}

/// A number that nobody guesses.
fn random_id() -> Arc<str> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = [0; ID_BYTES];
    crate::random::fill(&mut bytes);
    let letter = |sextet: u32| char::from(LETTERS[(sextet & 63) as usize]);
    let letters = bytes.chunks_exact(3).flat_map(|three| {
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        [bits >> 18, bits >> 12, bits >> 6, bits].map(letter)
    });
    letters.collect::<String>().into()
}
