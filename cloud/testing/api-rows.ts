import { sessionParamsSchema } from "../params.js";
import type { ModelRow, SessionProgress } from "../store/rows.js";
import type { Store } from "../store/store.js";

/** One session with three rounds of three devices, its fleet and five events. */
export async function seed(store: Store): Promise<void> {
  const progress = (nextRound: number): SessionProgress => ({
    state: "running",
    reason: null,
    head: `alpha.${nextRound - 1}`,
    nextRound,
    failedRounds: 0,
    evaluated: null,
  });
  await store.addSession({
    id: "alpha",
    params: sessionParamsSchema.parse({ name: "alpha", initialModel: "alpha.0" }),
    ...progress(1),
    createdAtMs: 1,
    updatedAtMs: 1,
  });
  await store.addModel(modelOf(0));
  for (const number of [1, 2, 3]) {
    const round = `alpha.${number}`;
    await store.openRound({
      id: round,
      session: "alpha",
      number,
      task: "train",
      base: `alpha.${number - 1}`,
      state: "open",
      rule: null,
      model: null,
      sites: 1,
      roster: 3,
      partials: 0,
      merged: 0,
      kept: 0,
      expired: 0,
      fromEarlier: 0,
      openedAtMs: 1,
      closedAtMs: null,
      plan: new Uint8Array(3),
      rosters: { g1: ["d1", "d2", "d3"] },
      siteRosters: {},
      incarnations: { g1: "i1" },
    });
    const devices = ["d3", "d1", "d2"];
    await store.endRound({
      round,
      state: "committed",
      rule: null,
      closedAtMs: 2,
      model: modelOf(number),
      partials: [],
      contributions: devices.map((device) => ({
        session: "alpha",
        round: number,
        device,
        gateway: "g1",
        samples: 5,
        updates: 1,
        stretch: 0,
        outcome: "model",
        rule: null,
        model: round,
      })),
      ...(number === 1 && {
        evaluation: {
          round,
          session: "alpha",
          model: round,
          against: null,
          passed: true,
          weight: 5,
          contributors: 1,
          metrics: { accuracy: 0.5 },
          atMs: 2,
        },
      }),
      progress: progress(number + 1),
    });
  }
  await seedFleet(store);
}

function modelOf(number: number): ModelRow {
  return {
    id: `alpha.${number}`,
    digest: `${number}`.padStart(64, "0"),
    bytes: 100,
    parameters: 10,
    parent: number === 0 ? null : `alpha.${number - 1}`,
    version: number,
    session: "alpha",
    round: number === 0 ? null : `alpha.${number}`,
    state: number === 0 ? "published" : "candidate",
    weight: number,
    contributors: 3,
    metrics: { loss: 1 / 3 },
    sumDigest: null,
    groups: null,
    fractionBits: [20],
    createdAtMs: 1,
  };
}

async function seedFleet(store: Store): Promise<void> {
  const seen = { firstSeenMs: 1, lastSeenMs: 2 };
  await store.saveGateways(
    ["g2", "g1", "g3"].map((id) => ({
      id,
      site: `s${id.slice(1)}`,
      incarnation: "i1",
      softwareVersion: "0.1.0",
      attached: true,
      connectedDevices: 2,
      outboxPartials: 0,
      outboxBytes: 0,
      oldestAgeMs: 0,
      freeDiskBytes: 2 ** 40,
      refusals: { "not-finite": 1 },
      duplicatesDropped: 0,
      budgetBytes: 2 ** 30,
      roundTripMs: 3,
      clockOffsetMs: -5,
      classes: { logs: { bytes: 10, budgetBytes: 2 ** 20, evicted: 1 } },
      ...seen,
    })),
  );
  await store.saveDevices(
    [1, 2, 3].map((number) => ({
      id: `d${number}`,
      site: number === 3 ? "s2" : "s1",
      gateway: number === 3 ? "g2" : "g1",
      via: number === 3 ? "g2" : "g1",
      sdk: "typescript/0.1.0",
      attributes: { cores: 4, os: "linux", mains: false },
      connected: true,
      ...seen,
    })),
  );
  await store.appendEvents(
    [1, 2, 3, 4, 5].map((at) => ({
      atMs: at,
      level: "info",
      name: "round-opened",
      fields: { at, round: "alpha.1" },
    })),
  );
}
