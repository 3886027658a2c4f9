// Stands between a browser and the server: a TCP relay whose connections can be cut, a UDP relay that loses packets.

import { createSocket } from "node:dgram";
import { once } from "node:events";
import { connect, createServer } from "node:net";

/** Relays TCP to `port`; `cut()` ends all connections, `refuse` those to come. */
export async function tcpRelay(port) {
  const sockets = new Set();
  const relay = { refuse: false, cut: () => sockets.forEach((socket) => socket.destroy()) };
  const server = createServer((client) => {
    if (relay.refuse) return client.destroy();
    const upstream = connect(port, "127.0.0.1");
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      sockets.add(from);
      from.setNoDelay();
      from.pipe(to);
      from.on("error", () => to.destroy());
      from.on("close", () => {
        sockets.delete(from);
        to.destroy();
      });
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  relay.port = server.address().port;
  relay.close = () => {
    relay.cut();
    server.close();
  };
  return relay;
}

/** Relays UDP to `port`; `loses(toClient)` says of each packet whether it is lost. */
export async function udpRelay(port) {
  const relay = { loses: () => false };
  const front = createSocket("udp4");
  const backs = new Map();
  front.on("message", (packet, { address, port: clientPort }) => {
    const client = `${address}:${clientPort}`;
    let back = backs.get(client);
    if (back === undefined) {
      back = createSocket("udp4");
      back.on("message", (answer) => relay.loses(true) || front.send(answer, clientPort, address));
      backs.set(client, back);
    }
    if (!relay.loses(false)) back.send(packet, port, "127.0.0.1");
  });
  front.bind(0, "127.0.0.1");
  await once(front, "listening");
  relay.port = front.address().port;
  relay.close = () => {
    front.close();
    backs.forEach((back) => back.close());
  };
  return relay;
}

/** The same losses in each run: every packet with probability `share`. */
export function losing(share, seed = 1) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32 < share;
  };
}
