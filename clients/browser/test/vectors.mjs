// Reads the protocol's vectors, which every implementation is checked with.

import { readFileSync } from "node:fs";

const FOLDER = new URL("../../../proto/vectors/", import.meta.url);

/** The vectors of one file: their name, meaning, bytes, and what else is said of them. */
export function vectors(file) {
  const text = readFileSync(new URL(file, FOLDER), "utf8");
  const blocks = text.split(/\n\s*\n/).map((block) => block.split("\n").filter((line) => !line.startsWith("#")));
  return blocks.flatMap((lines) => {
    const fields = Object.fromEntries(lines.filter(Boolean).map((line) => {
      const at = line.indexOf(": ");
      return [line.slice(0, at), line.slice(at + 2)];
    }));
    return fields.name === undefined ? [] : [{ ...fields, bytes: fromHex(fields.hex) }];
  });
}

export function vector(file, name) {
  const found = vectors(file).find((candidate) => candidate.name === name);
  if (found === undefined) throw new Error(`there is no vector ${name} in ${file}`);
  return found.bytes;
}

export function toHex(bytes) {
  return Buffer.from(bytes).toString("hex");
}

function fromHex(hex) {
  return Uint8Array.from(Buffer.from(hex.replaceAll(" ", ""), "hex"));
}
