import type { SessionParams } from "@tributary/cloud/params.js";

/**
 * What the product should have computed, worked out anew: whole numbers in BigInt, one rounding where
 * the protocol has one, and the optimiser's formulas in float64 as its documentation writes them.
 */

/** The nearest integer, ties to even. */
function nearestWhole(x: number): bigint {
  const low = Math.floor(x);
  const rest = x - low;
  if (rest < 0.5) return BigInt(low);
  if (rest > 0.5) return BigInt(low) + 1n;
  return BigInt(low) % 2n === 0n ? BigInt(low) : BigInt(low) + 1n;
}

export type Grid = {
  /** Of each coordinate. */
  readonly fractionBits: readonly number[];
  readonly range: number;
};

/** q of each coordinate: the float32 difference on the grid, clamped to the range. */
export function onGrid(weights: Float32Array, base: Float32Array, grid: Grid): bigint[] {
  return Array.from(weights, (weight, i) => {
    const delta = Math.fround(weight - (base[i] as number));
    const scale = 2 ** (grid.fractionBits[i] as number);
    const most = BigInt(Math.floor(grid.range * scale));
    const q = nearestWhole(delta * scale);
    if (Math.abs(delta) > grid.range) return delta < 0 ? -most : most;
    if (q > most) return most;
    return q < -most ? -most : q;
  });
}

/** The double nearest to a quotient, ties to even; denominator > 0, the result in the normal range. */
export function nearestDouble(numerator: bigint, denominator: bigint): number {
  if (numerator === 0n) return 0;
  const sign = numerator < 0n ? -1 : 1;
  let n = numerator < 0n ? -numerator : numerator;
  let d = denominator;
  // Scaled so that the quotient has 53 bits.
  let exponent = 0;
  while (n / d >= 1n << 53n) {
    d <<= 1n;
    exponent++;
  }
  while (n / d < 1n << 52n) {
    n <<= 1n;
    exponent--;
  }
  let quotient = n / d;
  const twice = (n - quotient * d) * 2n;
  if (twice > d || (twice === d && quotient % 2n === 1n)) quotient++;
  return sign * Number(quotient) * 2 ** exponent;
}

export type Contribution = { readonly samples: number; readonly q: readonly bigint[] };

export type Sum = { readonly samples: bigint; readonly sum: readonly bigint[] };

/** S = sum of n q, N = sum of n. */
export function sumOf(contributions: readonly Contribution[], coordinates: number): Sum {
  const sum = new Array<bigint>(coordinates).fill(0n);
  let samples = 0n;
  for (const { samples: n, q } of contributions) {
    samples += BigInt(n);
    for (let i = 0; i < coordinates; i++)
      sum[i] = (sum[i] as bigint) + BigInt(n) * (q[i] as bigint);
  }
  return { samples, sum };
}

/** S / (N 2^f), each the nearest double. */
export function meanOf({ samples, sum }: Sum, { fractionBits }: Grid): number[] {
  return sum.map((s, i) => nearestDouble(s, samples << BigInt(fractionBits[i] as number)));
}

/** s(tau) of an update that is tau model versions old (cloud/README.md; Xie et al. 2019, 5.2). */
export function discountOf(
  rule: Extract<SessionParams["aggregation"], { staleness: unknown }>["staleness"],
  age: number,
): number {
  if (rule.kind === "constant") return 1;
  if (rule.kind === "hinge") return age <= rule.b ? 1 : 1 / (rule.a * (age - rule.b) + 1);
  if (rule.exponent !== 0.5) throw new Error("the simulation draws square roots only");
  return 1 / Math.sqrt(1 + age);
}

/** c_k of a site's newest delta under site memory: p_k 2^(-age / H). */
export function memoryShare(share: number, halfLife: number, age: number): number {
  return share * 2 ** (-age / halfLife);
}

/** The step of sites' newest deltas, in the order of the slots: sum of c mean. */
export function stepOfSlots(
  slots: readonly { readonly coefficient: number; readonly mean: readonly number[] }[],
): number[] {
  return slots
    .map(({ coefficient, mean }) => mean.map((value) => coefficient * value))
    .reduce((sum, part) => sum.map((value, i) => value + (part[i] as number)));
}

/** What a site's model is after its deltas on a base: float32(w0 + D). */
export function siteModelOf(base: Float32Array, delta: readonly number[]): Float32Array {
  return base.map((value, i) => value + (delta[i] as number));
}

/** S = N q of what several site rounds came to: ties to even, clamped to the range. */
export function composedSum(
  delta: readonly number[],
  start: readonly number[],
  samples: bigint,
  grid: Grid,
): Sum {
  const sum = delta.map((value, i) => {
    const scale = 2 ** (grid.fractionBits[i] as number);
    const most = BigInt(Math.floor(grid.range * scale));
    const q = nearestWhole((value - (start[i] as number)) * scale);
    return samples * (q > most ? most : q < -most ? -most : q);
  });
  return { samples, sum };
}

/** Sums on one base, merged. */
export function mergedSum(sums: readonly Sum[], coordinates: number): Sum {
  const sum = new Array<bigint>(coordinates).fill(0n);
  let samples = 0n;
  for (const part of sums) {
    samples += part.samples;
    for (let i = 0; i < coordinates; i++) sum[i] = (sum[i] as bigint) + (part.sum[i] as bigint);
  }
  return { samples, sum };
}

/** The optimiser's state behind a model. */
export type Master = { readonly weights: number[]; readonly m?: number[]; readonly v?: number[] };

/** One step of the server's optimiser (cloud/README.md). */
export function stepOf(params: SessionParams["optimizer"], from: Master, delta: number[]): Master {
  const { weights } = from;
  const zeros = () => weights.map(() => 0);
  switch (params.kind) {
    case "fedavg":
      return { weights: weights.map((w, i) => w + params.learningRate * (delta[i] as number)) };
    case "fedavgm": {
      const m = (from.m ?? zeros()).map((old, i) => params.momentum * old + (delta[i] as number));
      return { weights: weights.map((w, i) => w + params.learningRate * (m[i] as number)), m };
    }
    case "fedadam":
    case "fedyogi":
    case "fedadagrad": {
      const { beta1, eta, tau } = params;
      const m = (from.m ?? zeros()).map(
        (old, i) => beta1 * old + (1 - beta1) * (delta[i] as number),
      );
      const v = (from.v ?? weights.map(() => tau ** 2)).map((old, i) =>
        secondMomentOf(params, old, (delta[i] as number) * (delta[i] as number)),
      );
      return {
        weights: weights.map(
          (w, i) => w + (eta * (m[i] as number)) / (Math.sqrt(v[i] as number) + tau),
        ),
        m,
        v,
      };
    }
  }
}

/** v after a step whose delta squared is d2 (Reddi et al. 2021, algorithm 2). */
function secondMomentOf(
  params: Extract<SessionParams["optimizer"], { tau: number }>,
  old: number,
  d2: number,
): number {
  switch (params.kind) {
    case "fedadam":
      return params.beta2 * old + (1 - params.beta2) * d2;
    case "fedyogi": {
      const by = (1 - params.beta2) * d2;
      return old > d2 ? old - by : old < d2 ? old + by : old;
    }
    case "fedadagrad":
      return old + d2;
  }
}

/** The values of a safetensors file of float32 tensors, in the order in which they lie. */
export function valuesIn(file: Uint8Array): Float32Array {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const start = 8 + Number(view.getBigUint64(0, true));
  return Float32Array.from({ length: (file.length - start) / 4 }, (_, i) =>
    view.getFloat32(start + 4 * i, true),
  );
}
