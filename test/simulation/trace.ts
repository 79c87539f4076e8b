import { createHash } from "node:crypto";

/** Everything that happens, in order: as one digest, and the last of it as text. */
export type Trace = {
  note(atMs: number, who: string, what: string): void;
  bytes(bytes: Uint8Array): void;
  digest(): string;
  /** The newest lines, oldest first. */
  tail(): string[];
};

export function createTrace(linesKept: number): Trace {
  const hash = createHash("sha256");
  let lines: string[] = [];
  return {
    note(atMs, who, what) {
      const line = `${(atMs / 1_000).toFixed(3).padStart(9)} ${who.padEnd(6)} ${what}`;
      hash.update(line);
      lines.push(line);
      if (lines.length >= 2 * linesKept) lines = lines.slice(-linesKept);
    },
    bytes(bytes) {
      hash.update(bytes);
    },
    digest: () => hash.copy().digest("hex"),
    tail: () => lines.slice(-linesKept),
  };
}
