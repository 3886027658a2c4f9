// A test reporter that is short where all is well: a line for each file, failures in full, and what was measured.

import { basename } from "node:path";

export default async function* report(events) {
  const files = new Map();
  const failures = [];
  const of = (data) => {
    const name = basename(data.file ?? "?");
    if (!files.has(name)) files.set(name, { passed: 0, failed: 0, skipped: 0, ms: 0 });
    return files.get(name);
  };
  const isSuite = (data) => data.details?.type === "suite" || data.name === data.file;
  for await (const { type, data } of events) {
    if (type === "test:pass" && !isSuite(data)) {
      const counts = of(data);
      if (data.skip !== undefined) counts.skipped += 1;
      else counts.passed += 1;
      counts.ms += data.details.duration_ms;
    } else if (type === "test:fail" && data.details?.error?.failureType !== "subtestsFailed") {
      of(data).failed += 1;
      failures.push(data);
      yield `FAILED ${basename(data.file ?? "?")}: ${data.name}\n${indented(data.details.error)}\n`;
    } else if (type === "test:stdout" || type === "test:stderr") {
      yield data.message;
    }
  }
  for (const [name, { passed, failed, skipped, ms }] of files) {
    const also = [failed > 0 && `${failed} FAILED`, skipped > 0 && `${skipped} skipped`].filter(Boolean).map((part) => `, ${part}`).join("");
    yield `${name.padEnd(26)} ${passed} passed${also}, ${(ms / 1_000).toFixed(1)} s\n`;
  }
}

function indented(error) {
  const cause = error?.cause ?? error;
  const stack = cause?.stack ?? String(cause);
  return stack.split("\n").filter((line) => !line.includes("node:internal")).map((line) => `    ${line}`).join("\n");
}
