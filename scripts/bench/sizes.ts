import type { FoldSize } from "./fold.js";
import type { IdleSize } from "./idle.js";
import type { IngestSize } from "./ingest.js";
import type { MemorySize } from "./memory.js";
import type { OverheadSize } from "./overhead.js";

/** How much each bench does. */
export type Sizes = {
  readonly fold: readonly FoldSize[];
  readonly ingest: IngestSize;
  readonly overhead: OverheadSize;
  readonly memory: MemorySize;
  readonly "journal-bytes": MemorySize;
  readonly idle: IdleSize;
};

/** What the bars are for. */
export const fullSizes: Sizes = {
  fold: [
    { parameters: 100_000, blocks: 100 },
    { parameters: 1_000_000, blocks: 40 },
    { parameters: 10_000_000, blocks: 8 },
  ],
  ingest: { devices: 8, parameters: 1_000_000, rounds: 15 },
  overhead: { devices: 10, parameters: 10_000, rounds: 60, warmUp: 40 },
  memory: { parameters: 1_000_000, few: 20, many: 200 },
  "journal-bytes": { parameters: 1_000_000, few: 20, many: 200 },
  idle: { devices: 5_000, devicesPerProcess: 1_250, looks: 5 },
};

/** Fewer turns of the same; noisier. */
export const quickSizes: Sizes = {
  ...fullSizes,
  fold: [
    { parameters: 100_000, blocks: 40 },
    { parameters: 1_000_000, blocks: 20 },
  ],
  ingest: { devices: 8, parameters: 1_000_000, rounds: 5 },
  overhead: { devices: 10, parameters: 10_000, rounds: 30, warmUp: 10 },
  idle: { devices: 1_000, devicesPerProcess: 500, looks: 1 },
};
