// A publisher against a host that plays the session: answers, credit, what is sent again, and what a fast topic drops.

import assert from "node:assert/strict";
import { test } from "node:test";

import { decodeDatagram, StreamDecoder } from "../dist/frames.js";
import { Publisher } from "../dist/publisher.js";

const SPEC = {
  channel: "reliable", mode: "ordered", storage: "memory", last: "none", payloadBytesMax: 0, retainBytes: 0,
  retainMessages: 0, retainAgeMs: 0, deadlineUs: 0,
};

class Wire {
  transport = "webtransport";
  datagramBytesMax = 1_100;
  waitingBytes = 0;
  room = Infinity;
  sent = [];
  datagrams = [];
  #decoder = new StreamDecoder();
  #waiting = [];

  send(bytes) {
    this.#decoder.push(bytes, (item) => this.sent.push(item.frame.seq));
  }

  sendDatagram(datagram) {
    if (this.room === 0) return false;
    this.room -= 1;
    decodeDatagram(datagram, (item) => this.datagrams.push(item.is === "frame" ? item.frame : item.is));
    return true;
  }

  datagramRoom() {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  giveRoom(datagrams) {
    this.room = datagrams;
    this.#waiting.splice(0).forEach((resolve) => resolve());
  }
}

function open(spec, { lastSeq = 0, creditBytes = Infinity } = {}) {
  const host = {
    said: [],
    wire: new Wire(),
    requests: 0,
    send: (message) => host.said.push(message),
    nextRequest: () => (host.requests += 1),
    forget: () => { host.isForgotten = true; },
  };
  const publisher = new Publisher(host, 1, "topic", {});
  publisher.open(true);
  opened(publisher, spec, lastSeq, creditBytes);
  return { host, publisher };
}

function opened(publisher, spec, lastSeq, creditBytes = Infinity) {
  publisher.opened({ request: 1, publisher: 1, topic: 7, source: 1, epoch: 1n, lastSeq, spec, creditBytes });
}

function acked(publisher, firstSeq, count) {
  publisher.acked({ publisher: 1, firstSeq, count, firstOffset: 100 + firstSeq, level: "memory" });
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

test("messages of one turn share a run, and each hears its own offset", async () => {
  const { host, publisher } = open(SPEC);
  const acks = [1, 2, 3].map((payload) => publisher.publish(`${payload}`));
  await turn();
  assert.deepEqual(host.wire.sent, [1, 2, 3]);
  acked(publisher, 1, 3);
  assert.deepEqual((await Promise.all(acks)).map(({ offset }) => offset), [101, 102, 103]);
});

test("without credit nothing is sent, and with some one message may exceed it", async () => {
  const { host, publisher } = open(SPEC, { creditBytes: 40 });
  for (let at = 0; at < 3; at += 1) void publisher.publish(new Uint8Array(100));
  await turn();
  assert.deepEqual(host.wire.sent, [1]);
  publisher.addCredit(92);
  assert.deepEqual(host.wire.sent, [1], "the debt is paid first");
  publisher.addCredit(132);
  assert.deepEqual(host.wire.sent, [1, 2]);
});

test("after a reconnect what the server has not is sent again, with the same numbers", async () => {
  const { host, publisher } = open(SPEC);
  const acks = [1, 2, 3].map((payload) => publisher.publish(`${payload}`));
  await turn();
  acked(publisher, 1, 1);
  publisher.lost();
  publisher.open(true);
  assert.equal(host.said.at(-1).resumeSeq, 1);
  host.wire = new Wire();
  opened(publisher, SPEC, 2);
  assert.deepEqual(host.wire.sent, [3]);
  acked(publisher, 2, 2);
  assert.equal((await Promise.all(acks)).length, 3);
});

test("when the session was forgotten the outcome of what was sent is unknown, and the rest is sent from 1 on", async () => {
  const { host, publisher } = open(SPEC, { creditBytes: 1 });
  const sent = publisher.publish("sent");
  const waits = publisher.publish("waits");
  await turn();
  publisher.lost();
  publisher.open(false);
  await assert.rejects(sent, { code: "outcome-unknown" });
  host.wire = new Wire();
  opened(publisher, SPEC, 0);
  assert.deepEqual(host.wire.sent, [1]);
  acked(publisher, 1, 1);
  assert.equal((await waits).offset, 101);
});

test("what is refused rejects with its code", async () => {
  const { publisher } = open(SPEC);
  const publishing = publisher.publish("x");
  await turn();
  publisher.refused({ publisher: 1, firstSeq: 1, count: 1, code: 13 });
  await assert.rejects(publishing, { code: "too-large" });
});

test("a fast publisher keeps the newest while the wire takes nothing, and tells the server what it left out", async () => {
  const { host, publisher } = open({ ...SPEC, channel: "fast" });
  host.wire.room = 0;
  for (let at = 0; at < 1_000; at += 1) await publisher.publish("x");
  const { waiting, droppedSlow } = publisher.status();
  assert.deepEqual([waiting, droppedSlow], [256, 744]);
  host.wire.giveRoom(Infinity);
  await turn();
  assert.deepEqual([host.wire.datagrams[0].seq, host.wire.datagrams.at(-1).seq], [745, 1_000]);
  await new Promise((resolve) => setTimeout(resolve, 60));
  const told = host.said.find(({ is }) => is === "LeftOut");
  assert.deepEqual([told.lane, told.topic, told.droppedSlow], [1, 0, 744]);
});

test("of a latest topic only the newest of each key waits", async () => {
  const { host, publisher } = open({ ...SPEC, channel: "fast", mode: "latest" });
  host.wire.room = 0;
  for (let at = 0; at < 10; at += 1) await publisher.publish("x", { key: BigInt(at % 2) });
  assert.deepEqual([publisher.status().waiting, publisher.status().coalesced], [2, 8]);
  host.wire.giveRoom(Infinity);
  await turn();
  assert.deepEqual(host.wire.datagrams.map(({ seq }) => seq), [9, 10]);
});

test("what is too old is not sent, and what is sent carries the time that is left", async () => {
  const { host, publisher } = open({ ...SPEC, channel: "fast" });
  host.wire.room = 0;
  await publisher.publish("old", { deadlineMs: 1 });
  await publisher.publish("young", { deadlineMs: 60_000 });
  await new Promise((resolve) => setTimeout(resolve, 5));
  host.wire.giveRoom(Infinity);
  await turn();
  assert.deepEqual(host.wire.datagrams.map(({ seq }) => seq), [2]);
  const { deadlineUs } = host.wire.datagrams[0];
  assert.ok(deadlineUs > 0 && deadlineUs < 60_000_000, `${deadlineUs}`);
  assert.equal(publisher.status().expired, 1);
});

test("a fast message that fits no datagram goes in fragments", async () => {
  const { host, publisher } = open({ ...SPEC, channel: "fast" });
  await publisher.publish(new Uint8Array(5_000));
  await turn();
  assert.deepEqual(host.wire.datagrams, Array.from({ length: 5 }, () => "fragment"));
});

test("a closed publisher is told to the server once its last message is answered", async () => {
  const { host, publisher } = open(SPEC);
  const publishing = publisher.publish("last");
  await turn();
  publisher.close();
  await assert.rejects(publisher.publish("later"), { code: "closed" });
  assert.ok(!host.isForgotten);
  acked(publisher, 1, 1);
  await publishing;
  assert.deepEqual(host.said.at(-1), { is: "ClosePublisher", publisher: 1, lastSeq: 1 });
});
