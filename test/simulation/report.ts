import type { Outcome } from "./world.js";

/** What a person sees of a run. */
export type Report = {
  /** @param alone whether it is the one seed of the run, which is shown at length */
  outcome(outcome: Outcome, alone?: boolean): void;
  /** Writes the closing line; how many failed. */
  close(): number;
};

/** Failures that are shown with the end of their trace; of further ones only the reason. */
const SHOWN_AT_LENGTH = 5;
const LINES = 40;

export function createReport(
  write: (text: string) => void,
  { count, quiet, live }: { count: number; quiet: boolean; live: boolean },
): Report {
  let passed = 0;
  let failed = 0;
  let shown = -1;
  let events = 0;
  let simulatedMs = 0;
  const clear = () => {
    if (live) write("\r\u001b[K");
  };
  const progress = () => {
    const done = passed + failed;
    if (quiet || count === 1) return;
    if (live) write(`\r\u001b[K${done} of ${count} seeds, ${failed} failed`);
    else if (Math.floor((10 * done) / count) > shown) {
      shown = Math.floor((10 * done) / count);
      write(`${done} of ${count} seeds, ${failed} failed\n`);
    }
  };
  const failure = ({ seed, failure, tail }: Outcome) => {
    clear();
    write(`seed ${seed} failed (${failure?.checker}): ${failure?.message}\n`);
    write(`  npm run simulate -- --seed ${seed}\n`);
    if (failed > SHOWN_AT_LENGTH) return;
    for (const line of tail.slice(-LINES)) write(`  ${line.slice(0, 240)}\n`);
  };
  return {
    outcome(outcome, alone = false) {
      if (outcome.failure === undefined) passed++;
      else failed++;
      events += outcome.figures.events;
      simulatedMs += outcome.figures.simulatedMs;
      if (outcome.failure !== undefined) failure(outcome);
      else if (alone && !quiet)
        for (const line of outcome.tail.slice(-LINES)) write(`  ${line.slice(0, 240)}\n`);
      if (alone && !quiet) {
        const { models, receipts, faults } = outcome.figures;
        write(`${models} models, ${receipts} receipts, ${faults} faults; trace ${outcome.trace}\n`);
      }
      progress();
    },
    close() {
      clear();
      if (!quiet) {
        const hours = (simulatedMs / 3_600_000).toFixed(1);
        write(`${events} events in ${hours} simulated hours\n`);
      }
      write(`${passed} passed, ${failed} failed\n`);
      return failed;
    },
  };
}
