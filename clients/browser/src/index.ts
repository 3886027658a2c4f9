/**
 * twinlane in a browser: publish and subscribe by the native protocol, over WebTransport or a WebSocket.
 *
 * ```ts
 * const session = await connect("http://localhost:4780");
 * for await (const delivery of session.subscribe("prices/*")) {
 *   if (delivery.is === "message") show(delivery.topic, delivery.payload);
 * }
 * ```
 */

export { connect, Session, type ConnectOptions, type SessionState, type SessionStatus } from "./session.js";
export { Subscription, type SubscribeOptions, type SubscriptionStatus } from "./subscription.js";
export { Publisher, type Ack, type PublisherOptions, type PublisherStatus, type PublishOptions } from "./publisher.js";
export { Socket, type Listener, type SocketOptions } from "./socket.js";
export type { Delivery, Gap, Message } from "./delivery.js";
export type { GapCause, Mode, SlowPolicy, Start, TopicSpec } from "./control.js";
export { ProtocolError, TwinlaneError, type Code } from "./errors.js";
export type { CertificateHash, Transport } from "./wire.js";
