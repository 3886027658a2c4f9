// A TCP proxy in front of a server that fails on purpose: it cuts connections without a farewell, refuses new ones, or holds
// back what the server says. With `udp` it carries datagrams on the same port, too, and loses them while it refuses.

import dgram from "node:dgram";
import net from "node:net";
import { once } from "./expect.mjs";

export async function startProxy(port, { udp = false } = {}) {
  const pairs = new Set();
  let refusing = false;
  let accepted = 0;
  const server = net.createServer({ noDelay: true }, (client) => {
    if (refusing) return client.destroy();
    accepted += 1;
    const upstream = net.connect({ port, host: "127.0.0.1", noDelay: true });
    const pair = { client, upstream };
    pairs.add(pair);
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      from.pipe(to);
      from.on("error", () => {});
      from.on("close", () => {
        to.destroy();
        pairs.delete(pair);
      });
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const datagrams = udp ? await carryDatagrams(server.address().port, port, () => refusing) : undefined;
  return {
    port: server.address().port,
    url: `http://127.0.0.1:${server.address().port}`,
    get accepted() {
      return accepted;
    },
    get open() {
      return [...pairs];
    },
    /** Cuts one connection, or all of them. */
    cut(pair) {
      for (const { client, upstream } of pair ? [pair] : pairs) {
        reset(client);
        reset(upstream);
      }
    },
    /** Cuts until `socket` has lost its connection: between two polls there is nothing to cut. */
    async lose(socket) {
      const gone = once(socket, "disconnect");
      const again = setInterval(() => this.cut(), 10);
      this.cut();
      try {
        return await gone;
      } finally {
        clearInterval(again);
      }
    },
    refuse(whether) {
      refusing = whether;
    },
    /** Stops reading from the server and from clients, so that both see a connection on which nothing moves. */
    hold() {
      for (const { client, upstream } of pairs) {
        client.pause();
        upstream.pause();
      }
    },
    async stop() {
      this.cut();
      datagrams?.stop();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Without a farewell. A socket that is saying its farewell cannot be reset: Node would neither close it nor, later, end. */
function reset(socket) {
  if (socket.writableEnded) socket.destroy();
  else socket.resetAndDestroy();
}

/** A socket towards the server for each client, as a network address translation has. */
async function carryDatagrams(listen, port, isLosing) {
  const upstreams = new Map();
  const server = dgram.createSocket("udp4");
  await new Promise((resolve) => server.bind(listen, "127.0.0.1", resolve));
  server.on("message", (datagram, client) => {
    if (isLosing()) return;
    let upstream = upstreams.get(client.port);
    if (upstream === undefined) {
      upstream = dgram.createSocket("udp4");
      upstream.on("message", (answer) => isLosing() || server.send(answer, client.port, client.address));
      upstream.on("error", () => {});
      upstreams.set(client.port, upstream);
    }
    upstream.send(datagram, port, "127.0.0.1");
  });
  return {
    stop() {
      upstreams.forEach((upstream) => upstream.close());
      server.close();
    },
  };
}
