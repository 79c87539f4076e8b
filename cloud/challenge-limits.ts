/** Bounds of challenges, with what happens at them. */
export const challengeLimits = {
  /** Partials received that can be challenged; the oldest are forgotten. */
  partials: 256,
  /** Contributors of them all; the oldest Partials are forgotten. */
  contributors: 200_000,
  /** Challenges on record in this run; the oldest that have ended are forgotten. */
  challenges: 1_000,
  /** Challenges that are open at a time. A further one is refused with `busy`. */
  open: 16,
  /** Updates that one challenge asks for. `too-large`. */
  updates: 10_000,
  /** Between two times that an open challenge is sent to its gateway, in milliseconds. */
  againMs: 15_000,
  /** Faults that a challenge tells of one by one; further ones are counted. */
  faults: 32,
} as const;
