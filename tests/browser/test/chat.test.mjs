// The chat example and the console as people see them: two pages in one room, a lost connection, and a look at the server.
// Screenshots are kept in artefacts/.

import { spawn } from "node:child_process";
import { after, before, describe, test } from "node:test";
import { createInterface } from "node:readline";
import { keep, noBrowser, startBrowser } from "../harness/chromium.mjs";
import { equal, eventually, ok, within } from "../harness/expect.mjs";
import { isReference, program } from "../harness/process.mjs";

/** The chat's server with free ports, and the addresses that it prints. */
async function startChat() {
  const child = spawn(program("chat", "examples"), ["--listen", "127.0.0.1:0", "--native", "127.0.0.1:0"], { stdio: ["ignore", "pipe", "inherit"] });
  const urls = {};
  await within(10_000, "the chat's addresses", new Promise((resolve, reject) => {
    child.once("exit", (code) => reject(new Error(`the chat ended at its start: ${code}`)));
    createInterface(child.stdout).on("line", (line) => {
      const [what, url] = line.split(/\s+/);
      urls[what] = url;
      if (urls.chat && urls.console) resolve();
    });
  }));
  return {
    ...urls,
    async stop() {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGINT");
      const late = setTimeout(() => child.kill("SIGKILL"), 5_000);
      await ended;
      clearTimeout(late);
    },
  };
}

const skip = noBrowser || (isReference && "an example of twinlane's");

describe("chat and console in Chromium", { skip }, () => {
  let browser;
  let chat;
  before(async () => {
    chat = await startChat();
    browser = await startBrowser();
  });
  after(async () => {
    await browser?.close();
    await chat?.stop();
  });

  /** A person in the chat, with a browser profile of their own. */
  async function arrive(name, options = {}) {
    const page = await (await browser.newContext({ viewport: { width: 1_100, height: 720 }, ...options })).newPage();
    page.on("pageerror", (error) => console.log(`${name}'s page: ${error.message}`));
    await page.goto(chat.chat);
    await page.getByTestId("name-input").fill(name);
    await page.getByTestId("name-save").click();
    await isLive(page);
    return page;
  }

  const isLive = (page) => page.locator('[data-testid="connection"][data-state="live"]').waitFor({ timeout: 10_000 });
  const texts = (page) => page.getByTestId("message").allInnerTexts();
  const say = async (page, text) => {
    await page.getByTestId("composer").fill(text);
    await page.getByTestId("send").click();
  };
  const reads = (page, text) => page.getByTestId("message").filter({ hasText: text }).waitFor({ timeout: 10_000 });

  test("two people in a room see each other, what is written and who types", { timeout: 60_000 }, async () => {
    const ann = await arrive("Ann");
    const bob = await arrive("Bob", { colorScheme: "dark" });
    await ann.getByTestId("person-Bob").waitFor({ timeout: 10_000 });
    await bob.getByTestId("person-Ann").waitFor({ timeout: 10_000 });

    await bob.getByTestId("composer").pressSequentially("I am typ", { delay: 20 });
    await eventually("the typing indicator", async () => /Bob/.test(await ann.getByTestId("typing").innerText()));
    await bob.getByTestId("composer").fill("");

    await say(ann, "hello, Bob");
    await reads(bob, "hello, Bob");
    await ann.locator('[data-testid="message"][data-state="stored"]').waitFor({ timeout: 10_000 });
    await say(bob, "hello, Ann <b>&amp;</b>");
    await reads(ann, "hello, Ann <b>&amp;</b>");
    await keep(ann, "chat-light");
    await keep(bob, "chat-dark");

    await bob.context().close();
    await ann.getByTestId("person-Bob").waitFor({ state: "detached", timeout: 60_000 });
    await ann.context().close();
  });

  test("who was offline finds what was written meanwhile, once and in order", { timeout: 60_000 }, async () => {
    const [ann, bob] = [await arrive("Ann"), await arrive("Bob")];
    await say(bob, "before");
    await reads(ann, "before");
    await ann.context().setOffline(true);
    await ann.getByTestId("offline-banner").waitFor({ timeout: 10_000 });
    await keep(ann, "chat-offline");
    for (const text of ["missed 1", "missed 2", "missed 3"]) {
      await say(bob, text);
      await reads(bob, text);
    }
    await say(ann, "written offline");
    await ann.context().setOffline(false);
    await isLive(ann);
    await reads(ann, "missed 3");
    await reads(bob, "written offline");
    const seen = (await texts(ann)).map((text) => /missed \d/.exec(text)?.[0]).filter(Boolean);
    equal(seen, ["missed 1", "missed 2", "missed 3"]);
    equal((await texts(bob)).filter((text) => text.includes("written offline")).length, 1);
    await keep(ann, "chat-back-online");
    await Promise.all([ann, bob].map((page) => page.context().close()));
  });

  test("rooms are made, changed and kept apart; a newcomer finds the history", { timeout: 60_000 }, async () => {
    const [ann, bob] = [await arrive("Ann"), await arrive("Bob")];
    await ann.getByTestId("room-new").fill("tea");
    await ann.getByTestId("room-create").click();
    await eventually("the room", async () => /tea/.test(await ann.getByTestId("room-title").innerText()));
    await say(ann, "only for tea");
    await reads(ann, "only for tea");
    ok(!(await texts(bob)).some((text) => text.includes("only for tea")), "not in the lobby");
    await bob.getByTestId("room-tea").click();
    await reads(bob, "only for tea");
    await Promise.all([ann, bob].map((page) => page.context().close()));
  });

  test("the console shows what happens and can publish and watch", { timeout: 60_000 }, async () => {
    const page = await (await browser.newContext({ viewport: { width: 1_200, height: 900 } })).newPage();
    page.on("pageerror", (error) => console.log(`the console: ${error.message}`));
    await page.goto(chat.console);
    const ann = await arrive("Ann");
    await say(ann, "for the statistics");
    await page.getByTestId("watch-topic").fill("console/test");
    await page.getByTestId("watch-start").click();
    await page.getByTestId("publish-topic").fill("console/test");
    await page.getByTestId("publish-text").fill("from the console");
    await eventually("the published message", async () => {
      await page.getByTestId("publish-send").click();
      return (await page.getByTestId("watch-messages").innerText()).includes("from the console");
    });
    await eventually("the namespace", async () => (await page.getByTestId("namespaces").innerText()).includes("/"));
    await keep(page, "console");
    await ann.context().close();
    await page.context().close();
  });

  test("the console is closed to whoever has no token", { timeout: 30_000 }, async () => {
    const answer = await fetch(new URL("/console/api/status", chat.chat));
    equal(answer.status, 401);
  });
});
