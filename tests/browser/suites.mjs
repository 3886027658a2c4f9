// Runs the official protocol suites from a checkout of socketio/socket.io: `npm run suites -- CHECKOUT`. They connect to
// localhost:3000 and ask for the terms below.

import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { startServer } from "./harness/process.mjs";

const terms = { port: 3000, pingIntervalMs: 300, pingTimeoutMs: 200, maxPayloadBytes: 1_000_000, recovery: false };
const suites = [
  { folder: "docs/engine.io-protocol/v4-test-suite", options: { ...terms, path: "/engine.io/", echo: true } },
  { folder: "docs/socket.io-protocol/v5-test-suite", options: { ...terms, suite: true } },
];

const checkout = process.argv[2];
if (checkout === undefined) throw new Error("where is the checkout of socketio/socket.io?  npm run suites -- CHECKOUT");

let failed = false;
for (const { folder, options } of suites) {
  const cwd = join(checkout, folder);
  if (!existsSync(cwd)) throw new Error(`${cwd} is not there: is this a checkout of socketio/socket.io?`);
  if (!existsSync(join(cwd, "node_modules"))) spawnSync("npm", ["ci", "--no-audit", "--no-fund"], { cwd, stdio: "inherit" });
  const server = await startServer(options);
  console.log(`== ${folder}`);
  const suite = spawn("npm", ["test"], { cwd, stdio: "inherit" });
  const code = await new Promise((resolve) => suite.once("exit", resolve));
  failed ||= code !== 0;
  await server.stop();
}
process.exit(failed ? 1 : 0);
