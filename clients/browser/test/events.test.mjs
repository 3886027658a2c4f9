// Packets of the event layer, and a socket against a host that plays the session.

import assert from "node:assert/strict";
import { test } from "node:test";

import { ProtocolError } from "../dist/errors.js";
import { decodePackets, encodePacket } from "../dist/packets.js";
import { Socket } from "../dist/socket.js";
import { toHex } from "./vectors.mjs";

test("a packet is written byte for byte as the layout says", () => {
  const bytes = encodePacket({ kind: "event", namespace: "/a", ack: 7n, data: ["x", new Uint8Array([1, 2])] });
  const json = Buffer.from('["x",{"_placeholder":true,"num":0}]');
  assert.equal(toHex(bytes), [
    "02", "01", "0200", toHex([json.length, 0, 0, 0]), "01000000", "0700000000000000", "2f61", toHex(json), "02000000",
    "0102",
  ].join(""));
});

test("packets come back as they were, several in one message, with bytes wherever they stood", () => {
  const packets = [
    { kind: "connect", namespace: "/", ack: undefined, data: { token: "é" } },
    { kind: "event", namespace: "/chat", ack: undefined, data: ["a", { deep: [new Uint8Array([0, 255])] }, null] },
    { kind: "ack", namespace: "/chat", ack: 2n ** 40n, data: [] },
    { kind: "disconnect", namespace: "/chat", ack: undefined, data: undefined },
  ];
  const bytes = packets.map(encodePacket);
  assert.deepEqual(decodePackets(new Uint8Array(Buffer.concat(bytes))), packets);
});

test("whatever is cut off or damaged is refused, and never anything else", () => {
  const bytes = encodePacket({ kind: "event", namespace: "/chat", ack: 1n, data: ["a", new Uint8Array(9)] });
  for (let cut = 1; cut < bytes.length; cut += 1) {
    assert.throws(() => decodePackets(bytes.subarray(0, cut)), ProtocolError, `cut at ${cut}`);
  }
  for (let at = 0; at < bytes.length; at += 1) {
    const damaged = bytes.slice();
    damaged[at] ^= 0xff;
    try {
      decodePackets(damaged);
    } catch (error) {
      assert.ok(error instanceof ProtocolError, `at ${at}: ${error}`);
    }
  }
});

function open(options) {
  const host = {
    sent: [],
    send: async (packet) => void host.sent.push(packet),
    add: async () => {},
    remove: () => { host.isRemoved = true; },
  };
  const socket = new Socket(host, "/chat", options ?? {});
  return { host, socket };
}

function said(kind, data, ack) {
  return { kind, namespace: "/chat", ack, data };
}

async function joined(options) {
  const { host, socket } = open(options);
  const joining = socket.connect();
  await Promise.resolve();
  await Promise.resolve();
  socket.take(said("connected", { sid: "s1", pid: "p1" }));
  await joining;
  return { host, socket };
}

test("a socket joins with its credentials, and is told when it is not let in", async () => {
  const { host, socket } = await joined({ auth: { token: "t" } });
  assert.deepEqual(host.sent, [said("connect", { token: "t" })]);
  assert.deepEqual([socket.connected, socket.id, socket.recovered], [true, "s1", false]);

  const refused = open();
  const joining = refused.socket.connect();
  await Promise.resolve();
  refused.socket.take(said("refused", { message: "not authorized", data: { why: 1 } }));
  await assert.rejects(joining, { code: "permission-denied", message: "not authorized", data: { why: 1 } });
  assert.ok(refused.host.isRemoved);
});

test("it comes back with its private number and the offset of what it heard last, unless an answer was wanted", async () => {
  const { socket } = await joined();
  socket.take(said("event", ["news", 1, "o1"]));
  socket.take(said("event", ["question", "no offset"], 1n));
  assert.deepEqual(socket.knock().data, { pid: "p1", offset: "o1" });
  socket.left("transport close");
  socket.take(said("connected", { sid: "s1", pid: "p1" }));
  assert.ok(socket.recovered);
  socket.left("transport close");
  socket.take(said("connected", { sid: "s2", pid: "p2" }));
  assert.ok(!socket.recovered);
  assert.deepEqual(socket.knock().data, { pid: "p2" });
});

test("events reach on, once and onAny; a question is answered once", async () => {
  const { host, socket } = await joined();
  const heard = [];
  socket.onAny((name) => heard.push(`any ${name}`));
  socket.once("a", () => heard.push("once"));
  socket.on("a", (...args) => heard.push(args));
  socket.take(said("event", ["a", 1, "o1"]));
  socket.take(said("event", ["a", 2, "o2"]));
  assert.deepEqual(heard, ["any a", "once", [1, "o1"], "any a", [2, "o2"]]);
  socket.on("q", (question, answer) => {
    answer(question + 1);
    answer("again");
  });
  socket.take(said("event", ["q", 41], 9n));
  assert.deepEqual(host.sent.slice(1), [said("ack", [42], 9n)]);
});

test("an answer reaches who asked, and who is not answered is told so", async () => {
  const { host, socket } = await joined({ ackTimeoutMs: 20 });
  const asking = socket.emitWithAck("q", 1);
  assert.deepEqual(host.sent.at(-1), said("event", ["q", 1], 1n));
  socket.take(said("ack", ["yes"], 1n));
  assert.equal(await asking, "yes");
  await assert.rejects(socket.emitWithAck("q"), /no answer within 20 ms/);
});

test("reserved names cannot be emitted", async () => {
  const { socket } = await joined();
  await assert.rejects(socket.emit("disconnect"), RangeError);
});
