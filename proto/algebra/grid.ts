import { refuse, type Verdict } from "../wire/verdict.js";
import { type Layout, parameterCount, type TensorSpec, tensorLength } from "./layout.js";
import { productBelow, roundTiesToEven } from "./rational.js";

/** How one value travels: f32 carries q / 2^f, i32 and i16 carry q. Little-endian. */
export type Encoding = "f32" | "i32" | "i16";

/** The fixed-point grid of a round: values are q / 2^f with |q| <= R 2^f. */
export type Grid = {
  /** f of each tensor, 0 to 40, in the layout's order. */
  readonly fractionBits: readonly number[];
  /** R, finite and positive: no value is larger in magnitude. */
  readonly range: number;
};

const FRACTION_BITS_MAX = 40;
/** |q| < 2^31: a value travels in 32 bits. */
const VALUE_BITS = 31;
/** |n q| < 2^51: the kernel's bound (see kernel/fold.as.ts). */
const PRODUCT_BITS = 51;
/** |S| < 2^63: a sum is an int64. */
const SUM_BITS = 63;

/** The largest |q| that a tensor with `fractionBits` may hold: floor(R 2^f). */
export function stepsMax(grid: Grid, fractionBits: number): number {
  return Math.floor(grid.range * 2 ** fractionBits);
}

/** R 2^f of the tensor with the most fraction bits; 0 when there is no tensor. */
function largestScaledRange(grid: Grid): number {
  return grid.fractionBits.reduce((max, f) => Math.max(max, grid.range * 2 ** f), 0);
}

/**
 * The smallest encoding that holds every value of the grid exactly. Throws RangeError when none
 * does, which `checkHeadroom` refuses beforehand.
 */
export function encodingFor(grid: Grid): Encoding {
  const scaled = largestScaledRange(grid);
  if (scaled <= 32767) return "i16";
  if (scaled <= 2 ** 24) return "f32";
  if (scaled < 2 ** 31) return "i32";
  throw new RangeError(`R 2^f = ${scaled} does not fit 32 bits`);
}

export function bytesPerValue(encoding: Encoding): 2 | 4 {
  return encoding === "i16" ? 2 : 4;
}

/**
 * Whether every round within the plan's counts keeps its sums exact: nMax R 2^f < 2^51 and
 * totalMax R 2^f < 2^63 for every tensor, R 2^f < 2^31. Decided in whole numbers.
 */
export function checkHeadroom(
  grid: Grid,
  nMax: bigint | number,
  totalMax: bigint,
): Verdict<object, "plan-headroom"> {
  if (!(Number.isFinite(grid.range) && grid.range > 0)) {
    return refuse("plan-headroom", `the range ${grid.range} is not finite and positive`);
  }
  if (typeof nMax === "number" && !Number.isSafeInteger(nMax)) {
    return refuse("plan-headroom", `nMax ${nMax} is not a whole number`);
  }
  for (const [t, f] of grid.fractionBits.entries()) {
    if (!(Number.isInteger(f) && f >= 0 && f <= FRACTION_BITS_MAX)) {
      return refuse("plan-headroom", `tensor ${t}: ${f} fraction bits; 0 to 40 can be`);
    }
    const bound = `tensor ${t}: R 2^${f} with R = ${grid.range}`;
    if (!productBelow(1n << BigInt(f), grid.range, VALUE_BITS)) {
      return refuse("plan-headroom", `${bound} is not below 2^31; lower f or R`);
    }
    if (!productBelow(BigInt(nMax) << BigInt(f), grid.range, PRODUCT_BITS)) {
      return refuse("plan-headroom", `${bound} times nMax = ${nMax} is not below 2^51`);
    }
    if (!productBelow(totalMax << BigInt(f), grid.range, SUM_BITS)) {
      return refuse("plan-headroom", `${bound} times NMax = ${totalMax} is not below 2^63`);
    }
  }
  return { ok: true };
}

