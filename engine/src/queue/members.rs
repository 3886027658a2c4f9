//! Who of a group may be handed how many messages, and whose turn it is.
//!
//! It knows nothing of messages. Members with credit take turns, one message each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::group::MemberId;

/// Wants with a time limit that one member may have open; a further one ends at once.
const WANTS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Members {
    by_id: BTreeMap<MemberId, Member>,
    /// Members that may be handed something now, each once.
    turns: VecDeque<MemberId>,
    /// When wants end: time, number of the want, member.
    ends: BTreeSet<(Duration, u64, MemberId)>,
    last_want: u64,
}

#[derive(Debug, Default)]
struct Member {
    /// Messages it may be handed whenever there are some.
    push: u32,
    /// Messages it may be handed until a time: by time and number of the want.
    wants: BTreeMap<(Duration, u64), u32>,
    /// It has not taken what it was handed.
    is_paused: bool,
    has_turn: bool,
}

/// A want that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) member: MemberId,
    /// Messages that were wanted and not handed over.
    pub(super) unused: u32,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn join(&mut self, id: MemberId) {
        self.by_id.entry(id).or_default();
    }

    pub(super) fn leave(&mut self, id: MemberId) {
        if let Some(member) = self.by_id.remove(&id) {
            self.turns.retain(|other| *other != id);
            for (until, number) in member.wants.into_keys() {
                self.ends.remove(&(until, number, id));
            }
        }
    }

    /// `id` may be handed `messages` more, until `until` if that is given. Returns the want if it is over at once.
    pub(super) fn want(&mut self, id: MemberId, messages: u32, until: Option<Duration>) -> Option<Ended> {
        let member = self.by_id.get_mut(&id)?;
        match until {
            None => member.push = member.push.saturating_add(messages),
            Some(_) if messages == 0 || member.wants.len() >= WANTS_MAX => {
                return Some(Ended { member: id, unused: messages });
            }
            Some(until) => {
                self.last_want += 1;
                member.wants.insert((until, self.last_want), messages);
                self.ends.insert((until, self.last_want, id));
            }
        }
        self.line_up(id);
        None
    }

    /// Nothing is handed to `id` until it is resumed.
    pub(super) fn pause(&mut self, id: MemberId) {
        if let Some(member) = self.by_id.get_mut(&id) {
            member.is_paused = true;
            if std::mem::take(&mut member.has_turn) {
                self.turns.retain(|other| *other != id);
            }
        }
    }

    pub(super) fn resume(&mut self, id: MemberId) {
        if let Some(member) = self.by_id.get_mut(&id) {
            member.is_paused = false;
            self.line_up(id);
        }
    }

    /// Whether anybody may be handed a message.
    pub(super) fn is_waiting(&self) -> bool {
        !self.turns.is_empty()
    }

    /// How many messages could be handed over now.
    pub(super) fn credit(&self) -> u64 {
        self.turns.iter().map(|id| self.by_id[id].credit()).sum()
    }

    /// The member whose turn it is, another than `not` if there is one; uses up one message of its credit. With it
    /// comes the want that this ended.
    pub(super) fn take(&mut self, not: Option<MemberId>) -> Option<(MemberId, Option<Ended>)> {
        let at = usize::from(self.turns.len() > 1 && self.turns.front().copied() == not);
        let id = self.turns.remove(at)?;
        let member = self.by_id.get_mut(&id).expect("who has a turn is a member");
        member.has_turn = false;
        let mut ended = None;
        match member.wants.first_entry() {
            Some(mut first) => {
                *first.get_mut() -= 1;
                if *first.get() == 0 {
                    let (until, number) = *first.key();
                    first.remove();
                    self.ends.remove(&(until, number, id));
                    ended = Some(Ended { member: id, unused: 0 });
                }
            }
            None => member.push -= 1,
        }
        self.line_up(id);
        Some((id, ended))
    }

    /// The next want whose time is over.
    pub(super) fn expire(&mut self, now: Duration) -> Option<Ended> {
        let (until, number, id) = *self.ends.first()?;
        if now < until {
            return None;
        }
        self.ends.pop_first();
        let member = self.by_id.get_mut(&id).expect("a want belongs to a member");
        let unused = member.wants.remove(&(until, number)).unwrap_or(0);
        if member.credit() == 0 && std::mem::take(&mut member.has_turn) {
            self.turns.retain(|other| *other != id);
        }
        Some(Ended { member: id, unused })
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.ends.first().map(|(until, ..)| *until)
    }

    fn line_up(&mut self, id: MemberId) {
        let Some(member) = self.by_id.get_mut(&id) else { return };
        if member.credit() > 0 && !member.is_paused && !std::mem::replace(&mut member.has_turn, true) {
            self.turns.push_back(id);
        }
    }
}

impl Member {
    fn credit(&self) -> u64 {
        self.wants.values().map(|left| u64::from(*left)).sum::<u64>() + u64::from(self.push)
    }
}
