// EVENTS.md 2.1, lines 1 to 24: what the server emits and who hears it. Each line is a sentence and a function that takes a
// World; they run over every transport, in Node and in a browser page.

import { equal, ok } from "../harness/expect.mjs";

const names = (heard) => heard.map((events) => events.map(([name]) => name));
const answers = (socket, value) => socket.on("question", (...args) => args.at(-1)(value));

async function basicEmit(world) {
  const { nsp, peers } = await world.meet([], []);
  const [a, b] = await world.heardDuring(nsp, peers, () => world.run("line 1: basic emit", { nsp, id: peers[0].id }));
  equal(a, [
    ["nothing"],
    ["several", 1, "two", { three: [true, null] }, 4],
    ["binary", new Uint8Array([1, 2, 3]), { deep: [new Uint8Array([4, 5])] }, 6],
  ]);
  equal(b, []);
}

async function acknowledgementByCallback(world) {
  const { nsp, peers } = await world.meet([]);
  peers[0].socket.on("question", (number, answer) => answer(number + 1, "and more", new Uint8Array([7])));
  const answer = await world.run("line 2: emit with acknowledgement callback", { nsp, id: peers[0].id });
  equal(answer, [2, "and more", new Uint8Array([7])]);
}

async function acknowledgementAwaited(world) {
  const { nsp, peers } = await world.meet([]);
  peers[0].socket.on("question", (number, answer) => answer({ got: number }));
  equal(await world.run("line 3: emitWithAck", { nsp, id: peers[0].id }), { got: 1 });
}

async function acknowledgementTooLate(world) {
  const { nsp, peers } = await world.meet([]);
  answers(peers[0].socket, "yes");
  const outcome = await world.run("line 4: timeout of an acknowledgement", { nsp, id: peers[0].id, ms: 50 });
  equal(outcome, { answered: "yes", late: "timeout", byCallback: "timeout" });
}

async function everyoneInTheMainNamespace(world) {
  const main = await Promise.all([world.join("/"), world.join("/")]);
  const { peers } = await world.meet([]);
  const heard = await world.heardDuring("/", main, () => world.run("line 5: emit to all clients of the main namespace"));
  equal(heard, [[["all", 5]], [["all", 5]]]);
  equal(peers[0].heard, [], "what another namespace hears");
}

async function broadcast(world) {
  const { nsp, peers } = await world.meet([], [], []);
  const heard = await world.heardDuring(nsp, peers, () => world.run("line 6: broadcast to all but the sender", { nsp, id: peers[0].id }));
  equal(heard, [[], [["others", 6]], [["others", 6]]]);
}

async function broadcastWithAnswers(world) {
  const { nsp, peers } = await world.meet([], [], []);
  answers(peers[0].socket, "a");
  answers(peers[1].socket, "b");
  const name = "line 7: broadcast with acknowledgements, partial answers on timeout";
  const partial = await world.run(name, { nsp, ms: 100 });
  equal([partial.complete, partial.answers.sort()], [false, ["a", "b"]]);
  if (!world.isReference) equal(partial.missing, [peers[2].id], "who is missing");
  answers(peers[2].socket, "c");
  const all = await world.run(name, { nsp, ms: 5_000 });
  equal([all.complete, all.answers.sort()], [true, ["a", "b", "c"]]);
}

async function broadcastAwaited(world) {
  const { nsp, peers } = await world.meet([], []);
  answers(peers[0].socket, 1);
  answers(peers[1].socket, 2);
  equal((await world.run("line 8: broadcast emitWithAck", { nsp, ms: 5_000 })).sort(), [1, 2]);
  equal(await world.run("line 8: broadcast emitWithAck", { nsp: world.fresh(), ms: 5_000 }), [], "answers of nobody");
}

async function toARoom(world) {
  const { nsp, peers } = await world.meet(["r1"], ["r1", "r2"], ["r2"], []);
  const heard = await world.heardDuring(nsp, peers, () => world.run("line 9: to a room, in a room", { nsp }));
  equal(heard, [[["to", 9], ["in", 9]], [["to", 9], ["in", 9]], [], []]);
}

async function roomWithoutSender(world) {
  const { nsp, peers } = await world.meet(["r1"], ["r1"], []);
  const heard = await world.heardDuring(nsp, peers, () => world.run("line 10: a room without the sender", { nsp, id: peers[0].id }));
  equal(heard, [[], [["others", 10]], []]);
}

async function exceptARoom(world) {
  const { nsp, peers } = await world.meet(["r1"], ["r1", "r2"], ["r2"], []);
  const heard = await world.heardDuring(nsp, peers, () => world.run("line 11: except a room", { nsp }));
  equal(heard, [[], [], [["except", 11]], [["except", 11]]]);
}

