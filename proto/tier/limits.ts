/**
 * Bounds of the serving side of ReducerService, at the cloud and at a gateway above gateways alike,
 * with what happens at each. What crosses the wire is bounded by `../wire/limits.ts`.
 */
export const limits = {
  /** Devices joined, and left, in one DevicesChanged. More is `malformed` and ends the stream. */
  devicesPerMessage: 500,
  /** Rounds that a Hello names. More is `malformed`. */
  helloRounds: 1_024,
  /** From the stream's opening to its Hello, in milliseconds; then it is ended. */
  helloTimeoutMs: 10_000,
  /**
   * Messages down that wait for one gateway's stream to drain; more than an attachment brings at
   * most. Past it the stream is ended.
   */
  attachBacklog: 2_048,

  /** Connections over TLS. Further ones are closed. */
  connections: 4_096,
  /** From a connection to the end of its TLS handshake, in milliseconds; then it is closed. */
  handshakeMs: 10_000,
  /** A connection whose certificate is refused is closed after so long, in milliseconds: it hears why. */
  refusedMs: 2_000,
  /** Calls at a time on one connection. Further ones wait at the caller (HTTP/2, RFC 9113, 5.1.2). */
  callsPerConnection: 128,
  /** Partials that are being received. A further one is refused with `busy`. */
  uploads: 64,
  /** Their announced bytes together. A Partial that would pass it is refused with `busy`. */
  uploadBytes: 4 * 1024 * 1024 * 1024,
  /** An upload that received nothing for so long makes room for others, in milliseconds. */
  uploadIdleMs: 120_000,
  /** Partials kept in memory while they are received, up to so many bytes each; larger ones spool. */
  spoolInMemoryBytes: 256 * 1024,
  /** From a SendPartial's first message to its last, in milliseconds. */
  sendTimeoutMs: 10 * 60_000,

  /** Enrolments and renewals that are passed on at a time. A further one is refused with `busy`. */
  enrolments: 64,

  /** AnswerChallenge calls served at a time; each holds one update. A further one is refused with `busy`. */
  challengeAnswers: 4,

  /** FetchModel calls served at a time. A further one is refused with `busy`. */
  modelReads: 256,
  /** A reader that took no chunk of a model for so long is cut off, in milliseconds. */
  fetchStallMs: 120_000,
  /** Shutdown waits so long for open calls, in milliseconds. */
  shutdownMs: 5_000,
} as const;
