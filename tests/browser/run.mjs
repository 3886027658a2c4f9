// One command for all tests: `npm test`, `npm run reference`, `npm run heavy`.

import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const all = readdirSync(join(here, "test")).filter((name) => name.endsWith(".test.mjs"));
// What is not twinlane's own.
const checkedAgainstReference = ["cheatsheet", "client", "server", "rooms", "recovery", "protocol", "slow"].map((name) => `${name}.test.mjs`);

const runs = {
  everyday: [{ target: "twinlane", files: all }],
  reference: [{ target: "reference", files: checkedAgainstReference }],
  heavy: [{ target: "twinlane", files: ["missed.test.mjs"], heavy: true }],
}[process.argv[2]];
if (runs === undefined) throw new Error("run.mjs everyday | reference | heavy");

function tests({ target, files, heavy = false }) {
  console.log(`== ${target}`);
  const only = process.argv.slice(3).map((pattern) => `--test-name-pattern=${pattern}`);
  const args = ["--test", "--test-concurrency=1", "--test-timeout=300000", `--test-reporter=${join(here, "harness/reporter.mjs")}`, ...only];
  const child = spawn(process.execPath, [...args, ...files.map((name) => join(here, "test", name))], {
    stdio: "inherit",
    env: { ...process.env, TARGET: target, HEAVY: heavy ? "1" : "" },
  });
  return new Promise((resolve) => child.once("exit", (code) => resolve(code ?? 1)));
}

const started = performance.now();
let code = 0;
for (const run of runs) code = (await tests(run)) || code;
console.log(`== ${code === 0 ? "ok" : "FAILED"} after ${Math.round((performance.now() - started) / 1_000)} s`);
process.exit(code);
