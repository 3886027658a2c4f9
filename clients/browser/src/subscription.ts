/** One subscription: what comes for it, in a queue with a bound, for as long as the session lives. */

import type { BodyOf, Control, SlowPolicy, Start, TopicSpec } from "./control.js";
import type { Delivery, Gap, Message } from "./delivery.js";
import { TwinlaneError, codeOf } from "./errors.js";
import type { Frame, Run } from "./frames.js";
import { FastTracker } from "./tracker.js";

/** What a subscription may be told. */
export interface SubscribeOptions {
  /** Where it begins; by default with the next message. */
  readonly start?: Start;
  /** What becomes of it when it is slow, on reliable topics. By default `"disconnect"`. */
  readonly slow?: SlowPolicy;
  /** Declares the topic if there is none. */
  readonly spec?: TopicSpec;
}

/** How a subscription fares. On fast topics `missing` = the sum of what follows it. */
export interface SubscriptionStatus {
  readonly topic: string;
  readonly received: number;
  readonly waiting: number;
  readonly missing: number;
  /** Nobody says why: lost on the way. */
  readonly lost: number;
  /** Older than their deadline. */
  readonly expired: number;
  /** A newer message of the same key took its place. */
  readonly coalesced: number;
  /** Too slow to take them: this client, the server, or the publisher. */
  readonly droppedSlow: number;
  /** Came after a newer one. */
  readonly late: number;
  /** Given up while this client, or the publisher, had no connection. */
  readonly noRoute: number;
}

/** What a subscription needs of its session. */
export interface SubscriptionHost {
  readonly isConnected: boolean;
  send(message: Control): void;
  nextRequest(): number;
  forget(subscription: Subscription): void;
}

/** Bytes of a reliable topic that may come before they are read. */
const CREDIT_BYTES = 512 * 1024;
/** Messages of fast topics that wait to be read; the oldest go first. */
const FAST_WAITING_MAX = 1_024;
/** Offsets of fast messages come as their low 32 bits. */
const OFFSET_SPAN = 2 ** 32;

interface Topic {
  readonly name: string;
  readonly epoch: bigint;
  readonly spec: TopicSpec;
  nextOffset: number;
  /** On a fast topic. */
  readonly tracker: FastTracker | undefined;
}

interface Waiting {
  readonly delivery: Delivery;
  /** Credit that is given back when it is read. */
  readonly creditBytes: number;
}

/** Messages of one topic, or of all that a filter names. Iterate over it; leaving the loop closes it. */
export class Subscription implements AsyncIterableIterator<Delivery, undefined, undefined> {
  /** The topic or filter. */
  readonly topic: string;
  /** Resolves when the server has granted it. */
  readonly ready: Promise<void>;
  /** @internal */
  readonly lane: number;
  /** @internal The server's number of its first topic. */
  readonly boundTopic: Promise<number>;
  readonly #host: SubscriptionHost;
  readonly #options: SubscribeOptions;
  /** By the server's number. */
  readonly #topics = new Map<number, Topic>();
  readonly #leftOuts = new Map<number, BodyOf<"LeftOut">>();
  #queue: Waiting[] = [];
  #wake: (() => void) | undefined;
  #end: TwinlaneError | "closed" | undefined;
  #granted!: () => void;
  #refused!: (error: TwinlaneError) => void;
  #boundTo!: (topic: number) => void;
  #unbound!: (error: TwinlaneError) => void;
  #request = 0;
  #readBytes = 0;
  #received = 0;
  #late = 0;
  #overflowed = 0;
  #replaced = 0;
  #missingElsewhere = 0;
  /** Of earlier connections. */
  readonly #leftOutBefore = { ...NONE };

  /** @internal */
  constructor(host: SubscriptionHost, lane: number, topic: string, options: SubscribeOptions) {
    this.#host = host;
    this.lane = lane;
    this.topic = topic;
    this.#options = options;
    this.ready = new Promise((resolve, reject) => {
      this.#granted = resolve;
      this.#refused = reject;
    });
    this.boundTopic = new Promise((resolve, reject) => {
      this.#boundTo = resolve;
      this.#unbound = reject;
    });
    // Whoever does not wait for them hears of it when reading.
    this.ready.catch(() => {});
    this.boundTopic.catch(() => {});
  }

