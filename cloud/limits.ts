/**
 * Every bound of the cloud tier, with its unit and what happens at it. What crosses a wire is
 * bounded by `proto/wire/limits.ts`, the store by `store/limits.ts`; what an operator may set is
 * bounded by the schema in `config.ts`.
 */
export const limits = {
  /** Gateways known at a time. A further one's Hello is refused with `busy`. */
  gateways: 10_000,
  /** Devices known at a time. Further ones are left out of the fleet, with an event. */
  devices: 200_000,
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
  /** Changes of the fleet are written at most so often, in milliseconds. */
  fleetSaveMs: 500,

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

  /** Concurrent sessions that run. A further start is refused with `busy`. */
  sessionsRunning: 16,
  /** Sessions whose newest model a gateway that attaches is told of: those started last. */
  publishedSessions: 64,
  /** Messages that wait for one session. Past it a Partial is refused with `busy`. */
  sessionBacklog: 1_024,
  /** Optimiser states kept of one session: the newest, and the head's. */
  optimizerStates: 4,
  /** Pause after a failed round, in milliseconds; doubles with each in a row. */
  pauseMs: 500,
  pauseMaxMs: 30_000,
  /** A write that failed for now is tried again after so long, in milliseconds, doubling. */
  retryMs: 100,
  retryMaxMs: 5_000,
  /** How often a write is tried before the session fails; a full disk is waited for without end. */
  retries: 8,

  /** Events that wait for the store. Further ones are only written to the log. */
  eventBacklog: 10_000,
  /** FetchModel calls served at a time. A further one is refused with `busy`. */
  modelReads: 256,
  /** A reader that took no chunk of a model for so long is cut off, in milliseconds. */
  fetchStallMs: 120_000,
  /** Shutdown waits so long for open calls, in milliseconds. */
  shutdownMs: 5_000,
} as const;
