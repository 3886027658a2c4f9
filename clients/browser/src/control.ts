/**
 * Control messages: what client and server say to each other besides messages (PROTOCOL.md, section 4).
 *
 * Each is a list of its fields, in order; encoding and decoding both go by that list. Queues are not in it: a browser
 * takes no part in them.
 */

import { Reader, Writer } from "./bytes.js";
import { ProtocolError } from "./errors.js";
import { KIND_CONTROL, PREFIX_BYTES } from "./layout.js";

/** One way to write a field. */
interface Field<T> {
  put(value: T, to: Writer, what: string): void;
  take(from: Reader, what: string): T;
}

const u16: Field<number> = { put: (value, to) => void to.u16(value), take: (from) => from.u16() };
const u32: Field<number> = { put: (value, to) => void to.u32(value), take: (from) => from.u32() };
const u64: Field<bigint> = { put: (value, to) => void to.u64(value), take: (from) => from.u64() };
const count: Field<number> = { put: (value, to) => void to.count(value), take: (from) => from.count() };
const id: Field<Uint8Array> = { put: (value, to) => void to.raw(value), take: (from) => from.raw(16).slice() };
const bool: Field<boolean> = {
  put: (value, to) => void to.u8(value ? 1 : 0),
  take: (from, what) => among(from.u8(), 1, what) === 1,
};

function text(bytesMax: number): Field<string> {
  return { put: (value, to, what) => void to.text(value, bytesMax, what), take: (from, what) => from.text(bytesMax, what) };
}

function line(bytesMax: number): Field<string> {
  return { put: (value, to, what) => void to.text(value, bytesMax, what), take: (from, what) => from.line(bytesMax, what) };
}

/** A number that stands for one of `words`, which begin at 0. */
function word<const W extends string>(words: readonly W[]): Field<W> {
  return {
    put: (value, to) => void to.u8(words.indexOf(value)),
    take: (from, what) => words[among(from.u8(), words.length - 1, what)] as W,
  };
}

function optional<T>(field: Field<T>): Field<T | undefined> {
  return {
    put(value, to, what) {
      to.u8(value === undefined ? 0 : 1);
      if (value !== undefined) field.put(value, to, what);
    },
    take: (from, what) => (among(from.u8(), 1, what) === 1 ? field.take(from, what) : undefined),
  };
}

function list<T>(field: Field<T>, countMax: number): Field<T[]> {
  return {
    put(values, to, what) {
      if (values.length > countMax) throw new RangeError(`${values.length} of ${what}, limit is ${countMax}`);
      to.u16(values.length);
      for (const value of values) field.put(value, to, what);
    },
    take(from, what) {
      const length = from.u16();
      if (length > countMax) throw new ProtocolError(`${length} of ${what}, limit is ${countMax}`);
      return Array.from({ length }, () => field.take(from, what));
    },
  };
}

type Body<F> = { [K in keyof F]: F[K] extends Field<infer T> ? T : never };

function struct<const F extends object>(fields: F): Field<Body<F>> {
  const entries = Object.entries(fields) as [string, Field<unknown>][];
  return {
    put(value, to) {
      for (const [name, field] of entries) field.put((value as Record<string, unknown>)[name], to, name);
    },
    take: (from) => Object.fromEntries(entries.map(([name, field]) => [name, field.take(from, name)])) as Body<F>,
  };
}

function among(value: number, max: number, what: string): number {
  if (value > max) throw new ProtocolError(`${what} is ${value}, at most ${max} is known`);
  return value;
}

/** Where a subscription begins: with the next message, the last one, all that is kept, an offset, or a time. */
export type Start = "new" | "last" | "all" | { readonly offset: number } | { readonly time: Date };

const start: Field<Start> = {
  put(value, to) {
    if (typeof value === "string") to.u8({ new: 0, last: 1, all: 3 }[value]);
    else if ("offset" in value) to.u8(2).count(value.offset);
    else to.u8(4).u64(BigInt(value.time.getTime()) * 1000n);
  },
  take(from, what) {
    switch (among(from.u8(), 4, what)) {
      case 0: return "new";
      case 1: return "last";
      case 2: return { offset: from.count() };
      case 3: return "all";
      default: return { time: new Date(Number(from.u64() / 1000n)) };
    }
  },
};

/** A topic by its name, or by the server's number for it. */
export type TopicRef = string | number;

const topicRef: Field<TopicRef> = {
  put(value, to, what) {
    if (typeof value === "string") to.u8(0).text(value, 255, what);
    else to.u8(1).u32(value);
  },
  take: (from, what) => (among(from.u8(), 1, what) === 0 ? from.text(255, what) : from.u32()),
};

const auth: Field<Uint8Array | undefined> = {
  put(token, to, what) {
    if (token === undefined) to.u8(0);
    else to.u8(1).blob(token, 512, what);
  },
  take: (from, what) => (among(from.u8(), 1, what) === 0 ? undefined : from.blob(512, what).slice()),
};

const MODES = ["ordered", "latest", "unordered"] as const;

const DEADLINE_US_MAX = 1_800_000_000;

const specFields = struct({
  channel: word(["fast", "reliable"]),
  mode: word(MODES),
  storage: word(["memory", "disk"]),
  last: word(["none", "topic", "key"]),
  payloadBytesMax: u32,
  retainBytes: count,
  retainMessages: count,
  retainAgeMs: count,
  deadlineUs: u32,
});

/** What a topic is declared as. 0 is the server's default. */
export type TopicSpec = Readonly<ReturnType<typeof specFields.take>>;

