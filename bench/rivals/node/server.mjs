// Socket.IO on Node, as its documentation shows it: the same handlers as the servers in src/events/serve.
import { createServer } from "node:http";
import { Server } from "socket.io";

const EVENT_BYTES = 64;
const NUMBER_DIGITS = 16;
const FILLER = "x".repeat(EVENT_BYTES - NUMBER_DIGITS);

const http = createServer();
const io = new Server(http);
let emitted = 0;

io.on("connection", (socket) => {
  socket.on("echo", (text, acknowledge) => acknowledge(text));
});

io.of("/control").on("connection", (socket) => {
  socket.on("credit", (events) => {
    while (emitted < events) {
      emitted += 1;
      io.emit("tick", String(emitted).padStart(NUMBER_DIGITS, "0") + FILLER);
    }
  });
  socket.on("settle", () => globalThis.gc?.());
});

http.listen(Number(process.argv[2]), "127.0.0.1");
