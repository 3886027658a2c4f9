// Fragments against the protocol's vectors, and lost ones restored by parity.

import assert from "node:assert/strict";
import { test } from "node:test";

import { ProtocolError } from "../dist/errors.js";
import { Reassembly, cut } from "../dist/fragments.js";
import { parseFrame } from "../dist/frames.js";
import { vectors } from "./vectors.mjs";

const fragments = vectors("fragment.txt").map(({ bytes }) => bytes);

function isWhole({ frame }) {
  const { payload, seq } = parseFrame(frame);
  return seq === 12 && payload.length === 600 && payload.every((byte, at) => byte === (7 * at) % 256);
}

test("any two of the vectors' four fragments give the message, in either order", () => {
  assert.equal(fragments.length, 4);
  for (const [a, first] of fragments.entries()) {
    for (const [b, second] of fragments.entries()) {
      if (a === b) continue;
      const reassembly = new Reassembly();
      assert.equal(reassembly.take(first, 0), undefined);
      const whole = reassembly.take(second, 5);
      assert.ok(whole !== undefined && isWhole(whole), `${a} and ${b}`);
      assert.equal(whole.waitedMs, 5);
      assert.equal(reassembly.take(first, 6), undefined, "late fragments of it are ignored");
    }
  }
});

test("what is cut is put together again, and comes once", () => {
  for (const size of [1_300, 20_000, 64_000, 200_000]) {
    const frame = Uint8Array.from({ length: size }, (_, at) => (at * 31) % 251);
    const parts = cut({ lane: 1, topic: 0, number: 9, message: 3 }, frame, 0, 1_100);
    assert.ok(parts.length > 1 && parts.every(({ length }) => length <= 1_100));
    const reassembly = new Reassembly();
    const found = parts.reverse().map((part) => reassembly.take(part, 0)).filter(Boolean);
    assert.equal(found.length, 1);
    assert.deepEqual(found[0].frame, frame);
    assert.deepEqual(found[0].place, { lane: 1, topic: 0, number: 9, message: 3 });
  }
});

test("a message whose budget is spent is given up", () => {
  const reassembly = new Reassembly();
  assert.equal(reassembly.take(fragments[0], 0), undefined);
  assert.equal(reassembly.take(fragments[1], 21), undefined, "its budget is 20 ms");
});

test("fragments that contradict each other, or themselves, are refused", () => {
  const reassembly = new Reassembly();
  reassembly.take(fragments[0], 0);
  const other = fragments[1].slice();
  other[34] = 3;
  assert.throws(() => reassembly.take(other, 0), ProtocolError);
  const short = fragments[0].slice(0, -1);
  assert.throws(() => new Reassembly().take(short, 0), ProtocolError);
});
