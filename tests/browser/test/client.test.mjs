// Lines 31 and 32 of EVENTS.md: the options and events that users of the official client expect to work.

import net from "node:net";
import { after, afterEach, before, describe, test } from "node:test";
import msgpack from "socket.io-msgpack-parser";
import { equal, eventually, ok, once, within } from "../harness/expect.mjs";
import { isReference, startServer, startWorld } from "../harness/process.mjs";
import { startProxy } from "../harness/proxy.mjs";
import { connected, cut } from "../harness/world.mjs";

let world;
let proxy;
before(async () => {
  world = await startWorld({ server: { pingIntervalMs: 200, pingTimeoutMs: 400, cookie: "io" } });
  proxy = await startProxy(world.server.port);
});
afterEach(() => {
  proxy.refuse(false);
  world.leaveAll();
});
after(async () => {
  await world.stop();
  await proxy.stop();
});

/** A socket that comes through the proxy. */
const throughProxy = (options) => {
  const socket = world.io(`${proxy.url}${world.fresh()}`, { forceNew: true, reconnectionDelay: 20, reconnectionDelayMax: 100, ...options });
  world.sockets.push(socket);
  return socket;
};
const attributes = (socket) => world.run("socket: attributes", { nsp: socket.nsp, id: socket.id });

describe("line 31: options of the client", () => {
  test("line 31: reconnection: false stays away", { timeout: 30_000 }, async () => {
    const socket = throughProxy({ reconnection: false });
    await connected(socket);
    await proxy.lose(socket);
    equal([socket.connected, socket.io._reconnecting ?? false], [false, false]);
  });

  test("line 31: reconnectionAttempts, reconnectionDelay, reconnectionDelayMax and randomizationFactor", { timeout: 30_000 }, async () => {
    const socket = throughProxy({ reconnectionAttempts: 3, reconnectionDelay: 40, reconnectionDelayMax: 80, randomizationFactor: 0 });
    await connected(socket);
    const attempts = [];
    socket.io.on("reconnect_attempt", (number) => attempts.push([number, performance.now()]));
    const failed = once(socket.io, "reconnect_failed");
    proxy.refuse(true);
    const start = performance.now();
    await proxy.lose(socket);
    await failed;
    equal(attempts.map(([number]) => number), [1, 2, 3]);
    const waits = attempts.map(([, at], index) => at - (attempts[index - 1]?.[1] ?? start));
    ok(waits[0] >= 39 && waits[1] >= 79 && waits[2] >= 79, `waited ${waits}`);
  });

  test("line 31: timeout of the connection", { timeout: 30_000 }, async () => {
    const accepted = [];
    const silent = net.createServer((client) => accepted.push(client.on("error", () => {}).resume()));
    await new Promise((resolve) => silent.listen(0, "127.0.0.1", resolve));
    const socket = world.io(`http://127.0.0.1:${silent.address().port}`, { timeout: 50, reconnection: false, forceNew: true });
    const [error] = await once(socket, "connect_error");
    equal(error.message, "timeout");
    socket.disconnect();
    accepted.forEach((client) => client.destroy());
    silent.close();
  });

  test("line 31: autoConnect: false waits for connect()", { timeout: 30_000 }, async () => {
    const socket = world.open(world.fresh(), { autoConnect: false });
    equal([socket.connected, socket.active], [false, false]);
    await connected(socket.connect());
  });

  test("line 31: auth as an object and as a function", { timeout: 30_000 }, async () => {
    const byObject = await connected(world.open(world.fresh(), { auth: { token: "a", number: 1 } }));
    equal((await attributes(byObject)).handshake.auth, { token: "a", number: 1 });
    let count = 0;
    const byFunction = await connected(world.open(world.fresh(), { auth: (give) => give({ count: (count += 1) }) }));
    await cut(byFunction);
    await connected(byFunction);
    equal((await attributes(byFunction)).handshake.auth.count, 2, "asked again at each connect");
  });

  test("line 31: query", { timeout: 30_000 }, async () => {
    const socket = await connected(world.open(world.fresh(), { query: { colour: "blue & green", n: 1 } }));
    const { query, url } = (await attributes(socket)).handshake;
    equal([query.colour, query.n, query.EIO], ["blue & green", "1", "4"]);
    ok(url.startsWith("/socket.io/?"), url);
  });

  for (const transports of [["polling"], ["websocket"]]) {
    test(`line 31: extraHeaders over ${transports}`, { timeout: 30_000 }, async () => {
      const socket = await connected(world.open(world.fresh(), { transports, extraHeaders: { "X-Custom": "own" } }));
      equal((await attributes(socket)).handshake.custom, "own");
    });
  }

  test("line 31: path", { timeout: 30_000 }, async () => {
    const elsewhere = await startWorld({ server: { path: "/events/v1/" }, client: { path: "/events/v1/" } });
    try {
      const { peers } = await elsewhere.meet([]);
      ok(peers[0].socket.connected, "connected below another path");
      const wrong = elsewhere.open(elsewhere.fresh(), { path: "/socket.io/", reconnection: false });
      await once(wrong, "connect_error");
    } finally {
      await elsewhere.stop();
    }
  });

  test("line 31: transports, upgrade and rememberUpgrade", { timeout: 30_000 }, async () => {
    const name = (socket) => socket.io.engine.transport.name;
    equal(name(await connected(world.open(world.fresh(), { transports: ["polling"] }))), "polling");
    equal(name(await connected(world.open(world.fresh(), { transports: ["websocket"] }))), "websocket");
    const staying = await connected(world.open(world.fresh(), { upgrade: false }));
    equal(await staying.emitWithAck("question", 1), 1);
    equal(name(staying), "polling");

    const upgrading = world.open(world.fresh(), { rememberUpgrade: true });
    await connected(upgrading);
    if (name(upgrading) === "polling") await once(upgrading.io.engine, "upgrade");
    equal(name(upgrading), "websocket");
    await cut(upgrading);
    await once(upgrading.io, "open");
    equal(name(upgrading), "websocket", "at once the second time");
  });

  test("line 31: tryAllTransports", { timeout: 30_000 }, async () => {
    const onlyPolling = await startWorld({ server: { transports: ["polling"] }, client: { transports: ["websocket", "polling"], tryAllTransports: true } });
    try {
      onlyPolling.control.io.opts.transports = ["polling"];
      const socket = await connected(onlyPolling.open(onlyPolling.fresh()));
      equal(socket.io.engine.transport.name, "polling");
    } finally {
      await onlyPolling.stop();
    }
  });

  test("line 31: multiplex and forceNew", { timeout: 30_000 }, async () => {
    const options = { ...world.options, forceNew: false };
    const [a, b] = [world.open(world.fresh(), options), world.open(world.fresh(), options)];
    const c = world.open(world.fresh(), { forceNew: true });
    const d = world.open(world.fresh(), { ...options, multiplex: false });
    await Promise.all([a, b, c, d].map(connected));
    ok(a.io === b.io, "two namespaces share a connection");
    ok(a.io !== c.io && a.io !== d.io, "unless they are told not to");
    a.disconnect();
    equal(await b.emitWithAck("question", 1), 1, "the other one stays when one leaves");
  });

  test("line 31: withCredentials", { timeout: 30_000 }, async () => {
    const first = await fetch(`${world.url}/socket.io/?EIO=4&transport=polling`);
    const sid = JSON.parse((await first.text()).slice(1)).sid;
    const cookies = first.headers.getSetCookie();
    // The gateway sets none: who may do what must not hang on a cookie.
    if (isReference) ok(cookies[0].startsWith(`io=${sid};`), cookies[0]);
    else equal(cookies, []);
    const socket = await connected(world.open(world.fresh(), { transports: ["polling"], withCredentials: true }));
    equal(await socket.emitWithAck("question", 1), 1);
  });

  test("line 31: a client with another parser is refused, not misunderstood", { timeout: 30_000 }, async () => {
    const socket = world.open(world.fresh(), { parser: msgpack, reconnection: false });
    const gone = new Promise((resolve) => ["connect_error", "disconnect"].forEach((name) => socket.once(name, resolve)));
    const closed = new Promise((resolve) => socket.io.on("close", resolve));
    await within(10_000, "the server's refusal", Promise.race([gone, closed]));
    ok(!socket.connected, "not connected");
  });
});

