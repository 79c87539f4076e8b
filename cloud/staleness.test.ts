import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import { ageMax, aggregationSchema, type Staleness } from "./aggregation.js";
import { startOptimizer, stepOptimizer } from "./optimizer.js";
import { optimizerSchema } from "./params.js";
import {
  addScaled,
  memoryCoefficients,
  memoryWeight,
  stalenessCoefficients,
  stalenessWeight,
} from "./staleness.js";

type Problem = {
  w0: number[];
  clients: { n: number; a: number[]; c: number[] }[];
  K: number;
  eta_l: number;
};
type Vectors = {
  tolerance: number;
  weights: Record<string, Record<string, number>>;
  fedbuff: Record<string, number[]>;
  fedasync: { alpha: number; tau: number } & Record<string, number[]>;
  site_memory: Record<string, number[][]>;
};

const read = (name: string) =>
  JSON.parse(readFileSync(new URL(`../${name}`, import.meta.url), "utf8"));
const vectors: Vectors = read("staleness.vectors.json");
const problem: Problem = read("optimizer.vectors.json").problem;

const w0: Float64Array = Float64Array.from(problem.w0);
const polynomial: Staleness = { kind: "polynomial", exponent: 0.5 };
const shares = [0.75, 0.25] as const;
const fedavg = optimizerSchema.parse({ kind: "fedavg" });

/** Client k's delta from w: K gradient steps on 0.5 * sum(a (w - c)^2). */
function deltaOf(k: number, w: Float64Array): Float64Array {
  const { a, c } = problem.clients[k] as Problem["clients"][number];
  return w.map((start, i) => {
    let y = start;
    for (let step = 0; step < problem.K; step++)
      y -= problem.eta_l * (a[i] as number) * (y - (c[i] as number));
    return y - start;
  });
}

function combine(coefficients: readonly number[], means: readonly Float64Array[]): Float64Array {
  let delta: Float64Array | undefined;
  for (const [i, mean] of means.entries())
    delta = addScaled(delta, coefficients[i] as number, mean);
  return delta as Float64Array;
}

function stepped(w: Float64Array, delta: Float64Array): Float64Array {
  return stepOptimizer(fedavg, startOptimizer(fedavg, w), delta).weights;
}

function close(actual: Float64Array, expected: readonly number[] | undefined, what: string): void {
  assert.equal(actual.length, expected?.length);
  expected?.forEach((value, i) => {
    const off = Math.abs((actual[i] ?? Number.NaN) - value);
    assert.ok(off <= vectors.tolerance, `${what}[${i}]: ${actual[i]} is ${off} from ${value}`);
  });
}

test("weights follow the vectors", () => {
  const rules: Record<string, Staleness> = {
    "fedbuff (1+tau)^-1/2": polynomial,
    "fedasync hinge a=10 b=4": { kind: "hinge", a: 10, b: 4 },
  };
  assert.deepEqual(Object.keys(vectors.weights), Object.keys(rules));
  for (const [name, rule] of Object.entries(rules))
    for (const [tau, expected] of Object.entries(vectors.weights[name] ?? {}))
      close(Float64Array.of(stalenessWeight(rule, Number(tau))), [expected], `${name} ${tau}`);
});

test("the paper's FedBuff, unweighted: (1/K) sum s d", () => {
  const deltas = [deltaOf(0, w0), deltaOf(1, w0)];
  const coefficients = [0, 3].map((tau) => stalenessWeight(polynomial, tau) / 2);
  const expected = vectors.fedbuff["paper (1/K) sum s d"];
  close(stepped(w0, combine(coefficients, deltas)), expected, "fedbuff");
  // Equal samples make the production form the paper's.
  const equal = [0, 3].map((age) => ({ samples: 7, age }));
  assert.deepEqual(stalenessCoefficients(polynomial, equal), coefficients);
});

