/**
 * Every bound of the wire protocol, in one place. A message past a bound is refused with the
 * code named beside it and changes no state.
 */
export const limits = {
  /** Protocol versions this build speaks, newest first. Others: `protocol-version`. */
  protocolVersions: [1],
  /** Identifier length in characters (site, gateway, device, session). `malformed`. */
  idChars: 64,
  /** Header of an envelope a device sends, in bytes. `too-large`. */
  upHeaderBytes: 16 * 1024,
  /** Header of an envelope a gateway sends (an offer carries the layout and chunk digests), in bytes. */
  downHeaderBytes: 512 * 1024,
  /** One chunk of a model or of an update, in bytes; a multiple of 8 so that no value is split. */
  chunkBytes: 256 * 1024,
  /** One MQTT packet that a device may send, in bytes; the connection is closed above it. */
  mqttPacketBytes: 256 * 1024 + 16 * 1024 + 1024,
  /** Nesting of a header's CBOR. `too-deep`. */
  headerDepth: 6,
  /** Data items in a header's CBOR. `too-large`. */
  headerItems: 16 * 1024,
  /** A model file or an update, in bytes. `too-large`. */
  modelBytes: 512 * 1024 * 1024,
  /** The archive of a compute package, and what is in it unpacked, in bytes. `package-malformed`. */
  packageBytes: 64 * 1024 * 1024,
  packageUnpackedBytes: 256 * 1024 * 1024,
  /** Files in a compute package, and characters of the path of one. `package-malformed`. */
  packageFiles: 4_096,
  packagePathChars: 200,
  /** Characters of a package's signed statement: it travels in the plan. `package-malformed`. */
  packageStatementChars: 8 * 1024,
  /** Words of a command of a package, characters of one, and variables. `package-malformed`. */
  packageWords: 32,
  packageWordChars: 512,
  packageVariables: 32,
  /** Tensors in a model. `malformed`. */
  tensors: 2048,
  /** Attributes a device announces, and characters of a name or of a text value. `malformed`. */
  attributes: 32,
  attributeChars: 256,
  /** Metrics in an update. `malformed`. */
  metrics: 16,
  /** |value * 2^20| of one metric. `malformed`. */
  metricFixedMax: 2 ** 40,
  /** Samples behind one update, before a plan's own nMax. `bad-sample-count`. */
  samplesMax: 2 ** 40,
  /** Certificates in a chain or among anchors, and characters of one in PEM. `malformed`. */
  certificates: 8,
  certificateChars: 4 * 1024,
  /** Devices one gateway may be assigned in a round, and contributors of a Partial. */
  roster: 10_000,
  /** Contributors in a Partial that reaches the root. */
  contributors: 100_000,
  /** Rounds that one Partial has contributors of. `partial-malformed`; senders merge no further. */
  roundsOfPartial: 1_024,
  /** Updates behind one contributor of a Partial, and site rounds of a round. `partial-malformed`. */
  updatesMax: 100_000,
  /** Gateways on the way to the cloud, and below one gateway, that a message names. `malformed`. */
  tiers: 16,
  gatewaysBelow: 1_024,
  /** Entries, and bytes of one entry, of a telemetry message. `malformed`. */
  telemetryEntries: 500,
  telemetryEntryBytes: 4 * 1024,
  /** Characters of the message beside a code. Cut, not refused. */
  messageChars: 500,
  /** A chunk on the tier link, in bytes. */
  tierChunkBytes: 512 * 1024,
  /** One gRPC message, in bytes. */
  grpcMessageBytes: 4 * 1024 * 1024,
  /** An encoded Partial, in bytes. `too-large`. */
  partialBytes: 1024 * 1024 * 1024,
  /** Keepalive of the tier link: a half-open link is noticed within interval + timeout. */
  keepaliveIntervalMs: 5_000,
  keepaliveTimeoutMs: 5_000,
  /**
   * Keepalive of the device link, in seconds (MQTT 3.1.1, 3.1.2.10). Either side gives a silent link
   * up after one and a half of it.
   */
  mqttKeepaliveSeconds: 8,
} as const;

/** Fraction bits of the fixed-point grid on which metric sums travel. */
export const METRIC_FRACTION_BITS = 20;
