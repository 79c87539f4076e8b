/**
 * Every bound of the gateway tier, with its unit. What crosses a wire is bounded by
 * `proto/wire/limits.ts`; what an operator may set is bounded by the schema in `config.ts`.
 */
export const limits = {
  /** MQTT connections, authenticated or not. Further ones are closed on arrival. */
  connections: 12_000,
  /**
   * Connections by the address that they come from (an IPv6 address: its /64). Past a bound further
   * ones of that address are reset on arrival, and others are not touched. One computer can be 10,000
   * devices, or a whole site behind one router, so these bound what is left to everybody else.
   */
  addresses: {
    /** At a time. */
    connections: 10_000,
    /** At a time, from the connection until its CONNECT is accepted. */
    handshakes: 2_048,
    /** New ones: the burst at once, then so many a second. */
    rate: { perSecond: 250, burst: 2_500 },
    /** Addresses without a connection whose rate is remembered; the oldest is forgotten. */
    idle: 4_096,
  },
  /**
   * What one device may ask of the gateway, whatever connection it comes on. Past `packets` or `bytes`
   * it is read from more slowly: back-pressure, nothing is lost. Past `refusals` it is disconnected.
   */
  allowance: {
    /** MQTT packets of it: the burst at once, then so many a second. */
    packets: { perSecond: 1_000, burst: 2_000 },
    /** Bytes to and from it: more than a link of 1 Gbit/s carries. */
    bytes: { perSecond: 128 * 1024 * 1024, burst: 128 * 1024 * 1024 },
    /** Refused messages and subscriptions. Cut off, it is let in again at a quarter of the burst. */
    refusals: { perSecond: 10, burst: 256 },
    /** Packets of it that are handled before it is the others' turn. */
    packetsPerTurn: 32,
    /** A connection, and a `hello`, in packets: 5 reconnections a second. */
    greetingPrice: 100,
    /** Devices that went with a part of it spent and are remembered; the oldest is forgotten. */
    away: 10_000,
  },
  /** Denylists that devices bring at a time, in parts. Past it the one that waits longest is dropped. */
  listsBrought: 4,
  /** Devices known for a denylist that nobody signed: no more is taken of them; the oldest is forgotten. */
  liars: 1_024,
  /** Between two looks for a denylist that was laid into the data directory, in milliseconds. */
  importLookMs: 500,
  /** What became of it is kept for whoever laid it there for so long, in milliseconds. */
  importAnswerMs: 60_000,
  /** Further drops for one reason are counted for so long, and reported together, in milliseconds. */
  dropsReportMs: 10_000,
  /**
   * An MQTT packet other than PUBLISH, in bytes. Nothing but one CONNECT of that size is read before
   * it is accepted: what a stranger can make the broker hold.
   */
  controlPacketBytes: 4 * 1024,
  /** Levels of a topic or a filter: those of the protocol's longest. The connection is closed above it. */
  topicLevels: 6,
  /** From a TCP connection to its CONNECT packet, in milliseconds. */
  connectTimeoutMs: 10_000,
  /** A device that reads nothing for so long is disconnected, in milliseconds. */
  drainTimeoutMs: 30_000,
  /**
   * Connections that ask for a certificate and are nothing else: at a time, of one address, and how long
   * one may stay, in milliseconds. Past a bound a further one is refused; devices are not touched.
   */
  petitioners: 256,
  petitionersOfAddress: 64,
  petitionerMs: 60_000,
  /** Requests for certificates that are passed on at a time. A further one is refused with `busy`. */
  petitions: 64,
  /** Between two looks whether what connected devices showed still counts, in milliseconds. */
  accessSweepMs: 60_000,
  /**
   * What ended while the site was cut off is taken for so long after the link is back, in milliseconds: time
   * for devices to come and have it renewed.
   */
  graceAfterCutMs: 24 * 60 * 60_000,
  /** Between two notes that the link is there, in milliseconds: what a SIGKILL adds to a cut. */
  linkNoteMs: 60 * 60_000,
  /** Keepalive a device may ask for, in seconds. None at all is refused: its death would go unnoticed. */
  keepaliveSecondsMax: 120,
  /** Unsent bytes to one device above which the broker stops reading from it. */
  deviceBacklogBytes: 1024 * 1024,

  /**
   * Rounds open at a time. A further one is refused with `busy`. Those that have handed over their
   * first stretch of site rounds are counted apart: as many, and the oldest ends.
   */
  openRounds: 8,
  /** Sealed rounds whose contributors are remembered, so that a repeated update finds its receipt. */
  ledgerRounds: 64,
  /** A block of one of the index's tables, expanded, in bytes. A larger one is taken for damage. */
  indexBlockBytes: 256 * 1024 * 1024,
  /** Updates that wait for an upload slot. A further `begin` is refused with `busy`. */
  waitingBegins: 10_000,
  /** Bytes that a device may have unacknowledged during an upload. */
  windowBytes: 1024 * 1024,
  /** Updates that wait for the next journal commit of one round. A further one is refused with `busy`. */
  pendingCommits: 1_024,
  /** Challenges that wait for their answer. A further one is left out: the cloud asks again. */
  challenges: 16,
  /** Signatures of one device that are checked in one round. A further one is refused with `busy`. */
  signatureChecks: 8,
  /** Rounds of which signed updates are kept; beyond it the oldest go. */
  signedRounds: 4_096,
  /** Free upload buffers kept for reuse, in bytes. */
  pooledBytes: 64 * 1024 * 1024,

  /** A round's journal: one record (an update or a checkpoint), and records waiting, in bytes. */
  journal: { frameBytes: 1024 * 1024 * 1024 + 32 * 1024 * 1024, pendingBytes: 256 * 1024 * 1024 },
  /** The longest that a commit waits for further uploads in progress to share its fsync, in milliseconds. */
  commitDelayMaxMs: 250,
  /** A commit waits one millisecond for so many pending bytes. */
  commitDelayBytesPerMs: 40_000,

  /** Model parts read, encoded and handed to sockets at a time. */
  partSends: 32,
  /**
   * Part requests of one device that wait. A further one is refused with `busy`. More than a device
   * has outstanding: it asks for the next part before the socket reports that the last one is out.
   */
  fetchesPerDevice: 8,
  /** Part requests that wait in all. A further one is refused with `busy`. */
  fetches: 20_000,
  /** Encoded model parts kept in memory, in bytes. */
  partCacheBytes: 16 * 1024 * 1024,
  /** A part request waits so long for a model that is being downloaded, in milliseconds. */
  modelWaitMs: 30_000,
  /** Models wanted from upstream at a time; the oldest want is dropped. */
  wantedModels: 16,
  /** Sessions whose newest published model is announced to devices that connect. */
  publishedSessions: 64,

  /** Devices of gateways below. Further ones are left out, with an event. */
  devicesBelow: 100_000,
  /** Refusals of Partials from below that are answered again; the oldest is judged anew. */
  refusalsBelow: 1_024,
  /** A model that gateways below ask for is waited for so long, in milliseconds; then `unknown-model`. */
  modelBelowWaitMs: 10_000,

  /** Devices in one DevicesChanged message. */
  devicesPerMessage: 500,
  /** A unary call upstream, in milliseconds. */
  callTimeoutMs: 15_000,
  /** From Hello to Welcome, in milliseconds. */
  welcomeTimeoutMs: 10_000,
  /** A transfer upstream or downstream without a byte moving, in milliseconds. */
  stallTimeoutMs: 20_000,
  /** The whole of one transfer, in milliseconds. */
  transferTimeoutMs: 60 * 60_000,
  /** Heartbeat interval asked by the upstream is kept within these, in milliseconds. */
  heartbeatMinMs: 250,
  heartbeatMaxMs: 60_000,

  /** So many failures to send in a row have the bytes of the Partial checked. */
  failuresToCheck: 4,
  /** Between two samples of the gateway's state, and between two writes of telemetry, in milliseconds. */
  sampleMs: 60_000,
  /** Events that go into the logs in a minute. Further ones are counted, and the count is an event. */
  logsPerMinute: 600,
  /** New telemetry waits so long for more to share its message, in milliseconds. */
  telemetryDelayMs: 1_000,
  /** Telemetry without a receipt is sent again after so long, in milliseconds. */
  telemetryRetryMs: 30_000,
  /** Telemetry of a class that is in memory only, in entries; past it the oldest is given up. */
  telemetryTailEntries: 2_000,
  /** Sequences of telemetry that are made durable at a time, ahead of their use. */
  telemetryReserved: 10_000,
  /** One segment file of telemetry, in bytes, and no more than an eighth of the class's budget. */
  telemetrySegmentBytes: 1024 * 1024,
  /** The entries of one telemetry message, in bytes. */
  telemetryMessageBytes: 512 * 1024,
  /** Windows of the uplink. More are a config error. */
  uplinkWindows: 16,
  /** The smallest piece of a Partial that a byte rate waits for, in bytes. */
  ratePieceBytes: 1_024,
  /** The lowest byte rate: a piece a second, so that the upstream sees the transfer move. */
  bytesPerSecondMin: 1_024,

  /** Sealed Partials in the outbox. At this count updates are refused with `storage-full`. */
  outboxPartials: 10_000,
  /**
   * So many Partials on one base are merged while they wait: each of them but the sum is written
   * twice at most, and the sum once more for every further `mergeWaiting - 1`.
   */
  mergeWaiting: 4,
  /** Partials of one gateway below that are known again when they are sent again; the oldest are forgotten. */
  receivedPartials: 1_024,
  /** Partials that ended without a receipt and are kept on record; the oldest are forgotten. */
  expiries: 1_024,
  /** Free space without which a start lets the ballast go first: its lock and index write, in bytes. */
  startBytes: 1024 * 1024,
  /** How long a reading of the free disk space is trusted, in milliseconds. */
  freeSpaceTtlMs: 1_000,
  /** How long a reading of the index's size is trusted, in milliseconds. */
  indexSizeTtlMs: 60_000,
  /** Between two looks whether a disk that took no more does again, in milliseconds. */
  storageTickMs: 1_000,
  /** From the start to the first write of the site's time; each next wait is twice as long, in milliseconds. */
  timeFirstWriteMs: 1_000,
  /** Between two writes of the site's time at most, in milliseconds: what a SIGKILL can make it repeat. */
  timeWriteMs: 60_000,
  /** A wall clock that is further than this from the upstream's time is reported, in milliseconds. */
  clockSkewMs: 30_000,
  /**
   * Site rounds without an uplink that nobody contributes to: the pause after the first, in
   * milliseconds. Each in a row doubles it, up to the longest.
   */
  sitePauseFirstMs: 5_000,
  sitePauseMaxMs: 15 * 60_000,
  /** Between two writes of how fast the buffer fills, in milliseconds. */
  rateWriteMs: 10 * 60_000,
  /** Ends of Partials that the status shows. */
  statusEnds: 8,
  /** Deliveries from which the time to send what waits is estimated. */
  statusDeliveries: 16,
  /** Connections to the status page. Further ones are closed on arrival. */
  statusConnections: 64,
  /** Requests on one of them; then it is closed. */
  statusRequestsPerSocket: 1_000,
  /** A request's headers to the status page, in bytes. */
  statusHeaderBytes: 8 * 1024,
  /** From a connection, or the last answer, to a whole request, in milliseconds. */
  statusRequestMs: 5_000,
  /** A connection to the status page on which nothing moves, in milliseconds. */
  statusIdleMs: 10_000,
  /** Between two attempts to seal a round whose Partial could not be written, in milliseconds. */
  sealRetryMs: 2_000,

  /** From a call to a connection that is up, and to the end of its TLS handshake, in milliseconds. */
  connectMs: 15_000,
  /** The authority's answer to an enrolment or a renewal, in bytes. A longer one is a failure. */
  grantBytes: 4 * 1024 * 1024,
  /** Waits between attempts to enrol, where the cloud is away or somebody must accept it first. */
  enrolBackoff: { baseMs: 2_000, capMs: 60_000 },
  /** Waits between attempts to renew the own certificate. */
  renewalBackoff: { baseMs: 30_000, capMs: 60 * 60_000 },
  /** Between looks at whether it is due, at most, in milliseconds: the clock may have been set. */
  renewalLookMs: 60 * 60_000,
  /** After a renewal the next one follows no sooner, in milliseconds, however short certificates live. */
  renewalPauseMs: 1_000,
} as const;
