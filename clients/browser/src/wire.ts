/**
 * What carries a session: WebTransport, or a WebSocket. One byte stream both ways, and with WebTransport datagrams.
 *
 * Connections only. Nothing here knows what the bytes mean, and nothing is tried again.
 */

import { TwinlaneError } from "./errors.js";

/** A transport's name. */
export type Transport = "webtransport" | "websocket";

/** What happens on a wire. After `closed` nothing more is said. */
export interface WireEvents {
  bytes(chunk: Uint8Array): void;
  datagram(datagram: Uint8Array): void;
  closed(reason: string): void;
}

/** One connection. */
export interface Wire {
  readonly transport: Transport;
  /** The largest datagram now; 0 where there are none. */
  readonly datagramBytesMax: number;
  /** Bytes that were given and are not on their way. */
  readonly waitingBytes: number;
  send(bytes: Uint8Array): void;
  /** Whether it was taken: a datagram never waits behind many others. */
  sendDatagram(datagram: Uint8Array): boolean;
  /** Resolves when a datagram can be taken, or the wire is closed. */
  datagramRoom(): Promise<void>;
  close(): void;
}

/** SHA-256 of the server's certificate, as `WebTransport` takes it. */
export interface CertificateHash {
  readonly algorithm: "sha-256";
  readonly value: BufferSource;
}

/** Datagrams that wait in the browser: a few packets, so that what waits longer waits where it can be replaced. */
const DATAGRAMS_WAITING_MAX = 8;
/** How long a datagram may wait in the browser, in milliseconds. */
const DATAGRAM_AGE_MS_MAX = 100;

/** Opens a WebTransport session and its stream. */
export async function openWebTransport(
  url: string, hashes: readonly CertificateHash[], timeoutMs: number, events: WireEvents,
): Promise<Wire> {
  const connection = new WebTransport(url, {
    congestionControl: "low-latency",
    ...(hashes.length > 0 && { serverCertificateHashes: hashes as WebTransportHash[] }),
  });
  // Else it would be reported as unhandled as well.
  connection.closed.catch(() => {});
  try {
    const opened = (async () => {
      await connection.ready;
      return connection.createBidirectionalStream();
    })();
    opened.catch(() => {});
    return new WebTransportWire(connection, await within(timeoutMs, opened), events);
  } catch (error) {
    connection.close();
    throw unreachable("WebTransport", error);
  }
}

/** Opens a WebSocket. */
export async function openWebSocket(url: string, timeoutMs: number, events: WireEvents): Promise<Wire> {
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  try {
    const opened = new Promise<void>((resolve, reject) => {
      socket.onopen = () => resolve();
      socket.onerror = () => reject(new Error("the browser gives no reason"));
      socket.onclose = () => reject(new Error("closed before it was open"));
    });
    await within(timeoutMs, opened);
    return new WebSocketWire(socket, events);
  } catch (error) {
    socket.close();
    throw unreachable("WebSocket", error);
  }
}

class WebTransportWire implements Wire {
  readonly transport = "webtransport";
  readonly #connection: WebTransport;
  readonly #stream: WritableStreamDefaultWriter<Uint8Array>;
  readonly #datagrams: WritableStreamDefaultWriter<Uint8Array>;
  readonly #events: WireEvents;
  #waitingBytes = 0;
  #isClosed = false;

  constructor(connection: WebTransport, stream: WebTransportBidirectionalStream, events: WireEvents) {
    this.#connection = connection;
    this.#events = events;
    this.#stream = stream.writable.getWriter();
    const { datagrams } = connection;
    datagrams.outgoingHighWaterMark = DATAGRAMS_WAITING_MAX;
    datagrams.outgoingMaxAge = DATAGRAM_AGE_MS_MAX;
    // Later browsers make a writable for each use, and earlier ones have only one.
    const made = datagrams as WebTransportDatagramDuplexStream & { createWritable?: () => WritableStream };
    this.#datagrams = (made.createWritable?.() ?? datagrams.writable).getWriter();
    this.#stream.closed.catch(() => {});
    this.#datagrams.closed.catch(() => {});
    void this.#read(stream.readable, (chunk) => events.bytes(chunk));
    void this.#read(datagrams.readable, (datagram) => events.datagram(datagram));
    connection.closed.then(
      ({ reason }) => this.#end(reason ?? "the session was closed"),
      (error: unknown) => this.#end(String(error)),
    );
  }

  get datagramBytesMax(): number {
    return this.#connection.datagrams.maxDatagramSize;
  }

  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  send(bytes: Uint8Array): void {
    this.#waitingBytes += bytes.length;
    const sent = () => { this.#waitingBytes -= bytes.length; };
    this.#stream.write(bytes).then(sent, sent);
  }

  sendDatagram(datagram: Uint8Array): boolean {
    if ((this.#datagrams.desiredSize ?? 0) <= 0) return false;
    this.#datagrams.write(datagram).catch(() => {});
    return true;
  }

  datagramRoom(): Promise<void> {
    return this.#datagrams.ready.then(() => {}, () => {});
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    // What was written last goes out first.
    this.#stream.close().catch(() => {}).finally(() => this.#connection.close());
  }

  async #read(from: ReadableStream<Uint8Array>, take: (chunk: Uint8Array) => void): Promise<void> {
    const reader = from.getReader();
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done || this.#isClosed) return;
        take(value);
      }
    } catch (error) {
      this.#end(String(error));
    }
  }

  #end(reason: string): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#connection.close();
    this.#events.closed(reason);
  }
}

class WebSocketWire implements Wire {
  readonly transport = "websocket";
  readonly datagramBytesMax = 0;
  readonly #socket: WebSocket;

  constructor(socket: WebSocket, events: WireEvents) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) events.bytes(new Uint8Array(data));
    };
    socket.onerror = null;
    socket.onclose = ({ code, reason }) => events.closed(reason || `the WebSocket was closed with code ${code}`);
  }

  get waitingBytes(): number {
    return this.#socket.bufferedAmount;
  }

  send(bytes: Uint8Array): void {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(bytes as Uint8Array<ArrayBuffer>);
  }

  sendDatagram(): boolean {
    return false;
  }

  datagramRoom(): Promise<void> {
    return Promise.resolve();
  }

  close(): void {
    this.#socket.onmessage = null;
    this.#socket.onclose = null;
    this.#socket.close();
  }
}

async function within<T>(timeoutMs: number, outcome: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    return await Promise.race([outcome, late]);
  } finally {
    clearTimeout(timer);
  }
}

function unreachable(what: string, error: unknown): TwinlaneError {
  return new TwinlaneError("unreachable", `${what}: ${error instanceof Error ? error.message : String(error)}`);
}
