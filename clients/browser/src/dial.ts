/**
 * Reaches the server: WebTransport if it works within two seconds, else a WebSocket.
 *
 * It makes a connection and says no word of the protocol on it.
 */

import { TwinlaneError } from "./errors.js";
import {
  openWebSocket, openWebTransport, type CertificateHash, type Transport, type Wire, type WireEvents,
} from "./wire.js";

/** How long WebTransport has, what it takes to learn where it is included. */
const WEB_TRANSPORT_MS = 1_500;
/** How long it is left alone after it did not work. */
const AVOID_MS = 60_000;
/** Where the native protocol is, on both ports. */
const NATIVE_PATH = "/twinlane";

/** Where the server is and how it may be reached. */
export interface Reach {
  readonly gateway: URL;
  readonly transports: readonly Transport[];
  readonly timeoutMs: number;
  readonly webTransportUrl: string | undefined;
  readonly serverCertificateHashes: readonly CertificateHash[] | undefined;
  /** Until when WebTransport is left alone, on `performance.now()`. */
  avoidUntil: number;
}

/** A connection, and why it is not a better one. */
export interface Dialled {
  readonly wire: Wire;
  readonly why: string;
}

/** Connects by the first transport that works. */
export async function dial(reach: Reach, events: WireEvents): Promise<Dialled> {
  const failures: string[] = [];
  for (const [at, transport] of reach.transports.entries()) {
    const isLast = at === reach.transports.length - 1;
    try {
      const wire = transport === "websocket"
        ? await webSocket(reach, events)
        : await webTransport(reach, events, isLast);
      return { wire, why: failures.join("; ") };
    } catch (error) {
      failures.push(error instanceof Error ? error.message : String(error));
    }
  }
  throw new TwinlaneError("unreachable", failures.join("; ") || "no transport is allowed");
}

function webSocket(reach: Reach, events: WireEvents): Promise<Wire> {
  const url = new URL(NATIVE_PATH, reach.gateway);
  url.protocol = url.protocol === "http:" || url.protocol === "ws:" ? "ws:" : "wss:";
  return openWebSocket(url.href, reach.timeoutMs, events);
}

async function webTransport(reach: Reach, events: WireEvents, isLast: boolean): Promise<Wire> {
  if (typeof WebTransport === "undefined") {
    throw new TwinlaneError("unreachable", "WebTransport: this browser has none");
  }
  const began = performance.now();
  if (began < reach.avoidUntil && !isLast) {
    throw new TwinlaneError("unreachable", "WebTransport: did not work within the last minute");
  }
  const budgetMs = isLast ? reach.timeoutMs : Math.min(WEB_TRANSPORT_MS, reach.timeoutMs);
  try {
    const { url, hashes } = await place(reach, budgetMs);
    const leftMs = budgetMs - (performance.now() - began);
    return await openWebTransport(url, hashes, leftMs, events);
  } catch (error) {
    reach.avoidUntil = performance.now() + AVOID_MS;
    throw error;
  }
}

interface Place {
  readonly url: string;
  readonly hashes: readonly CertificateHash[];
}

/** Where WebTransport is: as the caller said, or as the gateway says. */
async function place(reach: Reach, budgetMs: number): Promise<Place> {
  if (reach.webTransportUrl !== undefined) {
    return { url: reach.webTransportUrl, hashes: reach.serverCertificateHashes ?? [] };
  }
  const asked = new URL(`${NATIVE_PATH}/webtransport`, reach.gateway);
  asked.protocol = asked.protocol === "ws:" ? "http:" : asked.protocol === "wss:" ? "https:" : asked.protocol;
  let answer: unknown;
  try {
    const response = await fetch(asked, { signal: AbortSignal.timeout(budgetMs), cache: "no-store" });
    if (!response.ok) throw new Error(`the gateway has none (${response.status})`);
    answer = await response.json();
  } catch (error) {
    throw new TwinlaneError("unreachable", `WebTransport: ${error instanceof Error ? error.message : String(error)}`);
  }
  const { port, serverCertificateHashes } = answer as {
    port: number;
    serverCertificateHashes: { algorithm: "sha-256"; value: string }[];
  };
  const url = new URL(NATIVE_PATH, reach.gateway);
  const told = serverCertificateHashes.map(({ algorithm, value }) => ({ algorithm, value: fromHex(value) }));
  return { url: `https://${url.hostname}:${port}${NATIVE_PATH}`, hashes: reach.serverCertificateHashes ?? told };
}

function fromHex(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}
