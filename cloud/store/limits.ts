/** Bounds of the store and of the model files, with what happens at them. */
export const storeLimits = {
  /** Items in one slice of a list. More asked for gives this many. */
  sliceItems: 1_000,
  /** Events kept: older ones are removed as newer come. */
  eventsKept: 20_000,
  /** Samples kept of one gateway, and of all: older ones are removed as newer come. */
  samplesOfGateway: 20_000,
  samplesKept: 1_000_000,
  /**
   * Incarnations of a gateway whose newest taken telemetry is remembered, those heard last; notes of
   * an older one that come again would be taken again.
   */
  incarnationsMarked: 8,
  /** Gateways and devices kept: past it, those unseen longest and not connected are removed. */
  gatewaysKept: 10_000,
  devicesKept: 200_000,
  /** Fleet writes between two looks at the bounds above. */
  fleetWritesPerSweep: 256,
  /** Writes between two looks at the write-ahead log of the embedded engine. */
  writesPerLogCheck: 128,
  /** Its write-ahead log is cut by a checkpoint at this size, in bytes. */
  logBytes: 32 * 1024 * 1024,
  /** Connections to a PostgreSQL server for reading, beside the one that writes. */
  serverReaders: 4,
  /** Until a connection to a server counts as failed, and a statement on it, in milliseconds. */
  serverConnectMs: 10_000,
  serverStatementMs: 60_000,
  /** Manifests and layouts of models kept in memory: those used last. */
  manifestsCached: 32,
  /** Compute packages kept. A further one is refused with `busy`. */
  packages: 1_000,
  /** Model files received at once. A further one is refused with `busy`. */
  importsAtOnce: 4,
} as const;
