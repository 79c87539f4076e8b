import { planted } from "./planted.js";

export const longTimersLost = planted(
  "the cloud's clock loses timers of more than two seconds: no deadline comes",
  "waiting",
  120,
  () => ({
    clock: (clock, tier) =>
      tier !== "cloud"
        ? clock
        : {
            ...clock,
            setTimer: (delayMs, fn) =>
              delayMs > 2_000 ? { cancel() {} } : clock.setTimer(delayMs, fn),
          },
  }),
);
