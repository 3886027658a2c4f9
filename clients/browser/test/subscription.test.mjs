// A subscription against a host that plays the session: order, gaps, credit, bounds, and going on after a reconnect.

import assert from "node:assert/strict";
import { test } from "node:test";

import { TwinlaneError } from "../dist/errors.js";
import { Subscription } from "../dist/subscription.js";

const RELIABLE = {
  channel: "reliable", mode: "ordered", storage: "memory", last: "none", payloadBytesMax: 0, retainBytes: 0,
  retainMessages: 0, retainAgeMs: 0, deadlineUs: 0,
};
const RUN = { lane: 1, topic: 7, first: 0 };

function open(spec, options) {
  const host = {
    sent: [],
    isConnected: true,
    requests: 0,
    send: (message) => host.sent.push(message),
    nextRequest: () => (host.requests += 1),
    forget: () => { host.isForgotten = true; },
  };
  const subscription = new Subscription(host, 1, "topic", options ?? {});
  subscription.open();
  bind(subscription, spec, {});
  return { host, subscription };
}

function bind(subscription, spec, { epoch = 1n, nextOffset = 0, outcome = "fresh" }) {
  const name = "topic";
  subscription.bound({ subscription: 1, topic: 7, name, epoch, spec, nextOffset, nextSource: 1, outcome });
}

function message({ seq = 1, topic = 0, key, bytes = 10 } = {}) {
  const payload = new Uint8Array(bytes);
  return { isEnd: false, topic, source: 1, seq, timeUs: 0n, deadlineUs: undefined, key, payload, frameBytes: 32 + bytes };
}

async function read(subscription, count) {
  const read = [];
  for (let at = 0; at < count; at += 1) {
    const { value } = await subscription.next();
    read.push(value.is === "message" ? value.seq : [value.missing, value.cause]);
  }
  return read;
}

test("reliable messages come in order, once, and gaps stand where they belong", async () => {
  const { subscription } = open(RELIABLE);
  subscription.take(RUN, 0, message({ seq: 1 }));
  subscription.take(RUN, 0, message({ seq: 1 }));
  subscription.gap({ subscription: 1, topic: 7, fromOffset: 1, toOffset: 5, cause: "retention" });
  subscription.take({ ...RUN, first: 5 }, 0, message({ seq: 6 }));
  assert.deepEqual(await read(subscription, 3), [1, [4, "retention"], 6]);
  const { received, missing } = subscription.status();
  assert.deepEqual([received, missing], [2, 4]);
});

test("credit is given back for what was read, not for what waits", async () => {
  const { host, subscription } = open(RELIABLE);
  for (let at = 0; at < 200; at += 1) subscription.take(RUN, at, message({ seq: at + 1, bytes: 1_000 }));
  assert.deepEqual(host.sent.filter(({ is }) => is === "Credit"), []);
  await read(subscription, 200);
  const credit = host.sent.filter(({ is }) => is === "Credit").map(({ bytes }) => bytes);
  assert.equal(credit.length, 1);
  assert.ok(credit[0] >= 128 * 1024 && credit[0] <= 200 * 1_032, `${credit[0]}`);
});

test("on a new connection it asks for the first message that it lacks, with credit for what it has room for", async () => {
  const { host, subscription } = open(RELIABLE, { start: "all" });
  subscription.take(RUN, 0, message({ seq: 1 }));
  subscription.take(RUN, 1, message({ seq: 2 }));
  subscription.open();
  const asked = host.sent.at(-1);
  assert.deepEqual(asked.positions, [{ topic: "topic", epoch: 1n, offset: 2 }]);
  assert.deepEqual([asked.start, asked.creditBytes], ["new", 512 * 1024 - 2 * 42]);
  bind(subscription, RELIABLE, { nextOffset: 2, outcome: "resumed" });
  subscription.take({ ...RUN, first: 2 }, 0, message({ seq: 3 }));
  assert.deepEqual(await read(subscription, 3), [1, 2, 3]);
});

