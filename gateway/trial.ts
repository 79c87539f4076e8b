import type { Clock } from "@tributary/proto/host/clock.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { GatewayEvents } from "./events.js";
import type { HealthFault } from "./health.js";
import type { Slots } from "./update-slots.js";

/** What software on trial has to prove itself, from its start, and how often it is looked at. */
export const trialLimits = { provingMs: 60_000, everyMs: 1_000 } as const;

export type TrialOptions = {
  readonly slots: Slots;
  readonly health: () => Promise<readonly HealthFault[]>;
  readonly softwareVersion: string;
  readonly clock: Clock;
  readonly events: GatewayEvents;
};

/** Software on its trial, or not. */
export type RunningTrial = {
  /** Rejects with `update-unhealthy` when it did not prove itself: the process is to end. */
  readonly failed: Promise<never>;
  close(): void;
};

/**
 * Watches over software that was just installed: it is kept once its health check passes, and ends the
 * process when it does not in time. `launch` counts the starts, and goes back after three.
 */
export async function beginTrial(options: TrialOptions): Promise<RunningTrial> {
  const { slots, health, softwareVersion, clock, events } = options;
  if (await slots.takeWentBack())
    events({ level: "error", name: "update-went-back", softwareVersion });
  const trial = await slots.trial();
  let closed = false;
  if (trial === undefined) return { failed: new Promise<never>(() => {}), close() {} };
  const sinceMs = clock.monotonicMs();
  events({ level: "warn", name: "update-on-trial", softwareVersion, starts: trial.starts });
  async function prove(): Promise<void> {
    for (;;) {
      const faults = await health();
      if (closed) return;
      if (faults.length === 0) {
        await slots.keep();
        events({ level: "info", name: "update-kept", softwareVersion });
        return;
      }
      if (clock.monotonicMs() - sinceMs >= trialLimits.provingMs) {
        const why = faults.map(({ part, message }) => `${part}: ${message}`).join("; ");
        events({ level: "error", name: "update-unhealthy", softwareVersion, message: why });
        throw new TributaryError("update-unhealthy", `the new software is not well: ${why}`);
      }
      await new Promise<void>((resolve) => clock.setTimer(trialLimits.everyMs, resolve));
    }
  }
  const failed = new Promise<never>((_, reject) => {
    prove().catch(reject);
  });
  failed.catch(() => {});
  return {
    failed,
    close() {
      closed = true;
    },
  };
}
