import type { Disk } from "@tributary/proto/host/disk.js";
import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import { limits } from "./limits.js";
import type { OptimizerState } from "./optimizer.js";
import { decodeOptimizerState, encodeOptimizerState } from "./optimizer-state.js";

/**
 * The optimiser states of one session, one file per model: the newest few, and those a session
 * still needs. The last two used stay in memory.
 */
export type OptimizerFiles = {
  /** Undefined when it was not kept; a damaged file counts as that, with the reason. */
  load(model: string): Promise<{ readonly state?: OptimizerState; readonly reason?: string }>;
  /** Durable when it resolves. */
  save(model: string, state: OptimizerState): Promise<void>;
  /** Removes all but the newest and those of `keep`. */
  prune(keep: readonly string[]): Promise<void>;
};

const CACHED = 2;

export function createOptimizerFiles(disk: Disk, session: string): OptimizerFiles {
  const folder = `optimizers/${session}`;
  const pathOf = (model: string) => `${folder}/${model}${SUFFIX}`;
  const cache = new Map<string, OptimizerState>();
  const remember = (model: string, state: OptimizerState) => {
    cache.delete(model);
    cache.set(model, state);
    for (const oldest of cache.keys()) {
      if (cache.size <= CACHED) break;
      cache.delete(oldest);
    }
  };
  return {
    async load(model) {
      const cached = cache.get(model);
      if (cached !== undefined) return { state: cached };
      if (!(await disk.exists(pathOf(model)))) return {};
      const read = decodeOptimizerState(await disk.readFile(pathOf(model)));
      if (!read.ok) return { reason: read.message };
      remember(model, read.state);
      return { state: read.state };
    },
    async save(model, state) {
      await disk.writeFileAtomic(pathOf(model), encodeOptimizerState(state));
      remember(model, state);
    },
    async prune(keep) {
      const models = (await disk.list(folder))
        .filter((name) => name.endsWith(SUFFIX))
        .map((name) => name.slice(0, -SUFFIX.length))
        .sort((a, b) => numberOf(b) - numberOf(a));
      const kept = new Set([...keep, ...models.slice(0, limits.optimizerStates)]);
      for (const model of models) if (!kept.has(model)) await disk.remove(pathOf(model));
    },
  };
}

const SUFFIX = ".topt";

function numberOf(model: string): number {
  return splitNumberedId(model)?.number ?? -1;
}
