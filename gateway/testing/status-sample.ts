import type { StatusView } from "../status-view.js";

const HOUR = 3_600_000;

/** The status of a site that is cut off, with something of everything. */
export const sampleStatus: StatusView = {
  gateway: "gw-north",
  site: "north",
  incarnation: "0123456789abcdef",
  security: { mode: "insecure", certificateEnds: null },
  softwareVersion: "0.1.0",
  upMs: 26 * HOUR,
  link: {
    attached: false,
    sinceMs: 2 * HOUR + 300_000,
    address: "cloud.example:7443",
    upstream: "cloud",
    reason: "nothing was heard for 15000 ms",
    roundTripMs: null,
    brokenAbove: null,
    nextWindowMs: 90 * 60_000,
  },
  waiting: {
    partials: 3,
    bytes: 24_400_000,
    oldestAgeMs: 2 * HOUR,
    classes: [{ name: "results", bytes: 24_400_000, budgetBytes: 400_000_000, evicted: 0 }],
  },
  budget: { bytes: 400_000_000, usedBytes: 300_000_000, promisedBytes: 8_000_000 },
  rate: { measuredMs: 20 * HOUR, bytesPerHour: 12_000_000, hoursUntilFull: 7.6 },
  drain: { bytesPerSecond: 125_000, basis: "configured", ms: 195_200 },
  idle: null,
  rounds: [
    { round: "fit.12", offered: 12, folded: 9, declined: 1, sealed: false, atWork: [] },
    { round: "fit.11", offered: 12, folded: 7, declined: 0, sealed: true, atWork: ["gw-hall-1"] },
  ],
  devices: 11,
  gatewaysBelow: ["gw-hall-1"],
  refusals: { "storage-full": 2 },
  duplicates: 4,
  disk: { freeBytes: 52_000_000_000, reserveBytes: 268_435_456 },
  clock: {
    trusted: false,
    now: "2026-11-24T14:58:03.000Z",
    floor: "2026-11-24T14:58:03.000Z",
    offsetMs: -5 * HOUR,
  },
  denylist: { sequence: 1_900_000_000, entries: 2, ageMs: 4 * HOUR },
  ends: [{ agoMs: 3 * HOUR, outcome: "merged", rule: "", round: "fit.10", bytes: 8_100_000 }],
};
