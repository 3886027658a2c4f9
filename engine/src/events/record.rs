//! An event as it stands in its namespace's log: whom it is for, and what it carries.
//!
//! Only this process writes and reads records, so their form may change with any version.

use std::sync::Arc;

use bytes::Bytes;

use super::members::Stay;
use super::payload::Payload;

/// May be dropped; never recovered.
pub(super) const VOLATILE: u8 = 1;
/// Asks for an acknowledgement.
pub(super) const ACK: u8 = 2;
/// Not worth compressing.
pub(super) const UNCOMPRESSED: u8 = 4;
/// Not for other servers of the same namespace.
pub(super) const LOCAL: u8 = 8;

/// Whom an event is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Audience {
    /// The members of any of these rooms; none named: every socket.
    pub(super) to: Vec<Arc<str>>,
    /// But nobody in any of these.
    pub(super) except: Vec<Arc<str>>,
    /// And not these sockets.
    pub(super) without: Vec<Arc<str>>,
}

/// A record, read in place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) flags: u8,
    pub(super) ack: Option<u64>,
    /// Equal bytes mean equal audiences.
    pub(super) audience: &'a [u8],
    json: &'a [u8],
    attachments: &'a [u8],
}

/// The record of an event.
pub(super) fn encode(flags: u8, ack: Option<u64>, audience: &Audience, payload: &Payload) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 64);
    out.push(if ack.is_some() { flags | ACK } else { flags });
    out.extend_from_slice(&ack.unwrap_or_default().to_le_bytes());
    let audience_at = out.len();
    out.extend_from_slice(&[0; 4]);
    for names in [&audience.to, &audience.except, &audience.without] {
        out.extend_from_slice(&(names.len() as u32).to_le_bytes());
        names.iter().for_each(|name| put(&mut out, name.as_bytes()));
    }
    let audience_bytes = (out.len() - audience_at - 4) as u32;
    out[audience_at..audience_at + 4].copy_from_slice(&audience_bytes.to_le_bytes());
    put(&mut out, &payload.json);
    payload.attachments.iter().for_each(|attachment| put(&mut out, attachment));
    out
}

impl<'a> Record<'a> {
    pub(super) fn parse(record: &'a [u8]) -> Self {
        let mut rest = record;
        let flags = take_array::<1>(&mut rest)[0];
        let ack = u64::from_le_bytes(take_array(&mut rest));
        let audience = take(&mut rest);
        let json = take(&mut rest);
        Self { flags, ack: (flags & ACK != 0).then_some(ack), audience, json, attachments: rest }
    }

    pub(super) fn is_volatile(&self) -> bool {
        self.flags & VOLATILE != 0
    }

    /// Rooms it is for; none: everybody.
    pub(super) fn to(&self) -> impl Iterator<Item = &'a str> {
        self.names(0)
    }

    /// Rooms it is not for.
    pub(super) fn except(&self) -> impl Iterator<Item = &'a str> {
        self.names(1)
    }

    /// Sockets it is not for.
    pub(super) fn without(&self) -> impl Iterator<Item = &'a str> {
        self.names(2)
    }

    /// Whether it, at `offset`, is for a socket `id` that was in rooms as `stays` say.
    pub(super) fn is_for(&self, offset: u64, id: &str, stays: &[Stay]) -> bool {
        let was_in =
            |room: &str| stays.iter().any(|stay| *stay.room == *room && stay.events.contains(&offset));
        let mut to = self.to().peekable();
        let is_meant = to.peek().is_none() || to.any(was_in);
        is_meant && !self.except().any(was_in) && !self.without().any(|other| other == id)
    }

    /// The names in one of the audience's lists.
    fn names(&self, list: usize) -> impl Iterator<Item = &'a str> {
        let mut rest = self.audience;
        (0..list).for_each(|_| drop(take_names(&mut rest)));
        take_names(&mut rest).into_iter()
    }

    /// What it carries; with `offset`, that as its last argument.
    pub(super) fn payload(&self, offset: Option<u64>) -> Payload {
        let json = match offset {
            None => Bytes::copy_from_slice(self.json),
            Some(offset) => {
                let open = self.json.strip_suffix(b"]").expect("an event is an array");
                [open, b",\"", Offset(offset).text().as_bytes(), b"\"]"].concat().into()
            }
        };
        let (mut rest, mut attachments) = (self.attachments, Vec::new());
        while !rest.is_empty() {
            attachments.push(Bytes::copy_from_slice(take(&mut rest)));
        }
        Payload { json, attachments }
    }
}

/// An offset as clients get it and give it back: letters and digits, few of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offset(pub(super) u64);

impl Offset {
    pub(super) fn text(self) -> String {
        let (mut rest, mut digits) = (self.0, Vec::new());
        loop {
            digits.push(char::from_digit((rest % 36) as u32, 36).expect("a digit"));
            rest /= 36;
            if rest == 0 {
                return digits.iter().rev().collect();
            }
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        // Leading signs are no digits, though the standard library takes them.
        let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        u64::from_str_radix(text, 36).ok().filter(|_| is_plain).map(Self)
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let len = u32::from_le_bytes(take_array(rest)) as usize;
    let (taken, after) = rest.split_at(len);
    *rest = after;
    taken
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (taken, after) = rest.split_first_chunk().expect("records are written by this module alone");
    *rest = after;
    *taken
}

fn take_names<'a>(rest: &mut &'a [u8]) -> Vec<&'a str> {
    let count = u32::from_le_bytes(take_array(rest));
    let name = |_| std::str::from_utf8(take(rest)).expect("names are texts");
    (0..count).map(name).collect()
}
