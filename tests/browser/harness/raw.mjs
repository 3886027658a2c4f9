// A Socket.IO client of a few lines for many connections in one process: WebSocket only, no acknowledgements. It recovers as
// the official client does, by the last event's offset, and loses its connection whenever it is told to.

import WebSocket from "ws";

export class RawClient {
  /** `heard` is called with each event: name, arguments without the offset, and the offset. Lost, it is away for `awayMs`. */
  constructor(url, nsp, heard, awayMs = 5) {
    Object.assign(this, { url, nsp, heard, awayMs, pid: undefined, offset: undefined, connects: 0, recoveries: 0, closed: false });
    this.prefix = `42${nsp},`;
    this.connect();
  }

  connect() {
    this.ready = new Promise((resolve) => {
      this.isReady = resolve;
    });
    const socket = new WebSocket(`${this.url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`, { perMessageDeflate: false });
    this.socket = socket;
    socket.on("message", (data) => this.socket === socket && this.receive(data.toString()));
    socket.on("error", () => {});
    socket.on("close", () => !this.closed && this.socket === socket && setTimeout(() => this.connect(), this.awayMs));
  }

  receive(message) {
    if (message.startsWith(this.prefix)) {
      const event = JSON.parse(message.slice(this.prefix.length));
      const offset = typeof event.at(-1) === "string" ? event.pop() : undefined;
      if (offset !== undefined) this.offset = offset;
      this.heard(event, offset, this);
    } else if (message === "2") {
      this.socket.send("3");
    } else if (message[0] === "0") {
      const auth = this.pid === undefined ? {} : { pid: this.pid, offset: this.offset };
      this.socket.send(`40${this.nsp},${JSON.stringify(auth)}`);
    } else if (message.startsWith(`40${this.nsp},`)) {
      const { sid, pid } = JSON.parse(message.slice(3 + this.nsp.length));
      this.connects += 1;
      if (this.pid !== undefined && this.pid === pid) this.recoveries += 1;
      this.sid = sid;
      this.pid = pid;
      this.isReady();
    } else if (message.startsWith("44")) {
      throw new Error(`refused: ${message}`);
    }
  }

  /** Loses the TCP connection as if the cable were cut; comes back by itself. */
  cut() {
    this.socket.terminate();
  }

  close() {
    this.closed = true;
    this.socket.close();
  }
}

/** Numbers that a seed decides: mulberry32. */
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
