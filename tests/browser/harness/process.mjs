// Starts and ends a server under test. `TARGET` says which: `reference` (Socket.IO's own server) or `twinlane` (events_server).

import { spawn } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { io } from "socket.io-client";
import { World } from "./world.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "../../..");

export const target = process.env.TARGET ?? "twinlane";
if (!["reference", "twinlane"].includes(target)) throw new Error(`TARGET=${target}: it is reference or twinlane`);
export const isReference = target === "reference";

/** The program `name`, in `folder` of cargo's output: what the environment says, otherwise what was built last. */
export function program(name, folder = "") {
  const named = process.env[`${name.toUpperCase()}_BIN`];
  if (named !== undefined) return named;
  const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
  const built = ["release", "debug"].map((profile) => join(target, profile, folder, name)).filter(existsSync);
  if (built.length === 0) throw new Error(`${name} is not built; README.md says how`);
  return built.sort((one, other) => statSync(other).mtimeMs - statSync(one).mtimeMs)[0];
}

/** A server of its own, stopped by `stop()`. `options` are the same for both targets; README.md lists them. */
export async function startServer(options = {}) {
  const [command, ...args] = isReference ? [process.execPath, join(here, "../reference/server.mjs")] : [program("events_server")];
  const child = spawn(command, [...args, JSON.stringify(options)], { stdio: ["pipe", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.once("exit", (code, signal) => resolve(signal ?? code)));
  const first = new Promise((resolve) => createInterface(child.stdout).once("line", resolve));
  const line = await Promise.race([first, ended.then((how) => Promise.reject(new Error(`${command} ended at its start: ${how}`)))]);
  const facts = JSON.parse(line);
  return {
    ...facts,
    url: `http://127.0.0.1:${facts.port}`,
    pid: child.pid,
    async stop() {
      child.stdin.end();
      const late = setTimeout(() => child.kill("SIGKILL"), 5_000);
      await ended;
      clearTimeout(late);
    },
  };
}

/** A server and its world; `stop()` ends both. */
export async function startWorld({ server: serverOptions = {}, client = {} } = {}) {
  const server = await startServer(serverOptions);
  const world = new World({ io, url: server.url, target, options: client });
  world.server = server;
  world.stop = async () => {
    world.close();
    await server.stop();
  };
  return world;
}
