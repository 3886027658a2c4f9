// The wire itself, by hand: Engine.IO v4 and Socket.IO v5 as raw HTTP requests and WebSocket messages. Every rule holds for
// the reference as well; where the gateway is stricter, the test says so. The official suites: `npm run suites`, README.md.

import net from "node:net";
import { after, before, describe, test } from "node:test";
import WebSocket from "ws";
import { equal, eventually, ok, within } from "../harness/expect.mjs";
import { isReference, startServer } from "../harness/process.mjs";

const [pingIntervalMs, pingTimeoutMs] = [300, 200];
const stricter = (why) => ({ skip: isReference && `Socket.IO ${why}` });

let server;
before(async () => {
  server = await startServer({ pingIntervalMs, pingTimeoutMs, connectTimeoutMs: 60_000, maxPayloadBytes: 100_000 });
});
after(() => server.stop());

const path = (query) => `${server.url}/socket.io/?${new URLSearchParams({ EIO: "4", transport: "polling", ...query })}`;
const get = (query, options) => within(10_000, "an answer", fetch(path(query), options));
const post = (sid, body, options) => get({ sid }, { method: "POST", body, headers: { "content-type": "text/plain;charset=UTF-8" }, ...options });

/** A polling session's number. */
async function handshake() {
  return JSON.parse((await (await get()).text()).slice(1)).sid;
}

/** A polling session in namespace `/`. */
async function joined() {
  const sid = await handshake();
  equal(await (await post(sid, "40")).text(), "ok");
  const answer = await (await get({ sid })).text();
  ok(answer.startsWith('40{"sid":'), answer);
  return sid;
}

/** A WebSocket whose messages are waited for in order. */
class Wire {
  constructor(query = {}, options = {}) {
    const asked = new URLSearchParams({ EIO: "4", transport: "websocket", ...query });
    this.socket = new WebSocket(`${server.url.replace("http", "ws")}/socket.io/?${asked}`, options);
    this.messages = [];
    this.waiting = [];
    this.socket.on("message", (data, isBinary) => {
      const message = isBinary ? data : data.toString();
      const next = this.waiting.shift();
      if (next) next(message);
      else this.messages.push(message);
    });
    this.socket.on("error", () => {});
    this.closed = new Promise((resolve) => this.socket.on("close", (code) => resolve(code)));
    this.opened = new Promise((resolve) => this.socket.on("open", resolve));
    this.refused = new Promise((resolve) => this.socket.on("unexpected-response", (_, response) => resolve(response.statusCode)));
  }

  next() {
    if (this.messages.length > 0) return Promise.resolve(this.messages.shift());
    return within(10_000, "a message", new Promise((resolve) => this.waiting.push(resolve)));
  }

  /** The next message that is no ping. */
  async event() {
    for (;;) {
      const message = await this.next();
      if (message !== "2") return message;
      this.send("3");
    }
  }

  send(...messages) {
    for (const message of messages) this.socket.send(message);
  }

  end() {
    return within(10_000, "the end of the connection", this.closed);
  }

  /** Connected and in namespace `/`. */
  static async joined(query, options) {
    const wire = new Wire(query, options);
    ok((await wire.next()).startsWith("0{"), "the handshake");
    wire.send("40");
    ok((await wire.event()).startsWith('40{"sid":'), "the namespace");
    return wire;
  }
}

