// Missed events (GUARANTEES.md E3 and R8): what a client that lost its connection has when it is back. Where Socket.IO's own
// server promises less, the test says so and is not run there.

import { after, afterEach, before, describe, test } from "node:test";
import { equal, eventually, ok, once } from "../harness/expect.mjs";
import { isReference, startServer, startWorld } from "../harness/process.mjs";
import { startProxy } from "../harness/proxy.mjs";
import { connected, Peer, withoutOffset } from "../harness/world.mjs";

const better = (why) => ({ skip: isReference && `Socket.IO: ${why}` });

let world;
let proxy;
before(async () => {
  // A polling client that was cut off between two polls is missed by the heartbeat only.
  world = await startWorld({ server: { recoveryMs: 60_000, pingIntervalMs: 500, pingTimeoutMs: 500 } });
  proxy = await startProxy(world.server.port);
});
afterEach(() => {
  proxy.refuse(false);
  world.leaveAll();
});
after(async () => {
  await world.stop();
  await proxy.stop();
});

/** A peer behind the proxy. */
async function join({ nsp = world.fresh(), rooms = [], ...options } = {}) {
  const socket = world.io(`${proxy.url}${nsp}`, { forceNew: true, reconnectionDelay: 10, reconnectionDelayMax: 50, transports: ["websocket"], ...options });
  world.sockets.push(socket);
  const peer = new Peer(socket);
  peer.nsp = nsp;
  await connected(socket);
  if (rooms.length > 0) await world.run("join", { nsp, id: socket.id, rooms });
  return peer;
}

/** Loses `peer`'s connection, does `meanwhile` when the server knows it, and has it back. */
async function away(peer, meanwhile = () => {}) {
  const { id } = peer;
  proxy.refuse(true);
  await proxy.lose(peer.socket);
  await eventually("the server's notice", () => world.run("socket: left", { id }));
  await meanwhile();
  proxy.refuse(false);
  await connected(peer.socket);
}

const say = (peer, name, args, more = {}) => world.run("emit", { nsp: peer.nsp, name, args, ...more });

