import { type Basin, type Kernel, SLAB_BYTES } from "../kernel/kernel.js";
import { type Refusal, refuse, type Verdict } from "../wire/verdict.js";
import {
  bytesPerValue,
  checkHeadroom,
  type Encoding,
  type Grid,
  type Stretch,
  stretches,
} from "./grid.js";
import { type Layout, parameterCount } from "./layout.js";
import { liftMetrics, type MetricSums, mergeMetrics } from "./metric.js";
import {
  type Contributor,
  checkComparable,
  clippedField,
  compareContributors,
  contributionKey,
  type MergeRefusal,
  type Origin,
  type Partial,
  refuseOverlap,
  refuseTotal,
} from "./partial.js";

/** Where an update leaves the grid; `index` is a coordinate of the flat vector. */
export type CheckRefusal = Refusal<"not-finite" | "out-of-range" | "off-grid"> & {
  readonly index: number;
};

export type AddRefusal = MergeRefusal | Refusal<"bad-sample-count" | "wrong-shape">;

/**
 * A mutable Partial that lives in WebAssembly memory. Every method either does all of its work or
 * refuses and changes nothing.
 */
export type Accumulator = {
  /**
   * Whether a piece of an update is finite, in range and on the grid. Pieces hold whole values and
   * may span tensors.
   * @param byteOffset where the piece begins in the update
   */
  check(
    piece: Uint8Array,
    encoding: Encoding,
    byteOffset: number,
  ): { readonly ok: true } | CheckRefusal;
  /**
   * Adds n q for every coordinate. The values must have passed `check`.
   * @param values the whole update, in one piece or in several that hold whole values
   * @param contributor counted under the subject's round, as one update; `clipped` when its norm was
   * @param metrics values on the metric grid (round(value 2^20)), by name
   * @param saturated how many values the device clamped
   */
  add(
    values: Uint8Array | readonly Uint8Array[],
    encoding: Encoding,
    contributor: Pick<Contributor, "device" | "samples"> & { readonly clipped?: boolean },
    metrics: Readonly<Record<string, number>>,
    saturated: number,
  ): { readonly ok: true } | AddRefusal;
  /** Adds another Partial on the same base, whatever its rounds. */
  merge(partial: Partial): { readonly ok: true } | MergeRefusal;
  /** The Partial so far, copied. */
  snapshot(): Partial;
  /** Forgets what was added and takes the content of a Partial on the same base. */
  restore(partial: Partial): { readonly ok: true } | MergeRefusal;
  /** Gives the memory back to the kernel. The accumulator must not be used again. */
  release(): void;
};

/** What an accumulator sums; `evaluation` when its updates carry no values. */
export type Subject = Origin & {
  /** The round of the updates that `add` takes. */
  readonly round: string;
  /** Their site. */
  readonly site: string | null;
  readonly evaluation?: boolean;
};

type Books = {
  weight: bigint;
  /** By contribution. */
  contributors: Map<string, Contributor>;
  /** Sites of the contributors so far. */
  sites: Set<string | null>;
  metrics: MetricSums;
  saturated: number;
  clipped: number;
};

const emptyBooks = (): Books => ({
  weight: 0n,
  contributors: new Map(),
  sites: new Set(),
  metrics: {},
  saturated: 0,
  clipped: 0,
});

/** |n q| must stay below this for the kernel to be exact. */
const PRODUCT_MAX = 2n ** 51n;

/**
 * @param totalMax NMax of the plan. Throws RangeError when it leaves the grid no headroom, which
 *   the plan's check refuses beforehand.
 */
