import type { Clock } from "@tributary/proto/host/clock.js";
import { type Random, seededRandom } from "@tributary/proto/host/random.js";
import type { Agenda } from "./agenda.js";
import type { Failures } from "./failures.js";
import type { Network } from "./network.js";
import type { Life, Machine } from "./node.js";
import type { Trace } from "./trace.js";

/** One run of a program, and what of the world it gets. */
export type Run = {
  readonly life: Life;
  readonly clock: Clock;
  readonly random: Random;
  /** Puts an event into the trace; those of a dead run are dropped. */
  note(event: { readonly name: string }): void;
};

export type Running = { close(): Promise<void> };

/** What runs on a machine: a tier's production composition on simulated parts. */
export type Program<R extends Running> = {
  start(run: Run): Promise<R>;
  /** The machine loses power: what was not synced is gone. */
  powerCut(): void;
};

/** A machine with a program on it, which a supervisor starts again whenever it is down. */
export type Actor<R extends Running> = {
  readonly name: string;
  readonly machine: Machine;
  /** What runs, once it has started, and until it is stopped. */
  readonly running: R | undefined;
  start(): void;
  /** Ends the process at once; with `power` the machine too. It starts again after `downMs`. */
  kill(power: boolean, downMs: number): void;
  /** Closes the program as an operator does. */
  stop(downMs: number): void;
  /** Calls `onEvent` for each event that the program reports from now on. */
  watch(onEvent: (name: string) => void): void;
};

export type Stage = {
  readonly agenda: Agenda;
  readonly network: Network;
  readonly trace: Trace;
  readonly failures: Failures;
  readonly seed: number;
};

/** A close that takes longer hangs. */
const CLOSE_MS = 120_000;
const RESTART_MS = 2_000;

export function createActor<R extends Running>(
  stage: Stage,
  machine: Machine,
  program: Program<R>,
): Actor<R> {
  const { agenda, network, trace, failures, seed } = stage;
  const { name } = machine;
  let lives = 0;
  let life: Life | undefined;
  let running: R | undefined;
  let watch: ((name: string) => void) | undefined;

  const say = (what: string) => trace.note(agenda.nowMs, name, what);

  function start(): void {
    const born: Life = { node: name, number: ++lives, alive: true };
    life = born;
    say(`starts, life ${born.number}`);
    const run: Run = {
      life: born,
      clock: machine.clock(born),
      random: seededRandom(`${seed} ${name} ${born.number}`),
      note(event) {
        if (!born.alive) return;
        say(describe(event));
        watch?.(event.name);
      },
    };
    program.start(run).then(
      (started) => {
        if (born.alive) running = started;
      },
      (error: unknown) => {
        if (!born.alive) return;
        say(`cannot start: ${error instanceof Error ? error.message : String(error)}`);
        end(born, true);
        agenda.after(RESTART_MS, start);
      },
    );
  }

  function end(ended: Life, politely: boolean): void {
    ended.alive = false;
    if (life === ended) {
      life = undefined;
      running = undefined;
    }
    network.died(ended, politely);
  }

  return {
    name,
    machine,
    get running() {
      return running;
    },
    start,
    watch(onEvent) {
      watch = onEvent;
    },
    kill(power, downMs) {
      if (life === undefined) return;
      say(power ? "loses power" : "is killed");
      end(life, !power);
      if (power) program.powerCut();
      agenda.after(downMs, start);
    },
    stop(downMs) {
      const [stopping, stopped] = [life, running];
      if (stopping === undefined || stopped === undefined) return;
      say("is stopped");
      running = undefined;
      const bound = agenda.after(CLOSE_MS, () => {
        if (stopping.alive) failures.add("waiting", `${name} does not close`);
      });
      const over = () => {
        bound.cancel();
        if (!stopping.alive) return;
        end(stopping, true);
        agenda.after(downMs, start);
      };
      stopped.close().then(over, (error: unknown) => {
        say(`close failed: ${String(error)}`);
        over();
      });
    },
  };
}

function describe({ name, ...fields }: Readonly<Record<string, unknown>>): string {
  const shown = Object.entries(fields).filter(
    ([field, value]) => field !== "level" && value !== undefined,
  );
  return [name, ...shown.map(([field, value]) => `${field}=${String(value)}`)].join(" ");
}
