//! Who is in which room of one namespace, and whom an audience means. It sends nothing and takes no locks.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::rooms::RoomEvent;

/// Stays that are over and remembered, for each member: who left a room may still have missed what came before.
const PAST_MAX: usize = 32;

/// The members of a namespace: values of type `S` by a number, in rooms by name.
///
/// What joining and leaving did to rooms is collected until [`Self::take_events`].
#[derive(Debug)]
pub(super) struct Members<S> {
    seats: Vec<Option<Seat<S>>>,
    free: Vec<usize>,
    by_id: HashMap<Arc<str>, usize>,
    rooms: HashMap<Arc<str>, Vec<usize>>,
    /// When a seat was last part of a selection: of the current one if equal to `selection`.
    selected: Vec<u64>,
    selection: u64,
    events: Vec<RoomEvent>,
}

#[derive(Debug)]
struct Seat<S> {
    id: Arc<str>,
    rooms: Vec<Stay>,
    /// Stays that are over, the newest last.
    past: VecDeque<Stay>,
    value: S,
}

/// A member's time in a room: it gets the events of these offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stay {
    pub(super) room: Arc<str>,
    pub(super) events: Range<u64>,
}

/// A room that cannot be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a socket may be in at most {0} rooms")]
pub(super) struct TooManyRooms(pub(super) usize);

impl Stay {
    /// Whether it goes on.
    pub(super) fn is_open(&self) -> bool {
        self.events.end == u64::MAX
    }
}

impl<S> Members<S> {
    pub(super) fn new() -> Self {
        Self {
            seats: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            rooms: HashMap::new(),
            selected: Vec::new(),
            selection: 0,
            events: Vec::new(),
        }
    }

    /// A new member, from offset `at` on in a room named as itself.
    pub(super) fn insert(&mut self, id: Arc<str>, value: S, at: u64) -> usize {
        let own = Stay { room: Arc::clone(&id), events: at..u64::MAX };
        self.insert_again(id, value, vec![own])
    }

    /// A member that comes back: where it was when [`Self::remove`] said so it has been all the time.
    pub(super) fn insert_again(&mut self, id: Arc<str>, value: S, stays: Vec<Stay>) -> usize {
        let (open, past): (Vec<_>, Vec<_>) = stays.into_iter().partition(Stay::is_open);
        let seat = Some(Seat { id: Arc::clone(&id), rooms: Vec::new(), past: past.into(), value });
        let key = match self.free.pop() {
            Some(key) => {
                self.seats[key] = seat;
                key
            }
            None => {
                self.seats.push(seat);
                self.selected.push(0);
                self.seats.len() - 1
            }
        };
        self.by_id.insert(id, key);
        for Stay { room, events } in open {
            self.enter(key, room, events.start);
        }
        key
    }

    /// The member leaves every room, and is no member any more. Returns where it has been: first the rooms it was in
    /// until now, whose stays have no end, then earlier stays.
    pub(super) fn remove(&mut self, key: usize, at: u64) -> Option<(S, Vec<Stay>)> {
        let mut stays = self.seats.get(key)?.as_ref()?.rooms.clone();
        stays.extend(self.seats[key].as_ref()?.past.iter().cloned());
        for stay in stays.iter().filter(|stay| stay.is_open()) {
            self.leave(key, &stay.room, at);
        }
        let seat = self.seats[key].take()?;
        self.by_id.remove(&seat.id);
        self.free.push(key);
        Some((seat.value, stays))
    }

