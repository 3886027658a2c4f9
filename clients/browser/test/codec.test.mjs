// The codec against the protocol's vectors.

import assert from "node:assert/strict";
import { test } from "node:test";

import { decodeControl, encodeControl } from "../dist/control.js";
import { ProtocolError } from "../dist/errors.js";
import { StreamDecoder, decodeDatagram, encodeMessage, encodeRun, parseFrame } from "../dist/frames.js";
import { toHex, vector, vectors } from "./vectors.mjs";

/** Queues are not for browsers. */
const QUEUES = new Set([
  "join-queue", "join-queue-settings", "want", "settle", "leave-queue", "queue-joined", "wanted", "settled",
  "member-closed",
]);
const HELLO = new TextEncoder().encode("hello");
const TIME_US = 1_700_000_000_000_000n;

test("every control message of the vectors is read and written byte for byte", () => {
  let checked = 0;
  for (const { name, bytes } of vectors("control.txt")) {
    if (QUEUES.has(name)) continue;
    assert.equal(toHex(encodeControl(decodeControl(bytes))), toHex(bytes), name);
    checked += 1;
  }
  assert.equal(checked, 28);
});

test("what the server says is read as its vector means it", () => {
  const read = (name) => decodeControl(vector("control.txt", name));
  const welcome = read("welcome");
  assert.equal(welcome.is, "Welcome");
  assert.equal(new TextDecoder().decode(welcome.session), "session-number-1");
  assert.equal(new TextDecoder().decode(welcome.secret), "secret-of-16-byt");
  assert.deepEqual(
    [welcome.version, welcome.resumed, welcome.server, welcome.pingIntervalMs, welcome.frameBytesMax],
    [1, true, "vector/1", 5_000, 1_052_736],
  );
  assert.deepEqual(read("acked"), {
    is: "Acked", publisher: 9, firstSeq: 13, count: 20, firstOffset: 400, level: "disk",
  });
  assert.deepEqual(read("gap"), {
    is: "Gap", subscription: 4, topic: 7, fromOffset: 41, toOffset: 44, cause: "lost",
  });
  const bound = read("topic-bound");
  assert.deepEqual(
    [bound.name, bound.epoch, bound.spec.channel, bound.spec.mode, bound.nextOffset, bound.nextSource, bound.outcome],
    ["plant/a/temperature", 0xe0n, "fast", "ordered", 44, 9, { missing: 3 }],
  );
  assert.deepEqual(read("left-out"), {
    is: "LeftOut", lane: 4, topic: 7, expired: 3, coalesced: 40, droppedSlow: 2, late: 1, noRoute: 5,
  });
});

test("an unlimited credit is infinite, and written as it was read", () => {
  const subscribe = decodeControl(vector("control.txt", "subscribe-continue"));
  assert.equal(subscribe.creditBytes, Infinity);
  assert.deepEqual(subscribe.positions, [{ topic: "plant/a/temperature", epoch: 0xe0n, offset: 41 }]);
});

test("message frames are written as the vectors have them, but for topic and source, which are the server's", () => {
  const anonymous = (name) => {
    const bytes = vector("message.txt", name);
    bytes.fill(0, 8, 16);
    return toHex(bytes);
  };
  const head = { seq: 12, timeUs: TIME_US };
  assert.equal(toHex(encodeMessage(head, HELLO)), anonymous("message-plain"));
  assert.equal(toHex(encodeMessage(head, new Uint8Array())), anonymous("message-empty"));
  assert.equal(toHex(encodeMessage({ ...head, deadlineUs: 20_000 }, HELLO)), anonymous("message-deadline"));
});

test("every message of the vectors is read, whatever options it has", () => {
  for (const { name, bytes } of vectors("message.txt")) {
    const frame = parseFrame(bytes);
    assert.deepEqual([frame.topic, frame.source, frame.seq, frame.timeUs], [7, 1, 12, TIME_US], name);
    const isEmpty = name === "message-empty" || name === "end";
    assert.equal(new TextDecoder().decode(frame.payload), isEmpty ? "" : "hello", name);
    assert.equal(frame.isEnd, name === "end");
  }
  const all = parseFrame(vector("message.txt", "message-all-options"));
  assert.deepEqual([all.deadlineUs, all.key], [20_000, 0x0102030405060708n]);
});

test("a run is read however it is cut into chunks", () => {
  const bytes = vector("run.txt", "run");
  for (let size = 1; size <= bytes.length; size += 1) {
    const seen = [];
    const decoder = new StreamDecoder();
    for (let at = 0; at < bytes.length; at += size) {
      decoder.push(bytes.subarray(at, at + size), (item) => seen.push(item));
    }
    assert.deepEqual(seen.map(({ run, index, frame }) => [run.lane, run.topic, run.first + index, frame.isEnd]), [
      [4, 7, 41, false], [4, 7, 42, true],
    ], `in chunks of ${size}`);
  }
});

test("a run is written as it is read", () => {
  const header = vector("run.txt", "run").subarray(0, 32);
  assert.equal(toHex(encodeRun({ lane: 4, topic: 7, first: 41 }, 2, 69)), toHex(header));
});

test("a datagram holds runs and control frames, whole and with nothing left over", () => {
  const bytes = vector("run.txt", "datagram");
  const seen = [];
  decodeDatagram(bytes, (item) => seen.push(item.is));
  assert.deepEqual(seen, ["frame", "frame", "frame", "control"]);
  for (let cut = 1; cut < bytes.length; cut += 1) {
    const whole = [69 + 32, 69 + 32 + 69].includes(cut);
    if (whole) continue;
    assert.throws(() => decodeDatagram(bytes.subarray(0, cut), () => {}), ProtocolError, `cut at ${cut}`);
  }
});

test("every invalid stream of the vectors is refused", () => {
  for (const { name, bytes } of vectors("invalid.txt")) {
    const decoder = new StreamDecoder(4096);
    const read = () => decoder.push(bytes, (item) => {
      if (item.is === "control") decodeControl(item.frame);
    });
    assert.throws(read, ProtocolError, name);
  }
});

test("a length that was only declared allocates nothing", () => {
  const decoder = new StreamDecoder();
  const prefix = new Uint8Array([0, 0, 4, 0, 3, 0, 0x82, 0]);
  decoder.push(prefix, () => assert.fail("nothing is complete"));
  const wanted = 0x4_0000;
  for (let sent = prefix.length; sent < wanted - 1; sent += 1_000) {
    decoder.push(new Uint8Array(Math.min(1_000, wanted - 1 - sent)), () => assert.fail("nothing is complete"));
  }
});