describe("Engine.IO: handshake", () => {
  test("polling: the session's number and the server's terms", { timeout: 30_000 }, async () => {
    const answer = await get();
    equal([answer.status, answer.headers.get("content-type")?.toLowerCase()], [200, "text/plain; charset=utf-8"]);
    const text = await answer.text();
    const terms = JSON.parse(text.slice(1));
    equal([text[0], Object.keys(terms).sort()], ["0", ["maxPayload", "pingInterval", "pingTimeout", "sid", "upgrades"]]);
    equal([terms.upgrades, terms.pingInterval, terms.pingTimeout, terms.maxPayload], [["websocket"], 300, 200, 100_000]);
  });

  test("websocket: the same terms, and no upgrades", { timeout: 30_000 }, async () => {
    const wire = new Wire();
    const terms = JSON.parse((await wire.next()).slice(1));
    equal([terms.upgrades, terms.pingInterval, terms.pingTimeout], [[], 300, 200]);
    wire.socket.close();
  });

  for (const [what, query, options, status, code] of [
    ["an unknown transport", { transport: "pigeon" }, {}, 400, 0],
    ["no transport", { transport: "" }, {}, 400, 0],
    ["an unknown session", { sid: "nobody" }, {}, 400, 1],
    ["a handshake by POST", {}, { method: "POST", body: "" }, 400, 2],
    ["an old protocol version", { EIO: "3" }, {}, 400, 5],
    ["no protocol version", { EIO: "" }, {}, 400, 5],
    ["a request that the application refuses", {}, { headers: { "x-refuse": "1" } }, 403, 4],
  ]) {
    test(`polling: ${what} is refused with code ${code}`, { timeout: 30_000 }, async () => {
      const answer = await get(query, options);
      equal([answer.status, (await answer.json()).code], [status, code]);
    });
  }

  test("websocket: what is wrong is refused before or at once after the upgrade", { timeout: 30_000 }, async () => {
    for (const query of [{ EIO: "abc" }, { transport: "pigeon" }, { sid: "nobody" }]) {
      const wire = new Wire(query);
      await within(10_000, "a refusal", Promise.race([wire.refused, wire.closed]));
    }
  });
});

describe("Engine.IO: packets", () => {
  test("polling: several packets in one body, both ways, with bytes as base64", { timeout: 30_000 }, async () => {
    const sid = await joined();
    equal((await post(sid, '42["echo",1]\u001e451-["echo",{"_placeholder":true,"num":0},2]\u001ebAQIDBA==')).status, 200);
    let received = "";
    while (!received.includes("bAQIDBA==")) received += `${received && "\u001e"}${await (await get({ sid })).text()}`;
    const packets = received.split("\u001e").filter((packet) => packet !== "2");
    ok(packets[0].startsWith('42["echo",1') && packets[1].startsWith('451-["echo",{"_placeholder":true,"num":0},2'), received);
    equal(packets[2], "bAQIDBA==");
  });

  for (const [what, body] of [["no packet type", "abc"], ["an empty body", ""], ["bad base64", "b!!!"]]) {
    test(`polling: ${what} ends the session`, { timeout: 30_000 }, async () => {
      const sid = await joined();
      await post(sid, body).catch(() => {});
      // An empty body is nothing for the reference; what matters is that the server goes on.
      if (!(isReference && body === "")) {
        await eventually("the session's end", async () => (await get({ sid })).status === 400);
      }
      equal((await get()).status, 200);
    });
  }

  test("polling: a body above the limit is refused, the server goes on", { timeout: 30_000 }, async () => {
    const sid = await joined();
    const answer = await post(sid, `4${"x".repeat(200_000)}`).catch(() => ({ status: "cut" }));
    ok([413, "cut"].includes(answer.status), `answered ${answer.status}`);
    equal((await get()).status, 200);
  });

  test("polling: a second GET at the same time ends the session", { timeout: 30_000 }, async () => {
    const sid = await joined();
    const [first, second] = await Promise.all([get({ sid }), new Promise((resolve) => setTimeout(resolve, 20)).then(() => get({ sid }))]);
    const statuses = [first.status, second.status];
    ok(statuses.some((status) => status >= 400), `answered ${statuses}`);
    await eventually("the session's end", async () => (await get({ sid })).status === 400);
  });

  test("polling: packet close ends the session and answers the waiting GET", { timeout: 30_000 }, async () => {
    const sid = await joined();
    // The GET is to be there first; nothing tells when it is.
    const waited = get({ sid });
    await new Promise((resolve) => setTimeout(resolve, 50));
    await post(sid, "1");
    const waiting = await waited;
    equal([waiting.status, await waiting.text()], [200, "6"]);
    equal((await get({ sid })).status, 400);
  });

  test("websocket: packet close ends the connection", { timeout: 30_000 }, async () => {
    const wire = await Wire.joined();
    wire.send("1");
    await wire.end();
  });

  for (const message of ["abc", "", "9", "4", "42", "4{}", "42{}", '42["connect"]', "4299999999999999999999[]", '451-["x",{"_placeholder":true,"num":0}]42["x"]', "45-[]"]) {
    test(`websocket: ${JSON.stringify(message)} ends the connection or is left unanswered, and harms nobody else`, { timeout: 30_000 }, async () => {
      const [wire, other] = await Promise.all([Wire.joined(), Wire.joined()]);
      wire.send(message);
      other.send('420["question",1]');
      equal(await other.event(), "430[1]");
      other.socket.close();
      wire.socket.close();
      await wire.end();
    });
  }

  test("websocket: a message above the limit ends the connection", { timeout: 30_000 }, async () => {
    const wire = await Wire.joined();
    wire.send(`42["echo","${"x".repeat(200_000)}"]`);
    await wire.end();
  });

  test("websocket: invalid UTF-8 ends the connection", { timeout: 30_000 }, async () => {
    const wire = await Wire.joined();
    wire.socket._socket.write(Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x34, 0xff]));
    await wire.end();
  });

  test("websocket: a frame without mask ends the connection", { timeout: 30_000 }, async () => {
    const wire = await Wire.joined();
    wire.socket._socket.write(Buffer.from([0x81, 0x02, 0x34, 0x30]));
    await wire.end();
  });

  test("websocket: fragments and pings of the WebSocket protocol", { timeout: 30_000 }, async () => {
    const wire = await Wire.joined();
    wire.socket.send('42["ec', { fin: false });
    wire.socket.ping("are you there");
    wire.socket.send('ho",', { fin: false });
    wire.socket.send("7]", { fin: true });
    await within(10_000, "a pong", new Promise((resolve) => wire.socket.on("pong", resolve)));
    ok((await wire.event()).startsWith('42["echo",7'), "the whole");
    wire.socket.close();
  });
});

