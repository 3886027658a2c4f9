// Holes, late messages and repeats of fast topics.

import assert from "node:assert/strict";
import { test } from "node:test";

import { offsetNear } from "../dist/subscription.js";
import { FastTracker } from "../dist/tracker.js";

test("a hole is told before what follows it, and counts as missing", () => {
  const tracker = new FastTracker("ordered", 1);
  assert.deepEqual(tracker.take(1, 1), { is: "deliver", missing: 0 });
  assert.deepEqual(tracker.take(1, 5), { is: "deliver", missing: 3 });
  assert.equal(tracker.missing, 3);
});

test("a stream that began before the subscription has no hole at its front, a later one has", () => {
  const tracker = new FastTracker("ordered", 5);
  assert.deepEqual(tracker.take(4, 100), { is: "deliver", missing: 0 });
  assert.deepEqual(tracker.take(5, 3), { is: "deliver", missing: 2 });
});

test("in an ordered topic what comes late is late, in an unordered one it fills its hole", () => {
  for (const [mode, verdict, missing] of [["ordered", "late", 1], ["unordered", "deliver", 0]]) {
    const tracker = new FastTracker(mode, 1);
    tracker.take(1, 1);
    tracker.take(1, 3);
    assert.equal(tracker.take(1, 2).is, verdict);
    assert.equal(tracker.missing, missing);
    assert.equal(tracker.take(1, 2).is, "repeat");
  }
});

test("in a latest topic a late value counts if it is the newest of its key", () => {
  const tracker = new FastTracker("latest", 1);
  tracker.take(1, 1, 7n);
  tracker.take(1, 4, 7n);
  assert.equal(tracker.take(1, 3, 8n).is, "deliver", "of another key");
  assert.equal(tracker.take(1, 2, 7n).is, "late");
  assert.equal(tracker.missing, 1);
});

test("the end of a stream tells of what is missing at its end", () => {
  const tracker = new FastTracker("ordered", 1);
  tracker.take(1, 1);
  assert.equal(tracker.end(1, 4), 3);
  assert.equal(tracker.missing, 3);
});

test("an offset is found by its low 32 bits", () => {
  const span = 2 ** 32;
  assert.equal(offsetNear(5, 9), 9);
  assert.equal(offsetNear(span - 1, 3), span + 3);
  assert.equal(offsetNear(span + 2, span - 5), span - 5);
  assert.equal(offsetNear(3 * span + 100, 40), 3 * span + 40);
});
