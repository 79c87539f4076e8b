import { Worker } from "node:worker_threads";
import type { Outcome } from "./world.js";

export type Order = { readonly first: number; readonly count: number; readonly workers: number };

/** Seeds that one worker simulates before a fresh one takes its place: what a run leaves is let go. */
const SEEDS_PER_WORKER = 250;
/** A seed that takes so long does not end. */
const SEED_MS = 5 * 60_000;
/** Every so many seeds one is simulated twice: it must go the same way. */
const TWICE_EVERY = 25;

/** Simulates seeds over several workers; outcomes come in the order in which they are ready. */
export async function simulateSeeds(
  { first, count, workers }: Order,
  onOutcome: (outcome: Outcome) => void,
): Promise<void> {
  let next = first;
  const lane = async () => {
    while (next < first + count) {
      const worker = openWorker();
      try {
        for (let done = 0; done < SEEDS_PER_WORKER && next < first + count; done++) {
          const seed = next++;
          const outcome = await worker.simulate(seed);
          const again = seed % TWICE_EVERY === 0 && outcome.failure === undefined;
          onOutcome(again ? compared(outcome, await worker.simulate(seed)) : outcome);
          if (worker.dead) break;
        }
      } finally {
        await worker.close();
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(workers, count) }, lane));
}

function compared(first: Outcome, second: Outcome): Outcome {
  if (first.trace === second.trace) return first;
  const message = "the same seed went another way when it was simulated again";
  return { ...second, failure: { checker: "trace", message } };
}

function openWorker() {
  const worker = new Worker(new URL("./worker.js", import.meta.url), {
    resourceLimits: { maxOldGenerationSizeMb: 1_024 },
  });
  let dead = false;
  const simulate = (seed: number) =>
    new Promise<Outcome>((resolve) => {
      const lost = (message: string) => {
        dead = true;
        settle(failed(seed, message));
      };
      const timer = setTimeout(() => lost(`it did not end within ${SEED_MS / 1_000} s`), SEED_MS);
      const onExit = (code: number) => lost(`its worker ended with ${code}`);
      const onError = (error: unknown) => lost(`its worker failed: ${String(error)}`);
      const settle = (outcome: Outcome) => {
        clearTimeout(timer);
        worker.off("message", settle).off("error", onError).off("exit", onExit);
        resolve(outcome);
      };
      worker.once("message", settle).once("error", onError).once("exit", onExit);
      worker.postMessage(seed);
    });
  return {
    simulate,
    get dead() {
      return dead;
    },
    close: () => worker.terminate(),
  };
}

function failed(seed: number, message: string): Outcome {
  const figures = { events: 0, simulatedMs: 0, models: 0, receipts: 0, faults: 0 };
  return { seed, failure: { checker: "waiting", message }, trace: "", tail: [], figures };
}