describe("Engine.IO: heartbeat", () => {
  test("polling: ping comes after pingInterval, and whoever does not answer is dropped", { timeout: 30_000 }, async () => {
    const started = performance.now();
    const sid = await joined();
    equal(await (await get({ sid })).text(), "2");
    ok(performance.now() - started >= pingIntervalMs - 5, "not before");
    equal((await post(sid, "3")).status, 200);
    equal(await (await get({ sid })).text(), "2");
    await new Promise((resolve) => setTimeout(resolve, pingTimeoutMs + 150));
    equal((await get({ sid })).status, 400);
  });

  test("websocket: the same", { timeout: 30_000 }, async () => {
    const wire = await Wire.joined();
    for (let round = 0; round < 3; round += 1) {
      const started = performance.now();
      equal(await wire.next(), "2");
      ok(performance.now() - started >= pingIntervalMs - 50, "pingInterval after the last answer");
      wire.send("3");
    }
    equal(await wire.next(), "2");
    const unanswered = performance.now();
    await wire.end();
    ok(performance.now() - unanswered >= pingTimeoutMs - 10, "pingTimeout after the ping");
  });
});

describe("Engine.IO: upgrade", () => {
  test("probe, noop for the waiting GET, upgrade; then polling is over", { timeout: 30_000 }, async () => {
    const sid = await joined();
    const wire = new Wire({ sid });
    await wire.opened;
    wire.send("2probe");
    equal(await wire.next(), "3probe");
    const waiting = await (await get({ sid })).text();
    ok(waiting === "6" || waiting === "2", waiting);
    wire.send("5", '420["question",8]');
    equal(await wire.event(), "430[8]");
    equal((await get({ sid })).status, 400);
    const late = new Wire({ sid });
    await within(10_000, "a refusal", Promise.race([late.refused, late.closed]));
    wire.send('421["question",9]');
    equal(await wire.event(), "431[9]");
    wire.socket.close();
  });

  test("events that wait in polling come by WebSocket after the upgrade, once and in order", { timeout: 30_000 }, async () => {
    const sid = await joined();
    const wire = new Wire({ sid });
    await wire.opened;
    wire.send("2probe");
    equal(await wire.next(), "3probe");
    // With no GET waiting, the answers have nowhere to go until one of both ways takes them.
    await post(sid, [1, 2, 3].map((number) => `42["echo",${number}]`).join("\u001e"));
    wire.send("5");
    const got = [];
    while (got.length < 3) got.push(/^42\["echo",(\d)/.exec(await wire.event())?.[1]);
    equal(got, ["1", "2", "3"]);
    wire.socket.close();
  });
});

describe("Socket.IO: namespaces and events", () => {
  test("a namespace nobody made is refused by name", { timeout: 30_000 }, async () => {
    const wire = new Wire();
    await wire.next();
    wire.send("40/random");
    equal(await wire.event(), '44/random,{"message":"Invalid namespace"}');
    wire.socket.close();
  });

  test("auth reaches the middleware; message and data come back", { timeout: 30_000 }, async () => {
    const wire = new Wire();
    await wire.next();
    wire.send('40/auth-1,{"token":"wrong"}');
    const refusal = await wire.event();
    equal([refusal.slice(0, 10), JSON.parse(refusal.slice(10))], ["44/auth-1,", { message: "not authorized", data: { hint: "ask for a token" } }]);
    wire.send('40/auth-1,{"token":"secret"}');
    ok((await wire.event()).startsWith("40/auth-1,{"), "let in on the same connection");
    wire.socket.close();
  });

  test("acknowledgements and attachments have their numbers", { timeout: 30_000 }, async () => {
    const wire = await Wire.joined();
    wire.send('451-12["question",{"_placeholder":true,"num":0}]', Buffer.from([1, 2]));
    equal(await wire.event(), '461-12[{"_placeholder":true,"num":0}]');
    equal(await wire.event(), Buffer.from([1, 2]));
    wire.socket.close();
  });

  test("leaving a namespace leaves the others alone", { timeout: 30_000 }, async () => {
    const wire = await Wire.joined();
    wire.send("40/t-raw");
    ok((await wire.event()).startsWith("40/t-raw,"), "in both");
    wire.send("41/t-raw", '423["question","still here"]');
    equal(await wire.event(), '433["still here"]');
    wire.socket.close();
  });

  test("events before CONNECT end the connection", { timeout: 30_000 }, async () => {
    const wire = new Wire();
    await wire.next();
    wire.send('42["echo",1]');
    if (isReference) wire.socket.close();
    await wire.end();
  });
});

describe("pages of other origins", () => {
  test("no Origin is no page and let in; a foreign one, null and suffix tricks are not", stricter("without cors answers, and leaves it to the browser"), async () => {
    equal((await get()).status, 200);
    const own = new URL(server.url).host;
    equal((await get({}, { headers: { origin: `http://${own}` } })).status, 200);
    for (const origin of ["https://evil.example", "null", `http://${own}.evil.example`, `http://evil.example/${own}`, `http://127.0.0.1:1`]) {
      equal((await get({}, { headers: { origin } })).status, 403, origin);
      const wire = new Wire({}, { origin });
      equal(await within(10_000, "a refusal", wire.refused), 403, `${origin} over WebSocket`);
    }
  });

  test("a listed origin gets its CORS headers, others none", { timeout: 30_000 }, async () => {
    const listed = await startServer({ origins: ["https://app.example"] });
    try {
      const ask = (origin, method = "GET") => fetch(`${listed.url}/socket.io/?EIO=4&transport=polling`, { method, headers: { origin, ...(method === "OPTIONS" ? { "access-control-request-method": "POST" } : {}) } });
      for (const method of ["GET", "OPTIONS"]) {
        const answer = await ask("https://app.example", method);
        ok(answer.status < 300, `${method} ${answer.status}`);
        equal([answer.headers.get("access-control-allow-origin"), answer.headers.get("access-control-allow-credentials")], ["https://app.example", "true"], method);
      }
      equal((await ask("https://other.example")).headers.get("access-control-allow-origin"), null);
    } finally {
      await listed.stop();
    }
  });
});

describe("abuse", () => {
  test("a client that says nothing or half a request does not stay", stricter("waits for minutes"), async () => {
    const ends = ["", "GET /socket.io/?EIO=4&tran", "POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\n"].map((said) => {
      const socket = net.connect(server.port, "127.0.0.1");
      socket.write(said);
      socket.on("error", () => {});
      socket.resume();
      return within(15_000, `the end of ${JSON.stringify(said)}`, new Promise((resolve) => socket.on("close", resolve)));
    });
    await Promise.all(ends);
    equal((await get()).status, 200);
  });

  test("a client that never joins a namespace is sent away", { timeout: 30_000 }, async () => {
    const impatient = await startServer({ connectTimeoutMs: 200 });
    try {
      const wire = new WebSocket(`${impatient.url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`);
      await within(10_000, "the end", new Promise((resolve) => wire.on("close", resolve)));
    } finally {
      await impatient.stop();
    }
  });
});
