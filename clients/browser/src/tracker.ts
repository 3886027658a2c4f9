/**
 * Which messages of a fast topic are missing, which came late and which came twice (one subscription, one topic).
 *
 * Decisions only. Every hole counts as lost until a sender explains it.
 */

import type { Mode } from "./control.js";

/** Holes that are remembered for each publisher; older ones stay lost. */
const HOLES_MAX = 1_024;
/** Keys whose newest message is remembered, on a `latest` topic. */
const KEYS_MAX = 65_536;

/** What to do with a message. */
export type Verdict =
  /** Hand it over, after saying that `missing` before it have not come. */
  | { readonly is: "deliver"; readonly missing: number }
  /** It came after a newer one, and the topic wants order. */
  | { readonly is: "late" }
  /** It has come before. */
  | { readonly is: "repeat" };

interface Stream {
  highest: number;
  readonly holes: Set<number>;
}

/** The streams of one topic, by their source. */
export class FastTracker {
  readonly #mode: Mode;
  readonly #nextSource: number;
  readonly #streams = new Map<number, Stream>();
  readonly #newest = new Map<bigint, readonly [source: number, seq: number]>();
  /** Messages that have not come. */
  missing = 0;

  /** Streams numbered `nextSource` or above begin with 1; of others earlier messages are none of ours. */
  constructor(mode: Mode, nextSource: number) {
    this.#mode = mode;
    this.#nextSource = nextSource;
  }

  /** A message came. */
  take(source: number, seq: number, key: bigint | undefined): Verdict {
    const stream = this.#stream(source, seq);
    if (seq > stream.highest) {
      const missing = this.#open(stream, seq);
      this.#isNewest(source, seq, key);
      return { is: "deliver", missing };
    }
    if (!stream.holes.delete(seq)) return { is: "repeat" };
    const wanted = this.#mode === "unordered" || (this.#mode === "latest" && this.#isNewest(source, seq, key));
    if (!wanted) return { is: "late" };
    this.missing -= 1;
    return { is: "deliver", missing: 0 };
  }

  /** Stream `source` ended with `lastSeq`; how many are missing at its end. */
  end(source: number, lastSeq: number): number {
    const stream = this.#stream(source, lastSeq + 1);
    const missing = lastSeq > stream.highest ? this.#open(stream, lastSeq + 1) : 0;
    this.#streams.delete(source);
    return missing;
  }

  #stream(source: number, seq: number): Stream {
    const known = this.#streams.get(source);
    if (known !== undefined) return known;
    const stream = { highest: source >= this.#nextSource ? 0 : seq - 1, holes: new Set<number>() };
    this.#streams.set(source, stream);
    return stream;
  }

  /** What lies between the highest and `seq` is missing. */
  #open(stream: Stream, seq: number): number {
    const missing = seq - stream.highest - 1;
    this.missing += missing;
    for (let hole = Math.max(stream.highest + 1, seq - HOLES_MAX); hole < seq; hole += 1) stream.holes.add(hole);
    for (const oldest of stream.holes) {
      if (stream.holes.size <= HOLES_MAX) break;
      stream.holes.delete(oldest);
    }
    stream.highest = seq;
    return missing;
  }

  /** Whether nothing newer of its key has come, which it is then. */
  #isNewest(source: number, seq: number, key: bigint | undefined): boolean {
    if (this.#mode !== "latest" || key === undefined) return false;
    const newest = this.#newest.get(key);
    if (newest !== undefined && newest[0] === source && newest[1] > seq) return false;
    this.#newest.delete(key);
    this.#newest.set(key, [source, seq]);
    for (const oldest of this.#newest.keys()) {
      if (this.#newest.size <= KEYS_MAX) break;
      this.#newest.delete(oldest);
    }
    return true;
  }
}
