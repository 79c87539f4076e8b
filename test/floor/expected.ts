import { createHash } from "node:crypto";
import { stepOf } from "./trainer.js";

/**
 * What a model must be to the bit, computed here from the formulas alone: none of the product's
 * arithmetic is used. Small numbers keep every double below exact, which is asserted.
 */

export type Contribution = { readonly device: string; readonly samples: number };

export type ModelBits = {
  /** Master weights, float64. */
  readonly master: Float64Array;
  /** What is published: their float32. */
  readonly values: Float32Array;
};

export function startFrom(values: Float32Array): ModelBits {
  return { master: Float64Array.from(values), values };
}

/** q: the grid point nearest to a delta, ties to even. */
export function gridPoint(delta: number, fractionBits: number): number {
  const scaled = delta * 2 ** fractionBits;
  const below = Math.floor(scaled);
  const over = scaled - below;
  if (over === 0.5) return below % 2 === 0 ? below : below + 1;
  return over < 0.5 ? below : below + 1;
}

/** S = sum of n q for each coordinate. */
export function sumOf(
  from: Float32Array,
  round: number,
  contributions: readonly Contribution[],
  bitsOf: (coordinate: number) => number,
): bigint[] {
  return Array.from(from, (base, i) => {
    let sum = 0n;
    for (const { device, samples } of contributions) {
      const trained = Math.fround(base + stepOf(device, round, i));
      const q = gridPoint(Math.fround(trained - base), bitsOf(i));
      sum += BigInt(samples) * BigInt(q);
    }
    return sum;
  });
}

/** The double nearest to S / (N 2^f) for each coordinate. */
export function meanOf(
  sums: readonly bigint[],
  weight: number,
  bitsOf: (coordinate: number) => number,
): Float64Array {
  return Float64Array.from(sums, (exact, i) => {
    const sum = Number(exact);
    const divisor = weight * 2 ** bitsOf(i);
    // Both are exact, so this one division is correctly rounded (IEEE 754).
    if (!Number.isSafeInteger(sum) || !Number.isSafeInteger(divisor))
      throw new RangeError("numbers too large for this check");
    return sum / divisor;
  });
}

/** SHA-256 over sums, one after the other, each as int64 little-endian. */
export function digestOf(sums: readonly (readonly bigint[])[]): string {
  const hash = createHash("sha256");
  for (const sum of sums) hash.update(new Uint8Array(BigInt64Array.from(sum).buffer));
  return hash.digest("hex");
}

/** FedAvg with learning rate 1: master weights move by the double nearest to S / (N 2^f). */
export function fedAvg(
  from: ModelBits,
  round: number,
  contributions: readonly Contribution[],
  bitsOf: (coordinate: number) => number,
): ModelBits & { readonly sumDigest: string } {
  const weight = contributions.reduce((sum, { samples }) => sum + samples, 0);
  const sums = sumOf(from.values, round, contributions, bitsOf);
  const mean = meanOf(sums, weight, bitsOf);
  const master = from.master.map((value, i) => value + (mean[i] as number));
  return { master, values: Float32Array.from(master), sumDigest: digestOf([sums]) };
}

/** The float32 values of a safetensors file, in the order in which they lie there. */
export function valuesIn(file: Uint8Array): Float32Array {
  const { buffer, byteOffset, byteLength } = file;
  const headerBytes = Number(new DataView(buffer, byteOffset, byteLength).getBigUint64(0, true));
  return new Float32Array(Uint8Array.from(file.subarray(8 + headerBytes)).buffer);
}
