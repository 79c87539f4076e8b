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
function gridPoint(delta: number, fractionBits: number): number {
  const scaled = delta * 2 ** fractionBits;
  const below = Math.floor(scaled);
  const over = scaled - below;
  if (over === 0.5) return below % 2 === 0 ? below : below + 1;
  return over < 0.5 ? below : below + 1;
}

/** S = sum of n q for each coordinate. */
function sumOf(
  from: ModelBits,
  round: number,
  contributions: readonly Contribution[],
  bitsOf: (coordinate: number) => number,
): bigint[] {
  return Array.from(from.values, (base, i) => {
    let sum = 0n;
    for (const { device, samples } of contributions) {
      const trained = Math.fround(base + stepOf(device, round, i));
      const q = gridPoint(Math.fround(trained - base), bitsOf(i));
      sum += BigInt(samples) * BigInt(q);
    }
    return sum;
  });
}

/** FedAvg with learning rate 1: master weights move by the double nearest to S / (N 2^f). */
export function fedAvg(
  from: ModelBits,
  round: number,
  contributions: readonly Contribution[],
  bitsOf: (coordinate: number) => number,
): ModelBits & { readonly sumDigest: string } {
  const weight = contributions.reduce((sum, { samples }) => sum + samples, 0);
  const sums = sumOf(from, round, contributions, bitsOf);
  const master = from.master.map((value, i) => {
    const sum = Number(sums[i]);
    const divisor = weight * 2 ** bitsOf(i);
    // Both are exact, so this one division is correctly rounded (IEEE 754).
    if (!Number.isSafeInteger(sum) || !Number.isSafeInteger(divisor))
      throw new RangeError("numbers too large for this check");
    return value + sum / divisor;
  });
  const bytes = Buffer.alloc(sums.length * 8);
  for (const [i, sum] of sums.entries()) bytes.writeBigInt64LE(sum, i * 8);
  const sumDigest = createHash("sha256").update(bytes).digest("hex");
  return { master, values: Float32Array.from(master), sumDigest };
}

/** The float32 values of a safetensors file, in the order in which they lie there. */
export function valuesIn(file: Uint8Array): Float32Array {
  const { buffer, byteOffset, byteLength } = file;
  const headerBytes = Number(new DataView(buffer, byteOffset, byteLength).getBigUint64(0, true));
  return new Float32Array(Uint8Array.from(file.subarray(8 + headerBytes)).buffer);
}
