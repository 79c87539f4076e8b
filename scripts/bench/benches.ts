import { benchFold } from "./fold.js";
import { benchIdle } from "./idle.js";
import { benchIngest } from "./ingest.js";
import { benchJournalBytes } from "./journal-bytes.js";
import type { BenchLine } from "./line.js";
import { benchMemory } from "./memory.js";
import { benchOverhead } from "./overhead.js";
import type { Sizes } from "./sizes.js";

export type BenchName = keyof Sizes;

type Bench = (sizes: Sizes, signal: AbortSignal) => Promise<BenchLine[]>;

/** Every bench, in the order in which they run. Each stops by itself, and at the signal. */
export const benches: Readonly<Record<BenchName, Bench>> = {
  fold: (sizes, signal) => benchFold(sizes.fold, signal),
  ingest: (sizes, signal) => benchIngest(sizes.ingest, signal),
  overhead: (sizes, signal) => benchOverhead(sizes.overhead, signal),
  memory: (sizes, signal) => benchMemory(sizes.memory, signal),
  "journal-bytes": (sizes, signal) => benchJournalBytes(sizes["journal-bytes"], signal),
  idle: (sizes, signal) => benchIdle(sizes.idle, signal),
};

export const benchNames = Object.keys(benches) as BenchName[];