test("what is no longer kept after a reconnect is a gap, and so is a topic that began anew", async () => {
  const { subscription } = open(RELIABLE);
  subscription.take(RUN, 0, message({ seq: 1 }));
  bind(subscription, RELIABLE, { nextOffset: 10, outcome: { missing: 9 } });
  bind(subscription, RELIABLE, { epoch: 2n, nextOffset: 0 });
  subscription.take(RUN, 0, message({ seq: 1 }));
  assert.deepEqual(await read(subscription, 4), [1, [9, "retention"], [undefined, "epoch-changed"], 1]);
});

test("of a fast topic the newest wait, and how many went is told in their place", async () => {
  const { subscription } = open({ ...RELIABLE, channel: "fast" });
  for (let seq = 1; seq <= 2_000; seq += 1) subscription.take(RUN, 0, message({ seq, topic: seq }));
  const { waiting, droppedSlow, lost, missing } = subscription.status();
  assert.ok(waiting <= 1_025, `${waiting} wait`);
  assert.deepEqual([missing, lost], [droppedSlow, 0]);
  const [gap, first] = await read(subscription, 2);
  assert.deepEqual([gap, first], [[droppedSlow, "dropped-slow"], droppedSlow + 1]);
});

test("in a latest topic a newer value takes the place of one that waits", async () => {
  const { subscription } = open({ ...RELIABLE, channel: "fast", mode: "latest" });
  subscription.take(RUN, 0, message({ seq: 1, key: 1n }));
  subscription.take(RUN, 0, message({ seq: 2, key: 2n }));
  subscription.take(RUN, 0, message({ seq: 3, key: 1n }));
  assert.deepEqual(await read(subscription, 2), [3, 2]);
  assert.equal(subscription.status().coalesced, 1);
});

test("what is missing is lost until the server says why", () => {
  const { subscription } = open({ ...RELIABLE, channel: "fast" });
  subscription.take(RUN, 0, message({ seq: 11 }));
  assert.equal(subscription.status().lost, 10);
  subscription.leftOut({ lane: 1, topic: 7, expired: 3, coalesced: 0, droppedSlow: 4, late: 0, noRoute: 0 });
  const { missing, lost, expired, droppedSlow } = subscription.status();
  assert.deepEqual([missing, lost, expired, droppedSlow], [10, 3, 3, 4]);
});

test("what was explained on an earlier connection stays explained", () => {
  const { subscription } = open({ ...RELIABLE, channel: "fast" });
  subscription.take(RUN, 0, message({ seq: 11 }));
  subscription.leftOut({ lane: 1, topic: 7, expired: 10, coalesced: 0, droppedSlow: 0, late: 0, noRoute: 0 });
  bind(subscription, { ...RELIABLE, channel: "fast" }, { nextOffset: 1 });
  subscription.leftOut({ lane: 1, topic: 7, expired: 0, coalesced: 0, droppedSlow: 0, late: 0, noRoute: 0 });
  const { missing, lost, expired } = subscription.status();
  assert.deepEqual([missing, lost, expired], [10, 0, 10]);
});

test("a subscription that the server refuses or ends throws its reason once, and then is done", async () => {
  const { host, subscription } = open(RELIABLE);
  subscription.fail(16, "10 s behind");
  await assert.rejects(subscription.next(), (error) => error instanceof TwinlaneError && error.code === "slow-consumer");
  assert.equal((await subscription.next()).done, true);
  assert.ok(host.isForgotten);
});

test("leaving the loop ends the subscription", async () => {
  const { host, subscription } = open(RELIABLE);
  subscription.take(RUN, 0, message());
  for await (const delivery of subscription) {
    assert.equal(delivery.seq, 1);
    break;
  }
  assert.equal(host.sent.at(-1).is, "Unsubscribe");
});
