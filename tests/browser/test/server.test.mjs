// Section 2.3 of EVENTS.md: what applications on the server ask of it. Rooms and recovery have files of their own.

import { after, afterEach, before, describe, test } from "node:test";
import { equal, eventually, ok, once, refused } from "../harness/expect.mjs";
import { startWorld } from "../harness/process.mjs";
import { connected, cut } from "../harness/world.mjs";

let world;
before(async () => {
  world = await startWorld();
});
afterEach(() => world.leaveAll());
after(() => world.stop());

const ids = (sockets) => sockets.map(({ id }) => id).sort();
const idsOf = (...peers) => peers.map(({ id }) => id).sort();

describe("namespaces", () => {
  test("of: dynamic namespaces are made for whoever connects to them first, and told", { timeout: 30_000 }, async () => {
    const { nsp } = await world.meet([], []);
    ok((await world.run("of: names of namespaces")).includes(nsp), "it is in the list");
    const told = await world.run("new_namespace: names");
    equal(told.filter((name) => name === nsp), [nsp], "once, not for the second socket");
  });

  test("of: a namespace that nobody declared is refused", { timeout: 30_000 }, async () => {
    const [error] = await once(world.open("/unknown"), "connect_error");
    equal(error.message, "Invalid namespace");
  });

  test("use: a middleware sees auth and refuses with message and data", { timeout: 30_000 }, async () => {
    const nsp = world.fresh("auth");
    const before = await world.run("use: middleware runs");
    const refusal = await refused(connected(world.open(nsp, { auth: {} })));
    equal([refusal.message, refusal.data], ["not authorized", { hint: "ask for a token" }]);
    await connected(world.open(nsp, { auth: { token: "secret" } }));
    equal((await world.run("use: middleware runs")) - before, 2);
    equal((await world.run("fetchSockets", { nsp })).length, 1, "the refused one is nowhere");
  });

  test("use: several namespaces on one connection are refused and admitted separately", { timeout: 30_000 }, async () => {
    const shared = { ...world.options, forceNew: false, auth: { token: "wrong" } };
    const [open, closed] = [world.open(world.fresh(), shared), world.open(world.fresh("auth"), shared)];
    const refusal = refused(connected(closed));
    await connected(open);
    equal((await refusal).message, "not authorized");
    equal(await open.emitWithAck("question", 1), 1);
  });
});

describe("selections of sockets", () => {
  test("fetchSockets: ids, rooms, data and handshake, of all or of rooms", { timeout: 30_000 }, async () => {
    const { nsp, peers } = await world.meet(["r1"], ["r1", "r2"], []);
    await world.run("socket: set data", { nsp, id: peers[1].id, data: { name: "Ann", n: 1 } });
    equal(ids(await world.run("fetchSockets", { nsp })), idsOf(...peers));
    equal(ids(await world.run("fetchSockets", { nsp, to: ["r1"] })), idsOf(peers[0], peers[1]));
    equal(ids(await world.run("fetchSockets", { nsp, to: ["r1"], except: ["r2"] })), idsOf(peers[0]));
    const [found] = await world.run("fetchSockets", { nsp, to: ["r2"] });
    equal([found.rooms, found.data, found.auth], [["r1", "r2"], { name: "Ann", n: 1 }, {}]);
  });

  test("socketsJoin and socketsLeave on a selection", { timeout: 30_000 }, async () => {
    const { nsp, peers } = await world.meet(["r1"], ["r1"], []);
    await world.run("socketsJoin", { nsp, to: ["r1"], rooms: ["r2", "r3"] });
    equal((await world.run("rooms: members", { nsp, room: "r3" })).sort(), idsOf(peers[0], peers[1]));
    await world.run("socketsLeave", { nsp, to: [peers[0].id], rooms: ["r2"] });
    equal(await world.run("rooms: members", { nsp, room: "r2" }), [peers[1].id]);
    await world.run("socketsJoin", { nsp, rooms: ["all"] });
    equal((await world.run("rooms: members", { nsp, room: "all" })).sort(), idsOf(...peers));
  });

  test("disconnectSockets on a selection", { timeout: 30_000 }, async () => {
    const { nsp, peers } = await world.meet(["r1"], ["r1"], []);
    const gone = peers.slice(0, 2).map(({ socket }) => once(socket, "disconnect"));
    await world.run("disconnectSockets", { nsp, to: ["r1"], close: true });
    equal((await Promise.all(gone)).map(([reason]) => reason), ["io server disconnect", "io server disconnect"]);
    equal(ids(await world.run("fetchSockets", { nsp })), idsOf(peers[2]));
    await world.heardDuring(nsp, [peers[2]], () => {});
  });
});

