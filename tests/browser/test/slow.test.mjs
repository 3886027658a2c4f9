// Clients that do not read: volatile events are left out for them, others are kept up to a bound; then they are sent away
// with a reason, come back, and are told what they missed. Nobody else notices.

import { after, afterEach, before, test } from "node:test";
import WebSocket from "ws";
import { equal, eventually, ok, within } from "../harness/expect.mjs";
import { isReference, startWorld } from "../harness/process.mjs";

let world;
before(async () => {
  world = await startWorld({ server: { outboxBytes: 1 << 20, outboxEvents: 1_000 } });
});
afterEach(() => world.leaveAll());
after(() => world.stop());

/** A client that has joined `nsp` and reads only when it is told to. */
async function lazy(nsp) {
  const socket = new WebSocket(`${world.url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`, { perMessageDeflate: false });
  const texts = [];
  const client = { socket, texts, closed: new Promise((resolve) => socket.on("close", resolve)) };
  socket.on("error", () => {});
  await within(10_000, "the namespace", new Promise((resolve) => {
    socket.on("message", (data, isBinary) => {
      if (isBinary) return;
      const text = data.toString();
      texts.push(text);
      if (text[0] === "0") socket.send(`40${nsp},{}`);
      if (text === "2") socket.send("3");
      if (text.startsWith("40")) {
        client.id = JSON.parse(text.slice(text.indexOf("{"))).sid;
        resolve();
      }
    });
  }));
  socket.pause();
  return client;
}

test("line 19: volatile events are left out for a client that does not read, and it stays", { timeout: 60_000 }, async () => {
  const nsp = world.fresh();
  const client = await lazy(nsp);
  const count = 400;
  await world.run("line 19: volatile to a client that does not read", { nsp, id: client.id, count, bytes: 100_000 });
  client.socket.resume();
  await world.run("emit", { nsp, name: "last", args: [1] });
  await eventually("what is not volatile", () => client.texts.some((text) => text.includes('["last",1')));
  const numbers = client.texts.map((text) => /"volatile",(\d+)/.exec(text)?.[1]).filter(Boolean).map(Number);
  ok(numbers.length < count, `${count - numbers.length} of ${count} were left out`);
  equal(numbers, [...numbers].sort((one, other) => one - other), "in order");
  client.socket.close();
});

test("a client that does not read is sent away at the bound, and others do not notice", { timeout: 60_000, skip: isReference && "Socket.IO keeps everything in memory" }, async () => {
  const nsp = world.fresh();
  const [client, other] = [await lazy(nsp), await world.join(nsp)];
  for (let number = 0; number < 60; number += 1) {
    await world.run("emit", { nsp, name: "large", args: [number, new Uint8Array(200_000), {}] });
  }
  const left = await eventually("the server's patience", () => world.run("socket: left", { id: client.id }), 20_000);
  equal(left.disconnect.reason, "slow consumer");
  await eventually("the other's events", () => other.heard.length === 60);
  equal(other.heard.map(([, number]) => number), Array.from({ length: 60 }, (_, at) => at));
  client.socket.terminate();
});
