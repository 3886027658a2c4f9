/**
 * Frames that no datagram holds: cut into fragments, and put together again, with parity where some were lost
 * (PROTOCOL.md, "Fragment").
 */

import { Reader, Writer } from "./bytes.js";
import { ProtocolError } from "./errors.js";
import { FRAGMENT_HEADER_BYTES, FRAME_BYTES_MAX, KIND_FRAGMENT, MESSAGE_HEADER_BYTES, PREFIX_BYTES } from "./layout.js";

/** Which frame a fragment is of. */
export interface Place {
  readonly lane: number;
  readonly topic: number;
  readonly number: number;
  readonly message: number;
}

/** A frame that came in fragments. */
export interface Whole {
  readonly place: Place;
  readonly frame: Uint8Array;
  readonly waitedMs: number;
}

/** Data fragments of one code at most. */
const CODE_DATA_MAX = 120;
const BLOCK_BYTES_MIN = 256;
/** Bytes of unfinished messages; the oldest give way. */
const UNFINISHED_BYTES_MAX = 4 << 20;
/** How long a message without a budget may be unfinished, since anything of it came. */
const QUIET_MS_MAX = 1_000;
/** Messages that are complete or given up, whose late fragments are known by that. */
const DONE_MAX = 256;

/** The datagrams that carry `frame`: data only, since a browser does not learn what its path loses. */
export function cut(place: Place, frame: Uint8Array, budgetUs: number, datagramBytesMax: number): Uint8Array[] {
  const blockMax = datagramBytesMax - FRAGMENT_HEADER_BYTES;
  // Far below what any path carries; above it no block is too small.
  if (blockMax < 2 * BLOCK_BYTES_MIN) return [];
  const data = Math.ceil(frame.length / blockMax);
  const block = Math.ceil(frame.length / data);
  return Array.from({ length: data }, (_, index) => {
    const part = frame.subarray(index * block, (index + 1) * block);
    const datagram = new Writer();
    datagram.u32(FRAGMENT_HEADER_BYTES + part.length).u8(KIND_FRAGMENT).u8(0).u16(index);
    datagram.u32(place.lane).u32(place.topic).count(place.number).u32(place.message).u32(frame.length);
    datagram.u16(data).u16(0).u32(budgetUs);
    return datagram.raw(part).bytes();
  });
}

interface Unfinished {
  readonly place: Place;
  readonly frameBytes: number;
  readonly data: number;
  readonly parity: number;
  readonly since: number;
  readonly until: number;
  readonly parts: Map<number, Uint8Array>;
  quietSince: number;
}

/** Puts fragments together. */
export class Reassembly {
  readonly #unfinished = new Map<number, Unfinished>();
  readonly #done = new Set<number>();
  #bytes = 0;

  /** Takes a fragment; the frame, if that was all it lacked. */
  take(datagram: Uint8Array, now: number): Whole | undefined {
    const from = new Reader(datagram);
    from.raw(PREFIX_BYTES - 2);
    const index = from.u16();
    const place = { lane: from.u32(), topic: from.u32(), number: from.count(), message: from.u32() };
    const [frameBytes, data, parity, budgetUs] = [from.u32(), from.u16(), from.u16(), from.u32()];
    const part = from.raw(from.left);
    check(frameBytes, data, parity, index, part.length);
    if (this.#done.has(place.message)) return undefined;
    this.#expire(now);
    const known = this.#unfinished.get(place.message);
    const until = budgetUs === 0 ? Infinity : now + budgetUs / 1000;
    const entry = known ?? { place, frameBytes, data, parity, since: now, until, parts: new Map(), quietSince: now };
    if (entry.frameBytes !== frameBytes || entry.data !== data || entry.parity !== parity) {
      throw new ProtocolError(`fragments of message ${place.message} contradict each other`);
    }
    if (known === undefined) this.#unfinished.set(place.message, entry);
    entry.quietSince = now;
    if (!entry.parts.has(index)) {
      // A copy: what a datagram brings is small, and its buffer may be larger.
      entry.parts.set(index, part.slice());
      this.#bytes += part.length;
    }
    const frame = restore(entry);
    if (frame === undefined) {
      this.#makeRoom();
      return undefined;
    }
    this.#forget(entry);
    return { place, frame, waitedMs: now - entry.since };
  }

  #expire(now: number): void {
    for (const entry of this.#unfinished.values()) {
      if (entry.until <= now || entry.quietSince + QUIET_MS_MAX <= now) this.#forget(entry);
    }
  }

  #makeRoom(): void {
    for (const oldest of this.#unfinished.values()) {
      if (this.#bytes <= UNFINISHED_BYTES_MAX) return;
      this.#forget(oldest);
    }
  }

  #forget(entry: Unfinished): void {
    this.#unfinished.delete(entry.place.message);
    for (const part of entry.parts.values()) this.#bytes -= part.length;
    this.#done.add(entry.place.message);
    for (const oldest of this.#done) {
      if (this.#done.size <= DONE_MAX) break;
      this.#done.delete(oldest);
    }
  }
}