describe("what is restored", () => {
  for (const transports of [["websocket"], ["polling"], ["polling", "websocket"]]) {
    test(`missed events come once, in order, with the same id, rooms and data, over ${transports.join(", then ")}`, { timeout: 30_000 }, async () => {
      const peer = await join({ transports, rooms: ["r1"] });
      const { id } = peer;
      await world.run("socket: set data", { nsp: peer.nsp, id, data: { name: "Ann" } });
      await say(peer, "before", [0, {}]);
      await eventually("the first event", () => peer.heard.length > 0);
      const [heard] = await world.heardDuring(peer.nsp, [peer], () =>
        away(peer, async () => {
          await say(peer, "missed", [1]);
          await say(peer, "missed in the room", [2], { to: ["r1"] });
          await say(peer, "not for it", [3], { to: ["r2"] });
          await say(peer, "missed bytes", [new Uint8Array([4]), { deep: new Uint8Array([5]) }, 6]);
        }));
      equal(heard, [["missed", 1], ["missed in the room", 2], ["missed bytes", new Uint8Array([4]), { deep: new Uint8Array([5]) }, 6]]);
      equal([peer.socket.recovered, peer.id], [true, id]);
      const [found] = await world.run("fetchSockets", { nsp: peer.nsp });
      equal([found.id, found.rooms, found.data], [id, ["r1"], { name: "Ann" }]);
      equal((await world.run("socket: attributes", { nsp: peer.nsp, id })).recovered, true, "the server knows it, too");
    });
  }

  test("it recovers several times in a row", { timeout: 30_000 }, async () => {
    const peer = await join();
    const { id } = peer;
    await say(peer, "first", [0]);
    await eventually("the first event", () => peer.heard.length > 0);
    const [heard] = await world.heardDuring(peer.nsp, [peer], async () => {
      for (let number = 1; number <= 5; number += 1) {
        await away(peer, () => say(peer, "missed", [number]));
        await say(peer, "live", [number]);
      }
    });
    equal(heard.map(([, number]) => number), [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    equal([peer.id, peer.socket.recovered], [id, true]);
  });

  test("a client that had not received anything yet recovers as well", { timeout: 30_000, ...better("its recovery needs a first event") }, async () => {
    const peer = await join();
    const [heard] = await world.heardDuring(peer.nsp, [peer], () => away(peer, () => say(peer, "missed", [1])));
    equal(heard, [["missed", 1]]);
    equal(peer.socket.recovered, true);
  });

  test("volatile events are not recovered", { timeout: 30_000 }, async () => {
    const peer = await join();
    await say(peer, "first", [0]);
    await eventually("the first event", () => peer.heard.length > 0);
    const [heard] = await world.heardDuring(peer.nsp, [peer], () =>
      away(peer, async () => {
        await say(peer, "volatile", [1], { volatile: true });
        await say(peer, "missed", [2]);
      }));
    equal(heard, [["missed", 2]]);
  });

  test("a volatile event that ends with a text is not taken for an offset", { timeout: 30_000, ...better("the client asks from that text and starts afresh") }, async () => {
    const peer = await join();
    await say(peer, "first", [0]);
    await say(peer, "typing", ["Ann"], { volatile: true });
    await eventually("both events", () => peer.heard.length > 1);
    equal(peer.heard[1], ["typing", "Ann"]);
    const [heard] = await world.heardDuring(peer.nsp, [peer], () => away(peer, () => say(peer, "missed", [1])));
    equal(heard, [["missed", 1]]);
    equal(peer.socket.recovered, true);
  });

  test("a question that was missed is asked again and answered", { timeout: 30_000, ...better("events that want an answer are not kept") }, async () => {
    const peer = await join();
    await say(peer, "first", [0]);
    await eventually("the first event", () => peer.heard.length > 0);
    const { id } = peer;
    peer.socket.on("question", (number, answer) => answer(number * 2));
    let outcome;
    await away(peer, () => {
      // The socket is away: its question waits with what else it misses.
      outcome = world.run("emit with ack", { nsp: peer.nsp, id, ms: 10_000, name: "question", args: [21] });
      outcome.catch(() => {});
    });
    equal(await outcome, { answer: 42 });
  });

  test("a question that was answered is not asked again", { timeout: 30_000 }, async () => {
    const peer = await join();
    await say(peer, "first", [0]);
    await eventually("the first event", () => peer.heard.length > 0);
    peer.socket.on("question", (_, answer) => answer("yes"));
    equal(await world.run("emit with ack", { nsp: peer.nsp, id: peer.id, ms: 5_000, name: "question", args: [1] }), { answer: "yes" });
    const [heard] = await world.heardDuring(peer.nsp, [peer], () => away(peer, () => say(peer, "missed", [1])));
    equal(heard, [["missed", 1]]);
  });

  test("what the client emitted while away is sent when it is back", { timeout: 30_000 }, async () => {
    const peer = await join();
    await say(peer, "first", [0]);
    await eventually("the first event", () => peer.heard.length > 0);
    await away(peer, () => peer.socket.emit("note", "while away"));
    await peer.socket.emitWithAck("question", 0);
    equal(await world.run("noted", { nsp: peer.nsp }), ["while away"]);
  });
});

describe("what is checked", () => {
  test("auth and middlewares run again at every recovery", { timeout: 30_000 }, async () => {
    const peer = await join({ nsp: world.fresh("auth"), auth: { token: "secret" } });
    await say(peer, "first", [0]);
    await eventually("the first event", () => peer.heard.length > 0);
    const runs = await world.run("use: middleware runs");
    await away(peer);
    equal([peer.socket.recovered, (await world.run("use: middleware runs")) - runs], [true, 1]);
    proxy.refuse(true);
    await proxy.lose(peer.socket);
    peer.socket.auth = { token: "revoked" };
    const refusal = once(peer.socket, "connect_error").then(function again([error]) {
      return error.message === "not authorized" ? error : once(peer.socket, "connect_error").then(again);
    });
    proxy.refuse(false);
    equal((await refusal).message, "not authorized", "whose token was revoked does not come back");
  });

  test("a client that left by itself starts afresh", { timeout: 30_000 }, async () => {
    const peer = await join();
    const { id } = peer;
    await say(peer, "first", [0]);
    await eventually("the first event", () => peer.heard.length > 0);
    peer.socket.disconnect();
    await eventually("the server's notice", () => world.run("socket: left", { id }));
    await say(peer, "missed", [1]);
    await connected(peer.socket.connect());
    const [heard] = await world.heardDuring(peer.nsp, [peer], () => {});
    equal(heard.filter(([name]) => name !== "$gap"), []);
    equal([peer.socket.recovered, peer.id !== id], [false, true]);
  });

  test("an invented private id recovers nothing", { timeout: 30_000 }, async () => {
    const nsp = world.fresh();
    const socket = world.open(nsp, { transports: ["websocket"], auth: { pid: "AAAAAAAAAAAAAAAAAAAAAAAA", offset: "0" } });
    await connected(socket);
    equal(socket.recovered, false);
    ok(socket._pid !== "AAAAAAAAAAAAAAAAAAAAAAAA", "it gets one of its own");
  });

  test("a client that is back before the server misses it takes its place", { timeout: 30_000, ...better("it starts afresh until the old connection has timed out") }, async () => {
    const peer = await join({ rooms: ["r1"] });
    await say(peer, "first", [0]);
    await eventually("the first event", () => peer.heard.length > 0);
    const { id, _pid: pid, _lastOffset: offset } = { id: peer.id, ...peer.socket };
    // The old connection stays open, as behind a network that forgot it.
    const back = world.open(peer.nsp, { transports: ["websocket"], auth: { pid, offset } });
    const gone = once(peer.socket, "disconnect");
    await connected(back);
    equal([back.id, back._pid], [id, pid]);
    equal(await world.run("rooms: members", { nsp: peer.nsp, room: "r1" }), [id]);
    await gone;
    peer.socket.disconnect();
  });
});

describe("what cannot be restored", () => {
  const short = { recoveryMs: 150 };

  test("after the recovery time the client starts afresh and is told the gap", { timeout: 30_000 }, async () => {
    const limited = await startWorld({ server: short });
    const through = await startProxy(limited.server.port);
    try {
      const nsp = limited.fresh();
      const socket = limited.io(`${through.url}${nsp}`, { forceNew: true, reconnectionDelay: 10, reconnectionDelayMax: 50, transports: ["websocket"] });
      limited.sockets.push(socket);
      const peer = new Peer(await connected(socket));
      const { id } = peer;
      await limited.run("emit", { nsp, name: "first", args: [0] });
      await eventually("the first event", () => peer.heard.length > 0);
      peer.heard.splice(0);
      through.refuse(true);
      await through.lose(socket);
      await eventually("the server's notice", () => limited.run("socket: left", { id }));
      await limited.run("emit", { nsp, name: "missed", args: [1] });
      await new Promise((resolve) => setTimeout(resolve, short.recoveryMs + 100));
      through.refuse(false);
      await connected(socket);
      equal([socket.recovered, peer.id !== id], [false, true]);
      if (isReference) return;
      await eventually("the gap", () => peer.heard.length > 0);
      equal(peer.heard.map(([name, gap]) => [name, Object.keys(gap).sort()]), [["$gap", ["cause", "from", "to"]]]);
    } finally {
      await limited.stop();
      await through.stop();
    }
  });

  test("more missed events than are kept: a gap with its first and last number, then what follows", { timeout: 30_000, ...better("it has no bound") }, async () => {
    const limited = await startWorld({ server: { historyEvents: 20 } });
    const through = await startProxy(limited.server.port);
    try {
      const nsp = limited.fresh();
      const socket = limited.io(`${through.url}${nsp}`, { forceNew: true, reconnectionDelay: 10, reconnectionDelayMax: 50, transports: ["websocket"] });
      limited.sockets.push(socket);
      const peer = new Peer(await connected(socket));
      await limited.run("emit", { nsp, name: "first", args: [0] });
      await eventually("the first event", () => peer.heard.length > 0);
      peer.heard.splice(0);
      const { id } = peer;
      through.refuse(true);
      await through.lose(socket);
      await eventually("the server's notice", () => limited.run("socket: left", { id }));
      for (let number = 0; number < 100; number += 1) await limited.run("emit", { nsp, name: "missed", args: [number] });
      through.refuse(false);
      await connected(socket);
      await eventually("the gap", () => peer.heard.length > 0);
      const [name, gap] = peer.heard[0];
      equal(name, "$gap");
      ok(gap.from !== null && gap.to !== null && typeof gap.cause === "string", JSON.stringify(gap));
      equal(socket.recovered, false);
    } finally {
      await limited.stop();
      await through.stop();
    }
  });

  test("a restarted server starts everybody afresh and says that it cannot know", { timeout: 30_000 }, async () => {
    const first = await startServer();
    const socket = world.io(`${first.url}${world.fresh()}`, { forceNew: true, reconnectionDelay: 20, reconnectionDelayMax: 50, transports: ["websocket"] });
    world.sockets.push(socket);
    await connected(socket);
    const { id } = socket;
    const gone = once(socket, "disconnect");
    await first.stop();
    const [reason] = await gone;
    const heard = [];
    socket.onAny((...event) => heard.push(withoutOffset(socket, event)));
    const second = await startServer({ port: first.port });
    try {
      if (!socket.active) socket.connect();
      await connected(socket);
      equal([socket.recovered, socket.id !== id], [false, true], `after ${reason}`);
      if (!isReference) {
        await eventually("the gap", () => heard.length > 0);
        equal([heard[0][0], heard[0][1].from, heard[0][1].to], ["$gap", null, null]);
      }
    } finally {
      socket.disconnect();
      await second.stop();
    }
  });
});
