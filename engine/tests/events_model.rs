//! The event layer against a model of fifty lines: who joins, leaves, emits, loses its connection and comes back is left to
//! chance, and what each client hears must be exactly what the model says, in order.

#![allow(clippy::unwrap_used, reason = "in a test a failed step is a failed test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Client, events};
use twinlane::events::Events;
use twinlane::events::peer::ToClient;

const CLIENTS: usize = 5;
const ROOMS: [&str; 4] = ["r0", "r1", "r2", "r3"];
const STEPS: u64 = 400;

/// What one client should be: rooms, and the numbers of events that it has to hear.
#[derive(Default)]
struct Expected {
    rooms: BTreeSet<&'static str>,
    events: Vec<u64>,
    is_here: bool,
}

/// Small numbers that look random, the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        // Numerical Recipes' quick generator; its high bits are good enough to choose by.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn rooms(&mut self, at_most: u64) -> Vec<&'static str> {
        (0..self.below(at_most + 1)).map(|_| ROOMS[self.below(4) as usize]).collect()
    }
}

struct World {
    io: Events,
    chance: Chance,
    clients: Vec<Client>,
    expected: Vec<Expected>,
    heard: BTreeMap<usize, Vec<u64>>,
    emitted: u64,
}

impl World {
    async fn new(seed: u64) -> Self {
        let io = events();
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(Client::join(&io).await);
        }
        let expected = (0..CLIENTS).map(|_| Expected { is_here: true, ..Expected::default() }).collect();
        Self { io, chance: Chance(seed), clients, expected, heard: BTreeMap::new(), emitted: 0 }
    }

    async fn step(&mut self) {
        let who = self.chance.below(CLIENTS as u64) as usize;
        match (self.chance.below(10), self.expected[who].is_here) {
            (0, true) => self.join(who),
            (1, true) => self.leave(who),
            (2, true) => self.lose(who),
            (3 | 4, true) => self.hear(who),
            (0..=4, false) => self.return_one(who).await,
            _ => self.emit().await,
        }
    }

    fn join(&mut self, who: usize) {
        let room = ROOMS[self.chance.below(4) as usize];
        self.io.socket(&self.clients[who].sid).unwrap().join(room).unwrap();
        self.expected[who].rooms.insert(room);
    }

    fn leave(&mut self, who: usize) {
        let room = ROOMS[self.chance.below(4) as usize];
        self.io.socket(&self.clients[who].sid).unwrap().leave(room);
        self.expected[who].rooms.remove(room);
    }

    async fn emit(&mut self) {
        let (to, except) = (self.chance.rooms(2), self.chance.rooms(1));
        self.emitted += 1;
        for expected in &mut self.expected {
            let is_in = |room: &&str| expected.rooms.contains(*room);
            if (to.is_empty() || to.iter().any(is_in)) && !except.iter().any(is_in) {
                expected.events.push(self.emitted);
            }
        }
        self.io.to(to).except(except).emit("n", &self.emitted).await.unwrap();
    }

    /// What has come so far is heard.
    fn hear(&mut self, who: usize) {
        let events = self.clients[who].events();
        let numbers = events.iter().map(|event| event[1].as_u64().unwrap());
        self.heard.entry(who).or_default().extend(numbers);
    }

    /// The connection breaks. What was under way and not heard is lost with it.
    fn lose(&mut self, who: usize) {
        self.clients[who].lose();
        self.expected[who].is_here = false;
    }

    async fn return_one(&mut self, who: usize) {
        let mut back = Client::return_as(&self.io, &self.clients[who]).await;
        assert_eq!(back.sid, self.clients[who].sid, "it is who it was");
        back.offset = self.clients[who].offset.take();
        self.clients[who] = back;
        self.expected[who].is_here = true;
        let rooms = self.io.socket(&self.clients[who].sid).unwrap().rooms();
        let rooms: BTreeSet<_> =
            rooms.iter().filter(|room| ***room != *self.clients[who].sid).map(|room| &**room).collect();
        assert_eq!(rooms, self.expected[who].rooms, "it is in its rooms");
    }
}

#[tokio::test]
async fn whatever_happens_each_client_hears_what_it_should_once_and_in_order() {
    for seed in 0..60 {
        let mut world = World::new(seed).await;
        for _ in 0..STEPS {
            world.step().await;
        }
        for who in 0..CLIENTS {
            if !world.expected[who].is_here {
                world.return_one(who).await;
            }
            world.hear(who);
            let heard = world.heard.remove(&who).unwrap_or_default();
            assert_eq!(heard, world.expected[who].events, "client {who}, seed {seed}");
        }
    }
}

#[tokio::test]
async fn the_model_notices_an_event_that_is_missing() {
    let mut world = World::new(1).await;
    world.emit().await;
    world.emit().await;
    let ToClient::Burst(_) = world.clients[0].next().await else { panic!("an event") };
    world.hear(0);
    assert_ne!(world.heard[&0], world.expected[0].events);
}
