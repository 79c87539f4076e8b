import { sessionParamsSchema } from "../params.js";
import type {
  ContributionRow,
  DeviceRow,
  GatewayRow,
  ModelRow,
  OpenRound,
  PartialRow,
  SessionProgress,
  SessionRow,
} from "../store/rows.js";
import type { RoundEnd } from "../store/store.js";

/** Rows as tests of stores write them. */

export const progress = (session: string, nextRound: number): SessionProgress => ({
  state: "running",
  reason: null,
  head: `${session}.0`,
  nextRound,
  failedRounds: 0,
  evaluated: null,
});

export const sessionRow = (id: string): SessionRow => ({
  id,
  params: sessionParamsSchema.parse({ name: id, initialModel: `${id}.0` }),
  ...progress(id, 1),
  createdAtMs: 1_700_000_000_000,
  updatedAtMs: 1_700_000_000_000,
});

export const modelRow = (session: string, number: number): ModelRow => ({
  id: `${session}.${number}`,
  digest: `${number}`.padStart(64, "0"),
  bytes: 4096,
  parameters: 1000,
  parent: number === 0 ? null : `${session}.${number - 1}`,
  version: number,
  session,
  round: number === 0 ? null : `${session}.${number}`,
  state: number === 0 ? "published" : "candidate",
  weight: number === 0 ? 0 : 2 ** 52 + 1,
  contributors: 2,
  metrics: { loss: 0.1 + 0.2, accuracy: 1 / 3 },
  sumDigest: number === 0 ? null : "ab".repeat(32),
  groups:
    number === 0
      ? null
      : [
          {
            base: `${session}.${number - 1}`,
            age: 0,
            site: null,
            coefficient: 0.1 + 0.2,
            samples: 2 ** 52 + 1,
            contributors: 2,
            carried: 0,
            sumDigest: "ab".repeat(32),
          },
        ],
  fractionBits: number === 0 ? null : [20, 16],
  createdAtMs: 1_700_000_000_000 + number,
});

export const openRound = (session: string, number: number): OpenRound => ({
  id: `${session}.${number}`,
  session,
  number,
  task: "train",
  base: `${session}.${number - 1}`,
  state: "open",
  rule: null,
  model: null,
  sites: 2,
  roster: 3,
  partials: 0,
  merged: 0,
  kept: 0,
  expired: 0,
  fromEarlier: 0,
  openedAtMs: 1_700_000_000_100,
  closedAtMs: null,
  plan: Uint8Array.of(0, 1, 255, 92, 120, 0),
  rosters: { g1: ["d1", "d2"], g2: ["d3"] },
  siteRosters: { s1: ["d1"], s2: ["d2", "d3"] },
  incarnations: { g1: "i1", g2: "i7" },
});

export const contribution = (session: string, round: number, device: string): ContributionRow => ({
  session,
  round,
  stretch: 0,
  device,
  gateway: "g1",
  samples: 2 ** 40,
  updates: 3,
  outcome: "model",
  rule: null,
  model: `${session}.${round}`,
});

export const partialRow = (round: string, sequence: number): PartialRow => ({
  gateway: "g1",
  incarnation: round.replace(".", "-"),
  sequence,
  digest: "cd".repeat(32),
  session: round.slice(0, round.indexOf(".")),
  round,
  site: "site-g1",
  base: `${round.slice(0, round.indexOf("."))}.0`,
  bytes: 2 ** 30,
  weight: 2 ** 41,
  contributors: 2,
  outcome: "merged",
  rule: null,
  retained: false,
  receivedAtMs: 1_700_000_000_150,
});

export const roundEnd = (session: string, number: number, devices: string[]): RoundEnd => ({
  round: `${session}.${number}`,
  state: "committed",
  rule: null,
  closedAtMs: 1_700_000_000_200,
  model: modelRow(session, number),
  partials: [partialRow(`${session}.${number}`, 1)],
  contributions: devices.map((device) => contribution(session, number, device)),
  progress: { ...progress(session, number + 1), head: `${session}.${number}` },
});

export const gatewayRow = (id: string): GatewayRow => ({
  id,
  site: `site-${id}`,
  incarnation: "i1",
  softwareVersion: "0.1.0",
  attached: true,
  connectedDevices: 3,
  outboxPartials: 1,
  outboxBytes: 2 ** 41,
  oldestAgeMs: 12,
  freeDiskBytes: 2 ** 45,
  refusals: { "not-finite": 2 },
  duplicatesDropped: 4,
  budgetBytes: 2 ** 33,
  roundTripMs: 12,
  clockOffsetMs: -(2 ** 40),
  classes: { results: { bytes: 2 ** 32, budgetBytes: 2 ** 33, evicted: 0 } },
  firstSeenMs: 1,
  lastSeenMs: 2,
});

export const deviceRow = (id: string, gateway: string): DeviceRow => ({
  id,
  site: `site-${gateway}`,
  gateway,
  via: `above-${gateway}`,
  sdk: "typescript/0.1.0",
  attributes: { os: "linux", cores: 4, mains: true },
  connected: true,
  firstSeenMs: 1,
  lastSeenMs: 2,
});