function check(frameBytes: number, data: number, parity: number, index: number, partBytes: number): void {
  if (frameBytes < MESSAGE_HEADER_BYTES || frameBytes > FRAME_BYTES_MAX) {
    throw new ProtocolError(`a frame of ${frameBytes} bytes in fragments`);
  }
  const block = data === 0 ? 0 : Math.ceil(frameBytes / data);
  const isCut = data === 1 || (data > 1 && block >= BLOCK_BYTES_MIN && (data - 1) * block < frameBytes);
  if (!isCut || parity > data + 2 || index >= data + parity) {
    throw new ProtocolError(`fragment ${index} of ${data} + ${parity} of a frame of ${frameBytes} bytes`);
  }
  const wanted = index === data - 1 ? frameBytes - index * block : block;
  if (partBytes !== wanted) throw new ProtocolError(`fragment ${index} has ${partBytes} bytes, not ${wanted}`);
}

/** The frame, if enough of it has come. */
function restore({ frameBytes, data, parity, parts }: Unfinished): Uint8Array | undefined {
  if (parts.size < data) return undefined;
  const codes = Math.ceil(data / CODE_DATA_MAX);
  const block = Math.ceil(frameBytes / data);
  const whole = new Uint8Array(data * block);
  for (let code = 0; code < codes; code += 1) {
    const blocks: (Uint8Array | undefined)[] = [];
    for (let index = code; index < data; index += codes) {
      const part = parts.get(index);
      blocks.push(part);
      if (part !== undefined) whole.set(part, index * block);
    }
    const rows: [number, Uint8Array][] = [];
    for (let p = code; p < parity; p += codes) {
      const part = parts.get(data + p);
      if (part !== undefined) rows.push([(p - code) / codes, part]);
    }
    const lost = blocks.flatMap((part, at) => (part === undefined ? [at] : []));
    if (lost.length > rows.length) return undefined;
    solve(blocks, lost, rows.slice(0, lost.length), block, (at, bytes) => {
      whole.set(bytes, (at * codes + code) * block);
    });
  }
  return whole.subarray(0, frameBytes);
}

/** Finds the lost blocks of one code: each row is a sum in which they are the unknowns. */
function solve(
  blocks: readonly (Uint8Array | undefined)[],
  lost: readonly number[],
  rows: readonly (readonly [number, Uint8Array])[],
  block: number,
  found: (at: number, bytes: Uint8Array) => void,
): void {
  const sums = rows.map(([row, parity]) => {
    const sum = parity.slice();
    blocks.forEach((part, at) => {
      if (part !== undefined) addTimes(sum, part, coefficient(row, at));
    });
    return sum;
  });
  const factors = rows.map(([row]) => lost.map((at) => coefficient(row, at)));
  for (let pivot = 0; pivot < lost.length; pivot += 1) {
    const [line, sum] = [factors[pivot], sums[pivot]];
    if (line === undefined || sum === undefined) return;
    // Never 0: every square part of a Cauchy matrix can be inverted.
    const scale = over(1, line[pivot] ?? 0);
    line.forEach((value, at) => { line[at] = times(value, scale); });
    sum.forEach((value, at) => { sum[at] = times(value, scale); });
    factors.forEach((other, at) => {
      const factor = other[pivot] ?? 0;
      const target = sums[at];
      if (at === pivot || factor === 0 || target === undefined) return;
      other.forEach((value, column) => { other[column] = value ^ times(line[column] ?? 0, factor); });
      addTimes(target, sum, factor);
    });
  }
  lost.forEach((at, unknown) => {
    const bytes = sums[unknown];
    if (bytes !== undefined) found(at, bytes.subarray(0, block));
  });
}

function coefficient(row: number, block: number): number {
  return over(128 ^ block, (128 + row) ^ block);
}

const EXP = new Uint8Array(510);
const LOG = new Uint8Array(256);
for (let power = 0, value = 1; power < 255; power += 1) {
  EXP[power] = value;
  EXP[power + 255] = value;
  LOG[value] = power;
  value = value & 0x80 ? (value << 1) ^ 0x11d : value << 1;
}

function times(a: number, b: number): number {
  return a === 0 || b === 0 ? 0 : (EXP[(LOG[a] ?? 0) + (LOG[b] ?? 0)] ?? 0);
}

function over(a: number, b: number): number {
  return a === 0 ? 0 : (EXP[(LOG[a] ?? 0) + 255 - (LOG[b] ?? 0)] ?? 0);
}

/** `target` + `source` × `factor`; a shorter source goes on with zeros. */
function addTimes(target: Uint8Array, source: Uint8Array, factor: number): void {
  for (let at = 0; at < source.length; at += 1) target[at] = (target[at] ?? 0) ^ times(source[at] ?? 0, factor);
}
