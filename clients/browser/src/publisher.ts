/** One publisher stream: numbers, what waits for an answer, and on fast topics what may still be replaced. */

import type { BodyOf, Control, TopicSpec } from "./control.js";
import { TwinlaneError, codeOf } from "./errors.js";
import { cut } from "./fragments.js";
import { encodeMessage, encodeRun, joined } from "./frames.js";
import type { Wire } from "./wire.js";

/** What a publisher may be told. */
export interface PublisherOptions {
  /** Declares the topic if there is none. */
  readonly spec?: TopicSpec;
}

/** What a message may carry beside its payload. */
export interface PublishOptions {
  /** What it is about, a hash: on a `latest` topic the newest of each key counts. */
  readonly key?: bigint;
  /** Fast topics: how long it may wait in queues on its whole way, in milliseconds. */
  readonly deadlineMs?: number;
  /** @internal Where the answer is to go. */
  readonly replyTo?: { readonly topic: number; readonly correlation: bigint };
}

/** A message is stored, or was sent. */
export interface Ack {
  /** Its place in the topic; `undefined` on a fast topic, where nobody answers. */
  readonly offset: number | undefined;
  /** Where it is stored; `"none"` on a fast topic. */
  readonly level: "none" | "memory" | "disk" | "replicated";
}

/** How a publisher fares. */
export interface PublisherStatus {
  readonly topic: string;
  readonly published: number;
  /** Not answered, or on a fast topic not sent. */
  readonly waiting: number;
  readonly expired: number;
  readonly coalesced: number;
  readonly droppedSlow: number;
}

/** What a publisher needs of its session. */
export interface PublisherHost {
  readonly wire: Wire | undefined;
  send(message: Control): void;
  nextRequest(): number;
  forget(publisher: Publisher): void;
}

/** Bytes of reliable messages that wait for their answer. */
const WAITING_BYTES_MAX = 16 << 20;
/** Messages of a fast topic that wait for the wire; the oldest go first. */
const FAST_WAITING_MAX = 256;
/** Bytes of one run. */
const RUN_BYTES_MAX = 64 << 10;
/** Bytes that may wait in a stream before fast messages wait here, where they can still be dropped. */
const STREAM_WAITING_MAX = 16 << 10;
/** How often a stream with too much in it is looked at again. */
const STREAM_LOOK_MS = 4;
/** How often the server is told what was left out. */
const LEFT_OUT_EVERY_MS = 50;

type LeftOutCause = "expired" | "coalesced" | "droppedSlow";

interface Pending {
  seq: number;
  payload: Uint8Array;
  readonly timeUs: bigint;
  readonly options: PublishOptions;
  frameBytes: number;
  isSent: boolean;
  resolve(ack: Ack): void;
  reject(error: TwinlaneError): void;
}

interface FastWaiting {
  readonly seq: number;
  readonly payload: Uint8Array;
  readonly timeUs: bigint;
  readonly key: bigint | undefined;
  /** On `performance.now()`. */
  readonly expiresAt: number | undefined;
}

/** Publishes to one topic. */
export class Publisher {
  readonly topic: string;
  /** @internal */
  readonly lane: number;
  readonly #host: PublisherHost;
  readonly #options: PublisherOptions;
  #request = 0;
  /** Once it is known what the topic is. */
  #spec: TopicSpec | undefined;
  /** On the connection as it is now. */
  #isOpen = false;
  #end: TwinlaneError | undefined;
  #nextSeq = 1;
  #published = 0;
  /** Of messages up to here the outcome is known. */
  #settledSeq = 0;
  readonly #pending = new Map<number, Pending>();
  #pendingBytes = 0;
  #credit = 0;
  #isFlushing = false;
  /** Calls before it is known what the topic is. */
  #early: Pending[] = [];
  #fast: FastWaiting[] = [];
  #isDraining = false;
  #message = 0;
  #leftOut = { expired: 0, coalesced: 0, droppedSlow: 0 };
  #leftOutTold = 0;
  #leftOutTimer: ReturnType<typeof setTimeout> | undefined;