  /** The next message or gap. Rejects when the subscription was ended by the server or the session is over. */
  async next(): Promise<IteratorResult<Delivery, undefined>> {
    for (;;) {
      const waiting = this.#queue.shift();
      if (waiting !== undefined) {
        this.#giveCredit(waiting.creditBytes);
        return { value: waiting.delivery, done: false };
      }
      if (this.#end instanceof TwinlaneError) {
        const error = this.#end;
        this.#end = "closed";
        throw error;
      }
      if (this.#end === "closed") return { value: undefined, done: true };
      await new Promise<void>((resolve) => { this.#wake = resolve; });
    }
  }

  /** Ends it. */
  async return(): Promise<IteratorResult<Delivery, undefined>> {
    this.close();
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Ends it: nothing more comes. */
  close(): void {
    if (this.#end !== undefined) return;
    if (this.#host.isConnected) {
      this.#host.send({ is: "Unsubscribe", request: this.#host.nextRequest(), subscription: this.lane });
    }
    this.#queue = [];
    this.#finish("closed");
  }

  status(): SubscriptionStatus {
    let missing = this.#missingElsewhere + this.#overflowed + this.#replaced;
    for (const topic of this.#topics.values()) missing += topic.tracker?.missing ?? 0;
    const { expired, coalesced, droppedSlow, late, noRoute } = sumOf([this.#leftOutBefore, ...this.#leftOuts.values()]);
    const explained = {
      expired,
      coalesced: coalesced + this.#replaced,
      droppedSlow: droppedSlow + this.#overflowed,
      late: late + this.#late,
      noRoute,
    };
    const sum = explained.expired + explained.coalesced + explained.droppedSlow + explained.late + noRoute;
    return {
      topic: this.topic,
      received: this.#received,
      waiting: this.#queue.length,
      // What is explained before its hole is seen is missing all the same.
      missing: Math.max(missing, sum),
      lost: Math.max(0, missing - sum),
      ...explained,
    };
  }

  /** @internal Asks for it on a new connection. */
  open(): void {
    const positions = [];
    for (const topic of this.#topics.values()) {
      if (topic.tracker === undefined) {
        positions.push({ topic: topic.name, epoch: topic.epoch, offset: topic.nextOffset });
      }
    }
    this.#request = this.#host.nextRequest();
    this.#readBytes = 0;
    const waitingBytes = this.#queue.reduce((sum, waiting) => sum + waiting.creditBytes, 0);
    this.#host.send({
      is: "Subscribe",
      request: this.#request,
      subscription: this.lane,
      filter: this.topic,
      start: this.#topics.size > 0 ? "new" : (this.#options.start ?? "new"),
      slow: this.#options.slow ?? "disconnect",
      creditBytes: Math.max(1, CREDIT_BYTES - waitingBytes),
      spec: this.#options.spec,
      positions: positions.slice(0, 1_000),
    });
  }

  /** @internal Whether `request` was this one's. */
  isAsking(request: number): boolean {
    return this.#request === request;
  }

  /** @internal */
  subscribed(): void {
    this.#granted();
  }

  /** @internal Ends it with an error, or as the server was asked to. */
  fail(code: number, reason: string): void {
    const named = codeOf(code);
    this.end(named === "normal" ? "closed" : new TwinlaneError(named, `${this.topic}: ${reason || named}`));
  }

  /** @internal */
  end(why: TwinlaneError | "closed"): void {
    if (this.#end !== undefined) return;
    if (why instanceof TwinlaneError) {
      this.#refused(why);
      this.#unbound(why);
    }
    this.#finish(why);
  }

  /** @internal */
  bound(bound: BodyOf<"TopicBound">): void {
    const earlier = this.#earlier(bound.name);
    const isFast = bound.spec.channel === "fast";
    if (earlier !== undefined) {
      this.#topics.delete(earlier[0]);
      const told = this.#leftOuts.get(earlier[0]);
      if (told !== undefined) Object.assign(this.#leftOutBefore, sumOf([this.#leftOutBefore, told]));
      this.#leftOuts.delete(earlier[0]);
      this.#missed(earlier[1], bound);
      this.#missingElsewhere += earlier[1].tracker?.missing ?? 0;
    }
    this.#boundTo(bound.topic);
    const isResumed = bound.outcome === "resumed" && earlier !== undefined;
    this.#topics.set(bound.topic, {
      name: bound.name,
      epoch: bound.epoch,
      spec: bound.spec,
      nextOffset: isResumed ? earlier[1].nextOffset : bound.nextOffset,
      tracker: isFast ? new FastTracker(bound.spec.mode, bound.nextSource) : undefined,
    });
  }

  /** @internal */
  gap(gap: BodyOf<"Gap">): void {
    const topic = this.#topics.get(gap.topic);
    if (topic === undefined) return;
    const from = Math.max(gap.fromOffset, topic.tracker === undefined ? topic.nextOffset : 0);
    if (gap.toOffset <= from) return;
    // On a fast topic every hole is found by its numbers, and explained by `LeftOut`.
    if (topic.tracker !== undefined) return;
    topic.nextOffset = gap.toOffset;
    this.#missingElsewhere += gap.toOffset - from;
    this.#push(gapIn(topic.name, gap.toOffset - from, gap.cause, from, gap.toOffset));
  }

  /** @internal */
  streamEnded(end: BodyOf<"StreamEnd">): void {
    this.#ended(end.topic, end.source, end.lastSeq);
  }

  /** @internal */
  leftOut(leftOut: BodyOf<"LeftOut">): void {
    // The sums of one topic on this connection.
    this.#leftOuts.set(leftOut.topic, leftOut);
  }

  /** @internal A frame of one of its runs. */
  take(run: Run, index: number, frame: Frame): void {
    const topic = this.#topics.get(run.topic);
    if (topic === undefined || this.#end !== undefined) return;
    if (frame.isEnd) {
      this.#ended(run.topic, frame.source, frame.seq);
    } else if (topic.tracker === undefined) {
      this.#takeReliable(topic, run.first + index, frame);
    } else {
      this.#takeFast(topic, topic.tracker, offsetNear(run.first, frame.topic), frame);
    }
  }

  #takeReliable(topic: Topic, offset: number, frame: Frame): void {
    if (offset < topic.nextOffset) return this.#giveCredit(frame.frameBytes);
    topic.nextOffset = offset + 1;
    this.#received += 1;
    this.#push(messageIn(topic.name, offset, frame), frame.frameBytes);
  }

  #takeFast(topic: Topic, tracker: FastTracker, offset: number, frame: Frame): void {
    const verdict = tracker.take(frame.source, frame.seq, frame.key);
    if (verdict.is === "late") this.#late += 1;
    if (verdict.is !== "deliver") return;
    topic.nextOffset = Math.max(topic.nextOffset, offset + 1);
    if (verdict.missing > 0) this.#push(gapIn(topic.name, verdict.missing, "lost"));
    this.#received += 1;
    const message = messageIn(topic.name, offset, frame);
    if (topic.spec.mode === "latest" && this.#replace(message)) return;
    this.#push(message);
    if (this.#queue.length > FAST_WAITING_MAX) this.#dropOldest();
  }

  /** Puts a value in the place of an older one of its key that waits. */
  #replace(message: Message): boolean {
    if (message.key === undefined) return false;
    const at = this.#queue.findIndex(({ delivery }) =>
      delivery.is === "message" && delivery.key === message.key && delivery.topic === message.topic);
    if (at < 0) return false;
    this.#queue[at] = { delivery: message, creditBytes: 0 };
    this.#replaced += 1;
    return true;
  }

  #dropOldest(): void {
    const dropped = this.#queue.findIndex(({ delivery }) => delivery.is === "message");
    const [waiting] = this.#queue.splice(dropped, 1);
    if (waiting === undefined) return;
    this.#overflowed += 1;
    const gap = gapIn(waiting.delivery.topic, 1, "dropped-slow");
    const before = this.#queue[dropped - 1]?.delivery;
    if (before?.is === "gap" && before.cause === gap.cause && before.topic === gap.topic) {
      const missing = (before.missing ?? 0) + 1;
      this.#queue[dropped - 1] = { delivery: { ...before, missing }, creditBytes: 0 };
    } else {
      this.#queue.splice(dropped, 0, { delivery: gap, creditBytes: 0 });
    }
  }

  #ended(number: number, source: number, lastSeq: number): void {
    const topic = this.#topics.get(number);
    const missing = topic?.tracker?.end(source, lastSeq) ?? 0;
    if (topic !== undefined && missing > 0) this.#push(gapIn(topic.name, missing, "lost"));
  }

  /** What is missing between two connections. */
  #missed(earlier: Topic, bound: BodyOf<"TopicBound">): void {
    if (earlier.epoch !== bound.epoch) {
      this.#push(gapIn(bound.name, undefined, "epoch-changed", earlier.nextOffset));
      return;
    }
    const missing = bound.outcome === "resumed" ? 0 : bound.nextOffset - earlier.nextOffset;
    if (missing <= 0) return;
    this.#missingElsewhere += missing;
    const isFast = earlier.tracker !== undefined;
    const cause = isFast ? "no-route" : "retention";
    this.#push(gapIn(bound.name, missing, cause, earlier.nextOffset, bound.nextOffset));
  }

  #earlier(name: string): [number, Topic] | undefined {
    for (const entry of this.#topics) {
      if (entry[1].name === name) return entry;
    }
    return undefined;
  }

  #giveCredit(bytes: number): void {
    this.#readBytes += bytes;
    if (this.#readBytes < CREDIT_BYTES / 4 || !this.#host.isConnected || this.#end !== undefined) return;
    this.#host.send({ is: "Credit", lane: this.lane, bytes: this.#readBytes });
    this.#readBytes = 0;
  }

  #push(delivery: Delivery, creditBytes = 0): void {
    this.#queue.push({ delivery, creditBytes });
    this.#wakeReader();
  }

