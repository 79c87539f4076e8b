import { open, readdir } from "node:fs/promises";
import { join } from "node:path";

/** For which round, or site round of it, a device holds a receipt. */
export type Receipt = { readonly round: string; readonly device: string };

/** What the cloud's books say of one contribution. */
export type Entry = {
  readonly round: number;
  /** 0, or the site round with which a later stretch of site rounds began. */
  readonly stretch: number;
  readonly device: string;
  readonly outcome: string;
  readonly rule: string | null;
  readonly model: string | null;
  /** Updates that are in it: more than one after several site rounds. */
  readonly updates: number;
};

export type Account = {
  /** Rounds of the cloud's that a device holds receipts for, over all devices. */
  readonly receipted: number;
  /** Of those: in a model. */
  readonly inModel: number;
  /** Of those: recorded as expired, by a rule that is named. */
  readonly expired: number;
  /** Of those: in no model and in no recorded expiry, or with fewer updates than were receipted. */
  readonly lost: readonly string[];
  /** With a contribution, receipted or not, that is in two models, or in one and expired too. */
  readonly doubled: readonly string[];
  /** On record with more updates than the device holds receipts for. It asks again until it does. */
  readonly unreceipted: readonly string[];
};

/**
 * Holds the devices' receipts against the cloud's books. The two are written by different tiers,
 * and neither knows of this judgement.
 */
export function judge(
  session: string,
  receipts: readonly Receipt[],
  books: readonly Entry[],
): Account {
  const entries = new Map<string, Entry[]>();
  for (const entry of books) {
    const key = `${session}.${entry.round} ${entry.device}`;
    entries.set(key, [...(entries.get(key) ?? []), entry]);
  }
  const receipted = new Map<string, Set<string>>();
  for (const { round, device } of receipts) {
    const key = `${cloudRound(round)} ${device}`;
    receipted.set(key, (receipted.get(key) ?? new Set()).add(round));
  }
  const lost: string[] = [];
  let inModel = 0;
  let expired = 0;
  for (const [key, rounds] of receipted) {
    const ended = (entries.get(key) ?? []).filter((entry) => endOf(entry) !== undefined);
    if (updatesIn(ended) < rounds.size) lost.push(key);
    else if (ended.some((entry) => endOf(entry) === "model")) inModel++;
    else expired++;
  }
  const doubled: string[] = [];
  const unreceipted: string[] = [];
  for (const [key, all] of entries) {
    if (new Set(all.map(({ stretch }) => stretch)).size < all.length) doubled.push(key);
    if (updatesIn(all) > (receipted.get(key)?.size ?? 0)) unreceipted.push(key);
  }
  return { receipted: receipted.size, inModel, expired, lost, doubled, unreceipted };
}

function updatesIn(entries: readonly Entry[]): number {
  return entries.reduce((sum, { updates }) => sum + updates, 0);
}

/** Where a contribution has ended; one that still waits has not. */
function endOf({ outcome, rule, model }: Entry): "model" | "expired" | undefined {
  if (outcome === "model" && model !== null) return "model";
  return outcome === "expired" && rule !== null ? "expired" : undefined;
}

/** The cloud's round of a site round: `<session>.<n>` of `<session>.<n>.<k>`. */
function cloudRound(round: string): string {
  return round.split(".").slice(0, 2).join(".");
}

/** How a line of a receipt begins, so that what was sent need not be read: it is long. */
const RECEIPT = '{"type":"receipt"';

/**
 * Reads the receipts in the devices' audit files: one file a device, JSON lines. Each call resolves
 * with all that there are, and reads only what has come since the one before.
 */
export function receiptReader(auditDir: string): () => Promise<readonly Receipt[]> {
  const receipts: Receipt[] = [];
  const readTo = new Map<string, number>();
  return async () => {
    for (const name of await readdir(auditDir)) {
      if (!name.endsWith(".jsonl")) continue;
      const device = name.slice(0, -".jsonl".length);
      const { text, end } = await wholeLines(join(auditDir, name), readTo.get(name) ?? 0);
      readTo.set(name, end);
      for (const line of text.split("\n")) {
        if (!line.startsWith(RECEIPT)) continue;
        const { round } = JSON.parse(line) as { round: string };
        receipts.push({ round, device });
      }
    }
    return receipts;
  };
}

/** The lines of a file from `start` on that are written to their end, and where they end. */
async function wholeLines(path: string, start: number): Promise<{ text: string; end: number }> {
  const file = await open(path);
  try {
    const { size } = await file.stat();
    const bytes = Buffer.alloc(size - start);
    await file.read(bytes, 0, bytes.length, start);
    const length = bytes.lastIndexOf("\n") + 1;
    return { text: bytes.toString("utf8", 0, length), end: start + length };
  } finally {
    await file.close();
  }
}
