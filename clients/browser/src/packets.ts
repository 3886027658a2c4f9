/**
 * Packets between the event layer and its clients: several in one message, back to back.
 *
 * ```text
 *  byte   0  kind
 *         1  1 if an acknowledgement is asked for or given, else 0
 *   2 …   3  bytes of the namespace
 *   4 …   7  bytes of the JSON text
 *   8 …  11  attachments
 *  12 …  19  the number of the acknowledgement
 *  20 …      namespace, JSON text, and each attachment behind its length in 4 bytes
 * ```
 */

import { Reader, Writer } from "./bytes.js";
import { ProtocolError } from "./errors.js";

const KINDS = ["connect", "event", "ack", "disconnect", "connected", "refused", "close"] as const;
/** What a packet says. */
export type PacketKind = (typeof KINDS)[number];

export interface Packet {
  readonly kind: PacketKind;
  readonly namespace: string;
  readonly ack: bigint | undefined;
  /** Any value of JSON, with bytes in it as `Uint8Array`; `undefined`: nothing. */
  readonly data: unknown;
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const ENCODER = new TextEncoder();

export function encodePacket({ kind, namespace, ack, data }: Packet): Uint8Array {
  const attachments: Uint8Array[] = [];
  const name = ENCODER.encode(namespace);
  const json = data === undefined ? new Uint8Array() : ENCODER.encode(JSON.stringify(detached(data, attachments)));
  const packet = new Writer();
  packet.u8(KINDS.indexOf(kind) + 1).u8(ack === undefined ? 0 : 1).u16(name.length).u32(json.length);
  packet.u32(attachments.length).u64(ack ?? 0n).raw(name).raw(json);
  for (const attachment of attachments) packet.u32(attachment.length).raw(attachment);
  return packet.bytes();
}

/** The packets of one message. */
export function decodePackets(message: Uint8Array): Packet[] {
  const from = new Reader(message);
  const packets: Packet[] = [];
  while (from.left > 0) {
    const number = from.u8();
    const kind = KINDS[number - 1];
    if (kind === undefined) throw new ProtocolError(`${number} is no kind of packet`);
    const hasAck = from.u8() !== 0;
    const [nameBytes, jsonBytes, count, ack] = [from.u16(), from.u32(), from.u32(), from.u64()];
    const namespace = text(from.raw(nameBytes));
    const json = text(from.raw(jsonBytes));
    const attachments: Uint8Array[] = [];
    for (let at = 0; at < count; at += 1) attachments.push(from.raw(from.u32()).slice());
    packets.push({ kind, namespace, ack: hasAck ? ack : undefined, data: parsed(json, attachments) });
  }
  return packets;
}

function text(bytes: Uint8Array): string {
  try {
    return UTF8.decode(bytes);
  } catch {
    throw new ProtocolError("a packet's text is not UTF-8");
  }
}

/** The value with a placeholder for each piece of bytes, which go to `attachments`. */
function detached(value: unknown, attachments: Uint8Array[]): unknown {
  const bytes = asBytes(value);
  if (bytes !== undefined) return { _placeholder: true, num: attachments.push(bytes) - 1 };
  if (Array.isArray(value)) return value.map((item) => detached(item, attachments));
  if (typeof value !== "object" || value === null || "toJSON" in value) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, detached(item, attachments)]));
}

function asBytes(value: unknown): Uint8Array | undefined {
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  return undefined;
}

function parsed(json: string, attachments: readonly Uint8Array[]): unknown {
  if (json === "") return undefined;
  try {
    return JSON.parse(json, (_, value: unknown) => {
      const isPlaceholder = typeof value === "object" && value !== null && "_placeholder" in value && "num" in value;
      if (!isPlaceholder || value._placeholder !== true) return value;
      const bytes = attachments[value.num as number];
      if (bytes === undefined) throw new ProtocolError(`the packet names attachment ${value.num}, which did not come`);
      return bytes;
    });
  } catch (error) {
    throw error instanceof ProtocolError ? error : new ProtocolError("a packet's text is no JSON");
  }
}
