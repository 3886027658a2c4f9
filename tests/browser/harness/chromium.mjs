// Debian's Chromium, driven by playwright-core, and the pages that tests need: the official client and the lines of the
// cheatsheet, served from an origin of their own.

import { createReadStream, existsSync, mkdirSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const types = { ".mjs": "text/javascript", ".js": "text/javascript", ".html": "text/html; charset=utf-8" };

const executablePath = process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find(existsSync);
/** Why there are no browser tests here; `false`: there are. */
export const noBrowser = executablePath === undefined && "no chromium: apt-get install chromium";

/** A browser; `close()` ends it. */
export function startBrowser() {
  return chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
}

/** Serves this folder's lines, harness and the official client. */
export async function startPages() {
  const server = createServer((request, response) => {
    const path = normalize(new URL(request.url, "http://localhost").pathname);
    const file = join(root, path === "/" ? "harness/page.html" : path);
    if (!file.startsWith(root) || !existsSync(file)) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": types[extname(file)] ?? "application/octet-stream" });
    createReadStream(file).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Keeps what `page` looks like as an artefact. */
export async function keep(page, name) {
  const folder = join(root, "artefacts");
  mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: join(folder, `${name}.png`) });
}
