// The client in Debian's Chromium against a gateway: WebTransport with datagrams, and the fallback to a WebSocket.
//
// SERVER is the example `topics_for_browsers` of the gateway crate, CHROMIUM the browser; playwright-core comes from
// tests/browser.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { losing, tcpRelay, udpRelay } from "./relays.mjs";

const folder = fileURLToPath(new URL("..", import.meta.url));
const root = fileURLToPath(new URL("../../..", import.meta.url));
const { chromium } = createRequire(`${root}/tests/browser/package.json`)("playwright-core");
const server = process.env.SERVER ?? `${root}/target/debug/examples/topics_for_browsers`;

let running;
let browser;
let url;
let page;

/** Starts a server, on a free port unless it is told which. */
async function serve(address = "127.0.0.1:0") {
  const child = spawn(server, [folder, address], { stdio: ["ignore", "pipe", "inherit"] });
  const [url] = await once(createInterface({ input: child.stdout }), "line");
  const stop = async () => {
    child.kill("SIGKILL");
    await once(child, "exit");
  };
  return { url, stop };
}

before(async () => {
  running = await serve();
  url = running.url;
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox"],
  });
  page = await open(url);
});

async function open(url) {
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(`page: ${error.stack}`));
  await page.goto(`${url}/test/page.html`);
  await page.waitForFunction(() => globalThis.isReady);
  return page;
}

after(async () => {
  await browser?.close();
  await running?.stop();
});

for (const transport of ["webtransport", "websocket"]) {
  test(`${transport}: what is published on a reliable topic is acknowledged and comes once and in order`, async () => {
    const seen = await page.evaluate(async (transport) => {
      const session = await twinlane.connect(location.origin, { transports: [transport] });
      const orders = session.subscribe("orders");
      await orders.ready;
      const publisher = session.publisher("orders");
      const acks = await Promise.all(Array.from({ length: 500 }, (_, at) => publisher.publish(`order ${at}`)));
      const texts = [];
      for await (const delivery of orders) {
        texts.push(delivery.is === "message" ? new TextDecoder().decode(delivery.payload) : delivery.cause);
        if (texts.length === 500) break;
      }
      const status = session.status();
      session.close();
      return { offsets: acks.map(({ offset }) => offset), texts, status };
    }, transport);
    assert.deepEqual(seen.texts, Array.from({ length: 500 }, (_, at) => `order ${at}`));
    const [first] = seen.offsets;
    assert.deepEqual(seen.offsets, seen.offsets.map((_, at) => first + at));
    assert.equal(seen.status.transport, transport);
    assert.equal(seen.status.why, "");
  });

  test(`${transport}: a fast topic comes over ${transport === "webtransport" ? "datagrams" : "the stream"}`, async () => {
    const seen = await page.evaluate(async (transport) => {
      const session = await twinlane.connect(location.origin, { transports: [transport] });
      const ticks = session.subscribe("ticks");
      const numbers = [];
      for await (const delivery of ticks) {
        if (delivery.is !== "message") continue;
        const { buffer, byteOffset, length } = delivery.payload;
        numbers.push(new DataView(buffer, byteOffset, length).getUint32(0, true));
        if (numbers.length === 50) break;
      }
      const status = session.status();
      session.close();
      return { numbers, status };
    }, transport);
    assert.equal(seen.status.fastOver, transport === "webtransport" ? "datagrams" : "stream");
    assert.deepEqual(seen.numbers, [...seen.numbers].sort((a, b) => a - b));
  });

  test(`${transport}: a page publishes on a fast topic, large messages in fragments too`, async () => {
    const sizes = await page.evaluate(async (transport) => {
      const session = await twinlane.connect(location.origin, { transports: [transport] });
      const spec = {
        channel: "fast", mode: "ordered", storage: "memory", last: "none", payloadBytesMax: 0, retainBytes: 0,
        retainMessages: 0, retainAgeMs: 0, deadlineUs: 0,
      };
      const positions = session.subscribe(`positions/${transport}`, { spec });
      await positions.ready;
      const publisher = session.publisher(`positions/${transport}`);
      const sizes = [];
      for (const size of [10, 1_000, 20_000]) {
        await publisher.publish(new Uint8Array(size).fill(7));
        const { value } = await positions.next();
        sizes.push(value.is === "message" && value.payload.every((byte) => byte === 7) ? value.payload.length : value);
      }
      session.close();
      return sizes;
    }, transport);
    assert.deepEqual(sizes, [10, 1_000, 20_000]);
  });
}