describe("sockets", () => {
  test("attributes: id, rooms, data, recovered and the whole handshake", { timeout: 30_000 }, async () => {
    const socket = await connected(world.open(`${world.fresh()}`, { auth: { who: "me" }, query: { q: "1" }, transports: ["websocket"] }));
    const told = await world.run("socket: attributes", { nsp: socket.nsp, id: socket.id });
    equal([told.id, told.rooms, told.recovered, told.data], [socket.id, [socket.id], false, {}]);
    const { address, auth, issuedMs, query, secure, url, crossOrigin } = told.handshake;
    equal([address, auth, query.q, secure, crossOrigin], ["127.0.0.1", { who: "me" }, "1", false, false]);
    ok(Math.abs(Date.now() - issuedMs) < 60_000, "issued now, in milliseconds");
    ok(url.includes("transport=websocket"), url);
  });

  test("disconnecting still has the rooms, disconnect has left them", { timeout: 30_000 }, async () => {
    const { nsp, peers } = await world.meet(["r1", "r2"]);
    const { id } = peers[0];
    peers[0].socket.disconnect();
    const left = await eventually("the server's notice", () => world.run("socket: left", { id }));
    equal(left, {
      id,
      disconnecting: { reason: "client namespace disconnect", rooms: ["r1", "r2"] },
      disconnect: { reason: "client namespace disconnect", rooms: [] },
    });
    equal(await world.run("rooms: members", { nsp, room: "r1" }), []);
  });

  for (const [reason, leave] of [
    ["transport close", ({ socket }) => cut(socket)],
    ["server namespace disconnect", ({ socket, id }) => world.run("socket: disconnect", { nsp: socket.nsp, id, close: false })],
    ["forced close", ({ socket, id }) => world.run("engine: close the transport", { nsp: socket.nsp, id })],
  ]) {
    test(`disconnect with its reason: ${reason}`, { timeout: 30_000 }, async () => {
      const { peers } = await world.meet([]);
      const { id } = peers[0];
      await leave({ socket: peers[0].socket, id });
      const left = await eventually("the server's notice", () => world.run("socket: left", { id }));
      equal(left.disconnect.reason, reason);
    });
  }

  test("send is the event message", { timeout: 30_000 }, async () => {
    const { nsp, peers } = await world.meet([]);
    const [heard] = await world.heardDuring(nsp, peers, () => world.run("socket: send", { nsp, id: peers[0].id }));
    equal(heard, [["message", "hello", 1]]);
  });

  test("on, once, off and removeAllListeners", { timeout: 30_000 }, async () => {
    const { nsp, peers } = await world.meet([]);
    const of = { nsp, id: peers[0].id };
    const step = (name) => world.run("socket: listeners", { ...of, step: name });
    const say = async (value) => {
      peers[0].socket.emit("listened", value);
      await peers[0].socket.emitWithAck("question", 0);
      return step("heard");
    };
    equal(await step("on"), true, "its name is among the event names");
    equal((await say(1)).sort(), ["first 1", "second 1"]);
    await step("once");
    equal((await say(2)).sort(), ["first 2", "once 2", "second 2"]);
    await step("off");
    equal((await say(3)).sort(), ["first 3", "second 3"]);
    equal(await step("off all"), false);
    equal(await say(4), []);
  });

  test("catch-all listeners, incoming and outgoing", { timeout: 30_000 }, async () => {
    const { nsp, peers } = await world.meet([]);
    const of = { nsp, id: peers[0].id };
    const step = (name) => world.run("socket: catch-all", { ...of, step: name });
    await step("on");
    const heard = async (...event) => {
      peers[0].socket.emit(...event);
      await peers[0].socket.emitWithAck("question", 0);
      return (await step("heard")).filter((what) => !what.includes("question"));
    };
    const incoming = await heard("any", 1);
    equal([incoming[0], incoming.sort()], ["before any", ["before any", "in any 1", "listener"]]);
    equal(await heard("without listener", 2), ["before without listener", "in without listener 2"], "also what no listener takes");

    await step("emit");
    await step("emit to all");
    equal(await step("heard"), ["before out outgoing", "out outgoing 1", "before out outgoing to all", "out outgoing to all 2"]);
    await step("off");
    await step("emit");
    peers[0].socket.emit("any", 3);
    await peers[0].socket.emitWithAck("question", 0);
    equal(await step("heard"), ["listener"]);
  });

  test("use: a middleware for each event stops it and reports the error", { timeout: 30_000 }, async () => {
    const nsp = world.fresh("guarded");
    const peer = await world.join(nsp);
    peer.socket.emit("note", 1);
    peer.socket.emit("forbidden", 2);
    peer.socket.emit("note", 3);
    await peer.socket.emitWithAck("question", 0);
    equal(await world.run("noted", { nsp }), [1, 3]);
    equal(await world.run("socket: errors of middlewares"), ["not this event"]);
    ok(peer.socket.connected, "the client stays");
  });
});

describe("engine", () => {
  test("clients are counted as connections, not as sockets", { timeout: 30_000 }, async () => {
    const fresh = await startWorld();
    try {
      const clients = () => fresh.run("engine: clients");
      const options = { ...fresh.options, forceNew: false };
      equal(await clients(), 1, "the control connection");
      await Promise.all([fresh.open(fresh.fresh(), options), fresh.open(fresh.fresh(), options), fresh.open(fresh.fresh())].map(connected));
      equal(await clients(), 3);
      fresh.leaveAll();
      await eventually("their end", async () => (await clients()) === 1);
    } finally {
      await fresh.stop();
    }
  });
});
