import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";

/**
 * An independent check of the sums. It shares no code with the product: it reads what the devices
 * wrote down before they sent it (`--audit`), adds n * q with BigInt, and compares with the digest
 * of the sum that the cloud recorded for each model.
 */

/** A `sent` line of an audit file. */
export type Sent = {
  readonly round: string;
  readonly device: string;
  readonly samples: number;
  readonly fractionBits: readonly number[];
  /** Values of each tensor, in the order of the flat vector. */
  readonly lengths: readonly number[];
  readonly encoding: "f32" | "i32" | "i16";
  readonly digest: string;
  /** Wire bytes, base64. */
  readonly values: string;
};

export type Audit = {
  /** round -> device -> what it sent. */
  readonly sent: ReadonlyMap<string, ReadonlyMap<string, Sent>>;
  /** `round device` of every receipt a device holds. */
  readonly receipted: ReadonlySet<string>;
};

export async function readAudit(dir: string): Promise<Audit> {
  const sent = new Map<string, Map<string, Sent>>();
  const receipted = new Set<string>();
  for (const name of (await readdir(dir)).sort()) {
    if (!name.endsWith(".jsonl")) continue;
    const device = name.slice(0, -".jsonl".length);
    const lines = createInterface({
      input: createReadStream(join(dir, name)),
      crlfDelay: Infinity,
    });
    for await (const text of lines) {
      const line = parseLine(text);
      if (line?.type === "sent") {
        const devices = sent.get(line.round) ?? new Map<string, Sent>();
        devices.set(device, line);
        sent.set(line.round, devices);
      } else if (line?.type === "receipt") {
        receipted.add(`${line.round} ${device}`);
      }
    }
  }
  return { sent, receipted };
}

type Line =
  | ({ readonly type: "sent" } & Sent)
  | { readonly type: "receipt" | "refused"; readonly round: string };

/** A device killed while it wrote leaves a torn last line: what it never finished writing it never sent. */
function parseLine(text: string): Line | undefined {
  try {
    return JSON.parse(text) as Line;
  } catch {
    return undefined;
  }
}

/** The exact sum of n * q over the given updates, one BigInt a coordinate. */
export function exactSum(updates: readonly Sent[]): bigint[] {
  const sum: bigint[] = [];
  for (const update of updates) {
    const bytes = Buffer.from(update.values, "base64");
    const n = BigInt(update.samples);
    let at = 0;
    update.lengths.forEach((length, tensor) => {
      const scale = 2 ** (update.fractionBits[tensor] ?? Number.NaN);
      for (let i = 0; i < length; i++, at++) {
        sum[at] = (sum[at] ?? 0n) + n * BigInt(gridPoint(bytes, at, update.encoding, scale));
      }
    });
  }
  return sum;
}

function gridPoint(bytes: Buffer, at: number, encoding: Sent["encoding"], scale: number): number {
  if (encoding === "f32") return bytes.readFloatLE(at * 4) * scale;
  return encoding === "i32" ? bytes.readInt32LE(at * 4) : bytes.readInt16LE(at * 2);
}

/** SHA-256 of the sum as little-endian int64. */
export function sumDigest(sum: readonly bigint[]): string {
  const bytes = Buffer.alloc(sum.length * 8);
  for (const [i, value] of sum.entries()) bytes.writeBigInt64LE(value, i * 8);
  return createHash("sha256").update(bytes).digest("hex");
}

/** What the cloud says of one model that a round produced. */
export type ModelClaim = {
  readonly model: string;
  readonly round: string;
  readonly sumDigest: string;
  readonly weight: string;
  readonly contributors: readonly { readonly device: string; readonly samples: number }[];
};

/** What the cloud says became of one receipted contribution. */
export type ContributionClaim = {
  readonly round: string;
  readonly device: string;
  readonly outcome: string;
  readonly rule?: string | null;
};

export type Findings = {
  /** Every model's sum equals the oracle's, bit for bit. */
  readonly exact: boolean;
  readonly modelsChecked: number;
  readonly inexact: readonly string[];
  /** Receipted by a gateway, but neither in a model nor recorded as expired. */
  readonly missing: readonly string[];
  /** Recorded more than once. */
  readonly doubled: readonly string[];
};

export function checkSums(audit: Audit, models: readonly ModelClaim[]): string[] {
  const inexact: string[] = [];
  for (const claim of models) {
    const updates = claim.contributors.map(({ device, samples }) => {
      const sent = audit.sent.get(claim.round)?.get(device);
      return sent?.samples === samples ? sent : undefined;
    });
    const known = updates.filter((update) => update !== undefined);
    const weight = known.reduce((total, update) => total + BigInt(update.samples), 0n);
    const distinct = new Set(claim.contributors.map(({ device }) => device)).size === known.length;
    const complete = known.length > 0 && known.length === updates.length && distinct;
    if (
      !complete ||
      String(weight) !== claim.weight ||
      sumDigest(exactSum(known)) !== claim.sumDigest
    ) {
      inexact.push(claim.model);
    }
  }
  return inexact;
}

export function checkContributions(
  audit: Audit,
  claims: readonly ContributionClaim[],
): { missing: string[]; doubled: string[] } {
  const count = new Map<string, number>();
  for (const { round, device } of claims) {
    const key = `${round} ${device}`;
    count.set(key, (count.get(key) ?? 0) + 1);
  }
  return {
    missing: [...audit.receipted].filter((key) => !count.has(key)),
    doubled: [...count].filter(([, times]) => times > 1).map(([key]) => key),
  };
}
