// The run behind "missed events": clients that lose their connections again and again while numbered events come at a steady
// rate. In the end every client has every event once and in order, or was told the exact gap.

import { equal, ok, within } from "./expect.mjs";
import { RawClient, seeded } from "./raw.mjs";

/** Judges what one client hears. */
class Judge {
  constructor() {
    this.next = 0;
    this.missing = 0;
    this.gaps = 0;
    this.faults = [];
  }

  heard([name, value], offset) {
    if (name === "numbered") {
      if (value < this.next) this.faults.push(`${value} came twice or out of order, ${this.next} was next`);
      if (value > this.next) {
        if (value !== this.jumpTo) this.faults.push(`${this.next} to ${value - 1} are missing, and no gap was told`);
        this.missing += value - this.next;
      }
      this.next = value + 1;
      this.jumpTo = undefined;
      this.numberAt0 ??= parseInt(offset, 36) - value;
    } else if (name === "$gap") {
      this.gaps += 1;
      // The gap's last offset is the first that comes again.
      this.jumpTo = value.to === null ? undefined : parseInt(value.to, 36) - this.numberAt0;
    } else if (name === "finished") {
      if (this.next !== value && this.jumpTo !== value) this.faults.push(`${this.next} to ${value - 1} are missing at the end`);
      this.isFinished();
    }
  }
}

/** Runs it and returns what was counted; throws at the first fault. */
export async function missedEvents(world, { clients, reconnects, events, perSecond, awayMs, seed = Date.now() % 1_000_000, deadlineMs }) {
  const random = seeded(seed);
  const nsp = world.fresh();
  const judges = Array.from({ length: clients }, () => new Judge());
  const peers = judges.map((judge) => new RawClient(world.url, nsp, (event, offset) => judge.heard(event, offset), awayMs));
  const finished = judges.map((judge) => new Promise((resolve) => {
    judge.isFinished = resolve;
  }));
  await within(20_000, "all clients", Promise.all(peers.map((peer) => peer.ready)));
  const started = performance.now();
  await world.run("stream", { nsp, count: events, perSecond });

  const seconds = events / perSecond;
  let cuts = 0;
  const pace = setInterval(() => {
    const due = Math.min(reconnects, Math.floor(((performance.now() - started) / 1_000 / (seconds * 0.95)) * reconnects));
    while (cuts < due) {
      const peer = peers[Math.floor(random() * peers.length)];
      // Whoever is on its way back cannot be cut off once more; somebody else is.
      if (peer.socket.readyState !== 1 || peer.sid === undefined) break;
      peer.cut();
      cuts += 1;
    }
  }, 5);
  try {
    await within(deadlineMs, `the end of the run, seed ${seed}`, Promise.all(finished));
  } finally {
    clearInterval(pace);
    peers.forEach((peer) => peer.close());
  }
  const faults = judges.flatMap((judge, at) => judge.faults.slice(0, 2).map((fault) => `client ${at}: ${fault}`));
  equal(faults.slice(0, 5), [], `faults of ${judges.filter((judge) => judge.faults.length > 0).length} clients, seed ${seed}`);
  const sum = (count) => peers.reduce((all, peer) => all + count(peer), 0);
  const recoveries = sum((peer) => peer.recoveries);
  ok(cuts >= reconnects * 0.9, `only ${cuts} cuts took place`);
  return {
    clients,
    events,
    perSecond,
    seed,
    cuts,
    reconnects: sum((peer) => peer.connects) - clients,
    recoveries,
    gaps: judges.reduce((all, judge) => all + judge.gaps, 0),
    deliveries: judges.reduce((all, judge) => all + judge.next - judge.missing, 0),
    seconds: Math.round((performance.now() - started) / 100) / 10,
  };
}
