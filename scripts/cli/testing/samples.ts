import { createHash } from "node:crypto";

/** What a cloud answers with, in full. */

export const nowMs = Date.UTC(2030, 4, 1, 12);

export const session = {
  id: "spring",
  name: "spring",
  state: "running",
  activity: "training",
  reason: null,
  params: { name: "spring", rounds: 30, optimizer: { kind: "fedadam" } },
  head: "spring.11",
  round: {
    id: "spring.12",
    number: 12,
    task: "train",
    base: "spring.11",
    openedAtMs: nowMs,
    deadlineAtMs: nowMs + 60_000,
    expected: 3,
    arrived: 1,
    gateways: [{ gateway: "north-1", roster: 8, folded: 5 }],
  },
  counts: { models: 11, rounds: 12, failedRounds: 0, merged: 240, expired: 3 },
  startedAtMs: nowMs - 3_600_000,
  endedAtMs: null,
  metrics: { accuracy: 0.93125, loss: 0.2201 },
} as const;

export const round = (number: number, state = "committed") => ({
  id: `spring.${number}`,
  session: "spring",
  number,
  task: "train",
  base: `spring.${number - 1}`,
  state,
  rule: state === "failed" ? "sites-quorum" : null,
  model: state === "committed" ? `spring.${number}` : null,
  sites: 3,
  roster: 24,
  partials: 3,
  merged: 24,
  kept: 0,
  expired: 0,
  fromEarlier: 0,
  openedAtMs: nowMs,
  closedAtMs: state === "open" ? null : nowMs + 1_234,
});

export const modelFile = Buffer.from("the bytes of a model, as the cloud has them");

export const model = {
  id: "spring.11",
  digest: createHash("sha256").update(modelFile).digest("hex"),
  bytes: modelFile.length,
  parameters: 50_890,
  parent: "spring.10",
  session: "spring",
  round: "spring.11",
  state: "published",
  weight: 60_000,
  contributors: 24,
  metrics: { accuracy: 0.93125, "evaluation.accuracy": 0.9402 },
  sumDigest: "ab".repeat(32),
  version: 11,
  groups: null,
  fractionBits: [20],
  createdAtMs: nowMs - 60_000,
};

export const gateway = {
  id: "north-1",
  site: "north",
  incarnation: "k3jf",
  softwareVersion: "0.1.0",
  attached: true,
  connectedDevices: 8,
  outboxPartials: 2,
  outboxBytes: 1_700_000,
  oldestAgeMs: 0,
  freeDiskBytes: 81_000_000_000,
  refusals: {},
  duplicatesDropped: 0,
  firstSeenMs: nowMs,
  lastSeenMs: nowMs - 2_000,
};

export const device = {
  id: "press-7",
  site: "north",
  gateway: "north-1",
  sdk: "typescript/0.1.0",
  attributes: {},
  connected: true,
  firstSeenMs: nowMs,
  lastSeenMs: nowMs,
};