async function chain(world) {
  const { nsp, peers } = await world.meet(["r1"], ["r2"], ["r3"], ["r1", "r2", "r3"], ["r1", "r4"], ["r4"], []);
  const heard = await world.heardDuring(nsp, peers, () => world.run("line 12: chain of to and except", { nsp }));
  equal(names(heard), [["chain"], ["chain"], ["chain"], ["chain"], [], [], []], "once each, whoever is in several rooms");
}

async function anotherNamespace(world) {
  const here = await world.meet(["r1"], []);
  const elsewhere = await world.meet(["r1"]);
  const heard = await world.heardDuring(here.nsp, here.peers, () =>
    world.run("line 13: another namespace and its rooms", { nsp: here.nsp }));
  equal(heard, [[["all", 13], ["room", 13]], [["all", 13]]]);
  equal(await world.heardDuring(elsewhere.nsp, elsewhere.peers, () => {}), [[]], "rooms of the same name elsewhere");
}

async function fullChain(world) {
  const { nsp, peers } = await world.meet(["r1"], ["r2"], ["r3", "r4"], ["r1"], []);
  peers.forEach((peer, at) => at !== 3 && answers(peer.socket, at));
  const name = "line 14: full chain with timeout and acknowledgements";
  const partial = await world.run(name, { nsp, id: peers[0].id, ms: 100 });
  equal([partial.complete, partial.answers], [false, [1]], "the sender, the excepted and the outsider are not asked");
  if (!world.isReference) equal(partial.missing, [peers[3].id], "who is missing");
}

async function privateMessage(world) {
  const { nsp, peers } = await world.meet([], []);
  const heard = await world.heardDuring(nsp, peers, () => world.run("line 15: private message by socket id", { nsp, id: peers[1].id }));
  equal(heard, [[], [["private", 15]]]);
}

async function roomOfAnId(world) {
  const { nsp, peers } = await world.meet([], [], []);
  await world.run("join", { nsp, id: peers[1].id, rooms: [peers[0].id] });
  const heard = await world.heardDuring(nsp, peers, () =>
    world.run("line 16: the room of a socket's id, without the sender", { nsp, id: peers[0].id }));
  // Socket.IO leaves out whoever is in the sender's own room, since 4.x also those who joined it.
  equal(heard, [[], world.isReference ? [] : [["others", 16]], []]);
}

async function local(world) {
  const { nsp, peers } = await world.meet(["r1"], []);
  const heard = await world.heardDuring(nsp, peers, () => world.run("line 17: local", { nsp }));
  equal(heard, [[["local", 17], ["local room", 17]], [["local", 17]]]);
}

async function compress(world) {
  const { nsp, peers } = await world.meet([]);
  const [heard] = await world.heardDuring(nsp, peers, () => world.run("line 18: compress", { nsp, id: peers[0].id }));
  const text = "x".repeat(4_096);
  equal(heard, [["plain", text, 18], ["compressed", text, 18]]);
}

async function volatile(world) {
  const { nsp, peers } = await world.meet(["r1"], []);
  // Between two polls a client cannot take volatile events at once, and they are lost as they should be.
  const [a, b] = await world.heardDuring(nsp, peers, () => world.run("line 19: volatile", { nsp, id: peers[0].id }));
  const expected = ["volatile", "volatile to all", "volatile to a room"];
  const heard = names([a, b]);
  ok(heard[0].every((name) => expected.includes(name)) && heard[1].every((name) => name === "volatile to all"), `heard ${heard}`);
  if (!world.isReference) equal(heard, [expected, ["volatile to all"]], "clients with nothing waiting get all of it");
}

async function reservedNames(world) {
  const { nsp, peers } = await world.meet([]);
  const outcomes = await world.run("line 24: reserved names", { nsp, id: peers[0].id });
  equal(outcomes, Array(6).fill("refused"));
}

export const serverLines = [
  ["line 1: basic emit", basicEmit],
  ["line 2: emit with acknowledgement callback", acknowledgementByCallback],
  ["line 3: emitWithAck", acknowledgementAwaited],
  ["line 4: timeout of an acknowledgement", acknowledgementTooLate],
  ["line 5: emit to all clients of the main namespace", everyoneInTheMainNamespace],
  ["line 6: broadcast to all but the sender", broadcast],
  ["line 7: broadcast with acknowledgements, partial answers on timeout", broadcastWithAnswers],
  ["line 8: broadcast emitWithAck", broadcastAwaited],
  ["line 9: to a room, in a room", toARoom],
  ["line 10: a room without the sender", roomWithoutSender],
  ["line 11: except a room", exceptARoom],
  ["line 12: chain of to and except", chain],
  ["line 13: another namespace and its rooms", anotherNamespace],
  ["line 14: full chain with timeout and acknowledgements", fullChain],
  ["line 15: private message by socket id", privateMessage],
  ["line 16: the room of a socket's id, without the sender", roomOfAnId],
  ["line 17: local", local],
  ["line 18: compress", compress],
  ["line 19: volatile", volatile],
  ["line 24: reserved names", reservedNames],
];
