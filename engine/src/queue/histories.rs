//! Random histories of a queue group against a naive model, in virtual time; each prints its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::group::{Action, Counts, Facts, Group, HandOver, MemberId, Output, Rules, StaleLease};
use super::progress::Progress;
use super::promises::{numbered_leases, verdict};

/// xorshift: enough chance for a test, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// What must be true of each message, kept in the simplest way.
#[derive(Default)]
struct Model {
    leases: BTreeMap<u64, (HandOver, Duration)>,
    attempts: BTreeMap<u64, u32>,
    /// Handed over since the last restart.
    begun: BTreeSet<u64>,
    not_before: BTreeMap<u64, Duration>,
    done: BTreeSet<u64>,
    acked: BTreeSet<u64>,
    dead: BTreeSet<u64>,
}

struct History {
    seed: u64,
    random: Random,
    rules: Rules,
    group: Group,
    now: Duration,
    facts: Vec<Facts>,
    model: Model,
    members: BTreeSet<MemberId>,
    /// What a log of deltas would give back.
    recorded: Progress,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let rules = Rules {
            ack_wait: Duration::from_millis(1 + random.below(3_000)),
            max_deliver: 1 + random.below(4) as u32,
            max_in_flight: 1 + random.below(20) as u32,
            max_in_flight_per_key: random.below(3) as u32,
        };
        Self {
            seed,
            random,
            rules,
            group: Group::new(rules, Progress::starting_at(0), numbered_leases()),
            now: Duration::ZERO,
            facts: Vec::new(),
            model: Model::default(),
            members: BTreeSet::new(),
            recorded: Progress::starting_at(0),
        }
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..5 => {
                let key = (self.random.below(3) > 0).then(|| self.random.below(4));
                let due = (self.random.below(5) == 0)
                    .then(|| self.now + Duration::from_millis(self.random.below(2_000)));
                self.facts.push(Facts { key, due });
                self.group.extended(self.facts.len() as u64);
            }
            5..7 => drop((self.members.insert(self.random.below(6)), self.join_all())),
            7 => {
                let member = self.random.below(6);
                self.members.remove(&member);
                self.group.leave(self.now, member);
                self.model.leases.retain(|_, (lease, _)| lease.member != member);
            }
            8..11 => {
                let (member, messages) = (self.random.below(6), self.random.below(4) as u32);
                let wait = (self.random.below(2) == 0).then(|| Duration::from_millis(self.random.below(900)));
                self.group.want(self.now, member, messages, wait);
            }
            11..13 => self.now += Duration::from_millis(self.random.below(700)),
            13 if self.random.below(8) == 0 => self.restart(),
            13 => {
                let member = self.random.below(6);
                if self.random.below(2) == 0 { self.group.pause(member) } else { self.group.resume(member) }
            }
            14 => self.invent(),
            _ => self.settle_one(),
        }
        self.drain();
    }

    fn join_all(&mut self) {
        self.members.iter().for_each(|member| self.group.join(*member));
    }

    /// Q7: what names no live lease is refused.
    fn invent(&mut self) {
        let offset = self.random.below(self.facts.len() as u64 + 1);
        let member = self.random.below(6);
        let made_up = HandOver { offset, attempt: 1, lease: [9; 16], member };
        assert_eq!(
            self.group.settle(self.now, member, &verdict(&made_up, Action::Ack)),
            Err(StaleLease),
            "seed {}: an invented ack counted",
            self.seed
        );
    }

    fn settle_one(&mut self) {
        let at = self.random.below(self.model.leases.len() as u64 + 1) as usize;
        let Some((hand_over, until)) = self.model.leases.values().nth(at).copied() else { return };
        let HandOver { offset, attempt, member, .. } = hand_over;
        let delay = Duration::from_millis(self.random.below(2) * self.random.below(900));
        let action = [Action::Ack, Action::Ack, Action::Nack(delay), Action::Extend(delay), Action::Dead]
            [self.random.below(5) as usize];
        let outcome = self.group.settle(self.now, member, &verdict(&hand_over, action));
        let live = self.now < until;
        assert_eq!(outcome.is_ok(), live, "seed {}: {hand_over:?} until {until:?}", self.seed);
        if !live {
            return;
        }
        match action {
            Action::Ack => {
                self.model.done.insert(offset);
                self.model.acked.insert(offset);
            }
            Action::Nack(delay) => drop(self.model.not_before.insert(offset, self.now + delay)),
            Action::Extend(by) => {
                let by = if by.is_zero() { self.rules.ack_wait } else { by };
                self.model.leases.insert(offset, (hand_over, self.now + by));
                return;
            }
            Action::Dead => drop(self.model.attempts.insert(offset, attempt.max(self.rules.max_deliver))),
        }
        self.model.leases.remove(&offset);
    }

    /// The server goes down and comes back with what it recorded.
    fn restart(&mut self) {
        let mut bytes = Vec::new();
        self.recorded.encode(&mut bytes);
        let progress = Progress::decode(&bytes).unwrap();
        self.group = Group::new(self.rules, progress, numbered_leases());
        self.group.extended(self.facts.len() as u64);
        self.members.clear();
        self.model.leases.clear();
        self.model.not_before.clear();
        self.model.begun.clear();
    }

    fn drain(&mut self) {
        loop {
            let output = self.group.poll(self.now);
            let delta = self.group.take_delta();
            self.recorded.apply(delta.as_bytes()).unwrap();
            assert_eq!(
                &self.recorded,
                self.group.progress(),
                "seed {}: the deltas tell another story",
                self.seed
            );
            match output {
                Output::Look { from, count } => {
                    let facts = self.facts[from as usize..].iter().take(count as usize).copied().map(Some);
                    self.group.look(self.now, from, facts);
                }
                Output::HandOver(hand_over) => self.handed(hand_over),
                Output::Dead { offset, attempts, .. } => self.died(offset, attempts),
                Output::WantEnded { .. } => {}
                Output::Wait(until) => return self.at_rest(until),
            }
        }
    }

    fn handed(&mut self, hand_over: HandOver) {
        let (seed, HandOver { offset, attempt, .. }) = (self.seed, hand_over);
        let model = &mut self.model;
        assert!(!model.done.contains(&offset), "seed {seed}: Q3, Q5: {offset} was done");
        let live = model.leases.get(&offset).is_some_and(|(_, until)| self.now < *until);
        assert!(!live, "seed {seed}: Q2: two leases on {offset}");
        let attempts = model.attempts.entry(offset).or_insert(0);
        *attempts += 1;
        assert_eq!(*attempts, attempt, "seed {seed}: Q2: attempts of {offset}");
        assert!(attempt <= self.rules.max_deliver, "seed {seed}: Q5");
        let due = self.facts[offset as usize].due.max(model.not_before.get(&offset).copied());
        assert!(due.is_none_or(|due| due <= self.now), "seed {seed}: {offset} came before it was due");
        model.leases.insert(offset, (hand_over, self.now + self.rules.ack_wait));
        model.begun.insert(offset);
        let live = model.leases.values().filter(|(_, until)| self.now < *until).count();
        assert!(live <= self.rules.max_in_flight as usize, "seed {seed}");
        let (key, limit) = (self.facts[offset as usize].key, self.rules.max_in_flight_per_key as usize);
        if key.is_some() && limit > 0 {
            let begun = model.open_of(&self.facts, key).count();
            assert!(begun <= limit, "seed {seed}: Q6: {begun} of one key");
        }
    }

    fn died(&mut self, offset: u64, attempts: u32) {
        let seed = self.seed;
        assert!(self.model.dead.insert(offset), "seed {seed}: Q5: two dead letters of {offset}");
        assert!(self.model.done.insert(offset), "seed {seed}: Q5: {offset} was acknowledged");
        assert!(attempts <= self.rules.max_deliver && attempts > 0, "seed {seed}: {attempts} attempts");
        self.recorded.apply(Group::dead_delta(offset).as_bytes()).unwrap();
        self.group.buried(offset);
        self.model.leases.remove(&offset);
    }

    /// Q1, Q4: when the group rests, nothing is left that could be handed over now.
    fn at_rest(&mut self, until: Option<Duration>) {
        let (seed, now) = (self.seed, self.now);
        let model = &self.model;
        let live = |offset: &u64| model.leases.get(offset).is_some_and(|(_, until)| now < *until);
        let Counts { in_flight, .. } = self.group.counts();
        assert_eq!(
            in_flight as usize,
            model.leases.keys().filter(|offset| live(offset)).count(),
            "seed {seed}"
        );
        if let Some(next) = model.leases.values().map(|(_, until)| *until).filter(|until| now < *until).min()
        {
            assert!(until.is_some_and(|until| until <= next), "seed {seed}: Q4: sleeps past a lease's end");
        }
        if !self.group.could_hand_over() {
            return;
        }
        let limit = self.rules.max_in_flight_per_key as usize;
        for (offset, facts) in (0..).zip(&self.facts) {
            let due = facts.due.max(model.not_before.get(&offset).copied());
            if model.done.contains(&offset) || live(&offset) || due.is_some_and(|due| now < due) {
                continue;
            }
            let others = model.open_of(&self.facts, facts.key).count();
            let has_begun = model.begun.contains(&offset);
            let waits = facts.key.is_some() && limit > 0 && !has_begun && others >= limit;
            assert!(waits, "seed {seed}: Q1, Q4: {offset} could be handed over at {now:?}");
        }
    }
}

