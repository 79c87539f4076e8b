const DAY_MS = 86_400_000;

/** Bounds of the fleet's authority and of enrolments, with what happens at them. */
export const authorityLimits = {
  /** Life of an authority's own certificate, in days. Ones that it issues end with it at the latest. */
  authorityDays: 3_650,
  /** A certificate counts from so long before it was issued, in seconds: clocks differ. */
  backdateSeconds: 300,
  /** Between looks at whether the cloud's own certificate is due, or keys were rotated, in milliseconds. */
  serverLookMs: 60_000,
  /** How long a key that was rotated stays valid beside the new one, unless said otherwise. */
  overlapMs: 35 * DAY_MS,
  overlapMsMax: 400 * DAY_MS,
  /** Authorities, and signing keys, that are valid at a time. Rotating past it is refused. */
  keysAtOnce: 8,
  /** A renewal with the same key within so long gets the same certificate again, in milliseconds. */
  renewalAgainMs: 600_000,
  /** Life of a claim, in milliseconds. A longer one is `invalid-request`. */
  claimMs: 86_400_000,
  claimMsMax: 90 * DAY_MS,
  /** Identities that one claim can enrol. */
  claimUsesMax: 10_000,
  /** Claims on record. Those that ended longest ago go first; a further one is refused with `busy`. */
  claimsKept: 10_000,
  /** A claim that ended so long ago is forgotten, with its requests, in milliseconds. */
  claimKeptMs: 90 * DAY_MS,
  /** A backup's passphrase, in characters. Others are refused. */
  passphraseCharsMin: 12,
  passphraseCharsMax: 1_024,
} as const;
