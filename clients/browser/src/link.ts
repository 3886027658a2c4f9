/**
 * What the sockets of one session share: the topic that their packets go out on, and the inbox where the server's come.
 *
 * A lost connection is the session's business; where the session was forgotten, they say again who they are.
 */

import { TwinlaneError } from "./errors.js";
import { decodePackets, encodePacket, type Packet } from "./packets.js";
import type { Publisher } from "./publisher.js";
import { Socket, type SocketHost } from "./socket.js";
import type { SubscribeOptions, Subscription } from "./subscription.js";

/** What the sockets need of their session. */
export interface LinkSession {
  /** In hex; `undefined` while there is none. */
  readonly id: string | undefined;
  subscribe(topic: string, options: SubscribeOptions): Subscription;
  publisher(topic: string): Publisher;
}

const RETRY_MS = 500;

/** The way to the server's event layer and back. */
export class EventsLink implements SocketHost {
  readonly #session: LinkSession;
  readonly #sockets = new Map<string, Socket>();
  #out: Publisher | undefined;
  #inbox: Subscription | undefined;
  #opening: Promise<void> | undefined;
  /** Answers to an earlier beginning are none of ours. */
  #correlation = 0n;

  constructor(session: LinkSession) {
    this.#session = session;
  }

  async add(socket: Socket): Promise<void> {
    const known = this.#sockets.get(socket.namespace);
    if (known !== undefined && known !== socket) {
      throw new TwinlaneError("limit-reached", `the session is in ${socket.namespace} already: use that socket`);
    }
    this.#opening ??= this.#open();
    await this.#opening;
    this.#sockets.set(socket.namespace, socket);
  }

  remove(socket: Socket): void {
    if (this.#sockets.get(socket.namespace) === socket) this.#sockets.delete(socket.namespace);
  }

  async send(packet: Packet): Promise<void> {
    if (this.#out === undefined) throw new TwinlaneError("unreachable", "the event layer cannot be reached");
    await this.#out.publish(encodePacket(packet));
  }

  /** The server knows nothing of the session: what is there now belongs to another one. */
  forgotten(): void {
    if (this.#opening === undefined) return;
    this.#out?.fail(new TwinlaneError("session-expired", "the server has forgotten the session"));
    this.#close();
    for (const socket of this.#sockets.values()) socket.left("transport close");
  }

  /** The session is connected, as a new one. */
  beginAgain(): void {
    if (this.#sockets.size === 0) return;
    this.#opening ??= this.#open().then(async () => {
      for (const socket of this.#sockets.values()) await this.send(socket.knock());
    });
    this.#opening.catch(() => {
      this.#opening = undefined;
      setTimeout(() => this.beginAgain(), RETRY_MS);
    });
  }

  /** The session is over. */
  end(error: TwinlaneError): void {
    this.#close();
    for (const socket of this.#sockets.values()) socket.fail(error);
    this.#sockets.clear();
  }

  async #open(): Promise<void> {
    const { id } = this.#session;
    if (id === undefined) throw new TwinlaneError("unreachable", "the session is not connected");
    this.#correlation += 1n;
    const correlation = this.#correlation;
    const inbox = this.#session.subscribe(`$inbox/${id}`, { slow: "block" });
    const out = this.#session.publisher(`$io/${id}`);
    [this.#inbox, this.#out] = [inbox, out];
    try {
      const topic = await inbox.boundTopic;
      void this.#hear(inbox, correlation);
      // The first message says where the answers are to come.
      await out.publish(new Uint8Array(), { replyTo: { topic, correlation } });
    } catch (error) {
      if (this.#inbox === inbox) this.#close();
      throw error;
    }
  }

  #close(): void {
    this.#opening = undefined;
    this.#inbox?.close();
    this.#out?.close();
    [this.#inbox, this.#out] = [undefined, undefined];
  }

  async #hear(inbox: Subscription, correlation: bigint): Promise<void> {
    try {
      for await (const delivery of inbox) {
        if (this.#inbox !== inbox) return;
        // What was missed is asked for anew by those who missed it.
        if (delivery.is === "gap") return this.#restart("transport error");
        if (delivery.correlation !== correlation) continue;
        for (const packet of decodePackets(delivery.payload)) {
          if (packet.kind === "close") return this.#restart(String(packet.data ?? "transport close"));
          this.#sockets.get(packet.namespace)?.take(packet);
        }
      }
    } catch {
      if (this.#inbox === inbox) this.#restart("transport error");
    }
  }

  #restart(reason: string): void {
    this.#close();
    for (const socket of this.#sockets.values()) socket.left(reason);
    setTimeout(() => this.beginAgain(), RETRY_MS);
  }
}