export function createAccumulator(
  kernel: Kernel,
  layout: Layout,
  grid: Grid,
  totalMax: bigint,
  subject: Subject,
): Accumulator {
  const headroom = checkHeadroom(grid, 1, totalMax);
  if (!headroom.ok) throw new RangeError(headroom.message);
  const { evaluation = false, round, site, ...origin } = subject;
  const coordinates = evaluation ? 0 : parameterCount(layout);
  const runs = evaluation ? [] : stretches(layout, grid);
  const steepest = BigInt(runs.reduce((most, run) => Math.max(most, run.stepsMax), 0));
  const basin = kernel.lease(coordinates);
  const shape = { ...origin, grid, layout, sum: { length: coordinates } };
  let books = emptyBooks();
  let foldsUnsettled = 0;

  const settle = () => {
    basin.settle(foldsUnsettled);
    foldsUnsettled = 0;
  };
  const judge = (partial: Partial, present: ReadonlyMap<string, Contributor>, weight: bigint) => {
    const comparable = checkComparable(shape, partial);
    if (!comparable.ok) return comparable;
    const overlap = partial.contributors.map(contributionKey).filter((key) => present.has(key));
    if (overlap.length > 0) return refuseOverlap(overlap);
    if (weight + partial.weight > totalMax) return refuseTotal(weight + partial.weight, totalMax);
    return { ok: true } as const;
  };
  const take = (partial: Partial) => {
    pourSums(basin, partial.sum);
    books.weight += partial.weight;
    for (const contributor of partial.contributors)
      books.contributors.set(contributionKey(contributor), contributor);
    books.sites.add(partial.site);
    books.metrics = mergeMetrics(books.metrics, partial.metrics);
    books.saturated += partial.saturated;
    books.clipped += partial.clipped ?? 0;
  };

  return {
    check(piece, encoding, byteOffset) {
      return checkPiece(basin, runs, piece, encoding, byteOffset);
    },
    add(values, encoding, contributor, metrics, saturated) {
      const pieces = values instanceof Uint8Array ? [values] : values;
      const { device, samples, clipped = false } = contributor;
      const shaped = checkShape(pieces, encoding, coordinates);
      if (!shaped.ok) return shaped;
      if (!(Number.isSafeInteger(samples) && samples >= 1)) {
        return refuse("bad-sample-count", `${samples} samples`);
      }
      if (BigInt(samples) * steepest >= PRODUCT_MAX) {
        return refuse("bad-sample-count", `${samples} samples leave the grid no headroom`);
      }
      const key = contributionKey({ round, device });
      if (books.contributors.has(key)) return refuseOverlap([key]);
      const weight = books.weight + BigInt(samples);
      if (weight > totalMax) return refuseTotal(weight, totalMax);
      pourValues(basin, runs, pieces, encoding, samples);
      foldsUnsettled++;
      books.weight = weight;
      books.contributors.set(key, { round, device, samples, updates: 1 });
      books.sites.add(site);
      books.metrics = mergeMetrics(books.metrics, liftMetrics(metrics, samples));
      books.saturated += saturated;
      if (clipped) books.clipped++;
      return { ok: true };
    },
    merge(partial) {
      const judged = judge(partial, books.contributors, books.weight);
      if (judged.ok) take(partial);
      return judged;
    },
    snapshot() {
      settle();
      const { weight, metrics, saturated, clipped } = books;
      const contributors = [...books.contributors.values()].sort(compareContributors);
      const [only = site] = books.sites;
      const from = books.sites.size > 1 ? null : only;
      const sum = basin.read();
      return {
        ...origin,
        grid,
        layout,
        weight,
        site: from,
        contributors,
        metrics,
        saturated,
        ...clippedField(clipped),
        sum,
      };
    },
    restore(partial) {
      const judged = judge(partial, new Map(), 0n);
      if (!judged.ok) return judged;
      basin.clear();
      foldsUnsettled = 0;
      books = emptyBooks();
      take(partial);
      return judged;
    },
    release() {
      basin.release();
    },
  };
}

function checkShape(
  pieces: readonly Uint8Array[],
  encoding: Encoding,
  coordinates: number,
): Verdict<object, "wrong-shape"> {
  const width = bytesPerValue(encoding);
  let bytes = 0;
  for (const piece of pieces) {
    if (piece.length % width !== 0) {
      return refuse("wrong-shape", `a piece of ${piece.length} bytes splits a value of ${width}`);
    }
    bytes += piece.length;
  }
  return bytes === coordinates * width
    ? { ok: true }
    : refuse("wrong-shape", `${bytes} bytes for ${coordinates} ${encoding} values`);
}

/** Copies a piece into the slab part by part and calls `visit` for each part. */
function eachSlab(
  basin: Basin,
  piece: Uint8Array,
  visit: (offset: number, bytes: number) => void,
): void {
  for (let offset = 0; offset < piece.length; offset += SLAB_BYTES) {
    const part = piece.length <= SLAB_BYTES ? piece : piece.subarray(offset, offset + SLAB_BYTES);
    basin.load(part);
    visit(offset, part.length);
  }
}

