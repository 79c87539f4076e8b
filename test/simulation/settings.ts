import { type SessionParams, sessionParamsSchema } from "@tributary/cloud/params.js";
import { type Random, seededRandom } from "@tributary/proto/host/random.js";
import type { Weather } from "./network.js";
import type { Pace } from "./slow.js";

/** What a seed picks: who is there, what the session asks for, and what goes wrong how often. */
export type Settings = {
  readonly seed: number;
  readonly gateways: readonly GatewaySettings[];
  readonly session: SessionParams;
  /** Values of the model's tensors. */
  readonly tensors: readonly number[];
  /** How long things go wrong. */
  readonly faultsMs: number;
  readonly weather: Weather;
  readonly duplicateRate: number;
  readonly pace: Pace;
  readonly trainingMostMs: number;
  /** Chance that a tier goes down within `hitWithinMs` of an event that it reports. */
  readonly hitRate: number;
  readonly hitWithinMs: number;
  /** Mean time between two faults of a kind; a kind that is left out does not happen. */
  readonly everyMs: Readonly<Partial<Record<FaultKind, number>>>;
};

export type GatewaySettings = {
  readonly name: string;
  readonly site: string;
  /** The cloud, or the gateway above this one. */
  readonly above: string;
  readonly devices: readonly DeviceSettings[];
  readonly uploadSlots: number;
};

export type DeviceSettings = {
  readonly name: string;
  /** Whether it keeps what it owes over a restart. */
  readonly disk: boolean;
};

export const faultKinds = [
  "power-cut",
  "kill",
  "stop",
  "cut",
  "one-way",
  "partition",
  "disk-full",
  "disk-read-only",
  "disk-sync",
  "wall-step",
  "store-away",
  "session-stop",
  "flip",
] as const;
/** What changes in a fleet: drawn apart from the rest, and in fewer seeds. */
export const changeKinds = ["roam", "replace"] as const;
export type FaultKind = (typeof faultKinds)[number] | (typeof changeKinds)[number];

/** Draws that read like what they decide. */
export function drawer(random: Random) {
  const between = (least: number, most: number) => least + random.next() * (most - least);
  return {
    between,
    /** A whole number from `least` to `most`, both included. */
    whole: (least: number, most: number) => Math.floor(between(least, most + 1)),
    chance: (rate: number) => random.next() < rate,
    of: <T>(values: readonly T[]): T => values[Math.floor(random.next() * values.length)] as T,
    /** Spread over orders of magnitude. */
    scaled: (least: number, most: number) => Math.exp(between(Math.log(least), Math.log(most))),
  };
}
export type Drawer = ReturnType<typeof drawer>;

export function settingsOf(seed: number): Settings {
  const draw = drawer(seededRandom(`settings ${seed}`));
  const gateways = drawGateways(draw);
  const drawn = drawSites(
    drawer(seededRandom(`sites ${seed}`)),
    gateways,
    drawSession(draw, gateways),
  );
  const siteMs = drawn.deadlineMs - drawn.uploadWindowMs;
  const everyMs: Partial<Record<FaultKind, number>> = {};
  for (const kind of faultKinds) if (draw.chance(0.4)) everyMs[kind] = draw.scaled(5_000, 90_000);
  const changes = drawer(seededRandom(`changes ${seed}`));
  for (const kind of changeKinds)
    if (changes.chance(0.15)) everyMs[kind] = changes.scaled(10_000, 60_000);
  const tensors = Array.from({ length: draw.whole(1, 3) }, () => draw.whole(1, 5));
  const faultsMs = draw.between(20_000, 150_000);
  const weather = {
    delayLeastMs: 1,
    delayMostMs: draw.scaled(2, 400),
    lossRate: draw.chance(0.5) ? draw.between(0, 0.1) : 0,
    lossDelayMs: draw.scaled(200, 4_000),
  };
  const duplicateRate = draw.chance(0.5) ? draw.between(0, 0.2) : 0;
  const pace = { leastMs: 0.1, mostMs: draw.scaled(0.5, 80) };
  return {
    seed,
    gateways,
    session: inTime(drawn, gateways, weather, pace),
    tensors,
    faultsMs,
    weather,
    duplicateRate,
    pace,
    trainingMostMs: (siteMs * draw.scaled(0.02, 0.5)) / drawn.siteRounds,
    hitRate: draw.chance(0.6) ? draw.scaled(0.002, 0.1) : 0,
    hitWithinMs: draw.scaled(1, 100),
    everyMs,
  };
}