describe("line 32: events and attributes of the client", () => {
  test("line 32: connect, id, connected, disconnected, active, io and recovered", { timeout: 30_000 }, async () => {
    const socket = world.open(world.fresh());
    equal([socket.connected, socket.disconnected, socket.active, socket.id], [false, true, true, undefined]);
    await connected(socket);
    equal([socket.connected, socket.disconnected, socket.active, socket.recovered], [true, false, true, false]);
    ok(socket.id.length >= 20 && socket.io.engine.id.length >= 20 && socket.id !== socket.io.engine.id, "ids that cannot be guessed");
  });

  test("line 32: connect_error with the middleware's message and data", { timeout: 30_000 }, async () => {
    const socket = world.open(world.fresh("auth"), { auth: { token: "wrong" } });
    const [error] = await once(socket, "connect_error");
    equal([error.message, error.data], ["not authorized", { hint: "ask for a token" }]);
    equal([socket.connected, socket.active], [false, false], "a refused client does not try again by itself");
    socket.auth = { token: "secret" };
    await connected(socket.connect());
  });

  test("line 32: connect_error in a namespace that does not exist", { timeout: 30_000 }, async () => {
    const [error] = await once(world.open("/nobody-made-this"), "connect_error");
    equal(error.message, "Invalid namespace");
  });

  for (const [close, transports] of [false, true].flatMap((close) => [["polling"], ["websocket"]].map((transports) => [close, transports]))) {
    test(`line 32: disconnect by the server, ${close ? "transport closed" : "transport kept"}, over ${transports}`, { timeout: 30_000 }, async () => {
      const socket = await connected(world.open(world.fresh(), { transports }));
      const gone = once(socket, "disconnect");
      await world.run("socket: disconnect", { nsp: socket.nsp, id: socket.id, close });
      equal((await gone)[0], "io server disconnect");
      equal(socket.active, false, "a client that was sent away does not come back by itself");
      await connected(socket.connect());
    });
  }

  test("line 32: disconnect by the client", { timeout: 30_000 }, async () => {
    const socket = await connected(world.open(world.fresh()));
    const { id } = socket;
    const gone = once(socket, "disconnect");
    socket.disconnect();
    equal((await gone)[0], "io client disconnect");
    const left = await eventually("the server's notice", () => world.run("socket: left", { id }));
    equal(left.disconnect.reason, "client namespace disconnect");
  });

  for (const transports of [["polling"], ["websocket"]]) {
    test(`line 32: disconnect because the connection was cut, over ${transports}, and reconnect`, { timeout: 30_000 }, async () => {
      const socket = await connected(throughProxy({ transports }));
      const attempts = [];
      socket.io.on("reconnect_attempt", (number) => attempts.push(number));
      const back = once(socket.io, "reconnect");
      const [reason, details] = await proxy.lose(socket);
      ok(["transport close", "transport error"].includes(reason), reason);
      ok(details !== undefined, "with details");
      equal([socket.connected, socket.active], [false, true]);
      const [number] = await back;
      equal(attempts.at(-1), number);
      await connected(socket);
    });
  }

  test("line 32: disconnect because of a ping timeout", { timeout: 30_000 }, async () => {
    const socket = await connected(throughProxy({ transports: ["websocket"], reconnection: false }));
    const gone = once(socket, "disconnect");
    proxy.hold();
    equal((await gone)[0], "ping timeout");
    proxy.cut();
  });

  test("line 32: disconnect because the server closed the transport", { timeout: 30_000 }, async () => {
    const socket = await connected(world.open(world.fresh(), { reconnection: false }));
    const gone = once(socket, "disconnect");
    await world.run("engine: close the transport", { nsp: socket.nsp, id: socket.id });
    equal((await gone)[0], "transport close");
  });

  for (const transports of [["polling"], ["websocket"]]) {
    test(`line 32: disconnect because the server stops, over ${transports}`, { timeout: 30_000 }, async () => {
      const server = await startServer();
      const socket = world.io(server.url, { forceNew: true, reconnection: false, transports });
      world.sockets.push(socket);
      await connected(socket);
      const gone = once(socket, "disconnect");
      await server.stop();
      const [reason] = await gone;
      ok(["io server disconnect", "transport close", "transport error"].includes(reason), reason);
    });
  }

  test("line 32: error, reconnect_error and reconnect_failed of the manager", { timeout: 30_000 }, async () => {
    const socket = await connected(throughProxy({ reconnectionAttempts: 2, transports: ["websocket"] }));
    const events = [];
    for (const name of ["error", "reconnect_error", "reconnect_failed"]) socket.io.on(name, () => events.push(name));
    const failed = once(socket.io, "reconnect_failed");
    proxy.refuse(true);
    await proxy.lose(socket);
    await failed;
    equal(events.filter((name) => name !== "error"), ["reconnect_error", "reconnect_failed", "reconnect_error"]);
    ok(events.includes("error"), "and error");
  });

  test("line 32: ping of the manager, not before the ping interval is over", { timeout: 30_000 }, async () => {
    const started = performance.now();
    const socket = await connected(world.open(world.fresh(), { transports: ["websocket"] }));
    await once(socket.io, "ping");
    ok(performance.now() - started >= 195, "the first ping comes after pingInterval");
  });
});