/** Visits one tensor's values among those in the slab; false ends the walk. */
type Visit = (run: Stretch, place: number, from: number, count: number) => boolean;

/**
 * Visits, in order, the parts of coordinates [at, at + count) that lie in one tensor each. `place`
 * counts values from the start of the slab.
 */
function walk(runs: readonly Stretch[], at: number, count: number, visit: Visit): void {
  const end = at + count;
  for (const run of runs) {
    if (run.end <= at) continue;
    if (run.start >= end) break;
    const from = Math.max(run.start, at);
    if (!visit(run, from - at, from, Math.min(run.end, end) - from)) return;
  }
}

function pourValues(
  basin: Basin,
  runs: readonly Stretch[],
  pieces: readonly Uint8Array[],
  encoding: Encoding,
  samples: number,
): void {
  const width = bytesPerValue(encoding);
  const visit: Visit = (run, place, from, count) => {
    const scale = encoding === "f32" ? samples * run.scale : samples;
    basin.fold(encoding, place * width, from, count, scale);
    return true;
  };
  let at = 0;
  for (const piece of pieces) {
    eachSlab(basin, piece, (_, bytes) => {
      walk(runs, at, bytes / width, visit);
      at += bytes / width;
    });
  }
}

function pourSums(basin: Basin, sum: BigInt64Array): void {
  const bytes = new Uint8Array(sum.buffer, sum.byteOffset, sum.byteLength);
  eachSlab(basin, bytes, (offset, length) => basin.merge(offset / 8, length / 8));
}

function checkPiece(
  basin: Basin,
  runs: readonly Stretch[],
  piece: Uint8Array,
  encoding: Encoding,
  byteOffset: number,
): { readonly ok: true } | CheckRefusal {
  const width = bytesPerValue(encoding);
  if (byteOffset % width !== 0 || piece.length % width !== 0) {
    throw new RangeError(`bytes ${byteOffset} + ${piece.length} split a value of ${width}`);
  }
  if (byteOffset < 0 || byteOffset + piece.length > basin.coordinates * width) {
    throw new RangeError(`bytes ${byteOffset} + ${piece.length} lie outside the update`);
  }
  let refusal: CheckRefusal | undefined;
  const visit: Visit = (run, place, from, count) => {
    const limit = encoding === "f32" ? floorToFloat32(run.stepsMax / run.scale) : run.stepsMax;
    if (encoding === "i16" && limit > 32767) return true; // no int16 is past it
    if (basin.check(encoding, place * width, count, limit, run.scale)) return true;
    refusal = findFault(piece, encoding, from - byteOffset / width, count, run, from);
    return false;
  };
  eachSlab(basin, piece, (offset, bytes) => {
    if (refusal === undefined) walk(runs, (byteOffset + offset) / width, bytes / width, visit);
  });
  return refusal ?? { ok: true };
}

/** The largest float32 that is at most x; x positive. */
function floorToFloat32(x: number): number {
  const nearest = Math.fround(x);
  if (nearest <= x) return nearest;
  const bits = new Uint32Array(new Float32Array([nearest]).buffer);
  return new Float32Array(new Uint32Array([(bits[0] as number) - 1]).buffer)[0] as number;
}

/** Names the first fault that the kernel saw in `count` values of a piece from `first` on. */
function findFault(
  piece: Uint8Array,
  encoding: Encoding,
  first: number,
  count: number,
  run: Stretch,
  at: number,
): CheckRefusal {
  const view = new DataView(piece.buffer, piece.byteOffset, piece.byteLength);
  const scale = encoding === "f32" ? run.scale : 1;
  for (let i = 0; i < count; i++) {
    const value = readValue(view, encoding, first + i);
    const steps = value * scale;
    const fault = !Number.isFinite(value)
      ? "not-finite"
      : Math.abs(steps) > run.stepsMax
        ? "out-of-range"
        : Number.isInteger(steps)
          ? undefined
          : "off-grid";
    const index = at + i;
    if (fault !== undefined) return { ...refuse(fault, `index ${index}: ${value}`), index };
  }
  throw new Error("the kernel saw a fault that a second look does not find");
}

function readValue(view: DataView, encoding: Encoding, index: number): number {
  if (encoding === "i16") return view.getInt16(index * 2, true);
  if (encoding === "i32") return view.getInt32(index * 4, true);
  return view.getFloat32(index * 4, true);
}
