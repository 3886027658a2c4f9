//! One direction of a link: packets go in, and come out when they are due. Reads no clock and touches no device.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use crate::{
    counts::Traffic,
    link::{Direction, Share},
    random::Random,
};

/// Packets of a direction that wait together, in bytes: a link without a rate has no queue of its own to bound them.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Buffers that are kept for the next packets.
const SPARE_MAX: usize = 1_024;
/// Where the protocol stands in an IPv4 and in an IPv6 header.
const PROTOCOL_AT: (usize, usize) = (9, 6);

/// One direction. Instants are nanoseconds of the caller's clock, which never goes back.
pub(crate) struct Pipe {
    direction: Direction,
    random: Random,
    /// Whether the burst that loses packets is on.
    losing: bool,
    /// When the last packet that was queued will have left for the wire.
    wire_free_ns: u64,
    /// The last packet that keeps order is due then.
    last_due_ns: u64,
    waiting: BinaryHeap<Reverse<Waiting>>,
    waiting_bytes: usize,
    /// Packets so far, so that those due at once keep their order.
    serial: u64,
    spare: Vec<Vec<u8>>,
    counts: Traffic,
}

/// A packet on its way. Its order is that in which packets arrive.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due_ns: u64,
    serial: u64,
    packet: Vec<u8>,
}

impl Pipe {
    pub(crate) fn new(direction: Direction, seed: u64) -> Self {
        Self {
            direction,
            random: Random::new(seed),
            losing: false,
            wire_free_ns: 0,
            last_due_ns: 0,
            waiting: BinaryHeap::new(),
            waiting_bytes: 0,
            serial: 0,
            spare: Vec::new(),
            counts: Traffic::default(),
        }
    }

    /// What is under way keeps its instant; what is blocked now does not arrive any more.
    pub(crate) fn set(&mut self, direction: Direction) {
        self.direction = direction;
        if direction.loss == Share::NONE || direction.burst == 0 {
            self.losing = false;
        }
    }

    pub(crate) fn counts(&self) -> Traffic {
        Traffic { under_way: self.waiting.len() as u64, ..self.counts }
    }

    /// Takes a packet that was sent at `now_ns`.
    pub(crate) fn offer(&mut self, now_ns: u64, packet: &[u8]) {
        self.counts.offered += 1;
        self.counts.offered_bytes += packet.len() as u64;
        let Direction { delay, mtu, duplicate, block, .. } = self.direction;
        if block.stops(protocol(packet)) {
            self.counts.blocked += 1;
        } else if mtu > 0 && packet.len() > mtu as usize {
            self.counts.too_big += 1;
        } else if let Some(sent_ns) = self.queue(now_ns, packet.len()) {
            if self.loses() {
                self.counts.lost += 1;
                return;
            }
            let copies = if self.random.chance(duplicate) { 2 } else { 1 };
            self.counts.duplicated += copies - 1;
            for _ in 0..copies {
                let due_ns = self.due(sent_ns + delay.as_nanos() as u64);
                self.keep(due_ns, packet);
            }
        } else {
            self.counts.queue_full += 1;
        }
    }

