// The reference: Socket.IO's own server behind the control protocol that README.md describes. What it does not do: anything
// that a scenario does not ask for.

import { createServer } from "node:http";
import { Server } from "socket.io";
import msgpack from "socket.io-msgpack-parser";
import { meetSockets, suite } from "./sockets.mjs";
import { scenarios } from "./scenarios.mjs";

const options = JSON.parse(process.argv[2] ?? "{}");

const http = createServer((_, response) => response.writeHead(404).end());
const io = new Server(http, {
  path: options.path ?? "/socket.io/",
  pingInterval: options.pingIntervalMs ?? 25_000,
  pingTimeout: options.pingTimeoutMs ?? 20_000,
  upgradeTimeout: options.upgradeTimeoutMs ?? 10_000,
  connectTimeout: options.connectTimeoutMs ?? 45_000,
  maxHttpBufferSize: options.maxPayloadBytes ?? 1 << 20,
  transports: options.transports ?? ["polling", "websocket"],
  allowUpgrades: options.allowUpgrades ?? true,
  cors: options.origins === undefined ? undefined : { origin: options.origins, credentials: true },
  cookie: options.cookie,
  allowRequest: (request, decide) => decide(null, request.headers["x-refuse"] === undefined),
  connectionStateRecovery:
    options.recovery === false ? undefined : { maxDisconnectionDuration: options.recoveryMs ?? 120_000, skipMiddlewares: false },
  ...(options.parser === "msgpack" ? { parser: msgpack } : {}),
});

if (options.suite) {
  suite(io);
} else {
  const world = meetSockets(io);
  io.of("/control").on("connection", (socket) => {
    socket.on("run", async (name, args, answer) => {
      try {
        const scenario = scenarios[name];
        if (scenario === undefined) throw new Error(`no scenario ${JSON.stringify(name)}`);
        answer({ value: (await scenario(io, args, world)) ?? null });
      } catch (error) {
        answer({ error: error.message });
      }
    });
  });
}

http.listen(options.port ?? 0, "127.0.0.1", () => console.log(JSON.stringify({ port: http.address().port })));
process.stdin.on("end", () => process.exit(0)).resume();
