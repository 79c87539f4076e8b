import { createHash } from "node:crypto";
import { z } from "zod";

const digest = z.string().regex(/^[0-9a-f]{64}$/);

/** What somebody did, or was refused. */
export const auditEntrySchema = z.strictObject({
  /** Milliseconds since 1970. */
  atMs: z.number().int(),
  /** `user:`, `oidc:`, `gateway:`, `device:`, `address:` and a name, or `local`. */
  actor: z.string(),
  /** What was asked for, such as `POST /sessions/:id/stop`. */
  action: z.string(),
  /** What it was asked of, such as `/sessions/run-1/stop`. */
  target: z.string(),
  /** The project that it concerns; null where that is the whole fleet. */
  project: z.string().nullable(),
  /** `done`, or the code of the refusal. */
  outcome: z.string(),
  detail: z.record(z.string(), z.string()),
});
export type AuditEntry = Readonly<z.infer<typeof auditEntrySchema>>;

export const auditLineSchema = auditEntrySchema.extend({
  /** From 1, without a gap. */
  sequence: z.number().int().min(1),
  /** Hash of the line before; of the first, zeros. */
  prev: digest,
  hash: digest,
});

/** One line of the audit log: its hash covers the line, and by `prev` all lines before it. */
export type AuditLine = Readonly<z.infer<typeof auditLineSchema>>;

/** The end of a chain, by which a later look at it can be tied to this one. */
export type ChainHead = Pick<AuditLine, "sequence" | "hash">;

/** What a chain begins after. */
export const chainRoot: ChainHead = { sequence: 0, hash: "0".repeat(64) };

/** Puts an entry after the head of a chain. */
export function linkLine(head: ChainHead, entry: AuditEntry): AuditLine {
  const line = { ...entry, sequence: head.sequence + 1, prev: head.hash };
  return { ...line, hash: hashOf(line) };
}

/**
 * SHA-256 in hexadecimal over the line without its hash, as JSON in UTF-8 with sorted names and no white
 * space.
 */
function hashOf(line: Omit<AuditLine, "hash">): string {
  return createHash("sha256").update(canonical(line)).digest("hex");
}

function canonical(value: unknown): string {
  return JSON.stringify(value, (_name, part: unknown) =>
    typeof part === "object" && part !== null
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}

export type ChainFault = {
  /** Of the first line that is not as it was written, or is not there. */
  readonly sequence: number;
  readonly fault: "altered" | "missing" | "replaced";
};

export type ChainCheck = {
  /** Takes the next line; gives what is wrong with it, or undefined. */
  take(line: AuditLine): ChainFault | undefined;
  /** Of what was taken without fault. */
  head(): ChainHead;
  /** To be asked after the last line: what is missing of a line that was to be there. */
  end(): ChainFault | undefined;
};

/**
 * Checks a chain line by line from its first on.
 *
 * @param known the head that an earlier look ended with: who rewrites the whole chain cannot keep it, and
 *   who cuts its end does not reach it
 */
export function checkChain(known?: ChainHead): ChainCheck {
  let head = chainRoot;
  let reached = known === undefined || known.sequence === 0;
  return {
    take(line) {
      const { hash, ...rest } = line;
      const sequence = head.sequence + 1;
      if (line.sequence !== sequence) return { sequence, fault: "missing" };
      if (line.prev !== head.hash) return { sequence, fault: "replaced" };
      if (hashOf(rest) !== hash) return { sequence, fault: "altered" };
      if (sequence === known?.sequence) {
        if (hash !== known.hash) return { sequence, fault: "replaced" };
        reached = true;
      }
      head = { sequence, hash };
      return undefined;
    },
    head: () => head,
    end: () => (reached ? undefined : { sequence: head.sequence + 1, fault: "missing" }),
  };
}