impl Model {
    /// Messages of a key that were handed over since the last restart and are not done.
    fn open_of<'a>(&'a self, facts: &'a [Facts], key: Option<u64>) -> impl Iterator<Item = u64> + 'a {
        let open = self.begun.iter().filter(|offset| !self.done.contains(offset));
        open.filter(move |offset| facts[**offset as usize].key == key).copied()
    }
}

#[test]
fn random_histories_keep_every_promise() {
    for seed in 1..=1_000 {
        let mut history = History::new(seed);
        for _ in 0..120 {
            history.step();
        }
        // Q1: with a member that stays, every message ends acknowledged or dead.
        history.members.insert(77);
        history.join_all();
        for _ in 0..10_000 {
            history.group.want(history.now, 77, 1, None);
            history.drain();
            let mine: Vec<_> = history.model.leases.values().map(|(one, _)| *one).collect();
            for hand_over in mine.iter().filter(|one| one.member == 77) {
                if history.group.settle(history.now, 77, &verdict(hand_over, Action::Ack)).is_ok() {
                    history.model.done.insert(hand_over.offset);
                    history.model.leases.remove(&hand_over.offset);
                }
            }
            if history.model.done.len() == history.facts.len() {
                break;
            }
            history.now += Duration::from_millis(200);
        }
        assert_eq!(history.model.done.len(), history.facts.len(), "seed {seed}: Q1: messages got stuck");
        assert_eq!(history.group.floor(), history.facts.len() as u64, "seed {seed}");
    }
}
