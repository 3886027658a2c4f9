/** What can go wrong, and how a program tells it apart. */

/** Why the server or this client refused, closed or gave up: the codes of PROTOCOL.md, and two of this client's own. */
export type Code =
  | "normal" | "server-shutdown" | "protocol-violation" | "unsupported-version" | "auth-required" | "auth-failed"
  | "handshake-timeout" | "permission-denied" | "no-such-topic" | "topic-conflict" | "bad-name" | "reserved-name"
  | "limit-reached" | "too-large" | "out-of-order" | "session-expired" | "slow-consumer" | "credit-exceeded" | "dead"
  | "busy" | "internal" | "closed" | "stale-connection" | "wrong-channel" | "declare-denied" | "rate-limited"
  | "no-space" | "storage-failed" | "stale-lease" | "damaged" | "epoch-changed"
  /** No transport reached the server. */
  | "unreachable"
  /** The message was sent, and whether it is stored cannot be known any more. */
  | "outcome-unknown";

const CODES: readonly Code[] = [
  "normal", "server-shutdown", "protocol-violation", "unsupported-version", "auth-required", "auth-failed",
  "handshake-timeout", "permission-denied", "no-such-topic", "topic-conflict", "bad-name", "reserved-name",
  "limit-reached", "too-large", "out-of-order", "session-expired", "slow-consumer", "credit-exceeded", "dead", "busy",
  "internal", "closed", "stale-connection", "wrong-channel", "declare-denied", "rate-limited", "no-space",
  "storage-failed", "stale-lease", "damaged", "epoch-changed",
];

/** Coming back cannot help with these. */
const FINAL: ReadonlySet<Code> = new Set([
  "auth-required", "auth-failed", "permission-denied", "unsupported-version", "protocol-violation",
]);

/** A number of the wire; what a later version may add is treated as an internal error. */
export function codeOf(number: number): Code {
  return CODES[number] ?? "internal";
}

/** The number of a code that the protocol has. */
export function numberOf(code: Code): number {
  return CODES.indexOf(code);
}

/** Whether a connection closed with `code` is not tried again. */
export function isFinal(code: Code): boolean {
  return FINAL.has(code);
}

/** A request was not granted, a message not stored, or the session is over. */
export class TwinlaneError extends Error {
  readonly code: Code;

  constructor(code: Code, message: string) {
    super(message);
    this.name = "TwinlaneError";
    this.code = code;
  }
}

/** The server sent what the protocol does not allow. */
export class ProtocolError extends TwinlaneError {
  constructor(message: string) {
    super("protocol-violation", message);
    this.name = "ProtocolError";
  }
}
