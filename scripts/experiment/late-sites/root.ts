import type { Aggregation } from "@tributary/cloud/aggregation.js";
import { publishedWeights, startOptimizer, stepOptimizer } from "@tributary/cloud/optimizer.js";
import { type OptimizerParams, optimizerSchema } from "@tributary/cloud/params.js";
import { decidePool, type PoolEntry } from "@tributary/cloud/pool.js";
import { addScaled } from "@tributary/cloud/staleness.js";
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

/** @param populations of every site, from the start */
export function createRoot(
  aggregation: Aggregation,
  populations: ReadonlyMap<string, number>,
): Root {
  let state = startOptimizer(optimizer, new Float64Array(parameterCount(softmaxLayout)));
  let head = modelOf(0, publishedWeights(state));
  let held: readonly Held[] = [];
  let delivered = 0;
  return {
    get head() {
      return head;
    },
    get waiting() {
      return held.reduce((sum, { applied, contributors }) => sum + (applied ? 0 : contributors), 0);
    },
    deliver(partial) {
      held = [...held, heldOf(partial, delivered++)];
    },
    step() {
      const ageOf = (base: string) => head.version - (splitNumberedId(base)?.number ?? 0);
      const world = { aggregation, totalMax: Number(TOTAL_MAX), ageOf, populations };
      const { groups } = decidePool(world, held);
      const partials = new Map(held.map(({ identity, partial }) => [identity, partial]));
      let delta: Float64Array | undefined;
      for (const { coefficient, entries } of groups)
        delta = addScaled(delta, coefficient, meanFloat64(sumOf(entries, partials)));
      // Site memory carries a delta on until a newer one of its site, or its age, drops it.
      const kept = new Set(groups.flatMap(({ entries }) => entries.map((entry) => entry.identity)));
      held =
        aggregation.kind === "site-memory"
          ? held
              .filter(({ identity }) => kept.has(identity))
              .map((entry) => ({ ...entry, applied: true }))
          : [];
      if (delta === undefined) return;
      state = stepOptimizer(optimizer, state, delta);
      head = modelOf(head.version + 1, publishedWeights(state));
    },
  };
}

type Held = PoolEntry & { readonly partial: Partial };

function heldOf(partial: Partial, sequence: number): Held {
  return {
    identity: String(sequence),
    site: partial.site ?? "",
    base: partial.base,
    samples: Number(partial.weight),
    contributors: partial.contributors.length,
    applied: false,
    partial,
  };
}

function sumOf(entries: readonly PoolEntry[], partials: ReadonlyMap<string, Partial>): Partial {
  return entries
    .map(({ identity }) => {
      const partial = partials.get(identity);
      if (partial === undefined) throw new Error(`no Partial ${identity}`);
      return partial;
    })
    .reduce((a, b) => {
      const sum = merge(a, b, TOTAL_MAX);
      if (!sum.ok) throw new Error(`${sum.code}: ${sum.message}`);
      return sum.partial;
    });
}

function modelOf(version: number, weights: Float32Array): Model {
  const bytes = new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength);
  return { version, id: numberedId(SESSION, version), digest: sha256(bytes), weights };
}
