// What tests state, in words that also run inside a browser page. Objects are compared by content, bytes by value.

export class Unexpected extends Error {}

/** Fails unless both have the same content. */
export function equal(actual, expected, what = "value") {
  if (!same(actual, expected)) throw new Unexpected(`${what}: expected ${shown(expected)}, got ${shown(actual)}`);
}

export function ok(condition, what) {
  if (!condition) throw new Unexpected(what);
}

/** The error that `promise` fails with. */
export async function refused(promise, what = "a refusal") {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Unexpected(`${what}: expected an error, and there was none`);
}

/** What `promise` yields, within `ms`. A test that fails for another reason need not wait for it. */
export function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Unexpected(`${what}: not within ${ms} ms`)), ms);
    timer.unref?.();
  });
  const outcome = Promise.race([promise, late]).finally(() => clearTimeout(timer));
  outcome.catch(() => {});
  return outcome;
}

/** Asks again until `question` yields something true; for what only the server can tell. */
export async function eventually(what, question, ms = 10_000) {
  const end = Date.now() + ms;
  for (;;) {
    const answer = await question();
    if (answer) return answer;
    if (Date.now() > end) throw new Unexpected(`${what}: not within ${ms} ms`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** The arguments of the first `name` that `emitter` has from now on. */
export function once(emitter, name, ms = 10_000) {
  return within(ms, `event ${name}`, new Promise((resolve) => emitter.once(name, (...args) => resolve(args))));
}

function bytesOf(value) {
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  return ArrayBuffer.isView(value) ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength) : null;
}

function same(a, b) {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  const [bytesA, bytesB] = [bytesOf(a), bytesOf(b)];
  if (bytesA || bytesB) return !!bytesA && !!bytesB && bytesA.length === bytesB.length && bytesA.every((byte, at) => byte === bytesB[at]);
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && same(a[key], b[key]));
}

function shown(value) {
  const text = JSON.stringify(value, (_, part) => {
    const bytes = bytesOf(part);
    return bytes ? `<${bytes.length} bytes: ${[...bytes.slice(0, 8)]}>` : part === undefined ? "<undefined>" : part;
  });
  return text?.length > 600 ? `${text.slice(0, 600)}…` : text;
}
