/** A client in a namespace of the event layer: emit, listen, acknowledge. It comes back by itself. */

import { TwinlaneError } from "./errors.js";
import type { Packet } from "./packets.js";

/** Hears an event; where the server wants an answer, the last argument is a function that gives it. */
export type Listener = (...args: any[]) => void;

/** What a socket may be told. */
export interface SocketOptions {
  /** Credentials for the namespace; asked for at each connect. */
  readonly auth?: Record<string, unknown> | (() => Record<string, unknown>);
  /** How long {@link Socket.emitWithAck} waits, in milliseconds: 10,000. */
  readonly ackTimeoutMs?: number;
}

/** What a socket needs of its session. */
export interface SocketHost {
  /** Resolves when the server has it. */
  send(packet: Packet): Promise<void>;
  add(socket: Socket): Promise<void>;
  remove(socket: Socket): void;
}

const ACK_TIMEOUT_MS = 10_000;
const JOIN_TIMEOUT_MS = 10_000;
const RESERVED: ReadonlySet<string> = new Set([
  "connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener",
]);

/**
 * A client in one namespace. Of its own it says `connect`, `connect_error` (with the error) and `disconnect` (with the
 * reason); `$gap` comes first after a reconnect where not everything that was missed is still there.
 */
export class Socket {
  /** `/` or `/name`. */
  readonly namespace: string;
  readonly #host: SocketHost;
  readonly #options: SocketOptions;
  readonly #listeners = new Map<string, { listener: Listener; isOnce: boolean }[]>();
  readonly #anyListeners: Listener[] = [];
  readonly #asked = new Map<bigint, (answer: unknown[]) => void>();
  #id: string | undefined;
  #pid: string | undefined;
  #offset: string | undefined;
  #isConnected = false;
  #isRecovered = false;
  #lastAck = 0n;
  #joining: { resolve: () => void; reject: (error: Error) => void } | undefined;

  /** @internal */
  constructor(host: SocketHost, namespace: string, options: SocketOptions) {
    this.#host = host;
    this.namespace = namespace;
    this.#options = options;
  }

  /** Its public number, while it is connected. */
  get id(): string | undefined {
    return this.#isConnected ? this.#id : undefined;
  }

  get connected(): boolean {
    return this.#isConnected;
  }

  /** Whether it came back as who it was, with everything that it missed. */
  get recovered(): boolean {
    return this.#isRecovered;
  }

