/** Numbers of the frames' layout that several files need (PROTOCOL.md, section 1). */

export const KIND_MESSAGE = 1;
export const KIND_RUN = 2;
export const KIND_CONTROL = 3;
export const KIND_END = 4;
export const KIND_FRAGMENT = 5;

export const PREFIX_BYTES = 8;
export const MESSAGE_HEADER_BYTES = 32;
export const RUN_HEADER_BYTES = 32;
export const FRAGMENT_HEADER_BYTES = 40;
/** Options and user headers of one message at most. */
export const OPTIONS_BYTES_MAX = 4_172;
/** The largest control frame. */
export const CONTROL_BYTES_MAX = 294_912;
/** The largest frame that is taken: 1 MiB of payload with every option. */
export const FRAME_BYTES_MAX = (1 << 20) + OPTIONS_BYTES_MAX + MESSAGE_HEADER_BYTES;

export const FLAG_DEADLINE = 1 << 0;
export const FLAG_KEY = 1 << 1;
export const FLAG_REPLY_TO = 1 << 2;
export const FLAG_CORRELATION = 1 << 3;
export const FLAG_HEADERS = 1 << 4;
export const FLAG_JOB = 1 << 5;
export const FLAG_DUE = 1 << 6;
