/** Bounds of the command, with their units in the names. */
export const cliLimits = {
  /** Until the cloud has answered a request in full; a transfer of a model has no such bound. */
  answerMs: 15_000,
  /** A transfer of a model that brings nothing for so long has failed. */
  transferIdleMs: 30_000,
  /** A longer JSON answer is not read. */
  answerBytesMax: 64 * 1024 * 1024,
  /** Items of a list that are shown at most. */
  listedMax: 100_000,
  /** Certificates of authorities that a command trusts. More are an error. */
  anchorsMax: 16,
  /** A longer line of an exported audit log is not read. */
  auditLineCharsMax: 64 * 1024,
  /** A longer session file is not read. */
  sessionFileBytesMax: 1024 * 1024,
  /** Between two looks at a gateway's status that is watched. */
  statusWatchMs: 2_000,
  /** How long gateways that are attached are waited for to take a new denylist, and between two looks. */
  revokeWaitMs: 10_000,
  revokeLookMs: 200,
  /** How long a gateway is waited for to take a denylist from a file. */
  importWaitMs: 15_000,
  /** The end of a log, and the lines of a systemd unit, that go into a support bundle. */
  bundleLogBytes: 4 * 1024 * 1024,
  bundleUnitLines: 20_000,
  /** Files of a data directory that it names. Further ones are counted. */
  bundleListed: 10_000,
  /** How long a challenge's end is waited for, and between two looks. */
  challengeWaitMs: 30_000,
  challengeLookMs: 200,
  /** Between two looks at a session that is followed. */
  followMs: 500,
  /** While following, the cloud may be out of reach for so long: it may be starting again. */
  followOutageMs: 60_000,
} as const;