  /** @internal */
  constructor(host: PublisherHost, lane: number, topic: string, options: PublisherOptions) {
    this.#host = host;
    this.lane = lane;
    this.topic = topic;
    this.#options = options;
  }

  /**
   * Publishes. On a reliable topic it resolves when the message is stored, also if the connection is lost meanwhile; on
   * a fast one at once, and it never waits.
   */
  publish(payload: Uint8Array | string, options: PublishOptions = {}): Promise<Ack> {
    const bytes = typeof payload === "string" ? new TextEncoder().encode(payload) : payload.slice();
    if (this.#end !== undefined) return Promise.reject(this.#end);
    if (this.#pendingBytes + bytes.length > WAITING_BYTES_MAX) {
      const waiting = `${this.#pendingBytes} bytes wait for the server`;
      return Promise.reject(new TwinlaneError("busy", `${this.topic}: ${waiting}`));
    }
    return new Promise((resolve, reject) => {
      const timeUs = BigInt(Date.now()) * 1000n;
      const pending = { seq: 0, payload: bytes, timeUs, options, frameBytes: 0, isSent: false, resolve, reject };
      if (this.#spec === undefined) {
        this.#pendingBytes += bytes.length;
        this.#early.push(pending);
      } else {
        this.#take(pending);
      }
    });
  }

  /** Ends the stream; what waits for an answer is still answered. */
  close(): void {
    if (this.#end !== undefined) return;
    this.#end = new TwinlaneError("closed", `${this.topic}: the publisher was closed`);
    if (this.#pending.size === 0 && this.#early.length === 0) this.#finish();
  }

  status(): PublisherStatus {
    const waiting = this.#pending.size + this.#early.length + this.#fast.length;
    return { topic: this.topic, published: this.#published, waiting, ...this.#leftOut };
  }

  /** @internal Asks for it on a new connection. */
  open(isResumed: boolean): void {
    if (!isResumed) this.#beginAnew();
    this.#request = this.#host.nextRequest();
    this.#host.send({
      is: "OpenPublisher",
      request: this.#request,
      publisher: this.lane,
      topic: this.topic,
      spec: this.#options.spec,
      resumeSeq: this.#settledSeq,
    });
  }

  /** @internal The connection is lost. */
  lost(): void {
    this.#isOpen = false;
  }

  /** @internal Whether `request` was this one's. */
  isAsking(request: number): boolean {
    return this.#request === request;
  }

  /** @internal */
  opened(opened: BodyOf<"PublisherOpened">): void {
    this.#spec = opened.spec;
    this.#isOpen = true;
    this.#credit = opened.creditBytes;
    // What the server has will be answered; the rest goes again.
    for (const pending of this.#pending.values()) pending.isSent = pending.seq <= opened.lastSeq;
    for (const early of this.#early.splice(0)) {
      this.#pendingBytes -= early.payload.length;
      this.#take(early);
    }
    this.#flush();
    void this.#drain();
  }

  /** @internal */
  acked(acked: BodyOf<"Acked">): void {
    for (let at = 0; at < acked.count; at += 1) {
      this.#settle(acked.firstSeq + at)?.resolve({ offset: acked.firstOffset + at, level: acked.level });
    }
    this.#finishIfDone();
  }

  /** @internal */
  refused(refused: BodyOf<"Refused">): void {
    const code = codeOf(refused.code);
    for (let at = 0; at < refused.count; at += 1) {
      this.#settle(refused.firstSeq + at)?.reject(new TwinlaneError(code, `${this.topic}: not stored: ${code}`));
    }
    this.#finishIfDone();
  }

  /** @internal */
  addCredit(bytes: number): void {
    this.#credit += bytes;
    this.#flush();
  }

  /** @internal The server ended it, or the session is over. */
  fail(error: TwinlaneError): void {
    this.#end = error;
    for (const early of this.#early.splice(0)) early.reject(error);
    for (const pending of this.#pending.values()) pending.reject(pending.isSent ? unknown(this.topic) : error);
    this.#pending.clear();
    this.#fast = [];
    clearTimeout(this.#leftOutTimer);
    this.#host.forget(this);
  }

  get #isFast(): boolean {
    return this.#spec?.channel === "fast";
  }

  #take(pending: Pending): void {
    this.#published += 1;
    pending.seq = this.#nextSeq;
    this.#nextSeq += 1;
    if (this.#isFast) return this.#takeFast(pending);
    this.#pending.set(pending.seq, pending);
    this.#pendingBytes += pending.payload.length;
    if (this.#isFlushing) return;
    // Messages of one turn share a run.
    this.#isFlushing = true;
    queueMicrotask(() => {
      this.#isFlushing = false;
      this.#flush();
    });
  }

  #settle(seq: number): Pending | undefined {
    const pending = this.#pending.get(seq);
    if (pending === undefined) return undefined;
    this.#pending.delete(seq);
    this.#pendingBytes -= pending.payload.length;
    this.#settledSeq = Math.max(this.#settledSeq, seq);
    return pending;
  }

  /** Sends what there is credit for, in order. */
  #flush(): void {
    const wire = this.#host.wire;
    if (wire === undefined || !this.#isOpen || this.#isFast) return;
    let frames: Uint8Array[] = [];
    let runBytes = 0;
    let first = 0;
    const send = () => {
      if (frames.length > 0) wire.send(run(this.lane, first, frames, runBytes));
      frames = [];
      runBytes = 0;
    };
    for (const pending of this.#pending.values()) {
      if (pending.isSent) continue;
      if (this.#credit <= 0) break;
      const { seq, timeUs, options } = pending;
      const frame = encodeMessage({ seq, timeUs, key: options.key, replyTo: options.replyTo }, pending.payload);
      // While any is left one frame may exceed it; alone in its run, as is one that makes the run too long.
      if (frame.length > this.#credit && frames.length > 0) send();
      if (runBytes + frame.length > RUN_BYTES_MAX) send();
      if (frames.length === 0) first = seq;
      frames.push(frame);
      runBytes += frame.length;
      this.#credit -= frame.length;
      pending.isSent = true;
    }
    send();
  }

  #takeFast(pending: Pending): void {
    const { seq, payload, timeUs, options } = pending;
    const specMs = (this.#spec?.deadlineUs ?? 0) / 1000;
    const deadlineMs = options.deadlineMs ?? (specMs > 0 ? specMs : undefined);
    const expiresAt = deadlineMs === undefined ? undefined : performance.now() + deadlineMs;
    const waiting = { seq, payload, timeUs, key: options.key, expiresAt };
    pending.resolve({ offset: undefined, level: "none" });
    const isLatest = this.#spec?.mode === "latest" && waiting.key !== undefined;
    const same = isLatest ? this.#fast.findIndex(({ key }) => key === waiting.key) : -1;
    if (same >= 0) {
      this.#fast.splice(same, 1);
      this.#leaveOut("coalesced");
    }
    this.#fast.push(waiting);
    if (this.#fast.length > FAST_WAITING_MAX) {
      this.#fast.shift();
      this.#leaveOut("droppedSlow");
    }
    void this.#drain();
  }

  /** Sends fast messages as the wire takes them. */
  async #drain(): Promise<void> {
    if (this.#isDraining) return;
    this.#isDraining = true;
    try {
      while (this.#fast.length > 0) {
        const wire = this.#host.wire;
        if (wire === undefined || !this.#isOpen) return;
        const [next] = this.#fast;
        if (next === undefined) return;
        if (next.expiresAt !== undefined && next.expiresAt <= performance.now()) {
          this.#fast.shift();
          this.#leaveOut("expired");
        } else if (this.#sendFast(wire, next)) {
          this.#fast.shift();
        } else if (wire.datagramBytesMax > 0) {
          await wire.datagramRoom();
        } else {
          await new Promise((resolve) => setTimeout(resolve, STREAM_LOOK_MS));
        }
      }
    } finally {
      this.#isDraining = false;
    }
  }

  /** Whether the wire took it. */
  #sendFast(wire: Wire, { seq, payload, timeUs, key, expiresAt }: FastWaiting): boolean {
    const leftUs = expiresAt === undefined ? undefined : Math.ceil((expiresAt - performance.now()) * 1000);
    const frame = encodeMessage({ seq, timeUs, deadlineUs: leftUs, key }, payload);
    const bytes = run(this.lane, seq, [frame], frame.length);
    const datagramBytesMax = wire.datagramBytesMax;
    if (datagramBytesMax === 0) {
      if (wire.waitingBytes > STREAM_WAITING_MAX) return false;
      wire.send(bytes);
      return true;
    }
    if (bytes.length <= datagramBytesMax) return wire.sendDatagram(bytes);
    const place = { lane: this.lane, topic: 0, number: seq, message: this.#message };
    const [head, ...rest] = cut(place, frame, leftUs ?? 0, datagramBytesMax);
    if (head === undefined || !wire.sendDatagram(head)) return false;
    this.#message = (this.#message + 1) >>> 0;
    // The first was taken: now all or nothing of it arrives, and nobody waits for the rest.
    void this.#sendRest(wire, rest);
    return true;
  }

  async #sendRest(wire: Wire, fragments: readonly Uint8Array[]): Promise<void> {
    for (const fragment of fragments) {
      while (!wire.sendDatagram(fragment)) {
        if (this.#host.wire !== wire) return;
        await wire.datagramRoom();
      }
    }
  }

  #leaveOut(why: LeftOutCause): void {
    this.#leftOut[why] += 1;
    this.#leftOutTimer ??= setTimeout(() => {
      this.#leftOutTimer = undefined;
      this.#tellLeftOut();
    }, LEFT_OUT_EVERY_MS);
  }

  #tellLeftOut(): void {
    const { expired, coalesced, droppedSlow } = this.#leftOut;
    const sum = expired + coalesced + droppedSlow;
    if (sum === this.#leftOutTold || !this.#isOpen) return;
    this.#leftOutTold = sum;
    this.#host.send({ is: "LeftOut", lane: this.lane, topic: 0, expired, coalesced, droppedSlow, late: 0, noRoute: 0 });
  }

  /** The server knows nothing of the stream: what was sent cannot be known any more, the rest gets new numbers. */
  #beginAnew(): void {
    const unsent: Pending[] = [];
    for (const pending of this.#pending.values()) {
      if (pending.isSent) {
        this.#pendingBytes -= pending.payload.length;
        pending.reject(unknown(this.topic));
      } else {
        unsent.push(pending);
      }
    }
    this.#pending.clear();
    this.#settledSeq = 0;
    this.#nextSeq = 1;
    this.#leftOut = { expired: 0, coalesced: 0, droppedSlow: 0 };
    this.#leftOutTold = 0;
    for (const pending of unsent) {
      pending.seq = this.#nextSeq;
      this.#nextSeq += 1;
      this.#pending.set(pending.seq, pending);
    }
    this.#fast = this.#fast.map((waiting) => {
      const seq = this.#nextSeq;
      this.#nextSeq += 1;
      return { ...waiting, seq };
    });
  }

  #finishIfDone(): void {
    if (this.#end !== undefined && this.#pending.size === 0 && this.#early.length === 0) this.#finish();
  }

  #finish(): void {
    clearTimeout(this.#leftOutTimer);
    if (this.#isOpen) {
      this.#tellLeftOut();
      this.#host.send({ is: "ClosePublisher", publisher: this.lane, lastSeq: this.#nextSeq - 1 });
    }
    this.#host.forget(this);
  }
}

function run(lane: number, first: number, frames: readonly Uint8Array[], runBytes: number): Uint8Array {
  const header = encodeRun({ lane, topic: 0, first }, frames.length, runBytes);
  return joined([header, ...frames], header.length + runBytes);
}

function unknown(topic: string): TwinlaneError {
  const why = "the session could not be resumed, and whether the message is stored is not known";
  return new TwinlaneError("outcome-unknown", `${topic}: ${why}`);
}
