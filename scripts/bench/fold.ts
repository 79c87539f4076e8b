import { createAccumulator } from "@tributary/proto/algebra/accumulator.js";
import { encodingFor, type Grid } from "@tributary/proto/algebra/grid.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import { type Basin, type Kernel, SLAB_BYTES } from "@tributary/proto/kernel/kernel.js";
import { type BenchLine, median } from "./line.js";
import { FRACTION_BITS, gridValues, RANGE } from "./values.js";

const BENCH = "fold";
/** Blocks of runs that each case gets. */
export type FoldSize = { readonly parameters: number; readonly blocks: number };
/** First blocks of each case, while the compilers are still at work. */
const WARM_SHARE = 0.25;
const GRID: Grid = { fractionBits: [FRACTION_BITS], range: RANGE };
const ENCODING = encodingFor(GRID);
const SAMPLES = [60, 7, 200, 31, 12, 1, 90, 55];

type Case = { readonly name: string; readonly run: (samples: number) => void };

/** What a reader would write first: inexact, and the measure of everything else. */
function plainFold(sums: Float64Array, values: Float32Array, samples: number): void {
  for (let i = 0; i < values.length; i++) {
    sums[i] = (sums[i] as number) + samples * (values[i] as number);
  }
}

/**
 * Measures folding one update of float32 values into int64 sums, against a plain Float64Array loop
 * and against copying the same bytes. Cases take turns block by block, so that what else the
 * machine does falls on all of them alike; figures are medians of warm runs.
 */
export async function benchFold(
  sizes: readonly FoldSize[],
  signal: AbortSignal,
): Promise<BenchLine[]> {
  const kernel = loadKernel();
  const lines: BenchLine[] = [];
  for (const { parameters, blocks } of sizes) {
    signal.throwIfAborted();
    const values = gridValues(parameters);
    const { cases, release } = casesFor(kernel, values);
    lines.push(...report(parameters, interleave(cases, blocks)));
    release();
    await new Promise((resolve) => setImmediate(resolve));
  }
  return lines;
}

function casesFor(
  kernel: Kernel,
  values: Float32Array<ArrayBuffer>,
): { readonly cases: readonly Case[]; readonly release: () => void } {
  const layout = [{ name: "w", shape: [values.length] }];
  const subject = { round: "bench.1", site: "bench", base: "bench.0", baseDigest: "0".repeat(64) };
  const accumulator = createAccumulator(kernel, layout, GRID, 2n ** 42n, subject);
  const basin = kernel.lease(values.length);
  const pieces = cut(new Uint8Array(values.buffer));
  const sums = new Float64Array(values.length);
  const copy = new Float32Array(values.length);
  let device = 0;

  const cases: Case[] = [
    { name: "plain loop", run: (samples) => plainFold(sums, values, samples) },
    { name: "TypedArray.set", run: () => copy.set(values) },
    { name: "resident kernel", run: (samples) => pour(basin, pieces, samples, {}) },
    { name: "kernel with copy", run: (samples) => pour(basin, pieces, samples, { load: true }) },
    {
      name: "kernel with copy and check",
      run: (samples) => pour(basin, pieces, samples, { load: true, check: true }),
    },
    {
      name: "accumulator, check then add",
      run: (samples) => {
        for (const [i, piece] of pieces.entries()) {
          expectOk(accumulator.check(piece, ENCODING, i * SLAB_BYTES));
        }
        const contributor = { device: `d${device++}`, samples };
        expectOk(accumulator.add(pieces, ENCODING, contributor, {}, 0));
      },
    },
  ];
  return {
    cases,
    release: () => {
      accumulator.release();
      basin.release();
    },
  };
}

function cut(bytes: Uint8Array): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += SLAB_BYTES) {
    pieces.push(bytes.subarray(at, at + SLAB_BYTES));
  }
  return pieces;
}

/** Folds every piece; without `load`, what already lies in the slab is folded in its place. */
function pour(
  basin: Basin,
  pieces: readonly Uint8Array[],
  samples: number,
  { load = false, check = false }: { readonly load?: boolean; readonly check?: boolean },
): void {
  let at = 0;
  for (const piece of pieces) {
    const count = piece.length / 4;
    if (load) basin.load(piece);
    if (check) expectOk({ ok: basin.check(ENCODING, 0, count, GRID.range, 2 ** FRACTION_BITS) });
    basin.fold(ENCODING, 0, at, count, samples * 2 ** FRACTION_BITS);
    at += count;
  }
}

function expectOk(verdict: { readonly ok: boolean }): void {
  if (!verdict.ok) throw new Error(`the bench's own input was refused: ${JSON.stringify(verdict)}`);
}

/** Runs of one case in a row; the first fills the caches and is not counted. */
const BLOCK = 5;

/** Median milliseconds of each case. */
function interleave(cases: readonly Case[], blocks: number): ReadonlyMap<string, number> {
  const taken = cases.map((): number[] => []);
  for (let block = 0; block < blocks; block++) {
    for (const [c, { run }] of cases.entries()) {
      for (let turn = 0; turn < BLOCK; turn++) {
        const startMs = performance.now();
        run(SAMPLES[(block + turn) % SAMPLES.length] as number);
        const tookMs = performance.now() - startMs;
        if (turn > 0 && block >= blocks * WARM_SHARE) taken[c]?.push(tookMs);
      }
    }
  }
  return new Map(cases.map(({ name }, c) => [name, median(taken[c] as number[])]));
}

/** Bars at 1M parameters, as multiples of the plain loop. */
const BARS: Readonly<Record<string, number>> = {
  "resident kernel": 4,
  "kernel with copy": 2.5,
  "kernel with copy and check": 2,
};

const NOTES: Readonly<Record<string, readonly string[]>> = {
  "resident kernel": [`the same ${SLAB_BYTES / 1024} KB of input at every position`],
  "accumulator, check then add": ["as a gateway does it: each piece is copied twice"],
};

function report(parameters: number, medians: ReadonlyMap<string, number>): BenchLine[] {
  const size = parameters >= 1e6 ? `${parameters / 1e6}M` : `${parameters / 1e3}k`;
  const plainMs = medians.get("plain loop") as number;
  const setMs = medians.get("TypedArray.set") as number;
  const lines: BenchLine[] = [];
  for (const [name, ms] of medians) {
    lines.push({ bench: BENCH, case: `${size} ${name}`, value: round(ms, 4), unit: "ms" });
    if (name === "plain loop") continue;
    const bar = parameters === 1_000_000 ? BARS[name] : undefined;
    lines.push({
      bench: BENCH,
      case: `${size} plain loop / ${name}`,
      value: round(plainMs / ms, 2),
      unit: "times",
      ...(bar === undefined ? {} : { bar: { atLeast: bar } }),
      note: [`TypedArray.set / this = ${round(setMs / ms, 2)}`, ...(NOTES[name] ?? [])].join("; "),
    });
  }
  return lines;
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
