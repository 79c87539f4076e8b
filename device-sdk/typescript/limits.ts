import { limits as wire } from "@tributary/proto/wire/limits.js";

/** Every bound of a device, in one place, with its unit and what happens at it. */
export const limits = {
  /** Model chunks asked for and not yet received. More wait; a gateway takes four of one device. */
  fetchWindowChunks: 3,
  /** Silence after which a chunk is asked for again. */
  fetchDoubtMs: 5_000,
  /** Chunks with a wrong digest in one transfer, past which the transfer fails (`digest-mismatch`). */
  badChunks: 8,
  /** Unacknowledged bytes of an update, whatever a grant allows. */
  uploadWindowBytes: 8 * wire.chunkBytes,
  /** Publishes without PUBACK on one connection. Past it a publish fails, and is sent again later. */
  unacknowledged: 64,
  /** Silence after which an update is begun again, and what jitter adds to it at most. */
  doubtMs: 10_000,
  doubtJitterMs: 20_000,
  /** Back-off after a retryable refusal, and between attempts to connect: full jitter up to a cap. */
  backoffBaseMs: 250,
  backoffCapMs: 15_000,
  /** From the start of an attempt to connect until `welcome`; then the attempt is given up. */
  connectMs: 15_000,
  /** Rounds remembered as finished. The oldest is forgotten; its gateway remembers too. */
  finishedRounds: 64,
  /** Model files kept. The oldest that is not the last good one goes. */
  models: 2,
  /** Compute packages kept; the one unused longest goes. Sessions noted for one: those last. */
  packages: 2,
  packageSessions: 16,
  /** Signers that a config pins. A config with more is refused. */
  packageSigners: 32,
  /** One file that a package's command writes, in bytes, and files that it has open (the kernel's limits). */
  packageFileBytes: wire.modelBytes,
  packageOpenFiles: 1_024,
  /** The result, and the answer to a prediction, that a command leaves, in bytes. The task fails. */
  packageResultBytes: 64 * 1024,
  packageOutputBytes: 1024 * 1024,
  /** What a failed command wrote to its standard error last, in characters; the rest is dropped. */
  packageErrorChars: 300,
  /** The wait for system attributes before the first `hello` goes without them. */
  attributesMs: 3_000,
  /** The wait, at close, for a trainer to come back after its signal. Then it is left behind. */
  closeMs: 5_000,
  /** From the connection that asks for a certificate to the answer; then it is given up. */
  petitionMs: 20_000,
  /** Between attempts to enrol, and to renew: full jitter up to a cap. */
  enrolBackoff: { baseMs: 1_000, capMs: 60_000 },
  renewalBackoff: { baseMs: 30_000, capMs: 15 * 60_000 },
  /** Between two looks whether the certificate is to be renewed, for clocks are set. */
  renewalLookMs: 60 * 60_000,
  /** A gateway's certificate that ended is taken for so long: a site that is cut off cannot renew it. */
  gatewayGraceMs: 180 * 24 * 60 * 60_000,
  /** Devices in one process. A config with more is refused. */
  devicesPerProcess: 10_000,
} as const;
