import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

/** For which round, or site round of it, a device holds a receipt. */
export type Receipt = { readonly round: string; readonly device: string };

/** What the cloud's books say of one contribution. */
export type Entry = {
  readonly round: number;
  readonly device: string;
  readonly outcome: string;
  readonly rule: string | null;
  readonly model: string | null;
  /** Updates that are in it: more than one after several site rounds. */
  readonly updates: number;
};

export type Account = {
  /** Contributions that a device holds a receipt for. */
  readonly receipted: number;
  /** Of those: in exactly one model. */
  readonly inModel: number;
  /** Of those: recorded as expired, by a rule that is named. */
  readonly expired: number;
  /** Of those: in no model and in no recorded expiry, or with fewer updates than were receipted. */
  readonly lost: readonly string[];
  /** Contributions, receipted or not, that are in more than one model, or in one and expired too. */
  readonly doubled: readonly string[];
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
    const ends = (entries.get(key) ?? []).filter(({ updates }) => updates >= rounds.size);
    if (ends.some((entry) => endOf(entry) === "model")) inModel++;
    else if (ends.some((entry) => endOf(entry) === "expired")) expired++;
    else lost.push(key);
  }
  const doubled = [...entries].flatMap(([key, ends]) => (ends.length > 1 ? [key] : []));
  return { receipted: receipted.size, inModel, expired, lost, doubled };
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

/** The receipts in the devices' audit files: one file a device, JSON lines. */
export async function readReceipts(auditDir: string): Promise<readonly Receipt[]> {
  const receipts: Receipt[] = [];
  for (const file of await readdir(auditDir)) {
    if (!file.endsWith(".jsonl")) continue;
    const device = file.slice(0, -".jsonl".length);
    const text = await readFile(join(auditDir, file), "utf8");
    for (const line of text.split("\n")) {
      if (line === "") continue;
      const { type, round } = JSON.parse(line) as { type: string; round: string };
      if (type === "receipt") receipts.push({ round, device });
    }
  }
  return receipts;
}
