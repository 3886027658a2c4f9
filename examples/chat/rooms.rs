//! The rooms and what was said in them. Knows nothing of sockets.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// Messages that a room keeps for those who come later.
const KEPT: usize = 50;
const ROOMS_MAX: usize = 100;
const ROOM_LETTERS_MAX: usize = 24;
const TEXT_LETTERS_MAX: usize = 2_000;

/// One message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Said {
    /// Its number in the room: from 1, dense.
    pub(crate) n: u64,
    /// Chosen by whoever said it: the same when it is sent again.
    pub(crate) key: String,
    /// The socket that said it.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) text: String,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
}

/// One room as the list shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) people: usize,
    /// Messages so far.
    pub(crate) messages: u64,
}

#[derive(Default)]
pub(crate) struct Rooms {
    rooms: BTreeMap<String, Room>,
}

#[derive(Default)]
struct Room {
    messages: u64,
    last: VecDeque<Said>,
}

impl Rooms {
    /// Makes a room, unless it exists. The error is for people.
    pub(crate) fn open(&mut self, name: &str) -> Result<(), &'static str> {
        let is_fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || ROOM_LETTERS_MAX < name.len() || !name.chars().all(is_fine) {
            return Err("a room's name has 1 to 24 small letters, digits and hyphens");
        }
        if !self.rooms.contains_key(name) && self.rooms.len() == ROOMS_MAX {
            return Err("there are 100 rooms already: one of them will do");
        }
        self.rooms.entry(name.to_owned()).or_default();
        Ok(())
    }

    /// Adds a message, as number `n`. One that is there already keeps its number, and comes as `Err`.
    pub(crate) fn say(&mut self, room: &str, said: Said) -> Result<Result<Said, Said>, &'static str> {
        let Some(room) = self.rooms.get_mut(room) else { return Err("there is no such room") };
        if said.text.trim().is_empty() || TEXT_LETTERS_MAX < said.text.chars().count() {
            return Err("a message has 1 to 2,000 letters");
        }
        if let Some(before) = room.last.iter().find(|before| before.key == said.key) {
            return Ok(Err(before.clone()));
        }
        room.messages += 1;
        let said = Said { n: room.messages, ..said };
        if room.last.len() == KEPT {
            room.last.pop_front();
        }
        room.last.push_back(said.clone());
        Ok(Ok(said))
    }

    /// The last messages of a room, oldest first.
    pub(crate) fn last(&self, room: &str) -> Vec<Said> {
        self.rooms.get(room).map(|room| room.last.iter().cloned().collect()).unwrap_or_default()
    }

    /// All rooms, with as many people as `people` says.
    pub(crate) fn list(&self, people: impl Fn(&str) -> usize) -> Vec<Row> {
        let row = |(name, room): (&String, &Room)| Row {
            name: name.clone(),
            people: people(name),
            messages: room.messages,
        };
        self.rooms.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(key: &str, text: &str) -> Said {
        let (key, text) = (key.to_owned(), text.to_owned());
        Said { n: 0, key, id: "1".to_owned(), name: "Ann".to_owned(), text, at: 0 }
    }

    #[test]
    fn messages_are_numbered_and_the_last_fifty_kept() {
        let mut rooms = Rooms::default();
        rooms.open("lobby").unwrap();
        for n in 1..=60 {
            assert_eq!(rooms.say("lobby", said(&n.to_string(), "hello")).unwrap().unwrap().n, n);
        }
        let numbers: Vec<u64> = rooms.last("lobby").iter().map(|said| said.n).collect();
        assert_eq!(numbers, (11..=60).collect::<Vec<_>>());
        assert_eq!(rooms.list(|_| 3), [Row { name: "lobby".to_owned(), people: 3, messages: 60 }]);
    }

    #[test]
    fn a_message_that_is_sent_again_is_there_once() {
        let mut rooms = Rooms::default();
        rooms.open("lobby").unwrap();
        let first = rooms.say("lobby", said("a", "hello")).unwrap().unwrap();
        assert_eq!(rooms.say("lobby", said("a", "hello")).unwrap(), Err(first));
        assert_eq!(rooms.last("lobby").len(), 1);
    }

    #[test]
    fn bad_names_and_texts_are_refused() {
        let mut rooms = Rooms::default();
        for name in ["", "Lobby", "a b", "ä", "a/b", &"x".repeat(25)] {
            assert!(rooms.open(name).is_err(), "{name}");
        }
        assert!(rooms.say("nowhere", said("a", "hello")).is_err());
        rooms.open("lobby").unwrap();
        for text in ["", "  \n", &"x".repeat(2_001)] {
            assert!(rooms.say("lobby", said("a", text)).is_err());
        }
        (1..ROOMS_MAX).for_each(|n| rooms.open(&format!("room-{n}")).unwrap());
        assert!(rooms.open("one-more").is_err());
        rooms.open("lobby").unwrap();
    }
}
