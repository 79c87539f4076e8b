const DAY_MS = 86_400_000;

/** Bounds of access, with what happens at them. */
export const accessLimits = {
  /** Life of a token, in milliseconds, unless said otherwise. A longer one than the most is refused. */
  tokenMs: 30 * DAY_MS,
  tokenMsMax: 400 * DAY_MS,
  /** Life of the first owner's token, which `cloud init` makes. */
  ownerTokenMs: 7 * DAY_MS,
  /** Tokens on record that have not ended. A further one is refused with `busy`. */
  tokensKept: 10_000,
  projects: 1_000,
  membersOfProject: 10_000,
  /** Life of an invitation, in milliseconds. */
  invitationMs: 7 * DAY_MS,
  invitationMsMax: 90 * DAY_MS,
  invitationsKept: 10_000,
  /** A token or an invitation that ended so long ago is forgotten, in milliseconds. */
  endedKeptMs: 30 * DAY_MS,
  /** Characters of a subject that a provider gives. Longer ones are `token-malformed`. */
  subjectChars: 255,
  /** Until the provider's keys have come, in milliseconds; then the call is `unavailable`. */
  providerMs: 5_000,
  /** Between two looks at the provider's keys for one that is not known. */
  providerPauseMs: 30_000,
  /** Its keys are asked for again after so long. */
  providerKeysMs: 600_000,
} as const;