    /// When the next packet arrives.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        self.waiting.peek().map(|Reverse(next)| next.due_ns)
    }

    /// The next packet that has arrived at `now_ns`. What became of it is told with [`Self::delivered`] or
    /// [`Self::refused`].
    pub(crate) fn arrived(&mut self, now_ns: u64) -> Option<(Vec<u8>, Duration)> {
        while self.next_due_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            let Reverse(Waiting { due_ns, packet, .. }) = self.waiting.pop()?;
            self.waiting_bytes -= packet.len();
            if !self.direction.block.stops(protocol(&packet)) {
                return Some((packet, Duration::from_nanos(now_ns - due_ns)));
            }
            self.counts.blocked += 1;
            self.reuse(packet);
        }
        None
    }

    pub(crate) fn delivered(&mut self, packet: Vec<u8>, late: Duration) {
        self.counts.delivered += 1;
        self.counts.delivered_bytes += packet.len() as u64;
        self.counts.lateness.count(late);
        self.reuse(packet);
    }

    pub(crate) fn refused(&mut self, packet: Vec<u8>) {
        self.counts.refused += 1;
        self.reuse(packet);
    }

    /// When a packet has left for the wire, if the queue before it takes it.
    fn queue(&mut self, now_ns: u64, packet_bytes: usize) -> Option<u64> {
        if self.waiting_bytes + packet_bytes > WAITING_BYTES_MAX {
            return None;
        }
        let rate_bits = self.direction.rate_bits;
        if rate_bits == 0 {
            return Some(now_ns);
        }
        let free_ns = self.wire_free_ns.max(now_ns);
        let queued_bytes = u128::from(free_ns - now_ns) * u128::from(rate_bits) / 8_000_000_000;
        if queued_bytes + packet_bytes as u128 > u128::from(self.direction.queue_bytes_max()) {
            return None;
        }
        let takes_ns = packet_bytes as u128 * 8_000_000_000 / u128::from(rate_bits);
        self.wire_free_ns = free_ns + takes_ns as u64;
        Some(self.wire_free_ns)
    }

    fn loses(&mut self) -> bool {
        let Direction { loss, burst, .. } = self.direction;
        if burst == 0 || loss == Share::percent(100) {
            return self.random.chance(loss);
        }
        // Of the bad state one comes out after `burst` packets on average; so often one must get in that the share of
        // packets in it is `loss`.
        let lost = f64::from(loss.per_million()) / 1e6;
        let ends = 1.0 / f64::from(burst);
        let begins = (ends * lost / (1.0 - lost)).min(1.0);
        let changes = if self.losing { ends } else { begins };
        self.losing ^= self.random.chance(Share::of_million((changes * 1e6).round() as u32));
        self.losing
    }

    /// When a packet arrives that would at `due_ns` without jitter.
    fn due(&mut self, due_ns: u64) -> u64 {
        let Direction { jitter, reorder, .. } = self.direction;
        let jitter_ns = jitter.as_nanos() as u64;
        let due_ns = match jitter_ns {
            0 => due_ns,
            _ => (due_ns + self.random.up_to(2 * jitter_ns)).saturating_sub(jitter_ns),
        };
        if self.random.chance(reorder.share) {
            self.counts.held_back += 1;
            return due_ns.max(self.last_due_ns) + 1 + self.random.up_to(reorder.by.as_nanos() as u64);
        }
        self.last_due_ns = due_ns.max(self.last_due_ns);
        self.last_due_ns
    }

    fn keep(&mut self, due_ns: u64, packet: &[u8]) {
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.extend_from_slice(packet);
        self.waiting_bytes += kept.len();
        self.serial += 1;
        self.waiting.push(Reverse(Waiting { due_ns, serial: self.serial, packet: kept }));
    }

    fn reuse(&mut self, mut packet: Vec<u8>) {
        if self.spare.len() < SPARE_MAX {
            packet.clear();
            self.spare.push(packet);
        }
    }
}

