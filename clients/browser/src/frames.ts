/**
 * Frames: messages, the runs that announce them, and the decoder that finds them in a stream or a datagram.
 *
 * Everything is read in place. Nothing is allocated by a length that was only declared.
 */

import { Reader, Writer } from "./bytes.js";
import { ProtocolError } from "./errors.js";
import {
  CONTROL_BYTES_MAX, FLAG_CORRELATION, FLAG_DEADLINE, FLAG_DUE, FLAG_HEADERS, FLAG_JOB, FLAG_KEY, FLAG_REPLY_TO,
  FRAME_BYTES_MAX, KIND_CONTROL, KIND_END, KIND_FRAGMENT, KIND_MESSAGE, KIND_RUN, MESSAGE_HEADER_BYTES,
  OPTIONS_BYTES_MAX, PREFIX_BYTES, RUN_HEADER_BYTES,
} from "./layout.js";

/** The run that frames belong to. */
export interface Run {
  readonly lane: number;
  readonly topic: number;
  readonly first: number;
}

/** A message frame, or the end of a publisher's stream. */
export interface Frame {
  readonly isEnd: boolean;
  readonly topic: number;
  readonly source: number;
  readonly seq: number;
  readonly timeUs: bigint;
  readonly deadlineUs: number | undefined;
  readonly key: bigint | undefined;
  /** Which request it answers. */
  readonly correlation: bigint | undefined;
  /** A part of the memory that was received. */
  readonly payload: Uint8Array;
  readonly frameBytes: number;
}

/** What a decoder found. */
export type Item =
  | { readonly is: "control"; readonly frame: Uint8Array }
  | { readonly is: "frame"; readonly run: Run; readonly index: number; readonly frame: Frame }
  | { readonly is: "fragment"; readonly frame: Uint8Array };

/** What a message may carry beside its payload. */
export interface MessageHead {
  readonly seq: number;
  readonly timeUs: bigint;
  readonly deadlineUs?: number | undefined;
  readonly key?: bigint | undefined;
  /** Where the answer is to go, and under which number. */
  readonly replyTo?: { readonly topic: number; readonly correlation: bigint } | undefined;
}

/** A message frame as a client sends it: topic and source are the server's to write. */
export function encodeMessage(head: MessageHead, payload: Uint8Array): Uint8Array {
  const { deadlineUs, key, replyTo } = head;
  let [flags, optionsBytes] = [0, 0];
  if (deadlineUs !== undefined) [flags, optionsBytes] = [flags | FLAG_DEADLINE, optionsBytes + 4];
  if (key !== undefined) [flags, optionsBytes] = [flags | FLAG_KEY, optionsBytes + 8];
  if (replyTo !== undefined) [flags, optionsBytes] = [flags | FLAG_REPLY_TO, optionsBytes + 12];
  const frame = new Writer();
  frame.u32(MESSAGE_HEADER_BYTES + optionsBytes + payload.length).u8(KIND_MESSAGE).u8(flags).u16(optionsBytes);
  frame.u32(0).u32(0).count(head.seq).u64(head.timeUs);
  if (deadlineUs !== undefined) frame.u32(deadlineUs);
  if (key !== undefined) frame.u64(key);
  if (replyTo !== undefined) frame.u32(replyTo.topic).u64(replyTo.correlation);
  return frame.raw(payload).bytes();
}

/** The header of a run; its frames follow. */
export function encodeRun(run: Run, frames: number, runBytes: number): Uint8Array {
  const header = new Writer();
  header.u32(RUN_HEADER_BYTES).u8(KIND_RUN).u8(0).u16(0).u32(run.lane).u32(run.topic);
  return header.count(run.first).u32(frames).u32(runBytes).bytes();
}

/** The message in a whole message or end frame. */
export function parseFrame(bytes: Uint8Array): Frame {
  const from = new Reader(bytes);
  const frameBytes = from.u32();
  const kind = from.u8();
  const flags = from.u8();
  const optionsBytes = from.u16();
  const isEnd = kind === KIND_END;
  const topic = from.u32();
  const source = from.u32();
  const seq = from.count();
  const timeUs = from.u64();
  checkOptions(kind, flags, optionsBytes, frameBytes);
  const deadlineUs = flags & FLAG_DEADLINE ? from.u32() : undefined;
  const key = flags & FLAG_KEY ? from.u64() : undefined;
  if (flags & FLAG_REPLY_TO) from.raw(12);
  const correlation = flags & FLAG_CORRELATION ? from.u64() : undefined;
  const payload = bytes.subarray(MESSAGE_HEADER_BYTES + optionsBytes);
  return { isEnd, topic, source, seq, timeUs, deadlineUs, key, correlation, payload, frameBytes };
}

