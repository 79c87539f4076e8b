import type { Clock } from "@tributary/proto/host/clock.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { DeviceEvent } from "./events.js";
import { limits } from "./limits.js";
import { type Models, type StoredModel, viewModel } from "./models.js";
import type { Packages } from "./packages.js";
import type { Input, Task } from "./round.js";
import type { Trainer } from "./trainer.js";
import { makeEvaluateUpdate, makeTrainUpdate, type Update } from "./update.js";

/** Runs the trainer on one task at a time. */
export type TaskRunner = {
  /** Ends in one `trained` or `train-failed`, whatever the trainer does, and after an abort too. */
  start(task: Task): void;
  abort(reason: string): void;
  /** Aborts, and waits a bounded time for the trainer to come back. */
  close(): Promise<void>;
};

export type TaskRunnerOptions = {
  readonly device: string;
  readonly trainer: Trainer;
  readonly models: Models;
  /** Run in the trainer's place where a plan names one. */
  readonly packages: Pick<Packages, "trainer">;
  readonly clock: Clock;
  readonly report: (event: DeviceEvent) => void;
  readonly onEnd: (input: Extract<Input, { on: "trained" } | { on: "train-failed" }>) => void;
};

type Outcome = Verdict<{ readonly update: Update }>;

export function createTaskRunner(options: TaskRunnerOptions): TaskRunner {
  const { device, models, packages, clock, report, onEnd } = options;
  let aborter = new AbortController();
  let running: Promise<void> = Promise.resolve();

  const run = async (task: Task, base: StoredModel, signal: AbortSignal): Promise<Outcome> => {
    const { plan, gateway } = task;
    const origin = { device, gateway, plan };
    const model = viewModel(base);
    const chosen =
      plan.package === undefined
        ? { ok: true as const, trainer: options.trainer }
        : await packages.trainer(plan.package);
    if (!chosen.ok) return chosen;
    const { trainer } = chosen;
    if (plan.task === "evaluate")
      return makeEvaluateUpdate(origin, await trainer.evaluate(model, signal));
    const remainingMs = Math.max(0, task.deadlineMs - clock.monotonicMs());
    const { round, session, training } = plan;
    const asked = { round, session, training, remainingMs };
    return makeTrainUpdate(origin, base, await trainer.train(model, asked, signal));
  };

  const outcomeOf = async (task: Task, signal: AbortSignal): Promise<Outcome> => {
    try {
      const base = await models.load(task.plan.base.digest);
      if (base === undefined)
        return refuse("unknown-model", `${task.plan.base.model} is not kept any more`);
      return await run(task, base, signal);
    } catch (cause) {
      // The trainer is not ours: whatever it throws fails this task and nothing else.
      const message = cause instanceof Error ? cause.message : String(cause);
      return refuse("train-failed", message || "the trainer threw");
    }
  };

  return {
    start(task) {
      aborter = new AbortController();
      const { signal } = aborter;
      const { round } = task.plan;
      const startMs = clock.monotonicMs();
      running = outcomeOf(task, signal).then((outcome) => {
        if (signal.aborted) {
          const reason = String(signal.reason);
          report({ level: "info", name: "train-aborted", round, reason });
          const { code, message } = refuse("train-failed", `aborted: ${reason}`);
          return onEnd({ on: "train-failed", round, code, message });
        }
        if (!outcome.ok) {
          const { code, message } = outcome;
          report({ level: "warn", name: "train-failed", round, code, message });
          return onEnd({ on: "train-failed", round, code, message });
        }
        const { samples, saturated } = outcome.update.begin;
        const durationMs = Math.round(clock.monotonicMs() - startMs);
        report({ level: "info", name: "trained", round, samples, saturated, durationMs });
        return onEnd({ on: "trained", update: outcome.update });
      });
    },
    abort: (reason) => aborter.abort(reason),
    async close() {
      aborter.abort("the device closes");
      await new Promise<void>((resolve) => {
        const bound = clock.setTimer(limits.closeMs, resolve);
        void running.then(() => {
          bound.cancel();
          resolve();
        });
      });
    },
  };
}
