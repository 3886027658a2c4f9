// EVENTS.md 2.2, lines 25 to 30: what a client emits. They run over every transport, in Node and in a browser page.

import { equal, eventually, ok, once, refused } from "../harness/expect.mjs";
import { connected, cut } from "../harness/world.mjs";

async function emit(world) {
  const { nsp, peers } = await world.meet([], []);
  const sent = [1, "two", { three: [null, new Uint8Array([1, 2])] }, new Uint8Array([3]), 4];
  const echoed = once(peers[0].socket, "echo");
  peers[0].socket.emit("echo", ...sent);
  equal((await echoed).slice(0, sent.length), sent);
  equal(await world.heardDuring(nsp, [peers[1]], () => {}), [[]], "what others hear");
}

async function order(world) {
  const { peers } = await world.meet([]);
  const heard = new Promise((resolve) => {
    const numbers = [];
    peers[0].socket.on("echo", (number) => numbers.push(number) === 200 && resolve(numbers));
  });
  for (let number = 0; number < 200; number += 1) peers[0].socket.emit("echo", number, number % 3 === 0 ? new Uint8Array([number]) : {});
  equal(await heard, Array.from({ length: 200 }, (_, at) => at));
}

async function ackCallback(world) {
  const { peers } = await world.meet([]);
  const answer = await new Promise((resolve) => {
    peers[0].socket.emit("question", 26, "x", new Uint8Array([9]), (...args) => resolve(args));
  });
  equal(answer, [26, "x", new Uint8Array([9])]);
}

async function emitWithAck(world) {
  const { peers } = await world.meet([]);
  equal(await peers[0].socket.emitWithAck("question", { n: 27 }), { n: 27 });
}

async function timeout(world) {
  const { peers } = await world.meet([]);
  const socket = peers[0].socket;
  const byCallback = await new Promise((resolve) => socket.timeout(50).emit("silent", 28, (error) => resolve(error?.message)));
  equal(byCallback, "operation has timed out");
  equal((await refused(socket.timeout(50).emitWithAck("silent", 28))).message, "operation has timed out");
  equal(await socket.timeout(5_000).emitWithAck("question", 28), 28);
}

async function volatileAndCompress(world) {
  const { nsp, peers } = await world.meet([]);
  const socket = peers[0].socket;
  // A client drops a volatile event by itself while its transport is busy, as a polling one mostly is.
  await eventually("a volatile event that arrives", async () => {
    socket.volatile.emit("note", "volatile");
    return (await world.run("noted", { nsp })).includes("volatile");
  });
  socket.compress(false).emit("note", "uncompressed");
  await eventually("the uncompressed event", async () => (await world.run("noted", { nsp })).includes("uncompressed"));
}

async function buffering(world) {
  const nsp = world.fresh();
  const socket = world.open(nsp, { autoConnect: false });
  socket.emit("note", "before the first connect");
  socket.volatile.emit("note", "volatile");
  socket.connect();
  await connected(socket);
  await cut(socket);
  socket.emit("note", "while away");
  await connected(socket);
  await socket.emitWithAck("question", 30);
  equal(await world.run("noted", { nsp }), ["before the first connect", "while away"]);
}

async function retries(world) {
  const socket = world.open(world.fresh(), { retries: 3, ackTimeout: 100 });
  await connected(socket);
  const key = Math.random();
  const [error, attempt] = await new Promise((resolve) => socket.emit("third time", key, (...args) => resolve(args)));
  ok(error === null && attempt >= 3, `not before the third attempt is answered: ${error} ${attempt}`);
  // Emits that wait for each other keep their order, also behind one that needs several attempts.
  const numbers = await Promise.all([1, 2, 3].map((number) =>
    new Promise((resolve) => socket.emit("question", number, (_, answer) => resolve(answer)))));
  equal(numbers, [1, 2, 3]);
}

async function retriesUsedUp(world) {
  const socket = world.open(world.fresh(), { retries: 1, ackTimeout: 30 });
  await connected(socket);
  const error = await new Promise((resolve) => socket.emit("silent", 1, resolve));
  equal(error.message, "operation has timed out");
}

export const clientLines = [
  ["line 25: emit from the client", emit],
  ["line 25: events of a client are handled in order", order],
  ["line 26: acknowledgement callback of the client", ackCallback],
  ["line 27: emitWithAck of the client", emitWithAck],
  ["line 28: timeout of the client", timeout],
  ["line 29: volatile and compress of the client", volatileAndCompress],
  ["line 30: events are kept while disconnected, unless volatile", buffering],
  ["line 30: retries until an acknowledgement comes", retries],
  ["line 30: retries are used up", retriesUsedUp],
];
