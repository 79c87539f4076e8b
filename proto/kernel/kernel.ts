import type { Encoding } from "../algebra/grid.js";

/**
 * The exact fold in WebAssembly (fold.as.ts). A basin is one instance whose memory holds a slab,
 * into which input is copied piece by piece, and the running int64 sums. Released basins are
 * pooled: the first touch of fresh memory costs more than the arithmetic.
 */
export type Kernel = {
  /** Leases sums for `coordinates` values, all zero. */
  lease(coordinates: number): Basin;
  /** Bytes of WebAssembly memory waiting in the pool. */
  pooledBytes(): number;
};

/** Positions are coordinates of the flat parameter vector; offsets are bytes into the slab. */
export type Basin = {
  readonly coordinates: number;
  /** Copies at most `SLAB_BYTES` to the start of the slab. */
  load(bytes: Uint8Array): void;
  /**
   * sums[at + i] += BIAS + value[i] * scale for `count` values in the slab. Exact while
   * |value * scale| < 2^51. Every position must be folded equally often before `settle`.
   */
  fold(encoding: Encoding, offset: number, at: number, count: number, scale: number): void;
  /**
   * Whether all `count` values are finite, at most `limit` in magnitude and, for f32, whole
   * multiples of 1 / `scale`. For f32 the limit is a value, else it is a whole number of steps.
   */
  check(encoding: Encoding, offset: number, count: number, limit: number, scale: number): boolean;
  /** sums[at + i] += the int64 in the slab. Wraps; the caller keeps the headroom. */
  merge(at: number, count: number): void;
  /** Takes the bias of `folds` folds off every sum. */
  settle(folds: number): void;
  clear(): void;
  /** The sums, copied out. Meaningful only after `settle`. */
  read(): BigInt64Array<ArrayBuffer>;
  /** Returns the memory to the pool. The basin must not be used again. */
  release(): void;
};

/** One copy into WebAssembly memory: small enough for the second-level cache. A multiple of 8. */
export const SLAB_BYTES = 128 * 1024;

/** Memory kept for reuse, in bytes; beyond it the longest unused is let go. */
const POOLED_BYTES = 512 * 1024 * 1024;

const PAGE_BYTES = 64 * 1024;
/** The first page is left to the compiler's static data. */
const SLAB_AT = PAGE_BYTES;
const SUMS_AT = SLAB_AT + SLAB_BYTES;
const BIAS = 0x4338000000000000n; // bits(1.5 * 2^52)

/** What is used of the WebAssembly JavaScript interface, which ES2023's own types leave out. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array<ArrayBuffer>) => Compiled;
  readonly Memory: new (size: { initial: number; maximum: number }) => Memory;
  readonly Instance: new (
    module: Compiled,
    imports: { readonly env: { readonly memory: Memory } },
  ) => { readonly exports: object };
};
type Memory = { readonly buffer: ArrayBuffer };
type Compiled = { readonly compiled: unique symbol };

type Address = number;
type Exports = {
  foldF32(source: Address, target: Address, count: number, scale: number): void;
  foldI32(source: Address, target: Address, count: number, scale: number): void;
  foldI16(source: Address, target: Address, count: number, scale: number): void;
  checkF32(source: Address, count: number, limit: number, scale: number): number;
  checkI32(source: Address, count: number, limit: number): number;
  checkI16(source: Address, count: number, limit: number): number;
  merge(source: Address, target: Address, count: number): void;
  settle(target: Address, count: number, bias: bigint): void;
  clear(target: Address, count: number): void;
};

/** One instance and its memory, which never grows and so never moves. */
type Instance = { readonly memory: ArrayBuffer; readonly run: Exports };

/**
 * @param wasmBytes the compiled kernel
 * @param pooledBytes bound on the memory kept for reuse
 */
export function createKernel(
  wasmBytes: Uint8Array<ArrayBuffer>,
  pooledBytes = POOLED_BYTES,
): Kernel {
  if (new Uint8Array(new Uint16Array([1]).buffer)[0] !== 1) {
    throw new Error("the kernel and the wire are little-endian; this machine is not");
  }
  const module = new WebAssembly.Module(wasmBytes);
  const pool: Instance[] = [];
  const total = () => pool.reduce((sum, { memory }) => sum + memory.byteLength, 0);

  const release = (instance: Instance) => {
    pool.push(instance);
    while (total() > pooledBytes) pool.shift();
  };
  return {
    lease(coordinates) {
      const bytes = SUMS_AT + coordinates * 8;
      const instance = takeSmallest(pool, bytes) ?? instantiate(module, bytes);
      instance.run.clear(SUMS_AT, coordinates);
      return createBasin(instance, coordinates, release);
    },
    pooledBytes: total,
  };
}

/**
 * The memory is made at its full size. Growing one would detach its buffer, and the first detached
 * buffer makes V8 compile every typed array access of the process with a check for it.
 */
function instantiate(module: Compiled, bytes: number): Instance {
  const pages = Math.ceil(bytes / PAGE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  return { memory: memory.buffer, run: exports as Exports };
}

/** Takes from the pool the smallest instance with room for `bytes`. */
function takeSmallest(pool: Instance[], bytes: number): Instance | undefined {
  let best: Instance | undefined;
  for (const instance of pool) {
    const room = instance.memory.byteLength;
    if (room >= bytes && (best === undefined || room < best.memory.byteLength)) {
      best = instance;
    }
  }
  if (best !== undefined) pool.splice(pool.indexOf(best), 1);
  return best;
}

function createBasin(
  instance: Instance,
  coordinates: number,
  release: (instance: Instance) => void,
): Basin {
  const { memory, run } = instance;
  const slab = new Uint8Array(memory, SLAB_AT, SLAB_BYTES);
  const folds = { f32: run.foldF32, i32: run.foldI32, i16: run.foldI16 };
  const checks = { f32: run.checkF32, i32: run.checkI32, i16: run.checkI16 };
  const target = (at: number, count: number) => {
    if (!(at >= 0 && count >= 0 && at + count <= coordinates)) {
      throw new RangeError(`coordinates ${at} to ${at + count} of ${coordinates}`);
    }
    return SUMS_AT + at * 8;
  };
  const source = (offset: number, bytes: number) => {
    if (!(offset >= 0 && bytes >= 0 && offset + bytes <= SLAB_BYTES)) {
      throw new RangeError(`bytes ${offset} to ${offset + bytes} of a slab of ${SLAB_BYTES}`);
    }
    return SLAB_AT + offset;
  };
  let leased = true;
  return {
    coordinates,
    load(bytes) {
      slab.set(bytes);
    },
    fold(encoding, offset, at, count, scale) {
      const from = source(offset, count * (encoding === "i16" ? 2 : 4));
      folds[encoding](from, target(at, count), count, scale);
    },
    check(encoding, offset, count, limit, scale) {
      const from = source(offset, count * (encoding === "i16" ? 2 : 4));
      return checks[encoding](from, count, limit, scale) === 1;
    },
    merge(at, count) {
      run.merge(source(0, count * 8), target(at, count), count);
    },
    settle(folded) {
      if (folded > 0) {
        run.settle(SUMS_AT, coordinates, BigInt.asIntN(64, BigInt(folded) * BIAS));
      }
    },
    clear() {
      run.clear(SUMS_AT, coordinates);
    },
    read() {
      return new BigInt64Array(memory, SUMS_AT, coordinates).slice();
    },
    release() {
      if (leased) release(instance);
      leased = false;
    },
  };
}
