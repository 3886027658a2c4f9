// The console's API, with its token: status, publish, subscribe.
//
// The token comes in the address after `#`, which browsers send nowhere, and is kept for this tab only.

const KEY = "twinlane console token";

/** The server does not take the token. */
export class Unauthorized extends Error {}

export function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  useToken(token);
  history.replaceState(null, "", location.pathname);
}

export function useToken(token) {
  sessionStorage.setItem(KEY, token.trim());
}

export async function status() {
  return (await call("api/status", { signal: AbortSignal.timeout(5_000) })).json();
}

export async function publish(message) {
  const body = JSON.stringify(message);
  const headers = { "content-type": "application/json" };
  return (await call("api/publish", { method: "POST", body, headers, signal: AbortSignal.timeout(10_000) })).json();
}

/** Calls `handle(kind, data)` for each event until `signal` is aborted or the server ends it. */
export async function subscribe(query, signal, handle) {
  const response = await call(`api/subscribe?${new URLSearchParams(query)}`, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const kind = /^event: (.*)$/m.exec(part)?.[1];
      const data = /^data: (.*)$/m.exec(part)?.[1];
      if (kind && data) handle(kind, JSON.parse(data));
    }
  }
}

async function call(path, options) {
  const headers = { ...options.headers, authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) throw new Unauthorized();
  if (!response.ok) throw new Error((await response.json().catch(() => null))?.error ?? `${response.status}`);
  return response;
}
