/**
 * A session with a server, which survives its connections: it dials, says hello, opens everything again that was open,
 * and comes back when the connection is lost.
 */

import { decodeControl, encodeControl, type BodyOf, type Control, type TopicSpec } from "./control.js";
import { dial, type Reach } from "./dial.js";
import { ProtocolError, TwinlaneError, codeOf, isFinal, numberOf, type Code } from "./errors.js";
import { Reassembly } from "./fragments.js";
import { StreamDecoder, decodeDatagram, parseFrame, type Item } from "./frames.js";
import { EventsLink } from "./link.js";
import { Publisher, type PublisherOptions, type PublisherStatus } from "./publisher.js";
import { Socket, type SocketOptions } from "./socket.js";
import { Subscription, type SubscribeOptions, type SubscriptionStatus } from "./subscription.js";
import type { CertificateHash, Transport, Wire, WireEvents } from "./wire.js";

/** What {@link connect} may be told. */
export interface ConnectOptions {
  /** Proves who this is, where the server asks for it. */
  readonly token?: string;
  /** Which transports, the best first. By default WebTransport, and WebSocket where that does not work. */
  readonly transports?: readonly Transport[];
  /** Of a certificate that no authority vouches for. By default the gateway is asked. */
  readonly serverCertificateHashes?: readonly CertificateHash[];
  /** Where WebTransport is; by default the gateway is asked. */
  readonly webTransportUrl?: string;
  /** Names the program in the server's logs. */
  readonly name?: string;
  /** `false`: the first loss of the connection ends the session. */
  readonly reconnect?: boolean;
  /** How long a connection may take, in milliseconds: 10,000. */
  readonly timeoutMs?: number;
}

/** What a session is doing. */
export type SessionState = "connecting" | "connected" | "closed";

/** How a session fares. */
export interface SessionStatus {
  readonly state: SessionState;
  readonly transport: Transport | undefined;
  /** What carries fast topics. */
  readonly fastOver: "datagrams" | "stream" | undefined;
  /** Why it is not a better transport, or why there is none. */
  readonly why: string;
  readonly server: string;
  /** The session's number, in hex. */
  readonly id: string | undefined;
  readonly reconnects: number;
  /** Of the last ping. */
  readonly roundTripMs: number | undefined;
  readonly subscriptions: readonly SubscriptionStatus[];
  readonly publishers: readonly PublisherStatus[];
}

const VERSION = 1;
const HELLO_TIMEOUT_MS = 5_000;
/** Nothing was heard for so long after a ping, which follows 5 or 10 s of silence: the server is dead. */
const DEAD_AFTER_PING_MS = 5_000;
const RECONNECT_FIRST_MS = 100;
const RECONNECT_MAX_MS = 5_000;
const DEFAULT_TIMEOUT_MS = 10_000;

/** Connects to the gateway at `url`, for instance `https://example.org` or `http://localhost:4780`. */
export async function connect(url: string | URL, options: ConnectOptions = {}): Promise<Session> {
  const session = new Session(new URL(url), options);
  await session.start();
  return session;
}

/** Publishes and subscribes. It tells of changes of its state with an event `"change"`. */
export class Session extends EventTarget {
  readonly #options: ConnectOptions;
  readonly #reach: Reach;
  readonly #subscriptions = new Map<number, Subscription>();
  readonly #publishers = new Map<number, Publisher>();
  readonly #requests = new Map<number, { resolve: () => void; reject: (error: TwinlaneError) => void }>();
  readonly #host: Host;
  readonly #events = new EventsLink(this);
  #state: SessionState = "connecting";
  #connection: Connection | undefined;
  #resume: { session: Uint8Array; secret: Uint8Array } | undefined;
  #server = "";
  #why = "";
  #reconnects = 0;
  #lastLane = 0;
  #lastRequest = 0;
  #end!: (why: TwinlaneError) => void;
  /** Cuts a wait before the next attempt short. */
  #hurry: (() => void) | undefined;

