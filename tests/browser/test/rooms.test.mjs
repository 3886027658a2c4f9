// Section 2.4 of EVENTS.md: rooms and what is told about them.

import { after, afterEach, before, test } from "node:test";
import { equal, eventually, ok } from "../harness/expect.mjs";
import { startWorld } from "../harness/process.mjs";

let world;
before(async () => {
  world = await startWorld();
});
afterEach(() => world.leaveAll());
after(() => world.stop());

test("rooms: every socket is in the room of its own id", { timeout: 30_000 }, async () => {
  const { nsp, peers } = await world.meet(["r1"]);
  const { id } = peers[0];
  equal((await world.run("rooms: of a socket", { nsp, id })).sort(), [id, "r1"].sort());
});

test("rooms: after join every event of the room comes, after leave none", { timeout: 30_000 }, async () => {
  const { nsp, peers } = await world.meet([]);
  const [heard] = await world.heardDuring(nsp, peers, async () => {
    const { id } = peers[0];
    const say = (number) => world.run("emit", { nsp, to: ["r1"], name: "said", args: [number] });
    await say(1);
    await world.run("join", { nsp, id, rooms: ["r1"] });
    await say(2);
    await say(3);
    await world.run("leave", { nsp, id, room: "r1" });
    await say(4);
  });
  equal(heard, [["said", 2], ["said", 3]]);
});

test("rooms: create-room, join-room, leave-room and delete-room, in order", { timeout: 30_000 }, async () => {
  const { nsp, peers } = await world.meet([], []);
  const [a, b] = peers.map(({ id }) => id);
  await world.run("rooms: watch", { nsp });
  await world.run("join", { nsp, id: a, rooms: ["r1"] });
  await world.run("join", { nsp, id: b, rooms: ["r1"] });
  await world.run("join", { nsp, id: b, rooms: ["r1"] });
  await world.run("leave", { nsp, id: a, room: "r1" });
  await world.run("leave", { nsp, id: b, room: "r1" });
  const told = [];
  await eventually("all facts", async () => {
    told.push(...(await world.run("rooms: events", { nsp })));
    return told.length >= 6;
  });
  equal(told, [
    ["create-room", "r1"],
    ["join-room", "r1", a],
    ["join-room", "r1", b],
    ["leave-room", "r1", a],
    ["leave-room", "r1", b],
    ["delete-room", "r1"],
  ]);
});

test("rooms: all are left at the disconnect, and that is told", { timeout: 30_000 }, async () => {
  const { nsp, peers } = await world.meet(["r1"], ["r1"]);
  const { id } = peers[0];
  await world.run("rooms: watch", { nsp });
  peers[0].socket.disconnect();
  const told = [];
  await eventually("all facts", async () => {
    told.push(...(await world.run("rooms: events", { nsp })));
    return told.length >= 3;
  });
  equal(told.filter(([what, room]) => what !== "delete-room" && room === "r1"), [["leave-room", "r1", id]]);
  ok(told.some(([what, room]) => what === "delete-room" && room === id), "its own room is gone");
  equal(await world.run("rooms: members", { nsp, room: "r1" }), [peers[1].id]);
});

test("rooms: a client cannot join one by itself", { timeout: 30_000 }, async () => {
  const { nsp, peers } = await world.meet([]);
  peers[0].socket.emit("join", "r1");
  await peers[0].socket.emitWithAck("question", 0);
  equal(await world.run("rooms: members", { nsp, room: "r1" }), []);
});