  #finish(why: TwinlaneError | "closed"): void {
    this.#end = why;
    this.#host.forget(this);
    this.#granted();
    this.#unbound(new TwinlaneError("closed", `${this.topic}: the subscription was closed`));
    this.#wakeReader();
  }

  #wakeReader(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }
}

function messageIn(topic: string, offset: number, frame: Frame): Message {
  const time = new Date(Number(frame.timeUs / 1000n));
  const { source, seq, key, payload, correlation } = frame;
  return { is: "message", topic, offset, source, seq, time, key, payload, correlation };
}

function gapIn(
  topic: string, missing: number | undefined, cause: Gap["cause"], from?: number, to?: number,
): Gap {
  return { is: "gap", topic, missing, from, to, cause };
}

const NONE = { expired: 0, coalesced: 0, droppedSlow: 0, late: 0, noRoute: 0 };

function sumOf(parts: readonly Readonly<typeof NONE>[]): typeof NONE {
  const sum = { ...NONE };
  for (const part of parts) {
    sum.expired += part.expired;
    sum.coalesced += part.coalesced;
    sum.droppedSlow += part.droppedSlow;
    sum.late += part.late;
    sum.noRoute += part.noRoute;
  }
  return sum;
}

/** The offset whose low 32 bits are `low`, at most 2^31 from `near`. */
export function offsetNear(near: number, low: number): number {
  let offset = near - (near % OFFSET_SPAN) + low;
  if (offset - near > OFFSET_SPAN / 2) offset -= OFFSET_SPAN;
  else if (near - offset > OFFSET_SPAN / 2) offset += OFFSET_SPAN;
  return Math.max(0, offset);
}