export type Quantised = {
  /** Little-endian values in the grid's encoding, in the order of the flat vector. */
  readonly values: Uint8Array<ArrayBuffer>;
  /** How many were clamped to the range. */
  readonly saturated: number;
};

type Store = (index: number, q: number) => void;

function storeFor(view: DataView, encoding: Encoding, fractionBits: number): Store {
  if (encoding === "i16") return (i, q) => view.setInt16(i * 2, q, true);
  if (encoding === "i32") return (i, q) => view.setInt32(i * 4, q, true);
  const step = 2 ** -fractionBits;
  return (i, q) => view.setFloat32(i * 4, q * step, true);
}

/**
 * Snaps a delta to the grid: q = roundTiesToEven(delta 2^f). A value outside the range (|delta| > R,
 * or nearest to a grid point past R) is clamped to the last grid point within it and counted when
 * `saturate` is set, else the whole delta is refused.
 *
 * @param delta flat vector, one float32 per coordinate of `layout`
 */
export function quantise(
  delta: Float32Array,
  layout: Layout,
  grid: Grid,
  { saturate }: { readonly saturate: boolean },
): Verdict<Quantised, "not-finite" | "out-of-range"> {
  const count = parameterCount(layout);
  if (count !== delta.length) {
    throw new RangeError(`a delta of ${delta.length} values for a layout of ${count}`);
  }
  const encoding = encodingFor(grid);
  const values = new Uint8Array(delta.length * bytesPerValue(encoding));
  const view = new DataView(values.buffer);
  let saturated = 0;
  let start = 0;
  for (const [t, spec] of layout.entries()) {
    const f = fractionBitsOf(grid, t);
    const limit = stepsMax(grid, f);
    const scale = 2 ** f;
    const store = storeFor(view, encoding, f);
    const end = start + tensorLength(spec);
    for (let i = start; i < end; i++) {
      const value = delta[i] as number;
      if (!Number.isFinite(value)) return refuseAt("not-finite", spec, i - start, value);
      let q = roundTiesToEven(value * scale);
      if (Math.abs(value) > grid.range || Math.abs(q) > limit) {
        if (!saturate) return refuseAt("out-of-range", spec, i - start, value);
        q = value < 0 ? -limit : limit;
        saturated++;
      }
      store(i, q + 0); // + 0: a negative zero travels as zero, so that equal sums have equal bytes
    }
    start = end;
  }
  return { ok: true, values, saturated };
}

function fractionBitsOf(grid: Grid, tensor: number): number {
  const f = grid.fractionBits[tensor];
  if (f === undefined) throw new RangeError(`the grid names no fraction bits for tensor ${tensor}`);
  return f;
}

function refuseAt<C extends "not-finite" | "out-of-range">(
  code: C,
  spec: TensorSpec,
  index: number,
  value: number,
) {
  return refuse(code, `tensor ${spec.name}, index ${index}: ${value}`);
}

export function sameGrid(a: Grid, b: Grid): boolean {
  return (
    a.range === b.range &&
    a.fractionBits.length === b.fractionBits.length &&
    a.fractionBits.every((f, t) => f === b.fractionBits[t])
  );
}

/** One tensor's run of coordinates in the flat vector, with its place on the grid. */
export type Stretch = {
  readonly start: number;
  readonly end: number;
  readonly fractionBits: number;
  /** 2^f. */
  readonly scale: number;
  /** The largest |q|: floor(R 2^f). */
  readonly stepsMax: number;
};

/** The tensors of a layout as runs of the flat vector, in order, empty ones left out. */
export function stretches(layout: Layout, grid: Grid): readonly Stretch[] {
  const runs: Stretch[] = [];
  let start = 0;
  for (const [t, spec] of layout.entries()) {
    const fractionBits = fractionBitsOf(grid, t);
    const end = start + tensorLength(spec);
    if (end > start) {
      runs.push({
        start,
        end,
        fractionBits,
        scale: 2 ** fractionBits,
        stepsMax: stepsMax(grid, fractionBits),
      });
    }
    start = end;
  }
  return runs;
}
