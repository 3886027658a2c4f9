/** What a subscription hands over. */

import type { GapCause } from "./control.js";

/** A message. */
export interface Message {
  readonly is: "message";
  readonly topic: string;
  readonly offset: number;
  /** Of which stream of messages, and its number there: from 1, dense. */
  readonly source: number;
  readonly seq: number;
  /** When it was published, by the publisher's clock. */
  readonly time: Date;
  /** What it is about, on a topic that keeps the newest of each key. */
  readonly key: bigint | undefined;
  readonly payload: Uint8Array;
  /** @internal Which request it answers. */
  readonly correlation: bigint | undefined;
}

/** Messages that do not come: said before what came after them. */
export interface Gap {
  readonly is: "gap";
  readonly topic: string;
  /** How many; `undefined` where the topic began anew and nobody knows. */
  readonly missing: number | undefined;
  /** Offsets from (inclusive) to (exclusive), on a reliable topic. */
  readonly from: number | undefined;
  readonly to: number | undefined;
  /** Why; on a fast topic a first guess, which the subscription's status corrects. */
  readonly cause: GapCause | "epoch-changed";
}

/** One of them. */
export type Delivery = Message | Gap;