test("FedBuff in production, weighted by samples: sum n s d / sum n", () => {
  const deltas = [deltaOf(0, w0), deltaOf(1, w0)];
  const groups = [0, 3].map((age, k) => ({ samples: problem.clients[k]?.n ?? 0, age }));
  const delta = combine(stalenessCoefficients(polynomial, groups), deltas);
  close(stepped(w0, delta), vectors.fedbuff["sample weighted sum n s d / sum n"], "fedbuff");
});

test("FedAsync's mixing of one client's model is its delta, scaled", () => {
  const { alpha, tau } = vectors.fedasync;
  const delta = combine([alpha * stalenessWeight(polynomial, tau)], [deltaOf(1, w0)]);
  close(stepped(w0, delta), vectors.fedasync["model of client 2, poly a = 0.5"], "fedasync");
});

type Slot = { base: number; mean: Float64Array };

/** Steps site memory through arrivals; each names the site and the version it trained on. */
function remember(arrivals: readonly (readonly { site: number; base?: number }[])[]) {
  const models = [w0];
  const slots: (Slot | undefined)[] = [undefined, undefined];
  for (const [version, sites] of arrivals.entries()) {
    for (const { site, base = version } of sites)
      slots[site] = { base, mean: deltaOf(site, models[base] as Float64Array) };
    const live = slots.flatMap((slot, site) => (slot === undefined ? [] : [{ ...slot, site }]));
    const ordered = live.sort((x, y) => x.base - y.base || x.site - y.site);
    const aged = ordered.map(({ site, base }) => ({
      population: 100 * (shares[site] as number),
      age: version - base,
    }));
    const delta = combine(
      memoryCoefficients(10, 100, aged),
      ordered.map(({ mean }) => mean),
    );
    models.push(stepped(models[version] as Float64Array, delta));
  }
  return models.slice(1);
}

test("site memory follows the vectors: an absent site's delta goes on, halved every H versions", () => {
  const key = "arrivals {0,1},{0},{1}, each delta computed on the current w";
  const models = remember([[{ site: 0 }, { site: 1 }], [{ site: 0 }], [{ site: 1 }]]);
  models.forEach((model, i) => {
    close(model, vectors.site_memory[key]?.[i], `step ${i + 1}`);
  });
});

test("site memory follows the vectors: a delta computed on version 0 comes before step 3", () => {
  const key = "site 1's delta computed on version 0 arrives before step 3; site 0 online";
  const models = remember([[{ site: 0 }], [{ site: 0 }], [{ site: 0 }, { site: 1, base: 0 }]]);
  models.forEach((model, i) => {
    close(model, vectors.site_memory[key]?.[i], `step ${i + 1}`);
  });
});

test("one fresh group is its mean to the bit", () => {
  fc.assert(
    fc.property(
      fc.array(fc.double(), { minLength: 1, maxLength: 8 }),
      fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
      (values, samples) => {
        const mean = Float64Array.from(values);
        const before = Buffer.from(mean.slice().buffer);
        const delta = combine(stalenessCoefficients(polynomial, [{ samples, age: 0 }]), [mean]);
        assert.deepEqual(Buffer.from(delta.buffer), before);
      },
    ),
  );
});

test("a weight is 1 at age 0, never rises, and a half-life is one", () => {
  const rules: Staleness[] = [polynomial, { kind: "hinge", a: 0.5, b: 2 }, { kind: "constant" }];
  for (const rule of rules) {
    const weights = Array.from({ length: 30 }, (_, age) => stalenessWeight(rule, age));
    assert.equal(weights[0], 1);
    weights.forEach((weight, age) => {
      assert.ok(weight > 0 && weight <= (weights[Math.max(0, age - 1)] as number));
    });
  }
  for (const halfLife of [1, 10, 200]) assert.equal(memoryWeight(halfLife, halfLife), 0.5);
});

test("how old a base may be follows from the rule", () => {
  assert.equal(ageMax(aggregationSchema.parse({ kind: "sync" })), 20);
  assert.equal(ageMax(aggregationSchema.parse({ kind: "site-memory" })), 50);
});