for (const transport of ["webtransport", "websocket"]) {
  test(`${transport}: events of a namespace reach the others, with bytes in them, and are answered`, async () => {
    const seen = await page.evaluate(async (transport) => {
      const [anna, bert] = await Promise.all([0, 1].map(async () => {
        const session = await twinlane.connect(location.origin, { transports: [transport] });
        const socket = session.socket("/chat");
        await socket.connect();
        return { session, socket };
      }));
      const said = new Promise((resolve) => bert.socket.once("said", resolve));
      const shown = new Promise((resolve) => bert.socket.once("shown", resolve));
      const texts = [await anna.socket.emitWithAck("say", { text: "hello" }), await said];
      const picture = new Uint8Array([1, 2, 255]);
      const pictures = [await anna.socket.emitWithAck("show", picture), await shown].map((bytes) => [...bytes]);
      const ids = [anna.socket.id, bert.socket.id];
      anna.session.close();
      bert.session.close();
      return { texts, pictures, ids };
    }, transport);
    assert.deepEqual(seen.texts, [{ text: "hello" }, { text: "hello" }]);
    assert.deepEqual(seen.pictures, [[1, 2, 255], [1, 2, 255]]);
    assert.equal(new Set(seen.ids).size, 2);
  });
}

test("events that come while the connection is lost are heard when it is back, in order", async () => {
  const relay = await tcpRelay(new URL(url).port);
  const relayed = await open(`http://127.0.0.1:${relay.port}`);
  try {
    await relayed.evaluate(async () => {
      globalThis.session = await twinlane.connect(location.origin, { transports: ["websocket"] });
      globalThis.socket = session.socket("/chat");
      await socket.connect();
      globalThis.heard = [];
      socket.on("said", ({ at }) => heard.push(at));
    });
    relay.refuse = true;
    relay.cut();
    await page.evaluate(async () => {
      const session = await twinlane.connect(location.origin, { transports: ["websocket"] });
      const socket = session.socket("/chat");
      await socket.connect();
      for (let at = 0; at < 20; at += 1) await socket.emitWithAck("say", { at });
      session.close();
    });
    const asked = relayed.evaluate(() => socket.emitWithAck("say", { at: "asked meanwhile" }));
    relay.refuse = false;
    assert.deepEqual(await asked, { at: "asked meanwhile" });
    await relayed.waitForFunction(() => heard.length >= 20);
    assert.deepEqual(await relayed.evaluate(() => heard), Array.from({ length: 20 }, (_, at) => at));
    assert.equal(await relayed.evaluate(() => session.status().reconnects), 1);
  } finally {
    relay.close();
    await relayed.close();
  }
});

test("without WebTransport the WebSocket is used within two seconds, and why is told", async () => {
  const { ms, status } = await page.evaluate(async () => {
    const began = performance.now();
    // Nobody answers there, as where UDP is blocked.
    const session = await twinlane.connect(location.origin, { webTransportUrl: "https://192.0.2.1:4433/twinlane" });
    const status = session.status();
    session.close();
    return { ms: performance.now() - began, status };
  });
  assert.equal(status.transport, "websocket");
  assert.match(status.why, /WebTransport/);
  assert.ok(ms < 2_000, `${ms} ms`);
});

test("a fast publisher never waits, whatever happens to what it publishes", async () => {
  const { ms, status } = await page.evaluate(async () => {
    const session = await twinlane.connect(location.origin, { transports: ["webtransport"] });
    const publisher = session.publisher("ticks");
    await publisher.publish("first");
    const payload = new Uint8Array(1_000);
    const began = performance.now();
    for (let sent = 0; sent < 10_000; sent += 1) await publisher.publish(payload);
    const ms = performance.now() - began;
    const status = publisher.status();
    session.close();
    return { ms, status };
  });
  assert.equal(status.published, 10_001);
  assert.ok(status.waiting <= 256, `${status.waiting} wait`);
  assert.ok(ms < 5_000, `${ms} ms`);
});

test("over a path that loses every fifth packet a fast topic goes on: in order, and what is missing is told", async () => {
  const relay = await udpRelay(new URL(url).port);
  try {
    const connected = page.evaluate(async (port) => {
      globalThis.session = await connectBy(port);
      globalThis.ticks = session.subscribe("ticks");
      await ticks.ready;
    }, relay.port);
    await connected;
    relay.loses = losing(0.2);
    const seen = await page.evaluate(async () => {
      const [deliveries, pauses] = [[], []];
      let last = performance.now();
      for await (const delivery of ticks) {
        if (delivery.is === "gap") {
          deliveries.push([delivery.missing, delivery.cause]);
          continue;
        }
        deliveries.push(delivery.seq);
        pauses.push(performance.now() - last);
        last = performance.now();
        if (pauses.length === 500) break;
      }
      const status = ticks.status();
      session.close();
      return { deliveries, pauses, status };
    });
    let next;
    let told = 0;
    for (const delivery of seen.deliveries) {
      if (Array.isArray(delivery)) {
        const [missing] = delivery;
        told += missing;
        next += missing;
        continue;
      }
      assert.equal(delivery, next ?? delivery, "every hole is told, and only holes");
      next = delivery + 1;
    }
    const longest = Math.max(...seen.pauses.slice(1));
    const { missing, lost, late, received } = seen.status;
    console.error(`of ${received + missing} ticks ${told} are missing, ${lost} lost, ${late} late; ${longest.toFixed(0)} ms the longest pause`);
    assert.equal(missing, told);
    assert.ok(told > 0, "the path did lose some");
    assert.ok(longest < 500, `${longest} ms without a tick`);
  } finally {
    relay.close();
  }
});