/** Splits a byte stream into control frames and the frames of runs. */
export class StreamDecoder {
  #chunks: Uint8Array[] = [];
  #chunkBytes = 0;
  #wanted = PREFIX_BYTES;
  readonly #scanner: Scanner;

  constructor(frameBytesMax = FRAME_BYTES_MAX) {
    this.#scanner = new Scanner(false, frameBytesMax);
  }

  /** Calls `take` for everything that is complete. The items share the memory of `chunk`, or of a copy. */
  push(chunk: Uint8Array, take: (item: Item) => void): void {
    this.#chunks.push(chunk);
    this.#chunkBytes += chunk.length;
    // A large frame is put together once, however many chunks it comes in.
    if (this.#chunkBytes < this.#wanted) return;
    const bytes = joined(this.#chunks, this.#chunkBytes);
    const taken = this.#scanner.scan(bytes, take);
    this.#wanted = this.#scanner.wantedBytes(bytes.subarray(taken));
    this.#chunks = taken < bytes.length ? [bytes.subarray(taken)] : [];
    this.#chunkBytes = bytes.length - taken;
  }
}

/** Calls `take` for everything in a datagram, which must be whole. Items before a bad one count. */
export function decodeDatagram(datagram: Uint8Array, take: (item: Item) => void): void {
  const scanner = new Scanner(true, FRAME_BYTES_MAX);
  const taken = scanner.scan(datagram, take);
  if (taken < datagram.length || scanner.isInsideRun) {
    throw new ProtocolError(`a datagram ends within a frame, ${datagram.length - taken} bytes are left`);
  }
}

/** One after the other, in one piece. */
export function joined(parts: readonly Uint8Array[], bytes: number): Uint8Array {
  const [first] = parts;
  if (parts.length === 1 && first !== undefined) return first;
  const whole = new Uint8Array(bytes);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** What lies where in bytes, and what of a run is still to come. */
class Scanner {
  #run: Run = { lane: 0, topic: 0, first: 0 };
  #index = 0;
  #framesLeft = 0;
  #runBytesLeft = 0;
  readonly #isDatagram: boolean;
  readonly #frameBytesMax: number;

  constructor(isDatagram: boolean, frameBytesMax: number) {
    this.#isDatagram = isDatagram;
    this.#frameBytesMax = frameBytesMax;
  }

  get isInsideRun(): boolean {
    return this.#framesLeft > 0;
  }

  /** How many bytes were taken: all but an unfinished frame. */
  scan(bytes: Uint8Array, take: (item: Item) => void): number {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let at = 0;
    while (bytes.length - at >= PREFIX_BYTES) {
      const frameBytes = view.getUint32(at, true);
      const kind = view.getUint8(at + 4);
      this.#check(kind, frameBytes, view.getUint8(at + 5), view.getUint16(at + 6, true));
      if (bytes.length - at < frameBytes) break;
      this.#take(kind, bytes.subarray(at, at + frameBytes), take);
      at += frameBytes;
    }
    return at;
  }

  /** How many bytes the frame has that `rest` begins with, as far as that is known. */
  wantedBytes(rest: Uint8Array): number {
    if (rest.length < 4) return PREFIX_BYTES;
    return new DataView(rest.buffer, rest.byteOffset).getUint32(0, true);
  }

  #check(kind: number, frameBytes: number, flags: number, extra: number): void {
    const inRun = kind === KIND_MESSAGE || kind === KIND_END;
    if (kind < KIND_MESSAGE || kind > KIND_FRAGMENT) throw new ProtocolError(`unknown frame kind ${kind}`);
    if (inRun !== this.#framesLeft > 0) {
      const where = inRun ? "outside a run" : `inside a run that still lacks ${this.#framesLeft} frames`;
      throw new ProtocolError(`frame of kind ${kind} ${where}`);
    }
    const bytesMin = kind === KIND_CONTROL ? PREFIX_BYTES : kind === KIND_FRAGMENT ? 41 : MESSAGE_HEADER_BYTES;
    const kindMax = kind === KIND_CONTROL ? CONTROL_BYTES_MAX : kind === KIND_RUN ? bytesMin : FRAME_BYTES_MAX;
    const bytesMax = Math.min(kindMax, this.#frameBytesMax);
    if (frameBytes < bytesMin || frameBytes > bytesMax) {
      throw new ProtocolError(`frame of kind ${kind} with ${frameBytes} bytes, it has ${bytesMin} to ${bytesMax}`);
    }
    if (kind !== KIND_MESSAGE && flags !== 0) throw new ProtocolError(`frame of kind ${kind} with flags ${flags}`);
    if (kind === KIND_RUN && extra !== 0) throw new ProtocolError(`a run with extra ${extra}`);
    if (kind === KIND_FRAGMENT && !this.#isDatagram) throw new ProtocolError("a fragment outside a datagram");
    if (!inRun) return;
    checkOptions(kind, flags, extra, frameBytes);
    if (frameBytes > this.#runBytesLeft) {
      throw new ProtocolError(`a frame of ${frameBytes} bytes in a run with ${this.#runBytesLeft} left`);
    }
  }

  #take(kind: number, bytes: Uint8Array, take: (item: Item) => void): void {
    switch (kind) {
      case KIND_CONTROL: return take({ is: "control", frame: bytes });
      case KIND_FRAGMENT: return take({ is: "fragment", frame: bytes });
      case KIND_RUN: return this.#begin(bytes);
      default: this.#takeFrame(bytes, take);
    }
  }

  #begin(bytes: Uint8Array): void {
    const from = new Reader(bytes);
    from.raw(PREFIX_BYTES);
    const [lane, topic, first] = [from.u32(), from.u32(), from.u64()];
    const [frames, runBytes] = [from.u32(), from.u32()];
    if (frames === 0) throw new ProtocolError("a run of no frames");
    if (runBytes < MESSAGE_HEADER_BYTES * frames) {
      throw new ProtocolError(`a run of ${frames} frames in ${runBytes} bytes`);
    }
    if (first + BigInt(frames) > 0xffff_ffff_ffff_ffffn) throw new ProtocolError("a run beyond the last number");
    this.#run = { lane, topic, first: Number(first) };
    this.#index = 0;
    this.#framesLeft = frames;
    this.#runBytesLeft = runBytes;
  }

  #takeFrame(bytes: Uint8Array, take: (item: Item) => void): void {
    this.#framesLeft -= 1;
    this.#runBytesLeft -= bytes.length;
    if (this.#framesLeft === 0 && this.#runBytesLeft > 0) {
      throw new ProtocolError(`${this.#runBytesLeft} bytes are left after the last frame of a run`);
    }
    take({ is: "frame", run: this.#run, index: this.#index, frame: parseFrame(bytes) });
    this.#index += 1;
  }
}

/** The options of `flags` fit the frame, and nothing else does. */
function checkOptions(kind: number, flags: number, optionsBytes: number, frameBytes: number): void {
  if (kind === KIND_END) {
    if (optionsBytes !== 0 || frameBytes !== MESSAGE_HEADER_BYTES) throw new ProtocolError("an end with a payload");
    return;
  }
  if (flags & 0x80) throw new ProtocolError(`unknown flags ${flags}`);
  let fixed = 0;
  if (flags & FLAG_DEADLINE) fixed += 4;
  if (flags & FLAG_KEY) fixed += 8;
  if (flags & FLAG_REPLY_TO) fixed += 12;
  if (flags & FLAG_CORRELATION) fixed += 8;
  if (flags & FLAG_JOB) fixed += 36;
  if (flags & FLAG_DUE) fixed += 8;
  const rest = optionsBytes - fixed;
  const fits = flags & FLAG_HEADERS ? rest >= 2 && optionsBytes <= OPTIONS_BYTES_MAX : rest === 0;
  if (!fits || MESSAGE_HEADER_BYTES + optionsBytes > frameBytes) {
    throw new ProtocolError(`flags ${flags} with ${optionsBytes} bytes of options in a frame of ${frameBytes}`);
  }
}