function drawGateways(draw: Drawer): GatewaySettings[] {
  const count = draw.whole(1, 4);
  // Most fleets are flat; in others some gateways stand above the rest, up to four tiers in all.
  const tree = draw.chance(0.4);
  let devices = 0;
  return Array.from({ length: count }, (_, at) => {
    const name = `g${at + 1}`;
    const above = tree ? aboveOf(draw, at) : "cloud";
    const regional = tree && at === 0 && count > 1;
    return {
      name,
      // Now and then two gateways serve one site.
      site: at > 0 && draw.chance(0.2) ? `s${at}` : `s${at + 1}`,
      above,
      uploadSlots: draw.whole(1, 3),
      devices: Array.from({ length: draw.whole(regional ? 0 : 1, 4) }, () => ({
        name: `d${++devices}`,
        disk: draw.chance(0.85),
      })),
    };
  });
}

/** What stands above a gateway of a tree: the first has one below it, and none has five tiers. */
function aboveOf(draw: Drawer, at: number): string {
  if (at === 0) return "cloud";
  return at === 1 ? "g1" : draw.of(["cloud", "g1", "g2"]);
}

function drawSession(draw: Drawer, gateways: readonly GatewaySettings[]): SessionParams {
  // Sites as the cloud tells them apart whether or not it looks below the gateways that it knows.
  const top = gateways.filter(({ above }) => above === "cloud");
  const sites = Math.min(
    new Set(top.map(({ site }) => site)).size,
    new Set(gateways.filter(({ devices }) => devices.length > 0).map(({ site }) => site)).size,
  );
  const fraction = draw.chance(0.7) ? 1 : draw.between(0.3, 1);
  const devices = gateways.reduce((sum, gateway) => sum + gateway.devices.length, 0);
  // A quorum that cannot be met would be waited for in vain.
  const pairs =
    fraction === 1 && gateways.every((gateway) => gateway.devices.length > 1) && draw.chance(0.5);
  const uploadWindowMs = draw.whole(2_000, 6_000) * (top.length < gateways.length ? 2 : 1);
  const deadlineMs = uploadWindowMs + draw.whole(2_000, 25_000);
  const nMax = draw.of([1, 10, 1_000, 2 ** 20]);
  const fractionBits = draw.whole(0, 20);
  return sessionParamsSchema.parse({
    name: "s",
    initialModel: "s.0",
    rounds: draw.whole(2, 5),
    deadlineMs,
    uploadWindowMs,
    absentGraceMs: draw.whole(0, Math.min(8_000, deadlineMs)),
    siteQuorum: pairs ? 2 : 1,
    sitesQuorum: draw.whole(1, sites),
    fraction,
    aggregation: drawAggregation(draw, devices, pairs),
    overSelection: draw.chance(0.7) ? 0 : draw.between(0, 2),
    optimizer: drawOptimizer(draw),
    grid: { fractionBits, range: draw.of([0.5, 1, 4]) },
    saturate: draw.chance(0.8),
    nMax,
    totalMax: nMax * devices * draw.of([1, 2, 100]),
    evaluateEvery: draw.chance(0.6) ? 0 : draw.whole(1, 3),
    gate: { metric: "accuracy", tolerance: 1 },
    failedRoundsMax: 1_000_000,
    seed: draw.whole(0, 1_000_000),
  });
}

