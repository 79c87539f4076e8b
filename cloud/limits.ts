/**
 * Every bound of the cloud tier, with its unit and what happens at it. What crosses a wire is
 * bounded by `proto/wire/limits.ts`, what serves the gateways by `proto/tier/limits.ts`, the store by
 * `store/limits.ts`; what an operator may set is bounded by the schema in `config.ts`.
 */
export const limits = {
  /** Gateways known at a time. A further one's Hello is refused with `busy`. */
  gateways: 10_000,
  /** Devices known at a time. Further ones are left out of the fleet, with an event. */
  devices: 200_000,
  /** Classes of a gateway's buffer that are shown. Further ones are left out. */
  bufferClasses: 16,
  /** Fields of one entry of a gateway's telemetry. An entry with more is passed over. */
  telemetryFields: 64,
  /** Changes of the fleet are written at most so often, in milliseconds. */
  fleetSaveMs: 500,

  /** Concurrent sessions that run. A further start is refused with `busy`. */
  sessionsRunning: 16,
  /** Sessions whose newest model a gateway that attaches is told of: those started last. */
  publishedSessions: 64,
  /** Messages that wait for one session. Past it a Partial is refused with `busy`. */
  sessionBacklog: 1_024,
  /**
   * Partials that one session keeps for models to come, and their bytes. Past it a late one is refused
   * with `storage-full`, to be sent again; a session that buffers makes its model of what it has; and
   * of a round under site memory the rest expires by that rule, or is in its model and not carried on.
   */
  latePartials: 4_096,
  latePartialBytes: 64 * 1024 * 1024 * 1024,
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

  /**
   * Failed attempts to enrol and to renew: the burst at once, then so many a second. Past it further ones are
   * refused with `too-many-attempts` before anything of them is read.
   */
  attempts: {
    /** From one address (an IPv6 address: its /64). */
    address: { perSecond: 1, burst: 60 },
    /** With one claim. */
    claim: { perSecond: 1 / 6, burst: 20 },
    /** Addresses, and claims, that are remembered; the one that tried longest ago is forgotten. */
    known: 4_096,
  },
  /** A gateway that is attached and has not taken a new denylist after so long is reported, in milliseconds. */
  denylistLateMs: 30_000,

  /** Alarms at a time; the one that was raised longest ago is left out. */
  alarms: 256,
  /** An alarm that was not raised again for so long is over, in milliseconds. */
  alarmMs: 24 * 60 * 60_000,
  /** The newest events in the store, which tell a cloud that starts what lasts. */
  alarmEvents: 1_000,

  /** Events that wait for the store. Further ones are only written to the log. */
  eventBacklog: 10_000,
} as const;
