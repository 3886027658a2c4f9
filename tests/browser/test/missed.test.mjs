// Missed events under load: many clients, many lost connections, a steady stream. The short run; the whole: `npm run heavy`.

import { after, before, test } from "node:test";
import { equal, ok } from "../harness/expect.mjs";
import { isReference, startWorld } from "../harness/process.mjs";
import { missedEvents } from "../harness/missed.mjs";

const heavy = process.env.HEAVY === "1";
// Socket.IO's own server recovers only what it has noticed to be gone, and tells no gaps.
const skip = isReference && "Socket.IO does not promise it";

let world;
before(async () => {
  world = await startWorld();
});
after(() => world.stop());

const runs = heavy
  ? [{ clients: 100, reconnects: 1_000, events: 60_000, perSecond: 1_000, deadlineMs: 180_000 }]
  : [{ clients: 50, reconnects: 150, events: 1_000, perSecond: 250, deadlineMs: 60_000 }];

for (const run of runs) {
  const { clients, reconnects, events, perSecond } = run;
  test(`${reconnects} lost connections of ${clients} clients at ${perSecond} events/s: every event once, in order, or the exact gap`, { skip, timeout: 240_000 }, async () => {
    const counted = await missedEvents(world, run);
    console.log(`missed events: ${JSON.stringify(counted)}`);
    // All of it is within the recovery time and the history.
    equal([counted.gaps, counted.deliveries], [0, clients * events]);
  });
}

test("a history that is too short: every gap is exact", { skip, timeout: 60_000 }, async () => {
  const short = await startWorld({ server: { historyEvents: 5 } });
  try {
    const counted = await missedEvents(short, { clients: 20, reconnects: 60, events: 1_500, perSecond: 500, awayMs: 50, deadlineMs: 40_000 });
    console.log(`with a short history: ${JSON.stringify(counted)}`);
    ok(counted.gaps > 0, "there were gaps to tell");
  } finally {
    await short.stop();
  }
});