/// The protocol above IP; 0 where that is not to be seen.
fn protocol(packet: &[u8]) -> u8 {
    let at = match packet.first().map(|first| first >> 4) {
        Some(4) => PROTOCOL_AT.0,
        Some(6) => PROTOCOL_AT.1,
        _ => return 0,
    };
    packet.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Link;

    const MS: u64 = 1_000_000;

    fn pipe(link: &str, seed: u64) -> Pipe {
        Pipe::new(link.parse::<Link>().unwrap().up, seed)
    }

    /// An IPv4 packet of UDP with its number where the source address would be.
    fn udp(number: u32, packet_bytes: usize) -> Vec<u8> {
        let mut packet = vec![0; packet_bytes.max(20)];
        (packet[0], packet[9]) = (0x45, 17);
        packet[12..16].copy_from_slice(&number.to_be_bytes());
        packet
    }

    /// Sends `count` packets, one each millisecond, and gives back when which number arrived.
    fn sent(pipe: &mut Pipe, count: u32) -> Vec<(u64, u32)> {
        for number in 0..count {
            pipe.offer(u64::from(number) * MS, &udp(number, 100));
        }
        drained(pipe)
    }

    fn drained(pipe: &mut Pipe) -> Vec<(u64, u32)> {
        let mut arrived = Vec::new();
        while let Some(due_ns) = pipe.next_due_ns() {
            while let Some((packet, late)) = pipe.arrived(due_ns) {
                arrived.push((due_ns, u32::from_be_bytes([packet[12], packet[13], packet[14], packet[15]])));
                pipe.delivered(packet, late);
            }
        }
        assert!(pipe.counts().adds_up(), "{}", pipe.counts());
        arrived
    }

    #[test]
    fn a_clean_link_delivers_everything_at_once_and_in_order() {
        let mut pipe = pipe("clean", 1);
        let expected: Vec<(u64, u32)> = (0..1_000).map(|n| (u64::from(n) * MS, n)).collect();
        assert_eq!(sent(&mut pipe, 1_000), expected);
    }

    #[test]
    fn every_packet_takes_the_delay() {
        let mut pipe = pipe("rtt=20ms", 1);
        assert!(sent(&mut pipe, 1_000).iter().all(|(at, n)| *at == (u64::from(*n) + 10) * MS));
    }

    #[test]
    fn the_share_that_is_lost_is_the_one_asked_for_with_and_without_bursts() {
        for (link, mean_burst) in [("loss=5%", 1.0 / 0.95), ("loss=5%,burst=6", 6.0)] {
            let mut pipe = pipe(link, 4_711);
            let arrived = sent(&mut pipe, 400_000);
            let lost = 400_000 - arrived.len();
            // 20,000 are expected; bursts of six make the spread √11 as wide: four times that is ±2 %.
            assert!((18_500..21_500).contains(&lost), "{link}: {lost}");
            let bursts = arrived.windows(2).filter(|pair| pair[1].1 != pair[0].1 + 1).count();
            let burst = lost as f64 / bursts as f64;
            assert!((burst / mean_burst - 1.0).abs() < 0.05, "{link}: bursts of {burst}");
        }
    }

    #[test]
    fn the_same_seed_loses_the_same_packets_and_another_one_others() {
        let numbers = |seed| sent(&mut pipe("loss=10%,jitter=2ms,duplicate=3%", seed), 2_000);
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
    }

    #[test]
    fn jitter_spreads_arrivals_and_keeps_the_order() {
        let mut pipe = pipe("delay=10ms,jitter=5ms", 3);
        let arrived = sent(&mut pipe, 10_000);
        assert!(arrived.is_sorted_by(|a, b| a.1 < b.1));
        let took = |(at, n): &(u64, u32)| at - u64::from(*n) * MS;
        let (least, most) =
            (arrived.iter().map(took).min().unwrap(), arrived.iter().map(took).max().unwrap());
        // Who comes sooner than the one before waits for it.
        assert!((5 * MS..6 * MS).contains(&least), "{least}");
        assert!((14 * MS..=15 * MS).contains(&most), "{most}");
    }

    #[test]
    fn packets_that_are_held_back_are_overtaken_and_nothing_is_lost() {
        let mut pipe = pipe("reorder=10%/10ms", 3);
        let mut arrived = sent(&mut pipe, 10_000);
        let held_back = pipe.counts().held_back;
        assert!((850..1_150).contains(&held_back), "{held_back}");
        let overtaken = arrived.windows(2).filter(|pair| pair[1].1 < pair[0].1).count();
        assert!(overtaken > 500, "{overtaken}");
        arrived.sort_by_key(|(_, number)| *number);
        assert!(arrived.iter().map(|(_, number)| *number).eq(0..10_000));
    }

    #[test]
    fn duplicates_arrive_twice_and_are_counted() {
        let mut pipe = pipe("duplicate=50%", 3);
        let arrived = sent(&mut pipe, 10_000);
        let copies = arrived.len() - 10_000;
        assert!((4_700..5_300).contains(&copies), "{copies}");
        assert_eq!(pipe.counts().duplicated, copies as u64);
    }

    #[test]
    fn a_rate_spaces_packets_and_what_the_queue_does_not_take_is_dropped() {
        // 1,000 bytes take 8 ms at 1 Mbit/s, and ten of them fill the queue.
        let mut pipe = pipe("rate=1mbit,queue=10000B", 3);
        for number in 0..100 {
            pipe.offer(0, &udp(number, 1_000));
        }
        let expected: Vec<(u64, u32)> = (0..10).map(|n| (u64::from(n + 1) * 8 * MS, n)).collect();
        assert_eq!(drained(&mut pipe), expected);
        assert_eq!(pipe.counts().queue_full, 90);
        pipe.offer(40 * MS, &udp(100, 1_000));
        assert_eq!(drained(&mut pipe), [(88 * MS, 100)], "five were still waiting when it came");
    }

    #[test]
    fn a_block_stops_its_protocol_and_what_was_under_way() {
        let mut pipe = pipe("delay=10ms", 3);
        let tcp = |number| {
            let mut packet = udp(number, 40);
            packet[9] = 6;
            packet
        };
        pipe.offer(0, &udp(1, 40));
        pipe.offer(0, &tcp(2));
        pipe.set("delay=10ms,block=udp".parse::<Link>().unwrap().up);
        pipe.offer(MS, &udp(3, 40));
        assert_eq!(drained(&mut pipe), [(10 * MS, 2)]);
        assert_eq!(pipe.counts().blocked, 2);
        pipe.set("delay=10ms,block=all".parse::<Link>().unwrap().up);
        pipe.offer(2 * MS, &tcp(4));
        pipe.set(Direction::default());
        pipe.offer(20 * MS, &udp(5, 40));
        assert_eq!(drained(&mut pipe), [(20 * MS, 5)]);
    }

    #[test]
    fn packets_above_the_largest_size_vanish() {
        let mut pipe = pipe("mtu=1200", 3);
        pipe.offer(0, &udp(1, 1_200));
        pipe.offer(0, &udp(2, 1_201));
        assert_eq!(drained(&mut pipe).len(), 1);
        assert_eq!(pipe.counts().too_big, 1);
    }

    #[test]
    fn a_link_without_a_rate_keeps_a_bounded_number_of_bytes() {
        let mut pipe = pipe("delay=60s", 3);
        for number in 0..50_000 {
            pipe.offer(0, &udp(number, 1_500));
        }
        let counts = pipe.counts();
        assert_eq!(counts.under_way, (WAITING_BYTES_MAX / 1_500) as u64);
        assert!(counts.queue_full > 0 && counts.adds_up());
    }
}