test("when UDP is cut off the session goes on over a WebSocket, and misses nothing of a reliable topic", async () => {
  const relay = await udpRelay(new URL(url).port);
  try {
    await page.evaluate(async (port) => {
      globalThis.session = await connectBy(port, ["webtransport", "websocket"]);
      globalThis.other = await twinlane.connect(location.origin, { transports: ["websocket"] });
      globalThis.orders = session.subscribe("orders");
      await orders.ready;
    }, relay.port);
    relay.loses = () => true;
    const seen = await page.evaluate(async () => {
      const publisher = other.publisher("orders");
      const own = session.publisher("orders");
      const [id, before] = [session.status().id, session.status().transport];
      const acks = Array.from({ length: 20 }, (_, at) => publisher.publish(`order ${at}`));
      const late = own.publish("order 20");
      await Promise.all(acks);
      const texts = [];
      for await (const delivery of orders) {
        texts.push(delivery.is === "message" ? new TextDecoder().decode(delivery.payload) : delivery.cause);
        if (texts.length === 21) break;
      }
      await late;
      const status = session.status();
      session.close();
      other.close();
      return { texts, before, id, status };
    });
    assert.deepEqual(seen.texts, Array.from({ length: 21 }, (_, at) => `order ${at}`));
    assert.deepEqual([seen.before, seen.status.transport], ["webtransport", "websocket"]);
    assert.equal(seen.status.id, seen.id, "it is the same session");
    assert.equal(seen.status.reconnects, 1);
  } finally {
    relay.close();
  }
});

test("a connection that is cut again and again costs no message of a reliable topic, and repeats none", async () => {
  const relay = await tcpRelay(new URL(url).port);
  const relayed = await open(`http://127.0.0.1:${relay.port}`);
  try {
    await relayed.evaluate(async () => {
      globalThis.session = await twinlane.connect(location.origin, { transports: ["websocket"] });
      globalThis.orders = session.subscribe("orders");
      await orders.ready;
      const publisher = session.publisher("orders");
      globalThis.acks = (async () => {
        const acks = [];
        for (let at = 0; at < 400; at += 1) {
          acks.push(publisher.publish(`order ${at}`));
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
        return Promise.all(acks);
      })();
    });
    const cuts = setInterval(() => relay.cut(), 400);
    const seen = await relayed.evaluate(async () => {
      const texts = [];
      for await (const delivery of orders) {
        texts.push(delivery.is === "message" ? new TextDecoder().decode(delivery.payload) : delivery.cause);
        if (texts.length === 400) break;
      }
      const offsets = (await acks).map(({ offset }) => offset);
      const status = session.status();
      session.close();
      return { texts, offsets, status };
    });
    clearInterval(cuts);
    assert.deepEqual(seen.texts, Array.from({ length: 400 }, (_, at) => `order ${at}`));
    assert.equal(new Set(seen.offsets).size, 400);
    assert.ok(seen.status.reconnects >= 2, `${seen.status.reconnects} reconnects`);
  } finally {
    relay.close();
    await relayed.close();
  }
});

for (const transport of ["webtransport", "websocket"]) {
  test(`${transport}: a server that was restarted finds its clients again, and what it cannot know is told`, async () => {
    const first = await serve();
    const address = new URL(first.url).host;
    const page = await open(first.url);
    let second;
    try {
      const before = await page.evaluate(async (transport) => {
        globalThis.session = await twinlane.connect(location.origin, { transports: [transport] });
        globalThis.socket = session.socket("/chat");
        globalThis.orders = session.subscribe("orders");
        globalThis.publisher = session.publisher("orders");
        await socket.connect();
        await orders.ready;
        const { offset } = await publisher.publish("before");
        await orders.next();
        return { offset, id: session.status().id };
      }, transport);
      await first.stop();
      // The browser notices at once that a TCP connection is over; of UDP it hears nothing for a while.
      const publishing = page.evaluate(async () => publisher.publish("meanwhile").then(() => "stored", ({ code }) => code));
      second = await serve(address);
      const seen = await page.evaluate(async () => {
        const gap = (await orders.next()).value;
        await publisher.publish("after");
        const texts = [];
        while (texts.at(-1) !== "after") {
          const { value } = await orders.next();
          texts.push(new TextDecoder().decode(value.payload));
        }
        while (!socket.connected) await new Promise((resolve) => setTimeout(resolve, 20));
        const answer = await socket.emitWithAck("say", { text: "hello again" });
        const result = { gap, texts, answer, id: session.status().id };
        session.close();
        return result;
      });
      assert.equal(before.offset, 0);
      assert.notEqual(seen.id, before.id);
      assert.deepEqual([seen.gap.is, seen.gap.cause], ["gap", "epoch-changed"]);
      assert.deepEqual(seen.answer, { text: "hello again" });
      const outcome = await publishing;
      assert.ok(["stored", "outcome-unknown"].includes(outcome), outcome);
      assert.equal(seen.texts.includes("meanwhile"), outcome === "stored");
    } finally {
      await (second ?? first).stop();
      await page.close();
    }
  });
}
