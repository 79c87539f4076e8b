import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";

/**
 * An independent check of the sums. It shares no code with the product: it reads what the devices
 * wrote down before they sent it (`--audit`), adds n * q with BigInt, composes site rounds where a
 * gateway ran some, and compares with the digests of the sums that the cloud recorded for each
 * model, one for each base.
 */

/** A `sent` line of an audit file. */
export type Sent = {
  /** As the device knows it: the cloud's, or a site round of its gateway. */
  readonly round: string;
  readonly device: string;
  readonly gateway: string;
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
  /** Over the sums of all groups, one after the other. */
  readonly sumDigest: string;
  readonly groups: readonly GroupClaim[];
};

/** What the cloud says of the contributions on one base, in one model. */
export type GroupClaim = {
  /** Model versions between the base and the model's parent. */
  readonly age: number;
  /** Factor of the group's mean in the model's step. */
  readonly coefficient: number;
  readonly sumDigest: string;
  readonly weight: string;
  /** R of the session's grid. */
  readonly range: number;
  readonly contributors: readonly Contribution[];
};

/** One device in one round of the cloud's, or in a further stretch of its site rounds. */
export type Contribution = {
  readonly round: string;
  /** The first site round of a further stretch; 0 for what was handed over first. */
  readonly stretch?: number;
  readonly device: string;
  readonly gateway: string;
  readonly samples: number;
  /** Updates behind it: more than one after several site rounds. */
  readonly updates: number;
};

/** What the cloud says became of one receipted contribution. */
export type ContributionClaim = {
  readonly round: string;
  readonly stretch?: number;
  readonly device: string;
  readonly updates: number;
  readonly outcome: string;
};

export type Findings = {
  /** Every model's sum equals the oracle's, bit for bit. */
  readonly exact: boolean;
  readonly modelsChecked: number;
  /** One for each base in each model. */
  readonly sumsChecked: number;
  readonly inexact: readonly string[];
  /** Receipted by a gateway, but not in a model as often, nor recorded as expired. */
  readonly missing: readonly string[];
  /** Recorded more than once, or for more updates than there are receipts. */
  readonly doubled: readonly string[];
};

/** Where the stretches of a gateway's site rounds begin, by the cloud's round and the gateway. */
type Starts = ReadonlyMap<string, ReadonlySet<number>>;

/**
 * Models of which a group's sum, weight or coefficient, or the digest of all, is another.
 * @param outside contributions that no model holds: where further stretches began
 */
export function checkSums(
  audit: Audit,
  models: readonly ModelClaim[],
  outside: readonly Pick<Contribution, "round" | "stretch" | "gateway">[] = [],
): string[] {
  const starts = new Map<string, Set<number>>();
  const inside = models.flatMap(({ groups }) => groups.flatMap((group) => group.contributors));
  for (const { round, stretch = 0, gateway } of [...inside, ...outside]) {
    const key = `${round} ${gateway}`;
    starts.set(key, (starts.get(key) ?? new Set<number>()).add(stretch));
  }
  return models.filter((claim) => !isExact(audit, starts, claim)).map(({ model }) => model);
}

function isExact(audit: Audit, starts: Starts, { sumDigest: digest, groups }: ModelClaim): boolean {
  const sums: bigint[][] = [];
  for (const group of groups) {
    const sum = groupSum(audit, starts, group);
    if (sum === undefined || sumDigest(sum) !== group.sumDigest) return false;
    sums.push(sum);
  }
  return groups.length > 0 && sumDigest(sums.flat()) === digest && areDiscounted(groups);
}

/**
 * Whether each group's mean has the factor n (1 + age)^(-1/2) / sum n, the discount of late deltas
 * that sessions have by default, and bases stand in ascending order.
 */
function areDiscounted(groups: readonly GroupClaim[]): boolean {
  const total = groups.reduce((sum, { weight }) => sum + Number(weight), 0);
  return groups.every(({ weight, age, coefficient }, i) => {
    const expected = Number(weight) / Math.sqrt(1 + age) / total;
    const older = groups[i - 1]?.age ?? Number.POSITIVE_INFINITY;
    return older > age && Math.abs(coefficient - expected) <= 1e-12 * expected;
  });
}

