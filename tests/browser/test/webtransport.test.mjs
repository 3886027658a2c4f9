// Lines 1 to 30 of EVENTS.md in Chromium: over WebTransport, which Node does not have, and over what a page uses by default.

import { after, before, describe, test } from "node:test";
import { noBrowser, startBrowser, startPages } from "../harness/chromium.mjs";
import { equal, eventually, ok } from "../harness/expect.mjs";
import { isReference, startWorld, target } from "../harness/process.mjs";
import { startProxy } from "../harness/proxy.mjs";
import { clientLines } from "../lines/client_emit.mjs";
import { serverLines } from "../lines/server_emit.mjs";

const skip = noBrowser || (isReference && "the reference needs a native module for HTTP/3");
const transports = ["polling", "websocket", "webtransport"];

describe("in Chromium", { skip }, () => {
  let browser;
  let pages;
  let world;
  let server;
  let page;
  before(async () => {
    pages = await startPages();
    world = await startWorld({ server: { transports, origins: [pages.url] } });
    server = world.server;
    browser = await startBrowser();
    page = await browser.newPage();
    // The official client leaves the rejections of closed WebTransport sessions unhandled.
    page.on("pageerror", (error) => /session is closed/i.test(error.message) || console.log(`in the page: ${error.message}`));
    await page.goto(pages.url);
    await page.waitForFunction("window.isReady");
  });
  after(async () => {
    await browser?.close();
    await world?.stop();
    await pages?.stop();
  });

  const enter = (options, url = server.url) => page.evaluate(([to, name, how]) => window.enter(to, name, how), [url, target, options]);
  const carrier = () => page.evaluate(() => window.socket.io.engine.transport.name);

  for (const used of [["webtransport"], ["polling", "websocket"]]) {
    describe(used.join(", then "), () => {
      before(() => enter({ transports: used }));
      for (const [name] of [...serverLines, ...clientLines]) {
        test(name, { timeout: 30_000 }, () => page.evaluate((line) => window.runLine(line), name));
      }
    });
  }

  test("WebTransport directly", { timeout: 30_000 }, async () => {
    await enter({ transports: ["webtransport"] });
    await page.evaluate(() => window.connect(window.world.fresh()));
    equal(await carrier(), "webtransport");
  });

  test("from polling to WebSocket", { timeout: 30_000 }, async () => {
    await enter({ transports: ["polling", "websocket"] });
    await page.evaluate(() => window.connect(window.world.fresh()));
    await eventually("the upgrade", async () => (await carrier()) === "websocket");
    equal(await page.evaluate(() => window.socket.emitWithAck("question", 1)), 1);
  });

  test("from polling to WebTransport", { timeout: 30_000 }, async () => {
    await enter({ transports: ["polling", "webtransport"] });
    await page.evaluate(() => window.connect(window.world.fresh()));
    await eventually("the upgrade", async () => (await carrier()) === "webtransport");
    equal(await page.evaluate(() => window.socket.emitWithAck("question", 1)), 1);
  });

  for (const used of [["polling"], ["websocket"], ["webtransport"]]) {
    test(`offline and online again: what was missed comes, over ${used}`, { timeout: 60_000 }, async () => {
      const proxy = await startProxy(server.port, { udp: true });
      const { control } = world;
      try {
        // A lost datagram tells nobody, so an attempt has to end by itself; and Chromium makes who fails often wait for long.
        await enter({ transports: used, timeout: 1_000, reconnectionDelay: 500, reconnectionDelayMax: 500 }, proxy.url);
        const nsp = world.fresh();
        const id = await page.evaluate(async (name) => {
          await window.connect(name);
          window.losses = 0;
          window.socket.on("disconnect", () => (window.losses += 1));
          return window.socket.id;
        }, nsp);
        const say = (number) => world.run("emit", { nsp, name: "news", args: [number] });
        await say(1);
        await page.waitForFunction(() => window.heard.length === 1);
        // Chromium's own switch tells the page, but does not stop every kind of connection.
        proxy.refuse(true);
        proxy.cut();
        await page.context().setOffline(true);
        await page.waitForFunction(() => window.losses === 1);
        await say(2);
        await say(3);
        proxy.refuse(false);
        await page.context().setOffline(false);
        await page.waitForFunction(() => window.heard.length >= 3);
        await say(4);
        await page.waitForFunction(() => window.heard.length >= 4);
        equal(await page.evaluate(() => window.heard.map(([name, number]) => [name, number])), [1, 2, 3, 4].map((number) => ["news", number]));
        equal(await page.evaluate(() => [window.socket.id, window.socket.recovered]), [id, true]);
        equal(await carrier(), used[0]);
        ok(control.connected, "the test itself was never offline");
      } finally {
        await page.context().setOffline(false);
        await page.evaluate(() => window.world.close());
        await proxy.stop();
      }
    });
  }

  test("a page of an origin that is not listed is refused", { timeout: 30_000 }, async () => {
    const foreign = await startPages();
    try {
      const other = await browser.newPage();
      await other.goto(foreign.url);
      await other.waitForFunction("window.isReady");
      const outcome = (used) => other.evaluate(async ([url, transport]) => {
        await window.enter(url, "twinlane", { transports: [transport], reconnection: false });
        const socket = window.world.open(window.world.fresh());
        return new Promise((resolve) => {
          socket.once("connect", () => resolve("connected"));
          socket.once("connect_error", () => resolve("refused"));
        });
      }, [server.url, used]);
      equal([await outcome("polling"), await outcome("websocket")], ["refused", "refused"]);
      await other.close();
    } finally {
      await foreign.stop();
    }
  });
});