const spec: Field<TopicSpec> = {
  put: specFields.put,
  take(from, what) {
    const taken = specFields.take(from, what);
    const fits = taken.channel === "fast"
      ? taken.storage === "memory" && taken.last === "none" && taken.deadlineUs <= DEADLINE_US_MAX
      : taken.mode === "ordered" && taken.deadlineUs === 0;
    if (!fits) throw new ProtocolError(`a ${taken.channel} topic cannot be ${JSON.stringify(taken)}`);
    return taken;
  },
};

/** In which order and how completely a fast topic comes. */
export type Mode = (typeof MODES)[number];

const outcome: Field<"fresh" | "resumed" | { readonly missing: number }> = {
  put(value, to) {
    if (typeof value === "string") to.u8(value === "fresh" ? 0 : 1);
    else to.u8(2).count(value.missing);
  },
  take(from, what) {
    const kind = among(from.u8(), 2, what);
    return kind === 0 ? "fresh" : kind === 1 ? "resumed" : { missing: from.count() };
  },
};

const CAUSES = [
  "retention", "purge", "permission", "lost", "late", "expired", "coalesced", "dropped-slow", "abandoned", "no-route",
] as const;
/** Why messages are missing. */
export type GapCause = (typeof CAUSES)[number];

const SLOW = ["block", "disconnect", "spill"] as const;
/** What becomes of a subscriber of a reliable topic that is slow. */
export type SlowPolicy = (typeof SLOW)[number];

const MESSAGES = {
  Hello: [0x01, struct({
    versionMin: u16, versionMax: u16, capabilities: u64, purpose: word(["primary", "datagrams"]), client: line(64),
    auth, resume: optional(struct({ session: id, secret: id })),
  })],
  Declare: [0x02, struct({ request: u32, name: text(255), spec })],
  OpenPublisher: [0x03, struct({
    request: u32, publisher: u32, topic: topicRef, spec: optional(spec), resumeSeq: count,
  })],
  ClosePublisher: [0x04, struct({ publisher: u32, lastSeq: count })],
  Subscribe: [0x05, struct({
    request: u32, subscription: u32, filter: text(255), start, slow: word(SLOW), creditBytes: count,
    spec: optional(spec), positions: list(struct({ topic: text(255), epoch: u64, offset: count }), 1000),
  })],
  Unsubscribe: [0x06, struct({ request: u32, subscription: u32 })],
  Welcome: [0x41, struct({
    version: u16, capabilities: u64, session: id, secret: id, resumed: bool, server: line(64), pingIntervalMs: u32,
    frameBytesMax: u32,
  })],
  Declared: [0x42, struct({ request: u32, topic: u32, epoch: u64, spec })],
  PublisherOpened: [0x43, struct({
    request: u32, publisher: u32, topic: u32, source: u32, epoch: u64, lastSeq: count, spec, creditBytes: count,
  })],
  Acked: [0x44, struct({
    publisher: u32, firstSeq: count, count: u32, firstOffset: count, level: word(["memory", "disk", "replicated"]),
  })],
  Refused: [0x45, struct({ publisher: u32, firstSeq: count, count: u32, code: u16 })],
  PublisherClosed: [0x46, struct({ publisher: u32, code: u16, reason: line(256) })],
  Subscribed: [0x47, struct({ request: u32, subscription: u32 })],
  TopicBound: [0x48, struct({
    subscription: u32, topic: u32, name: text(255), epoch: u64, spec, nextOffset: count, nextSource: u32, outcome,
  })],
  Gap: [0x49, struct({ subscription: u32, topic: u32, fromOffset: count, toOffset: count, cause: word(CAUSES) })],
  StreamEnd: [0x4a, struct({ subscription: u32, topic: u32, source: u32, lastSeq: count })],
  Unsubscribed: [0x4b, struct({ subscription: u32, code: u16, reason: line(256) })],
  Failed: [0x4c, struct({ request: u32, code: u16, message: line(512) })],
  Credit: [0x81, struct({ lane: u32, bytes: count })],
  Ping: [0x82, struct({ nonce: u64 })],
  Pong: [0x83, struct({ nonce: u64 })],
  Goodbye: [0x84, struct({ code: u16, reason: line(256) })],
  LeftOut: [0x85, struct({
    lane: u32, topic: u32, expired: count, coalesced: count, droppedSlow: count, late: count, noRoute: count,
  })],
  Detached: [0x86, struct({ reason: line(256) })],
} as const;

type Messages = typeof MESSAGES;
type Name = keyof Messages;
/** The fields of message `N`. */
export type BodyOf<N extends Name> = Messages[N][1] extends Field<infer T> ? T : never;
/** One control message. */
export type Control = { [N in Name]: { readonly is: N } & Readonly<BodyOf<N>> }[Name];

const BY_NUMBER = new Map<number, [Name, Field<object>]>(
  (Object.keys(MESSAGES) as Name[]).map((name) => [MESSAGES[name][0], [name, MESSAGES[name][1] as Field<object>]]),
);

/** The frame of a message. */
export function encodeControl(message: Control): Uint8Array {
  const [number, body] = MESSAGES[message.is] as readonly [number, Field<object>];
  const frame = new Writer();
  frame.u32(0).u8(KIND_CONTROL).u8(0).u16(number);
  body.put(message, frame, message.is);
  frame.setU32(0, frame.length);
  return frame.bytes();
}

/** The message in a whole control frame. */
export function decodeControl(frame: Uint8Array): Control {
  const from = new Reader(frame);
  from.raw(PREFIX_BYTES - 2);
  const number = from.u16();
  const known = BY_NUMBER.get(number);
  if (known === undefined) throw new ProtocolError(`unknown control message ${number}`);
  const [name, field] = known;
  const body = field.take(from, name);
  from.end(name);
  return { is: name, ...body } as Control;
}