  /** Joins the namespace; rejects where it is not let in. */
  async connect(): Promise<void> {
    if (this.#isConnected) return;
    const joined = new Promise<void>((resolve, reject) => { this.#joining = { resolve, reject }; });
    const timer = setTimeout(() => {
      this.#joining?.reject(new TwinlaneError("unreachable", `${this.namespace}: no answer of the event layer`));
    }, JOIN_TIMEOUT_MS);
    try {
      joined.catch(() => {});
      await this.#host.add(this);
      await this.#host.send(this.knock());
      await joined;
    } finally {
      clearTimeout(timer);
      this.#joining = undefined;
    }
  }

  /** Emits to the server; resolves when the server has it. While the connection is lost it waits. */
  emit(name: string, ...args: unknown[]): Promise<void> {
    return this.#emit(name, args, undefined);
  }

  /** Emits, and waits for the server's answer: its first argument. */
  async emitWithAck(name: string, ...args: unknown[]): Promise<unknown> {
    this.#lastAck += 1n;
    const ack = this.#lastAck;
    const timeoutMs = this.#options.ackTimeoutMs ?? ACK_TIMEOUT_MS;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const answer = new Promise<unknown[]>((resolve, reject) => {
      this.#asked.set(ack, resolve);
      const late = new TwinlaneError("unreachable", `${name}: no answer within ${timeoutMs} ms`);
      timer = setTimeout(() => reject(late), timeoutMs);
    });
    try {
      answer.catch(() => {});
      await this.#emit(name, args, ack);
      return (await answer)[0];
    } finally {
      clearTimeout(timer);
      this.#asked.delete(ack);
    }
  }

  on(name: string, listener: Listener): this {
    return this.#listen(name, listener, false);
  }

  once(name: string, listener: Listener): this {
    return this.#listen(name, listener, true);
  }

  /** Takes a listener away, or all of an event's. */
  off(name: string, listener?: Listener): this {
    const kept = (this.#listeners.get(name) ?? []).filter((entry) => listener && entry.listener !== listener);
    this.#listeners.set(name, kept);
    return this;
  }

  /** Hears every event of the server's, its name first. */
  onAny(listener: Listener): this {
    this.#anyListeners.push(listener);
    return this;
  }

  /** Leaves the namespace. */
  disconnect(): void {
    void this.#host.send(this.#packet("disconnect", undefined, undefined)).catch(() => {});
    this.#host.remove(this);
    this.left("io client disconnect");
    this.#pid = undefined;
  }

  /** @internal Asks to be let in, as who it was if it was somebody. */
  knock(): Packet {
    const auth = this.#options.auth;
    const data = { ...(typeof auth === "function" ? auth() : auth) };
    if (this.#pid !== undefined) data["pid"] = this.#pid;
    if (this.#offset !== undefined) data["offset"] = this.#offset;
    return this.#packet("connect", undefined, data);
  }

  /** @internal */
  take({ kind, ack, data }: Packet): void {
    switch (kind) {
      case "connected": return this.#letIn(data as { sid: string; pid: string | null });
      case "refused": return this.#keptOut(data as { message?: string; data?: unknown });
      case "event": return this.#hear(data as unknown[], ack);
      case "ack": return this.#asked.get(ack ?? 0n)?.(data as unknown[]);
      case "disconnect": {
        this.#host.remove(this);
        return this.left("io server disconnect");
      }
    }
  }

  /** @internal It is not in the namespace any more. */
  left(reason: string): void {
    if (!this.#isConnected) return;
    this.#isConnected = false;
    this.#call("disconnect", [reason]);
  }

  /** @internal */
  fail(error: Error): void {
    this.#joining?.reject(error);
    this.left("transport close");
  }

  async #emit(name: string, args: readonly unknown[], ack: bigint | undefined): Promise<void> {
    if (RESERVED.has(name)) throw new RangeError(`"${name}" is reserved: choose another name for the event`);
    await this.#host.send(this.#packet("event", ack, [name, ...args]));
  }

  #packet(kind: Packet["kind"], ack: bigint | undefined, data: unknown): Packet {
    return { kind, namespace: this.namespace, ack, data };
  }

  #letIn({ sid, pid }: { sid: string; pid: string | null }): void {
    this.#isRecovered = this.#pid !== undefined && this.#pid === pid;
    if (!this.#isRecovered) this.#offset = undefined;
    this.#id = sid;
    this.#pid = pid ?? undefined;
    this.#isConnected = true;
    this.#joining?.resolve();
    this.#call("connect", []);
  }

  #keptOut({ message, data }: { message?: string; data?: unknown }): void {
    this.#host.remove(this);
    const error = new TwinlaneError("permission-denied", message ?? "no reason given");
    Object.assign(error, { data });
    this.#joining?.reject(error);
    this.#call("connect_error", [error]);
  }

  #hear(event: unknown[], ack: bigint | undefined): void {
    const [name, ...args] = event;
    // Where an event can be recovered its offset is the last argument; where an answer is wanted it has none.
    const last = args.at(-1);
    if (ack === undefined && typeof last === "string" && this.#pid !== undefined) this.#offset = last;
    if (ack !== undefined) {
      let isAnswered = false;
      args.push((...answer: unknown[]) => {
        if (isAnswered) return;
        isAnswered = true;
        void this.#host.send(this.#packet("ack", ack, answer)).catch(() => {});
      });
    }
    for (const listener of [...this.#anyListeners]) guarded(listener, [name, ...args]);
    this.#call(String(name), args);
  }

  #listen(name: string, listener: Listener, isOnce: boolean): this {
    const listeners = this.#listeners.get(name) ?? [];
    listeners.push({ listener, isOnce });
    this.#listeners.set(name, listeners);
    return this;
  }

  #call(name: string, args: readonly unknown[]): void {
    const listeners = this.#listeners.get(name);
    if (listeners === undefined) return;
    this.#listeners.set(name, listeners.filter(({ isOnce }) => !isOnce));
    for (const { listener } of listeners) guarded(listener, args);
  }
}

/** One listener's mistake is reported as any other, and costs the others nothing. */
function guarded(listener: Listener, args: readonly unknown[]): void {
  try {
    listener(...args);
  } catch (error) {
    queueMicrotask(() => { throw error; });
  }
}
