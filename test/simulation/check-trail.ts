import { createHash } from "node:crypto";
import type { ContributionRow, ModelRow, RoundRow } from "@tributary/cloud/store/rows.js";
import type { Slice } from "@tributary/cloud/store/store.js";
import type { MemoryDisk } from "@tributary/proto/host/memory-disk.js";
import type { Account } from "./account.js";
import type { Failures } from "./failures.js";
import type { Holdings } from "./holdings.js";
import {
  discountOf,
  type Grid,
  type Master,
  meanOf,
  onGrid,
  type Sum,
  stepOf,
  stepOfGroups,
  sumOf,
  valuesIn,
} from "./oracle.js";
import type { CloudProgram } from "./programs.js";
import type { Settings } from "./settings.js";

/** What the cloud's trail says at the end, against what the devices saw and trained. */
export async function checkTrail(
  settings: Settings,
  cloud: Pick<CloudProgram, "store" | "disk">,
  account: Account,
  holdings: Pick<Holdings, "lost">,
  failures: Failures,
): Promise<void> {
  const { name } = settings.session;
  const { store } = cloud;
  const rows = await all((after: readonly [number, string] | undefined) =>
    store.listContributions({ session: name }, { after, limit: 1_000 }),
  );
  const rounds = await all((after: number | undefined) =>
    store.listRounds(name, { after, limit: 1_000 }),
  );
  const models = await all((after: number | undefined) =>
    store.listModels({}, { after, limit: 1_000 }),
  );
  const evaluations = await all((after: number | undefined) =>
    store.evaluations(name, { after, limit: 1_000 }),
  );
  const judged = new Set(evaluations.map(({ model }) => model));
  // What was measured in an evaluation that failed counts in the next one of the same model.
  const evaluated = new Set(
    rounds.filter(({ task, base }) => task === "evaluate" && judged.has(base)).map(({ id }) => id),
  );
  checkAccount(account, holdings, rows, models, evaluated, failures);
  if (failures.first !== undefined) return;
  const fold = createFold(settings, cloud.disk, account, rows, rounds);
  for (const model of models.sort((a, b) => number(a) - number(b))) {
    const wrong = await fold.check(model);
    if (wrong !== undefined) failures.add("fold", `${model.id}: ${wrong}`);
  }
}

function number({ id }: ModelRow): number {
  return Number(id.slice(id.lastIndexOf(".") + 1));
}

async function all<T, K>(page: (after: K | undefined) => Promise<Slice<T, K>>): Promise<T[]> {
  const items: T[] = [];
  for (let after: K | undefined; ; ) {
    const slice = await page(after);
    items.push(...slice.items);
    after = slice.next;
    if (after === undefined) return items;
  }
}

function keyOf({ session, round, device }: ContributionRow): string {
  return `${session}.${round} ${device}`;
}

/** The cloud's round of a round as a device knows it. */
function cloudRound(round: string): string {
  return round.split(".").slice(0, 2).join(".");
}

/**
 * Every receipt is kept: its contribution is in one model that exists, or expired under a rule, or lost
 * with the hardware of a gateway that was replaced.
 */
function checkAccount(
  account: Account,
  holdings: Pick<Holdings, "lost">,
  rows: readonly ContributionRow[],
  models: readonly ModelRow[],
  evaluated: ReadonlySet<string>,
  failures: Failures,
): void {
  const wrong = (message: string) => failures.add("account", message);
  const recorded = new Map<string, ContributionRow>();
  for (const row of rows) {
    const key = keyOf(row);
    if (recorded.has(key)) wrong(`${key} is on record twice`);
    recorded.set(key, row);
    if (row.outcome === "expired" && !row.rule) wrong(`${key} expired under no rule`);
    const settled =
      row.model === null
        ? evaluated.has(`${row.session}.${row.round}`)
        : models.some(({ id }) => id === row.model);
    if (row.outcome === "model" && !settled) wrong(`${key} is in ${row.model}, which is no model`);
    if (row.outcome !== "model" && row.outcome !== "expired")
      wrong(`${key} ended as ${row.outcome}: neither in a model nor expired`);
    const announced = [...account.begun].some(
      ([begun]) =>
        cloudRound(begun.split(" ")[0] as string) === key.split(" ")[0] &&
        begun.split(" ")[1] === row.device,
    );
    if (!announced) wrong(`${key} is on record, and no device announced it`);
  }
  for (const { round, device, digest } of account.receipts) {
    const row = recorded.get(`${cloudRound(round)} ${device}`);
    if (row === undefined) {
      if (holdings.lost(round, device)) continue;
      wrong(`${device} has a receipt for ${round}, which is nowhere on record`);
      continue;
    }
    const begin = account.begun.get(`${round} ${device}`)?.get(digest);
    if (begin === undefined)
      wrong(`${device} has a receipt for ${digest}, which it never announced`);
    else if (begin.samples !== row.samples)
      wrong(`${device} gave ${begin.samples} samples to ${round}; on record are ${row.samples}`);
  }
}