  /** Resolves with the reason when the session is over for good. */
  readonly closed: Promise<TwinlaneError>;

  /** @internal */
  constructor(url: URL, options: ConnectOptions) {
    super();
    this.#options = options;
    this.#reach = {
      gateway: url,
      transports: options.transports ?? ["webtransport", "websocket"],
      timeoutMs: options.timeoutMs ?? DEFAULT_TIMEOUT_MS,
      webTransportUrl: options.webTransportUrl,
      serverCertificateHashes: options.serverCertificateHashes,
      avoidUntil: 0,
    };
    this.#host = new Host(this);
    this.closed = new Promise((resolve) => { this.#end = resolve; });
  }

  /** Subscribes to a topic, or to all that a filter like `plant/*` names. */
  subscribe(topic: string, options: SubscribeOptions = {}): Subscription {
    const subscription = new Subscription(this.#host, this.#nextLane(), topic, options);
    if (this.#state === "closed") {
      subscription.end(over(this.#why));
      return subscription;
    }
    this.#subscriptions.set(subscription.lane, subscription);
    if (this.#connection?.isReady) subscription.open();
    return subscription;
  }

  /** Opens a stream of messages to a topic. */
  publisher(topic: string, options: PublisherOptions = {}): Publisher {
    const publisher = new Publisher(this.#host, this.#nextLane(), topic, options);
    if (this.#state === "closed") {
      publisher.fail(over(this.#why));
      return publisher;
    }
    this.#publishers.set(publisher.lane, publisher);
    if (this.#connection?.isReady) publisher.open(true);
    return publisher;
  }

  /** A client in a namespace of the server's event layer, `/` or `/name`; `connect()` joins it. */
  socket(namespace = "/", options: SocketOptions = {}): Socket {
    return new Socket(this.#events, namespace, options);
  }

  /** Makes sure that a topic exists and is declared so. */
  declare(topic: string, spec: TopicSpec): Promise<void> {
    const connection = this.#connection;
    if (connection === undefined || !connection.isReady) {
      return Promise.reject(new TwinlaneError("unreachable", `not connected: ${this.#why}`));
    }
    const request = this.nextRequest();
    return new Promise((resolve, reject) => {
      this.#requests.set(request, { resolve, reject });
      connection.send({ is: "Declare", request, name: topic, spec });
    });
  }

  status(): SessionStatus {
    const connection = this.#connection?.isReady ? this.#connection : undefined;
    const transport = connection?.wire.transport;
    const hasDatagrams = (connection?.wire.datagramBytesMax ?? 0) > 0;
    return {
      state: this.#state,
      transport,
      fastOver: transport === undefined ? undefined : hasDatagrams ? "datagrams" : "stream",
      why: this.#why,
      server: this.#server,
      id: this.#resume && hex(this.#resume.session),
      reconnects: this.#reconnects,
      roundTripMs: connection?.roundTripMs,
      subscriptions: [...this.#subscriptions.values()].map((subscription) => subscription.status()),
      publishers: [...this.#publishers.values()].map((publisher) => publisher.status()),
    };
  }

  /** Ends the session; the server forgets it. What has no answer yet has none. */
  close(): void {
    if (this.#state === "closed") return;
    this.#connection?.goodbye("normal", "");
    this.#finish(new TwinlaneError("closed", "the session was closed"));
  }

  /** @internal In hex, while it is connected. */
  get id(): string | undefined {
    return this.connection && this.#resume && hex(this.#resume.session);
  }

  /** @internal */
  get connection(): Connection | undefined {
    return this.#connection?.isReady ? this.#connection : undefined;
  }

  /** @internal */
  nextRequest(): number {
    this.#lastRequest = (this.#lastRequest + 1) >>> 0;
    return this.#lastRequest;
  }

  /** @internal */
  forget(of: Subscription | Publisher): void {
    if (of instanceof Subscription) this.#subscriptions.delete(of.lane);
    else this.#publishers.delete(of.lane);
  }

  /** @internal The first connection; its failure is the caller's. */
  async start(): Promise<void> {
    try {
      await this.#connect();
    } catch (error) {
      const failed = asError(error);
      this.#finish(failed);
      throw failed;
    }
    globalThis.addEventListener?.("online", this.#online);
  }

  readonly #online = (): void => this.#hurry?.();

  async #connect(): Promise<void> {
    const connection = new Connection(this);
    const { wire, why } = await dial(this.#reach, connection);
    const welcome = await connection.hello(wire, {
      is: "Hello",
      versionMin: VERSION,
      versionMax: VERSION,
      capabilities: 0n,
      purpose: "primary",
      client: this.#options.name ?? "twinlane-browser",
      auth: this.#options.token === undefined ? undefined : new TextEncoder().encode(this.#options.token),
      resume: this.#resume,
    });
    if (this.#state === "closed") return connection.goodbye("normal", "");
    if (!connection.isReady) throw new TwinlaneError("unreachable", "the connection was lost behind its hello");
    this.#resume = { session: welcome.session, secret: welcome.secret };
    this.#server = welcome.server;
    this.#why = why;
    // What belonged to a session that was forgotten is not opened again.
    if (!welcome.resumed) this.#events.forgotten();
    this.#connection = connection;
    for (const publisher of this.#publishers.values()) publisher.open(welcome.resumed);
    for (const subscription of this.#subscriptions.values()) subscription.open();
    if (!welcome.resumed) this.#events.beginAgain();
    this.#become("connected");
  }

  /** @internal A connection is over. */
  lost(connection: Connection, error: TwinlaneError): void {
    if (this.#connection !== connection || this.#state === "closed") return;
    this.#connection = undefined;
    this.#why = error.message;
    for (const publisher of this.#publishers.values()) publisher.lost();
    const gone = new TwinlaneError("unreachable", "the connection was lost before an answer came");
    for (const { reject } of this.#requests.values()) reject(gone);
    this.#requests.clear();
    if (isFinal(error.code) || this.#options.reconnect === false) return this.#finish(error);
    this.#become("connecting");
    void this.#reconnect();
  }

  async #reconnect(): Promise<void> {
    for (let attempt = 0; this.#state !== "closed"; attempt += 1) {
      const doubled = Math.min(RECONNECT_FIRST_MS * 2 ** attempt, RECONNECT_MAX_MS);
      await this.#wait(doubled * (0.5 + Math.random()));
      if (this.#isClosed()) return;
      try {
        await this.#connect();
        this.#reconnects += 1;
        return;
      } catch (error) {
        const failed = asError(error);
        this.#why = failed.message;
        if (isFinal(failed.code)) return this.#finish(failed);
      }
    }
  }

  /** Waits, or until the browser says that it is online again. */
  #wait(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#hurry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  // TypeScript believes that a state which was compared once stays so across an await.
  #isClosed(): boolean {
    return this.#state === "closed";
  }

  #finish(error: TwinlaneError): void {
    if (this.#state === "closed") return;
    this.#why = error.message;
    this.#connection = undefined;
    for (const publisher of this.#publishers.values()) publisher.lost();
    this.#become("closed");
    globalThis.removeEventListener?.("online", this.#online);
    this.#hurry?.();
    this.#events.end(error);
    const why = error.code === "closed" ? "closed" : error;
    for (const subscription of [...this.#subscriptions.values()]) subscription.end(why);
    for (const publisher of [...this.#publishers.values()]) publisher.fail(error);
    for (const { reject } of this.#requests.values()) reject(error);
    this.#requests.clear();
    this.#end(error);
  }

  #become(state: SessionState): void {
    this.#state = state;
    this.dispatchEvent(new Event("change"));
  }

  #nextLane(): number {
    this.#lastLane += 1;
    return this.#lastLane;
  }

  /** @internal */
  take(item: Item): void {
    if (item.is !== "frame") return;
    this.#subscriptions.get(item.run.lane)?.take(item.run, item.index, item.frame);
  }

  /** @internal What the server says about publishers and subscriptions. */
  control(message: Control): void {
    switch (message.is) {
      case "PublisherOpened": return this.#publishers.get(message.publisher)?.opened(message);
      case "Acked": return this.#publishers.get(message.publisher)?.acked(message);
      case "Refused": return this.#publishers.get(message.publisher)?.refused(message);
      case "PublisherClosed": return this.#publisherClosed(message);
      case "Subscribed": return this.#subscriptions.get(message.subscription)?.subscribed();
      case "TopicBound": return this.#subscriptions.get(message.subscription)?.bound(message);
      case "Gap": return this.#subscriptions.get(message.subscription)?.gap(message);
      case "StreamEnd": return this.#subscriptions.get(message.subscription)?.streamEnded(message);
      case "LeftOut": return this.#subscriptions.get(message.lane)?.leftOut(message);
      case "Unsubscribed":
        return this.#subscriptions.get(message.subscription)?.fail(message.code, message.reason);
      case "Credit": return this.#publishers.get(message.lane)?.addCredit(message.bytes);
      case "Declared": {
        this.#requests.get(message.request)?.resolve();
        this.#requests.delete(message.request);
        return;
      }
      case "Failed": return this.#failed(message);
    }
  }

  #publisherClosed({ publisher, code, reason }: BodyOf<"PublisherClosed">): void {
    const named = codeOf(code);
    this.#publishers.get(publisher)?.fail(new TwinlaneError(named, reason || named));
  }

  #failed({ request, code, message }: BodyOf<"Failed">): void {
    this.#requests.get(request)?.reject(new TwinlaneError(codeOf(code), message));
    this.#requests.delete(request);
    for (const subscription of this.#subscriptions.values()) {
      if (subscription.isAsking(request)) return subscription.fail(code, message);
    }
    for (const publisher of this.#publishers.values()) {
      if (publisher.isAsking(request)) return publisher.fail(new TwinlaneError(codeOf(code), message));
    }
  }
}

/** What publishers and subscriptions see of their session. */
class Host {
  readonly #session: Session;

  constructor(session: Session) {
    this.#session = session;
  }

  get isConnected(): boolean {
    return this.#session.connection !== undefined;
  }

  get wire(): Wire | undefined {
    return this.#session.connection?.wire;
  }

  send(message: Control): void {
    this.#session.connection?.send(message);
  }

  nextRequest(): number {
    return this.#session.nextRequest();
  }

  forget(of: Subscription | Publisher): void {
    this.#session.forget(of);
  }
}

/** One connection: from its hello to its end. */
class Connection implements WireEvents {
  readonly #session: Session;
  readonly #stream = new StreamDecoder();
  readonly #reassembly = new Reassembly();
  #wire: Wire | undefined;
  #welcome: { resolve: (welcome: BodyOf<"Welcome">) => void; reject: (error: TwinlaneError) => void } | undefined;
  #isOver = false;
  isReady = false;
  roundTripMs: number | undefined;
  #heardAt = performance.now();
  #pingedAt: number | undefined;
  #pings = 0n;
  #ticks: ReturnType<typeof setInterval> | undefined;

  constructor(session: Session) {
    this.#session = session;
  }

  get wire(): Wire {
    if (this.#wire === undefined) throw new TwinlaneError("internal", "a connection without a wire");
    return this.#wire;
  }

  async hello(wire: Wire, hello: Control): Promise<BodyOf<"Welcome">> {
    this.#wire = wire;
    const timer = setTimeout(() => {
      this.#fail(new TwinlaneError("handshake-timeout", "the server does not answer the hello"));
    }, HELLO_TIMEOUT_MS);
    try {
      const answer = new Promise<BodyOf<"Welcome">>((resolve, reject) => { this.#welcome = { resolve, reject }; });
      this.send(hello);
      const welcome = await answer;
      const intervalMs = Math.max(100, welcome.pingIntervalMs);
      this.#ticks = setInterval(() => this.#tick(intervalMs), intervalMs / 2);
      return welcome;
    } finally {
      clearTimeout(timer);
    }
  }

  send(message: Control): void {
    if (!this.#isOver) this.#wire?.send(encodeControl(message));
  }

  goodbye(code: Code, reason: string): void {
    this.send({ is: "Goodbye", code: Math.max(0, numberOf(code)), reason: reason.slice(0, 200) });
    this.#over();
  }

  bytes(chunk: Uint8Array): void {
    this.#heard();
    this.#guarded(() => this.#stream.push(chunk, (item) => this.#take(item)));
  }

  datagram(datagram: Uint8Array): void {
    this.#heard();
    this.#guarded(() => decodeDatagram(datagram, (item) => this.#take(item)));
  }

  closed(reason: string): void {
    this.#fail(new TwinlaneError("unreachable", reason));
  }

  #guarded(take: () => void): void {
    if (this.#isOver) return;
    try {
      take();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.send({ is: "Goodbye", code: numberOf(error.code), reason: error.message.slice(0, 200) });
      this.#fail(error);
    }
  }

  #take(item: Item): void {
    if (this.#isOver) return;
    switch (item.is) {
      case "control": return this.#control(decodeControl(item.frame));
      case "frame": return this.#session.take(item);
      case "fragment": {
        const whole = this.#reassembly.take(item.frame, performance.now());
        if (whole === undefined) return;
        const frame = parseFrame(whole.frame);
        const leftUs = frame.deadlineUs;
        // The time that it waited for its last fragment counts, too.
        if (leftUs !== undefined && leftUs <= whole.waitedMs * 1000) return;
        const { lane, topic, number } = whole.place;
        this.#session.take({ is: "frame", run: { lane, topic, first: number }, index: 0, frame });
      }
    }
  }

  #control(message: Control): void {
    switch (message.is) {
      case "Welcome": {
        if (this.isReady) throw new ProtocolError("a second Welcome");
        this.isReady = true;
        return this.#welcome?.resolve(message);
      }
      case "Goodbye": return this.#fail(new TwinlaneError(codeOf(message.code), message.reason || codeOf(message.code)));
      case "Ping": return this.send({ is: "Pong", nonce: message.nonce });
      case "Pong": {
        if (message.nonce === this.#pings && this.#pingedAt !== undefined) {
          this.roundTripMs = performance.now() - this.#pingedAt;
        }
        return;
      }
      default: return this.#session.control(message);
    }
  }

  #heard(): void {
    this.#heardAt = performance.now();
  }

  /** Browsers slow the timers of hidden pages down: so silence counts from a ping, not from the last word. */
  #tick(intervalMs: number): void {
    const now = performance.now();
    if (this.#pingedAt !== undefined && this.#heardAt < this.#pingedAt) {
      if (now - this.#pingedAt < DEAD_AFTER_PING_MS) return;
      const silence = ((now - this.#heardAt) / 1000).toFixed(1);
      return this.#fail(new TwinlaneError("dead", `nothing was heard for ${silence} s`));
    }
    if (now - this.#heardAt < intervalMs) return;
    this.#pingedAt = now;
    this.#pings += 1n;
    this.send({ is: "Ping", nonce: this.#pings });
  }

  #fail(error: TwinlaneError): void {
    if (this.#isOver) return;
    this.#over();
    this.#welcome?.reject(error);
    this.#session.lost(this, error);
  }

  #over(): void {
    this.#isOver = true;
    this.isReady = false;
    clearInterval(this.#ticks);
    this.#wire?.close();
  }
}

function asError(error: unknown): TwinlaneError {
  return error instanceof TwinlaneError ? error : new TwinlaneError("internal", String(error));
}

function over(why: string): TwinlaneError {
  return new TwinlaneError("closed", `the session is over: ${why}`);
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