/** The exact sum of a group; undefined when what the devices wrote down is not what is claimed. */
function groupSum(audit: Audit, starts: Starts, group: GroupClaim): bigint[] | undefined {
  const bundles = new Map<string, Contribution[]>();
  for (const contribution of group.contributors) {
    const { round, stretch = 0, gateway } = contribution;
    const key = `${round} ${stretch} ${gateway}`;
    const bundle = bundles.get(key);
    if (bundle === undefined) bundles.set(key, [contribution]);
    else bundle.push(contribution);
  }
  let sum: bigint[] | undefined;
  let weight = 0n;
  for (const bundle of bundles.values()) {
    const part = plainSum(audit, bundle) ?? composedSum(audit, starts, bundle, group.range);
    if (part === undefined) return undefined;
    sum = sum === undefined ? part : sum.map((value, i) => value + (part[i] ?? 0n));
    weight += bundle.reduce((total, { samples }) => total + BigInt(samples), 0n);
  }
  return String(weight) === group.weight ? sum : undefined;
}

/** Of contributions that are one update each, in the cloud's own round. */
function plainSum(audit: Audit, bundle: readonly Contribution[]): bigint[] | undefined {
  const updates: Sent[] = [];
  for (const { round, device, samples, updates: count } of bundle) {
    const sent = audit.sent.get(round)?.get(device);
    if (sent?.samples !== samples || count !== 1) return undefined;
    updates.push(sent);
  }
  const distinct = new Set(bundle.map(({ device }) => device)).size === bundle.length;
  return distinct ? exactSum(updates) : undefined;
}

/**
 * Of one gateway's site rounds in one round of the cloud's. One site round is its sum. More are
 * D = the sum of their mean deltas in float64, q = D 2^f to the nearest whole number within the
 * range, and N q, where N counts each device once, with its newest samples. In a further stretch D
 * goes on, and what it was before is subtracted.
 */
function composedSum(
  audit: Audit,
  starts: Starts,
  bundle: readonly Contribution[],
  range: number,
): bigint[] | undefined {
  const [first] = bundle;
  if (first === undefined) return undefined;
  const { round, gateway, stretch = 0 } = first;
  const later = [...(starts.get(`${round} ${gateway}`) ?? [])].filter((start) => start > stretch);
  const end = Math.min(...later);
  const all = siteRounds(audit, round, gateway);
  const before = all.filter(({ number }) => number < stretch).map(({ updates }) => updates);
  const rounds = all
    .filter(({ number }) => number >= stretch && number < end)
    .map(({ updates }) => updates);
  if (!areOf(rounds, bundle)) return undefined;
  const [only] = rounds;
  if (only === undefined) return undefined;
  if (rounds.length === 1) return exactSum(only);
  const start = addMeans([], before);
  const delta = addMeans(start, rounds).map((value, i) => value - (start[i] ?? 0));
  const total = bundle.reduce((sum, { samples }) => sum + BigInt(samples), 0n);
  const bits = bitsByCoordinate(only);
  return delta.map((value, i) => {
    const scale = 2 ** (bits[i] ?? 0);
    const most = Math.floor(range * scale);
    const q = Math.min(most, Math.max(-most, toEven(value * scale)));
    return total * BigInt(q);
  });
}

/** D after these site rounds, from what it was before them. */
function addMeans(before: readonly number[], rounds: readonly (readonly Sent[])[]): number[] {
  const delta = [...before];
  for (const updates of rounds) {
    const weight = updates.reduce((sum, { samples }) => sum + BigInt(samples), 0n);
    const bits = bitsByCoordinate(updates);
    for (const [i, value] of exactSum(updates).entries())
      delta[i] = (delta[i] ?? 0) + nearestDouble(value, weight << BigInt(bits[i] ?? 0));
  }
  return delta;
}

