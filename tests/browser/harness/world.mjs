// A server under test seen from its clients: the control connection, peers that write down what they hear, and marks that
// tell "has not heard it" from "has not heard it yet". Runs in Node and in a browser page; it starts no processes.

import { equal, once, within } from "./expect.mjs";

/** A client that writes down every event. */
export class Peer {
  constructor(socket) {
    this.socket = socket;
    this.heard = [];
    socket.onAny((...event) => this.heard.push(withoutOffset(socket, event)));
  }

  get id() {
    return this.socket.id;
  }

  /** What it heard since the last call, up to the mark. */
  async upToMark(number) {
    const isMark = ([name, value]) => name === "mark" && value === number;
    if (!this.heard.some(isMark)) {
      await within(10_000, `mark ${number} at ${this.id}`, new Promise((resolve) => {
        const listener = (name, value) => {
          if (!isMark([name, value])) return;
          this.socket.offAny(listener);
          resolve();
        };
        this.socket.onAny(listener);
      }));
    }
    const heard = this.heard.splice(0);
    return heard.slice(0, heard.findIndex(isMark));
  }
}

/** Where events can be recovered, their offset is the last argument. Tests send no text last, so that it can be told. */
export function withoutOffset(socket, event) {
  const recoverable = socket._pid !== undefined && event.length > 1 && typeof event.at(-1) === "string";
  return recoverable ? event.slice(0, -1) : event;
}

export class World {
  /** `io` is the official client, `options` what every connection is opened with. */
  constructor({ io, url, target, options = {} }) {
    Object.assign(this, { io, url, target, options });
    this.sockets = [];
    this.marks = 0;
    // The control connection never depends on the transport under test.
    const { parser, path, ca } = options;
    this.control = io(`${url}/control`, { forceNew: true, transports: ["websocket"], parser, path, ca });
  }

  get isReference() {
    return this.target === "reference";
  }

  /** Has the server do `scenario`; its answer. */
  async run(scenario, args = {}) {
    const answer = await this.control.timeout(20_000).emitWithAck("run", scenario, args);
    if (answer.error !== undefined) throw new Error(`${scenario}: ${answer.error}`);
    return answer.value;
  }

  /** A name that nobody has used. */
  fresh(kind = "t") {
    return `/${kind}-${Math.random().toString(36).slice(2)}`;
  }

  /** A socket that may not be connected yet. */
  open(nsp, options = {}) {
    const socket = this.io(`${this.url}${nsp}`, { forceNew: true, reconnectionDelay: 20, reconnectionDelayMax: 100, ...this.options, ...options });
    this.sockets.push(socket);
    return socket;
  }

  /** A peer in `nsp`. */
  async join(nsp, options = {}) {
    const socket = this.open(nsp, options);
    const peer = new Peer(socket);
    await connected(socket);
    return peer;
  }

  /** So many peers in a namespace of their own, the n-th in the rooms `rooms[n]`. */
  async meet(...rooms) {
    const nsp = this.fresh();
    const peers = await Promise.all(rooms.map(() => this.join(nsp)));
    await Promise.all(peers.map((peer, at) => rooms[at].length > 0 && this.run("join", { nsp, id: peer.id, rooms: rooms[at] })));
    return { nsp, peers };
  }

  /** What each of `peers` hears because of `action`, in order. A mark for all ends the wait, so silence is certain. */
  async heardDuring(nsp, peers, action) {
    peers.forEach((peer) => peer.heard.splice(0));
    await action();
    this.marks += 1;
    const number = this.marks;
    const marks = peers.map((peer) => peer.upToMark(number));
    await this.run("mark", { nsp, number });
    return Promise.all(marks);
  }

  /** Closes what tests have opened. */
  leaveAll() {
    this.sockets.splice(0).forEach((socket) => socket.disconnect());
  }

  close() {
    this.leaveAll();
    this.control.disconnect();
  }
}

/** Waits until `socket` is connected; a refusal is an error. */
export function connected(socket) {
  if (socket.connected) return socket;
  return within(10_000, `connecting to ${socket.nsp}`, new Promise((resolve, reject) => {
    socket.once("connect", () => resolve(socket));
    socket.once("connect_error", (error) => socket.active || reject(error));
  }));
}

/** Loses the transport as a failing network does: without a farewell. The client notices and, if it may, comes back. */
export function cut(socket) {
  const gone = once(socket, "disconnect");
  socket.io.engine.close();
  return gone;
}

export { equal };
