import {
  digestOf,
  gridPoint,
  type ModelBits,
  meanOf,
  startFrom,
  sumOf,
} from "../floor/expected.js";
import type { Entry, Receipt } from "./account.js";

/** What the cloud says of a model that a round made. */
export type ModelClaim = {
  readonly id: string;
  readonly parent: string | null;
  readonly sumDigest: string | null;
  /** As its file holds them. */
  readonly values: Float32Array;
};

/** What a session's models are computed from. */
export type FoldOptions = {
  readonly session: string;
  /** The model that the first round started from. */
  readonly start: { readonly id: string; readonly values: Float32Array };
  readonly members: readonly {
    readonly device: string;
    readonly site: string;
    readonly samples: number;
  }[];
  readonly bitsOf: (coordinate: number) => number;
  /** R of the session's grid. */
  readonly range: number;
  /** Whether gateways run site rounds. */
  readonly siteRounds: boolean;
  /** The cloud's books: of each round its base, and where each contribution ended. */
  readonly baseOf: ReadonlyMap<number, string>;
  readonly books: readonly Entry[];
  /** Which site rounds a device was in. */
  readonly receipts: readonly Receipt[];
};

/** Sums that were computed again, one for each base in each model. */
export type Checked = {
  readonly models: number;
  readonly sums: number;
  /** Of those, on a base that was not the newest. */
  readonly late: number;
  /** Of those, with contributions of several site rounds. */
  readonly composed: number;
  /** Of those, with contributions of a stretch of site rounds that followed a hand-over. */
  readonly further: number;
};

/**
 * Computes every model of a session again from the formulas in the READMEs of proto and cloud:
 * exact sums by base, site rounds composed, the discount (1 + age)^(-1/2), FedAvg with learning
 * rate 1. It goes on from its own models, never from those that it checks.
 */
export type Fold = {
  /** The next model, oldest first: what is wrong with it; undefined when it is right to the bit. */
  check(model: ModelClaim): string | undefined;
  readonly checked: Checked;
};

/** Models that a later one may start from, or have contributions on. */
const MODELS_KEPT = 48;

