// Lines 1 to 30 of EVENTS.md over every transport that Node has, and with the MessagePack parser. WebTransport: webtransport.test.mjs.

import { after, before, describe, test } from "node:test";
import msgpack from "socket.io-msgpack-parser";
import { startWorld } from "../harness/process.mjs";
import { clientLines } from "../lines/client_emit.mjs";
import { serverLines } from "../lines/server_emit.mjs";

const variants = {
  "polling": { client: { transports: ["polling"] } },
  "websocket": { client: { transports: ["websocket"] } },
  "polling, then websocket": { client: {} },
  "websocket, msgpack": { server: { parser: "msgpack" }, client: { transports: ["websocket"], parser: msgpack } },
  "polling, msgpack": { server: { parser: "msgpack" }, client: { transports: ["polling"], parser: msgpack } },
};

for (const [variant, how] of Object.entries(variants)) {
  describe(variant, () => {
    let world;
    before(async () => {
      world = await startWorld(how);
    });
    after(() => world.stop());
    for (const [name, line] of [...serverLines, ...clientLines]) {
      test(name, { timeout: 30_000 }, async () => {
        try {
          await line(world);
        } finally {
          world.leaveAll();
        }
      });
    }
  });
}