/** What sites do on their own, and optimisers beyond the first three: in a part of the seeds. */
function drawSites(
  draw: Drawer,
  gateways: readonly GatewaySettings[],
  plain: SessionParams,
): SessionParams {
  const rounds = draw.chance(0.35)
    ? {
        siteRounds: draw.of([1, 2, 2, 3, 4]),
        offlineSiteRounds: draw.chance(0.3) ? 0 : draw.whole(1, 6),
        // What a site adds up may outgrow the range.
        saturate: true,
        // A site round has its share of the time only, and is over for whoever misses it.
        siteQuorum: 1,
      }
    : {};
  const aggregation = draw.chance(0.2) ? { aggregation: drawMemory(draw, gateways) } : {};
  const optimizer = draw.chance(0.15)
    ? {
        optimizer: draw.of([
          { kind: "fedyogi", eta: 0.1, beta1: 0.9, beta2: 0.99, tau: 1e-3 },
          { kind: "fedadagrad", eta: 0.1, beta1: 0.5, tau: 1e-3 },
        ] as const),
      }
    : {};
  return sessionParamsSchema.parse({ ...plain, ...rounds, ...aggregation, ...optimizer });
}

/**
 * The session with the time that its site rounds need. Each tier keeps at most a quarter of the time
 * that is left for a Partial from below to be made durable and to travel; where no Partial can be that
 * fast, every round ends with nothing in it.
 */
function inTime(
  session: SessionParams,
  gateways: readonly GatewaySettings[],
  { delayMostMs }: Weather,
  { mostMs }: Pace,
): SessionParams {
  const hops = Math.max(...gateways.map((gateway) => hopsAbove(gateways, gateway)));
  if (hops === 0 || (session.siteRounds === 1 && session.offlineSiteRounds === 0)) return session;
  // About what the end of a site round, composing and a hop take of calls to a disk and of messages.
  const hopMs = Math.ceil(20 * mostMs + 8 * delayMostMs);
  const uploadWindowMs = Math.max(session.uploadWindowMs, hopMs);
  const siteMs = Math.max(
    session.deadlineMs - session.uploadWindowMs,
    Math.ceil(4 * hopMs * (4 / 3) ** (hops - 1)),
  );
  return { ...session, uploadWindowMs, deadlineMs: uploadWindowMs + siteMs };
}

/** Gateways between one and the cloud. */
function hopsAbove(gateways: readonly GatewaySettings[], { above }: GatewaySettings): number {
  const next = gateways.find(({ name }) => name === above);
  return next === undefined ? 0 : 1 + hopsAbove(gateways, next);
}

function drawMemory(
  draw: Drawer,
  gateways: readonly GatewaySettings[],
): SessionParams["aggregation"] {
  const halfLife = draw.of([0.2, 0.5, 1, 10]);
  const sites = new Set(gateways.map(({ site }) => site));
  const populations = Object.fromEntries([...sites].map((site) => [site, draw.whole(1, 1_000)]));
  return { kind: "site-memory", halfLife, ...(draw.chance(0.6) && { populations }) };
}

function drawOptimizer(draw: Drawer): SessionParams["optimizer"] {
  if (draw.chance(0.6)) return { kind: "fedavg", learningRate: draw.of([1, 0.7]) };
  if (draw.chance(0.5)) return { kind: "fedavgm", learningRate: 1, momentum: 0.9 };
  return { kind: "fedadam", eta: 0.1, beta1: 0.9, beta2: 0.99, tau: 1e-3 };
}

function drawAggregation(
  draw: Drawer,
  devices: number,
  pairs: boolean,
): SessionParams["aggregation"] {
  const staleness = draw.of([
    { kind: "polynomial", exponent: 0.5 },
    { kind: "hinge", a: 10, b: 1 },
    { kind: "constant" },
  ] as const);
  const maxStaleness = draw.of([0, 1, 20]);
  // Counting contributors and asking for a quorum of sites exclude each other.
  if (pairs || draw.chance(0.7)) return { kind: "sync", staleness, maxStaleness };
  return { kind: "buffered", contributors: draw.whole(1, devices), staleness, maxStaleness };
}
