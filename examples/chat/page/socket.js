// Socket.IO (protocol 5) over one WebSocket: the part that a chat needs, small enough to read.
//
// Reconnects by itself, tells the server what it has seen, and so gets what it missed. What is asked while there is no
// connection is asked when there is one again: perhaps twice, so a question carries a key that the server knows it by.
// Attachments, polling and several namespaces on one connection are what the official client is for.

const ENGINE = { open: "0", close: "1", ping: "2", pong: "3", message: "4" };
const PACKET = { connect: "0", disconnect: "1", event: "2", ack: "3", refused: "4" };
const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 5_000;

export class Socket {
  #namespace;
  #auth;
  #handlers = new Map();
  #web = null;
  #silence = null;
  #retry = null;
  #attempts = 0;
  /** Questions without an answer, oldest first: number → { packet, answered, sent }. */
  #open = new Map();
  #number = 0;
  #pid = null;
  #offset = null;
  /** This client's public number while it is connected. */
  id = null;

  /** `auth()` is asked for the credentials at each connect. */
  constructor(namespace, auth) {
    this.#namespace = namespace;
    this.#auth = auth;
    addEventListener("offline", () => this.#lost("this device is offline"));
    addEventListener("online", () => this.connect());
  }

  /** Events of the server by their names, and `connect`, `disconnect`, `refused`, `retry` of this socket. */
  on(name, handler) {
    this.#handlers.set(name, handler);
    return this;
  }

  /** Connects, now. */
  connect() {
    clearTimeout(this.#retry);
    if (this.#web) return;
    const url = new URL("/socket.io/?EIO=4&transport=websocket", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const web = new WebSocket(url);
    this.#web = web;
    web.onmessage = ({ data }) => this.#web === web && this.#engine(data);
    web.onclose = () => this.#web === web && this.#lost("the server cannot be reached");
    this.#expect(RETRY_MS_MAX);
  }

  /** Leaves for good; `connect` begins anew. */
  leave() {
    this.#send(PACKET.disconnect);
    this.#pid = this.#offset = null;
    this.#drop();
  }

  /** Asks the server and resolves with its answer, however long that takes. `sent` is called when it is on its way. */
  ask(name, argument, sent = () => {}) {
    return new Promise((answered) => {
      const number = this.#number++;
      const question = { packet: `${number}${JSON.stringify([name, argument])}`, answered, sent };
      this.#open.set(number, question);
      this.#put(question);
    });
  }

  /** Tells the server, unless there is no connection: what is late would be worthless. */
  tell(name, argument) {
    if (this.id) this.#send(PACKET.event, JSON.stringify([name, argument]));
  }

  #put({ packet, sent }) {
    if (!this.id) return;
    this.#send(PACKET.event, packet);
    sent();
  }

  #engine(text) {
    this.#expect();
    const rest = text.slice(1);
    switch (text[0]) {
      case ENGINE.open: {
        const { pingInterval, pingTimeout } = JSON.parse(rest);
        this.#expect(pingInterval + pingTimeout);
        const seen = this.#pid ? { pid: this.#pid, offset: this.#offset } : {};
        return this.#send(PACKET.connect, JSON.stringify({ ...this.#auth(), ...seen }));
      }
      case ENGINE.ping:
        return this.#web.send(ENGINE.pong + rest);
      case ENGINE.message:
        return this.#packet(rest);
      case ENGINE.close:
        return this.#lost("the server closed the connection");
    }
  }

  #packet(text) {
    const [, namespace, number, json] = /^.(?:(\/[^,]*),)?(\d*)(.*)$/s.exec(text);
    if ((namespace ?? "/") !== this.#namespace) return;
    const data = json ? JSON.parse(json) : undefined;
    switch (text[0]) {
      case PACKET.connect: {
        const recovered = this.#pid !== null && this.#pid === data.pid;
        this.id = data.sid;
        this.#pid = data.pid ?? null;
        if (!recovered) this.#offset = null;
        this.#attempts = 0;
        const unanswered = [...this.#open.values()];
        this.#call("connect", { recovered });
        return unanswered.forEach((question) => this.#put(question));
      }
      case PACKET.event: {
        // The last argument of what can be missed is its place in the server's order.
        if (typeof data.at(-1) === "string" && data.length > 1) this.#offset = data.at(-1);
        return this.#call(data[0], data[1]);
      }
      case PACKET.ack: {
        const question = this.#open.get(Number(number));
        this.#open.delete(Number(number));
        return question?.answered(data[0]);
      }
      case PACKET.refused:
        this.#drop();
        return this.#call("refused", data.message);
      case PACKET.disconnect:
        this.#pid = null;
        return this.#lost("the server ended the session");
    }
  }

  #send(type, text = "") {
    if (this.#web?.readyState !== WebSocket.OPEN) return;
    this.#web.send(ENGINE.message + type + (this.#namespace === "/" ? "" : `${this.#namespace},`) + text);
  }

  /** The server speaks within `ms`, or the connection counts as lost. */
  #expect(ms = this.#silence?.ms) {
    clearTimeout(this.#silence?.timer);
    this.#silence = { ms, timer: setTimeout(() => this.#lost("the server has fallen silent"), ms) };
  }

  #drop() {
    clearTimeout(this.#silence?.timer);
    const web = this.#web;
    this.#web = this.id = null;
    web?.close();
  }

  #lost(why) {
    const wasConnected = this.id !== null;
    this.#drop();
    if (wasConnected) this.#call("disconnect", why);
    const wait = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** this.#attempts++) * (0.5 + Math.random());
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.connect(), wait);
    this.#call("retry", { why, wait });
  }

  #call(name, argument) {
    this.#handlers.get(name)?.(argument);
  }
}