type SiteRound = { readonly number: number; readonly updates: readonly Sent[] };

/** The receipted updates of each site round that has any, in their order. */
function siteRounds(audit: Audit, round: string, gateway: string): SiteRound[] {
  const found: SiteRound[] = [];
  for (const [id, devices] of audit.sent) {
    if (cloudRound(id) !== round || id === round) continue;
    const updates = [...devices.values()].filter(
      (sent) => sent.gateway === gateway && audit.receipted.has(`${id} ${sent.device}`),
    );
    if (updates.length > 0) found.push({ number: Number(id.split(".")[2]), updates });
  }
  return found.sort((a, b) => a.number - b.number);
}

/** Whether the contributions are those that these rounds make: each device, updates and newest samples. */
function areOf(rounds: readonly (readonly Sent[])[], bundle: readonly Contribution[]): boolean {
  const made = new Map<string, { samples: number; updates: number }>();
  for (const { device, samples } of rounds.flat())
    made.set(device, { samples, updates: (made.get(device)?.updates ?? 0) + 1 });
  return (
    made.size === bundle.length &&
    bundle.every(({ device, samples, updates }) => {
      const own = made.get(device);
      return own?.samples === samples && own.updates === updates;
    })
  );
}

/** `session.3` of `session.3.2`; the cloud's own rounds as they are. */
function cloudRound(id: string): string {
  return id.split(".").slice(0, 2).join(".");
}

/** f of each coordinate. */
function bitsByCoordinate([update]: readonly Sent[]): number[] {
  return (update?.lengths ?? []).flatMap((length, tensor) =>
    new Array<number>(length).fill(update?.fractionBits[tensor] ?? Number.NaN),
  );
}

/** The double nearest to the quotient, ties to even: `Number` rounds a whole number so. */
export function nearestDouble(numerator: bigint, denominator: bigint): number {
  const magnitude = numerator < 0n ? -numerator : numerator;
  const bits = (value: bigint) => value.toString(2).length;
  // So far that the quotient has more bits than a double and one that says whether any follow.
  const shift = BigInt(Math.max(0, 64 + bits(denominator) - bits(magnitude)));
  const scaled = magnitude << shift;
  const rest = scaled % denominator === 0n ? 0n : 1n;
  const nearest = Number(((scaled / denominator) << 1n) | rest) / 2 ** (Number(shift) + 1);
  return numerator < 0n ? -nearest : nearest;
}

function toEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

/**
 * Holds what the cloud says against the receipts that the devices have. A contribution stands for
 * as many receipts as it has updates, all of one device in one round of the cloud's; it may have
 * one in each stretch of site rounds.
 */
export function checkContributions(
  audit: Audit,
  claims: readonly ContributionClaim[],
): { missing: string[]; doubled: string[] } {
  const receipts = new Map<string, number>();
  for (const key of audit.receipted) {
    const [round = "", device = ""] = key.split(" ");
    const contribution = `${cloudRound(round)} ${device}`;
    receipts.set(contribution, (receipts.get(contribution) ?? 0) + 1);
  }
  const claimed = new Map<string, number>();
  const times = new Map<string, number>();
  const seen = new Set<string>();
  for (const { round, stretch = 0, device, updates, outcome } of claims) {
    const key = `${round} ${device}`;
    const identity = `${round} ${stretch} ${device}`;
    times.set(key, Math.max(times.get(key) ?? 0, seen.has(identity) ? 2 : 1));
    seen.add(identity);
    // One that still waits for a model has come to no end.
    if (outcome !== "kept") claimed.set(key, (claimed.get(key) ?? 0) + updates);
  }
  const over = ([key, updates]: [string, number]) => updates > (receipts.get(key) ?? updates);
  return {
    missing: [...receipts]
      .filter(([key, updates]) => updates > (claimed.get(key) ?? 0))
      .map(([key]) => key),
    doubled: [...times.keys()].filter(
      (key) => (times.get(key) ?? 0) > 1 || over([key, claimed.get(key) ?? 0]),
    ),
  };
}