export function createFold(options: FoldOptions): Fold {
  const { session, start, members, bitsOf, range, baseOf } = options;
  const memberOf = new Map(members.map((member) => [member.device, member]));
  const models = new Map<string, ModelBits>([[start.id, startFrom(start.values)]]);
  const parents = new Map<string, string>();
  const heldBy = groupBy(
    options.books.filter(({ outcome }) => outcome === "model"),
    ({ model }) => model ?? "",
  );
  const siteReceipts = groupBy(distinct(options.receipts), ({ round }) => cloudRoundOf(round));
  let checked: Checked = { models: 0, sums: 0, late: 0, composed: 0, further: 0 };

  const contributionsOf = (devices: readonly string[]) =>
    devices.map((device) => ({ device, samples: memberOf.get(device)?.samples ?? 0 }));
  const weightOf = (devices: readonly string[]) =>
    contributionsOf(devices).reduce((sum, { samples }) => sum + samples, 0);

  /** The site rounds of one site in a round of the cloud's, in order: number, and who was in it. */
  function siteRoundsOf(round: number, site: string) {
    const receipts = (siteReceipts.get(`${session}.${round}`) ?? []).filter(
      ({ device }) => memberOf.get(device)?.site === site,
    );
    return [...groupBy(receipts, (receipt) => receipt.round)]
      .map(([id, some]) => ({ number: numberOf(id), devices: some.map(({ device }) => device) }))
      .sort((a, b) => a.number - b.number);
  }

  /** S of a stretch of site rounds: of those from its first up to the first of the next one. */
  function siteSum(from: Float32Array, entries: readonly Entry[]): bigint[] | string {
    const [first] = entries;
    if (first === undefined) return "nothing";
    const { round, stretch, device } = first;
    const site = memberOf.get(device)?.site ?? "";
    const next = options.books
      .filter((entry) => entry.round === round && memberOf.get(entry.device)?.site === site)
      .map((entry) => entry.stretch)
      .filter((other) => other > stretch);
    const end = Math.min(Number.POSITIVE_INFINITY, ...next);
    const before = siteRoundsOf(round, site).filter(({ number }) => number < end);
    const own = before.filter(({ number }) => number >= stretch);
    const wrong = differs(entries, own);
    if (wrong !== undefined) return `${wrong} of site ${site} in round ${round}`;
    const delta = new Float64Array(from.length);
    let start = delta.slice();
    for (const { number, devices } of before) {
      if (number === own[0]?.number) start = delta.slice();
      const base = from.map((value, i) => value + (delta[i] as number));
      const sum = sumOf(base, number, contributionsOf(devices), bitsOf);
      if (own.length === 1 && number === own[0]?.number) return sum;
      for (const [i, mean] of meanOf(sum, weightOf(devices), bitsOf).entries())
        delta[i] = (delta[i] as number) + mean;
    }
    const weight = BigInt(weightOf(entries.map((entry) => entry.device)));
    return Array.from(delta, (value, i) => {
      const most = Math.floor(range * 2 ** bitsOf(i));
      const q = gridPoint(value - (start[i] as number), bitsOf(i));
      return weight * BigInt(Math.max(-most, Math.min(most, q)));
    });
  }

  /** S of all that a model holds on one base. */
  function groupSum(base: string, entries: readonly Entry[]): bigint[] | string {
    const from = models.get(base)?.values;
    if (from === undefined) return `it holds contributions on ${base}, which is no model before it`;
    const bundles = groupBy(entries, ({ round, stretch, device }) =>
      options.siteRounds ? `${round} ${stretch} ${memberOf.get(device)?.site}` : `${round}`,
    );
    let total: bigint[] | undefined;
    for (const bundle of bundles.values()) {
      const devices = contributionsOf(bundle.map(({ device }) => device));
      const sum = options.siteRounds
        ? siteSum(from, bundle)
        : sumOf(from, bundle[0]?.round ?? 0, devices, bitsOf);
      if (typeof sum === "string") return sum;
      total = total?.map((value, i) => value + (sum[i] as bigint)) ?? sum;
    }
    return total ?? `it holds nothing on ${base}`;
  }

  /** How many versions a base lies behind a model's parent; undefined when it is not on its trail. */
  function ageOf(base: string, parent: string): number | undefined {
    let age = 0;
    for (let at: string | undefined = parent; at !== undefined; at = parents.get(at), age++)
      if (at === base) return age;
    return undefined;
  }

  function check({ id, parent, sumDigest, values }: ModelClaim): string | undefined {
    checked = { ...checked, models: checked.models + 1 };
    const from = parent === null ? undefined : models.get(parent);
    if (parent === null || from === undefined) return `its parent ${parent} is no model before it`;
    parents.set(id, parent);
    const groups = [];
    for (const [base, entries] of groupBy(
      heldBy.get(id) ?? [],
      ({ round }) => baseOf.get(round) ?? "",
    )) {
      const age = ageOf(base, parent);
      if (age === undefined) return `it holds contributions on ${base}, which is not on its trail`;
      const sum = groupSum(base, entries);
      if (typeof sum === "string") return sum;
      const weight = weightOf(entries.map(({ device }) => device));
      groups.push({ age, sum, weight });
      checked = {
        ...checked,
        sums: checked.sums + 1,
        late: checked.late + Number(age > 0),
        composed: checked.composed + Number(entries.some(({ updates }) => updates > 1)),
        further: checked.further + Number(entries.some(({ stretch }) => stretch > 0)),
      };
    }
    if (groups.length === 0) return "it holds nothing";
    groups.sort((a, b) => b.age - a.age);
    if (digestOf(groups.map(({ sum }) => sum)) !== sumDigest)
      return "its sums are not those of its contributions";
    const total = groups.reduce((sum, { weight }) => sum + weight, 0);
    const steps = groups.map(({ age, sum, weight }) => {
      const coefficient = (weight * (1 / Math.sqrt(1 + age))) / total;
      return meanOf(sum, weight, bitsOf).map((mean) => coefficient * mean);
    });
    const delta = steps.reduce((sum, step) => sum.map((value, i) => value + (step[i] as number)));
    const master = from.master.map((value, i) => value + (delta[i] as number));
    const expected = { master, values: Float32Array.from(master) };
    models.set(id, expected);
    for (const oldest of models.keys()) {
      if (models.size <= MODELS_KEPT) break;
      models.delete(oldest);
    }
    const wrong = expected.values.findIndex((value, i) => !Object.is(value, values[i]));
    if (wrong >= 0 || values.length !== expected.values.length)
      return `value ${wrong} is ${values[wrong]}, not ${expected.values[wrong]}`;
    return undefined;
  }

  return {
    check,
    get checked() {
      return checked;
    },
  };
}

/** Who is not in a stretch as often as its site rounds say; undefined when all are. */
function differs(
  entries: readonly Entry[],
  rounds: readonly { readonly devices: readonly string[] }[],
): string | undefined {
  const times = new Map<string, number>();
  for (const device of rounds.flatMap(({ devices }) => devices))
    times.set(device, (times.get(device) ?? 0) + 1);
  for (const { device, updates } of entries) {
    if (times.get(device) !== updates)
      return `${device}: ${updates} updates, ${times.get(device) ?? 0} receipts`;
    times.delete(device);
  }
  const [left] = times.keys();
  return left === undefined ? undefined : `${left}: receipts, and not on record`;
}

/** A device that stopped before it forgot an update has noted its receipt more than once. */
function distinct(receipts: readonly Receipt[]): Receipt[] {
  return [...new Map(receipts.map((some) => [`${some.round} ${some.device}`, some])).values()];
}

function cloudRoundOf(round: string): string {
  return round.split(".").slice(0, 2).join(".");
}

function numberOf(id: string): number {
  return Number(id.slice(id.lastIndexOf(".") + 1));
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [item]);
    else group.push(item);
  }
  return groups;
}