function createFold(
  settings: Settings,
  disk: MemoryDisk,
  account: Account,
  rows: readonly ContributionRow[],
  rounds: readonly RoundRow[],
) {
  const { session, tensors } = settings;
  const bits = session.grid.fractionBits as number;
  const coordinates = tensors.reduce((sum, length) => sum + length, 0);
  const grid: Grid = {
    fractionBits: new Array<number>(coordinates).fill(bits),
    range: session.grid.range,
  };
  const masters = new Map<string, Master>();
  const values = new Map<string, Float32Array>();
  const parents = new Map<string, string | null>();
  const baseOf = new Map(rounds.map(({ id, base }) => [id, base]));

  /** The exact sum of a model's contributions on one base. */
  function groupSum(members: readonly ContributionRow[], base: string): Sum | string {
    const from = values.get(base);
    if (from === undefined) return `its contributions are on ${base}, which is no earlier model`;
    const contributions = [];
    for (const row of members) {
      const key = keyOf(row);
      const trained = account.training.get(key);
      if (trained === undefined) return `it holds ${key}, which nobody trained`;
      if (trained.base !== base) return `${key} was trained from ${trained.base}, not ${base}`;
      if (trained.samples !== row.samples) return `${key} has other samples`;
      contributions.push({ samples: row.samples, q: onGrid(trained.weights, from, grid) });
    }
    return sumOf(contributions, coordinates);
  }

  /** A model's contributions by their base, the oldest first. */
  function groupsOf(members: readonly ContributionRow[], parent: string) {
    const trail: string[] = [];
    for (let at: string | null | undefined = parent; at; at = parents.get(at)) trail.push(at);
    const byBase = new Map<string, ContributionRow[]>();
    for (const row of members) {
      const base = baseOf.get(`${row.session}.${row.round}`) ?? "";
      byBase.set(base, [...(byBase.get(base) ?? []), row]);
    }
    const groups = [];
    for (const base of [...byBase.keys()].sort((a, b) => trail.indexOf(b) - trail.indexOf(a))) {
      const age = trail.indexOf(base);
      if (age < 0) return `it holds contributions on ${base}, which is not on its trail`;
      const sum = groupSum(byBase.get(base) ?? [], base);
      if (typeof sum === "string") return sum;
      const { aggregation } = session;
      if (aggregation.kind === "site-memory")
        throw new Error("the simulation draws no site memory");
      if (age > aggregation.maxStaleness)
        return `it holds contributions that are ${age} versions old`;
      const discount = discountOf(aggregation.staleness, age);
      groups.push({ samples: Number(sum.samples), discount, mean: meanOf(sum, grid), sum });
    }
    return groups;
  }

  async function check(model: ModelRow): Promise<string | undefined> {
    const file = await disk.readFile(`models/${model.digest}.safetensors`);
    const digest = createHash("sha256").update(file).digest("hex");
    if (digest !== model.digest) return "its file does not have its digest";
    const found = valuesIn(file);
    values.set(model.id, found);
    parents.set(model.id, model.parent);
    if (model.round === null || model.parent === null) {
      masters.set(model.id, { weights: Array.from(found) });
      return undefined;
    }
    const members = rows.filter((row) => row.model === model.id);
    const total = members.reduce((sum, { samples }) => sum + samples, 0);
    if (members.length !== model.contributors || total !== model.weight)
      return `it counts ${model.contributors} contributions of ${model.weight} samples; on record are ${members.length} of ${total}`;
    const groups = groupsOf(members, model.parent);
    if (typeof groups === "string") return groups;
    const sums = createHash("sha256");
    for (const { sum } of groups) sums.update(new Uint8Array(BigInt64Array.from(sum.sum).buffer));
    if (sums.digest("hex") !== model.sumDigest)
      return "its sum is not the sum of its contributions";
    const from = masters.get(model.parent);
    if (from === undefined) return `its parent ${model.parent} is no earlier model`;
    const master = stepOf(session.optimizer, from, stepOfGroups(groups));
    masters.set(model.id, master);
    const expected = Float32Array.from(master.weights);
    for (let i = 0; i < coordinates; i++)
      if (!Object.is(expected[i], found[i])) return `value ${i} is ${found[i]}, not ${expected[i]}`;
    return undefined;
  }

  return { check };
}
