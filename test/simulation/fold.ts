import { createHash } from "node:crypto";
import type {
  ContributionRow,
  ModelGroup,
  ModelRow,
  RoundRow,
} from "@tributary/cloud/store/rows.js";
import type { MemoryDisk } from "@tributary/proto/host/memory-disk.js";
import type { Account } from "./account.js";
import { composed } from "./composition.js";
import {
  type Grid,
  type Master,
  meanOf,
  mergedSum,
  onGrid,
  type Sum,
  stepOf,
  stepOfSlots,
  sumOf,
  valuesIn,
} from "./oracle.js";
import type { Settings } from "./settings.js";
import { roundOf, type SiteHistories, splitRound } from "./site-history.js";
import { type Group, groupsOf, type Slots, sharesFor } from "./slots.js";

/** Models worked out anew, one after the other, from what devices trained. */
export type Fold = {
  /** What is wrong with a model, in words. Its ancestors have been checked before it. */
  check(model: ModelRow): Promise<string | undefined>;
};

export function createFold(
  settings: Settings,
  disk: MemoryDisk,
  account: Account,
  histories: SiteHistories,
  { rows, rounds }: { rows: readonly ContributionRow[]; rounds: readonly RoundRow[] },
): Fold {
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
  const slots = new Map<string, Slots>();
  const baseOf = new Map(rounds.map(({ id, base }) => [id, base]));
  const sites = new Map(settings.gateways.map(({ name, site }) => [name, site]));

  /** The exact sum of contributions on one base; several where what devices saw leaves it open. */
  function sumsOf({ rows: members, base }: Group): readonly Sum[] | string {
    const from = values.get(base);
    if (from === undefined) return `its contributions are on ${base}, which is no earlier model`;
    const contributions = [];
    const composites = new Map<string, readonly Sum[]>();
    for (const row of members) {
      const key = `${roundOf(row)} ${row.device}`;
      const history = histories.of(row);
      if (history !== undefined) {
        const first = splitRound(roundOf(row)).site ?? 1;
        const name = `${history.gateway} ${history.round} ${first}`;
        if (composites.has(name)) continue;
        const choices = composed(history, account, from, grid);
        if (typeof choices === "string") return choices;
        composites.set(
          name,
          choices.map((sums) => sums.get(first)).filter((sum) => sum !== undefined),
        );
        continue;
      }
      const trained = account.training.get(key);
      if (trained === undefined) return `it holds ${key}, which nobody trained`;
      if (trained.base !== base) return `${key} was trained from ${trained.base}, not ${base}`;
      if (trained.samples !== row.samples) return `${key} has other samples`;
      contributions.push({ samples: row.samples, q: onGrid(trained.weights, from, grid) });
    }
    let sums: readonly Sum[] = [sumOf(contributions, coordinates)];
    for (const choices of composites.values())
      sums = sums.flatMap((sum) => choices.map((choice) => mergedSum([sum, choice], coordinates)));
    return sums;
  }

  function stepFor(model: ModelRow, groups: readonly Group[]): number[] | string {
    const sums = createHash("sha256");
    const found = model.groups ?? [];
    if (found.length !== groups.length)
      return `it says that it has ${found.length} groups, not ${groups.length}`;
    const parts: { group: Group; samples: number; mean: number[] }[] = [];
    for (const [at, group] of groups.entries()) {
      const choices = sumsOf(group);
      if (typeof choices === "string") return choices;
      const sum = choices.find((choice) => digestOf(choice) === found[at]?.sumDigest) ?? choices[0];
      if (sum === undefined) return "it has a group of nothing";
      sums.update(bytesOf(sum));
      parts.push({ group, samples: Number(sum.samples), mean: meanOf(sum, grid) });
    }
    if (sums.digest("hex") !== model.sumDigest)
      return "its sum is not the sum of its contributions";
    const coefficients = sharesFor(session, settings, parts, found);
    if (typeof coefficients === "string") return coefficients;
    for (const [at, { group, samples }] of parts.entries()) {
      const { base, age, site, rows: members } = group;
      const other = differenceOf(found[at] as ModelGroup, {
        base,
        age,
        site,
        coefficient: coefficients[at] as number,
        samples,
        contributors: members.length,
        carried: members.filter((row) => row.model !== model.id).length,
      });
      if (other !== undefined) return `its group on ${base} of ${site ?? "all sites"} ${other}`;
    }
    return stepOfSlots(
      parts.map(({ mean }, at) => ({ mean, coefficient: coefficients[at] as number })),
    );
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
    const trail: string[] = [];
    for (let at: string | null | undefined = model.parent; at; at = parents.get(at)) trail.push(at);
    const fresh = members.map((row) => ({
      row,
      base: baseOf.get(splitRound(roundOf(row)).cloud) ?? "",
      site: sites.get(histories.gatewayOf(row) ?? "") ?? "",
    }));
    const grouped = groupsOf(session, trail, fresh, slots.get(model.parent) ?? new Map());
    if (typeof grouped === "string") return grouped;
    slots.set(model.id, grouped.slots);
    const step = stepFor(model, grouped.groups);
    if (typeof step === "string") return step;
    const from = masters.get(model.parent);
    if (from === undefined) return `its parent ${model.parent} is no earlier model`;
    const master = stepOf(session.optimizer, from, step);
    masters.set(model.id, master);
    const expected = Float32Array.from(master.weights);
    for (let i = 0; i < coordinates; i++)
      if (!Object.is(expected[i], found[i])) return `value ${i} is ${found[i]}, not ${expected[i]}`;
    return undefined;
  }

  return { check };
}

function differenceOf(
  found: ModelGroup,
  expected: Omit<ModelGroup, "sumDigest">,
): string | undefined {
  for (const name of Object.keys(expected) as (keyof typeof expected)[])
    if (!Object.is(found[name], expected[name]))
      return `has ${name} ${found[name]}, not ${expected[name]}`;
  return undefined;
}

function bytesOf({ sum }: Sum): Uint8Array {
  return new Uint8Array(BigInt64Array.from(sum).buffer);
}

function digestOf(sum: Sum): string {
  return createHash("sha256").update(bytesOf(sum)).digest("hex");
}