    /// Joins from offset `at` on, at most `rooms_max` rooms in all beside its own. Returns whether it was not in there.
    pub(super) fn join(
        &mut self,
        key: usize,
        room: &str,
        at: u64,
        rooms_max: usize,
    ) -> Result<bool, TooManyRooms> {
        let Some(Some(seat)) = self.seats.get(key) else { return Ok(false) };
        if seat.rooms.iter().any(|stay| *stay.room == *room) {
            return Ok(false);
        }
        if seat.rooms.len() > rooms_max {
            return Err(TooManyRooms(rooms_max));
        }
        let room = match self.rooms.get_key_value(room) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(room),
        };
        self.enter(key, room, at);
        Ok(true)
    }

    /// Leaves: the events from offset `at` on are not for it.
    pub(super) fn leave(&mut self, key: usize, room: &str, at: u64) {
        let Some(Some(seat)) = self.seats.get_mut(key) else { return };
        let Some(index) = seat.rooms.iter().position(|stay| *stay.room == *room) else { return };
        let Stay { room, events } = seat.rooms.remove(index);
        if seat.past.len() == PAST_MAX {
            seat.past.pop_front();
        }
        seat.past.push_back(Stay { room: Arc::clone(&room), events: events.start..at });
        let id = Arc::clone(&seat.id);
        let Some(members) = self.rooms.get_mut(&room) else { return };
        if let Ok(at) = members.binary_search(&key) {
            members.remove(at);
        }
        let is_empty = members.is_empty();
        self.events.push(RoomEvent::Left { room: Arc::clone(&room), id });
        if is_empty {
            self.rooms.remove(&room);
            self.events.push(RoomEvent::Deleted { room });
        }
    }

    pub(super) fn get(&self, key: usize) -> Option<&S> {
        Some(&self.seats.get(key)?.as_ref()?.value)
    }

    pub(super) fn find(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The rooms it is in, its own first.
    pub(super) fn rooms_of(&self, key: usize) -> impl Iterator<Item = &Arc<str>> {
        let seat = self.seats.get(key).and_then(Option::as_ref);
        seat.into_iter().flat_map(|seat| &seat.rooms).map(|stay| &stay.room)
    }

    /// How many members there are.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Each room and its members.
    pub(super) fn rooms(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.rooms.iter().map(|(room, members)| (room, members.len()))
    }

    /// Calls `each` for every member that is in any room of `to` (everyone if there is none), in none of `except`, and
    /// not named in `without`: once for each member.
    pub(super) fn select<'a>(
        &mut self,
        to: impl Iterator<Item = &'a str>,
        except: impl Iterator<Item = &'a str>,
        without: impl Iterator<Item = &'a str>,
        mut each: impl FnMut(usize, &S),
    ) {
        self.selection += 1;
        let Self { seats, by_id, rooms, selected, selection, .. } = self;
        for key in without.filter_map(|id| by_id.get(id)) {
            selected[*key] = *selection;
        }
        for key in except.filter_map(|room| rooms.get(room)).flatten() {
            selected[*key] = *selection;
        }
        let mut to = to.peekable();
        let mut take = |key: usize, seat: &Option<Seat<S>>| {
            if let (Some(seat), true) = (seat, selected[key] != *selection) {
                selected[key] = *selection;
                each(key, &seat.value);
            }
        };
        if to.peek().is_none() {
            seats.iter().enumerate().for_each(|(key, seat)| take(key, seat));
        }
        for key in to.filter_map(|room| rooms.get(room)).flatten() {
            take(*key, &seats[*key]);
        }
    }

    /// What became of rooms since the last call, in order.
    pub(super) fn take_events(&mut self) -> Vec<RoomEvent> {
        std::mem::take(&mut self.events)
    }

    fn enter(&mut self, key: usize, room: Arc<str>, at: u64) {
        let seat = self.seats[key].as_mut().expect("only members enter rooms");
        seat.rooms.push(Stay { room: Arc::clone(&room), events: at..u64::MAX });
        let id = Arc::clone(&seat.id);
        let members = self.rooms.entry(Arc::clone(&room)).or_default();
        if members.is_empty() {
            self.events.push(RoomEvent::Created { room: Arc::clone(&room) });
        }
        // Sorted: a member is found, and found gone, without looking at all of them.
        let at = members.binary_search(&key).expect_err("whoever is in a room does not enter it again");
        members.insert(at, key);
        self.events.push(RoomEvent::Joined { room, id });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a` in r1 and r2, `b` in r2, `c` in no room but its own.
    fn three() -> Members<char> {
        let mut members = Members::new();
        for (id, rooms) in [("a", vec!["r1", "r2"]), ("b", vec!["r2"]), ("c", vec![])] {
            let key = members.insert(id.into(), id.chars().next().unwrap(), 0);
            rooms.iter().for_each(|room| assert_eq!(members.join(key, room, 0, 10), Ok(true)));
        }
        members
    }

    fn selected(members: &mut Members<char>, to: &[&str], except: &[&str]) -> String {
        let mut found = String::new();
        members.select(to.iter().copied(), except.iter().copied(), [].into_iter(), |_, value| {
            found.push(*value);
        });
        found
    }

    #[test]
    fn who_is_in_several_of_the_rooms_is_meant_once() {
        assert_eq!(selected(&mut three(), &["r1", "r2"], &[]), "ab");
    }

    #[test]
    fn no_room_means_everyone_and_except_takes_out() {
        let members = &mut three();
        assert_eq!(selected(members, &[], &[]), "abc");
        assert_eq!(selected(members, &[], &["r1"]), "bc");
        assert_eq!(selected(members, &["r2"], &["b"]), "a");
        assert_eq!(selected(members, &["nowhere"], &[]), "");
    }

    #[test]
    fn who_is_left_out_itself_leaves_its_room_in() {
        let mut members = three();
        let key = members.find("b").unwrap();
        members.join(key, "a", 0, 10).unwrap();
        let mut found = Vec::new();
        members.select(["a"].into_iter(), [].into_iter(), ["a"].into_iter(), |_, value| found.push(*value));
        assert_eq!(found, ['b']);
    }

    #[test]
    fn each_member_is_in_a_room_named_as_itself() {
        assert_eq!(selected(&mut three(), &["c"], &[]), "c");
    }

    #[test]
    fn rooms_tell_when_they_begin_and_end() {
        let mut members = three();
        members.take_events();
        let key = members.find("a").unwrap();
        members.leave(key, "r1", 5);
        let (room, id): (Arc<str>, Arc<str>) = ("r1".into(), "a".into());
        let left = RoomEvent::Left { room: Arc::clone(&room), id };
        assert_eq!(members.take_events(), [left, RoomEvent::Deleted { room }]);
    }

    #[test]
    fn who_leaves_for_good_is_in_no_room_and_its_place_is_used_again() {
        let mut members = three();
        let key = members.find("a").unwrap();
        let (_, stays) = members.remove(key, 5).unwrap();
        assert_eq!(stays.iter().map(|stay| &*stay.room).collect::<Vec<_>>(), ["a", "r1", "r2"]);
        assert_eq!(selected(&mut members, &["a", "r1", "r2"], &[]), "b");
        assert_eq!(members.insert("d".into(), 'd', 5), key);
        assert_eq!(selected(&mut members, &[], &[]), "dbc");
    }

    #[test]
    fn a_member_joins_so_many_rooms_and_no_more() {
        let mut members = three();
        let key = members.find("c").unwrap();
        assert_eq!(members.join(key, "r1", 0, 1), Ok(true));
        assert_eq!(members.join(key, "r1", 0, 1), Ok(false));
        assert_eq!(members.join(key, "r2", 0, 1), Err(TooManyRooms(1)));
    }
}
