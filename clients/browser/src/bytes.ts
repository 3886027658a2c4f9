/**
 * Numbers and texts in bytes, little-endian, as PROTOCOL.md writes them.
 *
 * Numbers of 64 bits that count (offsets, seqs, bytes) are numbers here, and refused where a number would round them;
 * those that are only compared (epochs, keys, nonces) are bigints.
 */

import { ProtocolError } from "./errors.js";

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const ENCODER = new TextEncoder();
/** Control characters and such that change the direction of text. */
const NOT_A_LINE = /[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/;
const U64_MAX = 0xffff_ffff_ffff_ffffn;

/** Appends to bytes that grow. */
export class Writer {
  #bytes = new Uint8Array(64);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** What was written. Later writes may overwrite it. */
  bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  u8(value: number): this {
    const at = this.#room(1);
    this.#view.setUint8(at, value);
    return this;
  }

  u16(value: number): this {
    const at = this.#room(2);
    this.#view.setUint16(at, value, true);
    return this;
  }

  u32(value: number): this {
    const at = this.#room(4);
    this.#view.setUint32(at, value, true);
    return this;
  }

  /** A number that counts; `Infinity` is the highest there is. */
  count(value: number): this {
    return this.u64(value === Infinity ? U64_MAX : BigInt(value));
  }

  u64(value: bigint): this {
    const at = this.#room(8);
    this.#view.setBigUint64(at, value, true);
    return this;
  }

  raw(bytes: Uint8Array): this {
    const at = this.#room(bytes.length);
    this.#bytes.set(bytes, at);
    return this;
  }

  blob(bytes: Uint8Array, bytesMax: number, what: string): this {
    if (bytes.length > bytesMax) {
      throw new RangeError(`${what} has ${bytes.length} bytes, limit is ${bytesMax}`);
    }
    return this.u16(bytes.length).raw(bytes);
  }

  text(text: string, bytesMax: number, what: string): this {
    return this.blob(ENCODER.encode(text), bytesMax, what);
  }

  /** Overwrites four bytes that were written. */
  setU32(at: number, value: number): void {
    this.#view.setUint32(at, value, true);
  }

  #room(bytes: number): number {
    const at = this.#length;
    this.#length += bytes;
    if (this.#length > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(this.#length, 2 * this.#bytes.length));
      grown.set(this.#bytes.subarray(0, at));
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
    return at;
  }
}

/** Reads from bytes; what does not fit them is a {@link ProtocolError}. */
export class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8), true);
  }

  count(): number {
    return toCount(this.u64());
  }

  raw(bytes: number): Uint8Array {
    const at = this.#take(bytes);
    return this.#bytes.subarray(at, at + bytes);
  }

  blob(bytesMax: number, what: string): Uint8Array {
    const bytes = this.u16();
    if (bytes > bytesMax) throw new ProtocolError(`${what} has ${bytes} bytes, limit is ${bytesMax}`);
    return this.raw(bytes);
  }

  text(bytesMax: number, what: string): string {
    const bytes = this.blob(bytesMax, what);
    try {
      return UTF8.decode(bytes);
    } catch {
      throw new ProtocolError(`${what} is not UTF-8`);
    }
  }

  line(bytesMax: number, what: string): string {
    const text = this.text(bytesMax, what);
    if (NOT_A_LINE.test(text)) throw new ProtocolError(`${what} has control characters`);
    return text;
  }

  /** Nothing may be left over. */
  end(what: string): void {
    if (this.left > 0) throw new ProtocolError(`${this.left} bytes after the last field of ${what}`);
  }

  #take(bytes: number): number {
    if (bytes > this.left) throw new ProtocolError(`a frame ends within a field of ${bytes} bytes`);
    const at = this.#at;
    this.#at += bytes;
    return at;
  }
}

/** A 64-bit number that counts, as a number. */
export function toCount(value: bigint): number {
  if (value === U64_MAX) return Infinity;
  const count = Number(value);
  if (!Number.isSafeInteger(count)) throw new ProtocolError(`${value} is more than a browser can count`);
  return count;
}
