import { type Aggregation, ageMax } from "@tributary/cloud/aggregation.js";
import { publishedWeights, startOptimizer, stepOptimizer } from "@tributary/cloud/optimizer.js";
import { type OptimizerParams, optimizerSchema } from "@tributary/cloud/params.js";
import {
  addScaled,
  memoryCoefficients,
  stalenessCoefficients,
} from "@tributary/cloud/staleness.js";
import { parameterCount } from "@tributary/proto/algebra/layout.js";
import { meanFloat64, merge, type Partial } from "@tributary/proto/algebra/partial.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { numberedId, splitNumberedId } from "@tributary/proto/wire/ids.js";
import { softmaxLayout } from "../softmax.js";

export const SESSION = "late-sites";
/** NMax: more samples than any group of Partials here holds. */
export const TOTAL_MAX = 1_000_000_000n;

const optimizer: OptimizerParams = optimizerSchema.parse({ kind: "fedavg" });

export type Model = {
  /** Models before it. */
  readonly version: number;
  readonly id: string;
  readonly digest: string;
  readonly weights: Float32Array;
};

/** The cloud's part in memory: what waits for the next model, and the step that makes it. */
export type Root = {
  readonly head: Model;
  /** Contributors that wait for the next model. */
  readonly waiting: number;
  deliver(partial: Partial): void;
  /** Makes the next model of what waits; under site memory, of every site's newest delta. */
  step(): void;
};

/**
 * @param sites of equal population; all of them are registered from the start
 */
export function createRoot(aggregation: Aggregation, sites: number): Root {
  let state = startOptimizer(optimizer, new Float64Array(parameterCount(softmaxLayout)));
  let head = modelOf(0, publishedWeights(state));
  let waiting: Partial[] = [];
  const slots = new Map<string | null, Partial>();
  const deltaOf =
    aggregation.kind === "site-memory"
      ? () => memoryDelta(slots, aggregation, head, sites)
      : () => discountedDelta(waiting, aggregation, head);
  return {
    get head() {
      return head;
    },
    get waiting() {
      return waiting.reduce((sum, { contributors }) => sum + contributors.length, 0);
    },
    deliver(partial) {
      waiting.push(partial);
      slots.set(partial.site, partial);
    },
    step() {
      const delta = deltaOf();
      waiting = [];
      if (delta === undefined) return;
      state = stepOptimizer(optimizer, state, delta);
      head = modelOf(head.version + 1, publishedWeights(state));
    },
  };
}

function modelOf(version: number, weights: Float32Array): Model {
  const bytes = new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength);
  return { version, id: numberedId(SESSION, version), digest: sha256(bytes), weights };
}

/** Sync and buffered: exact sums by base, discounted by their age. */
function discountedDelta(
  partials: readonly Partial[],
  { staleness, maxStaleness }: Exclude<Aggregation, { kind: "site-memory" }>,
  head: Model,
): Float64Array | undefined {
  const groups = byBase(partials.filter((partial) => ageOf(partial, head) <= maxStaleness));
  const coefficients = stalenessCoefficients(
    staleness,
    groups.map((group) => ({ samples: Number(group.weight), age: ageOf(group, head) })),
  );
  return weightedSum(groups, coefficients);
}

/** Site memory: each site's newest delta by its age, in ascending order of base. */
function memoryDelta(
  slots: ReadonlyMap<string | null, Partial>,
  aggregation: Extract<Aggregation, { kind: "site-memory" }>,
  head: Model,
  sites: number,
): Float64Array | undefined {
  const kept = [...slots.values()]
    .filter((partial) => ageOf(partial, head) <= ageMax(aggregation))
    .sort((a, b) => versionOf(a) - versionOf(b));
  const coefficients = memoryCoefficients(
    aggregation.halfLife,
    sites,
    kept.map((partial) => ({ population: 1, age: ageOf(partial, head) })),
  );
  return weightedSum(kept, coefficients);
}

function byBase(partials: readonly Partial[]): Partial[] {
  const groups = new Map<string, Partial>();
  for (const partial of partials) {
    const group = groups.get(partial.base);
    groups.set(partial.base, group === undefined ? partial : merged(group, partial));
  }
  return [...groups.values()].sort((a, b) => versionOf(a) - versionOf(b));
}

function merged(a: Partial, b: Partial): Partial {
  const sum = merge(a, b, TOTAL_MAX);
  if (!sum.ok) throw new Error(`${sum.code}: ${sum.message}`);
  return sum.partial;
}

function weightedSum(
  groups: readonly Partial[],
  coefficients: readonly number[],
): Float64Array | undefined {
  return groups.reduce<Float64Array | undefined>(
    (delta, group, at) => addScaled(delta, coefficients[at] as number, meanFloat64(group)),
    undefined,
  );
}

function versionOf({ base }: Pick<Partial, "base">): number {
  const version = splitNumberedId(base)?.number;
  if (version === undefined) throw new Error(`${base} is not a model`);
  return version;
}

function ageOf(partial: Partial, head: Model): number {
  return head.version - versionOf(partial);
}
