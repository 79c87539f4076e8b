import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type BenchLine, figure, median } from "./line.js";
import { benchModel, GATEWAY, SESSION, SITE } from "./plan.js";
import { readCpuMs } from "./proc.js";
import { onStage, type Stage, type Tier, waitFor } from "./stage.js";

export type OverheadSize = {
  readonly devices: number;
  readonly parameters: number;
  /** Rounds that count. */
  readonly rounds: number;
  /** Rounds before them, while the compilers are still at work. */
  readonly warmUp: number;
};

const BENCH = "overhead";
const LIMIT_MS = 180_000;
/** Between two looks at the cloud's log: seldom, as a look takes time from what is measured. */
const LOOK_MS = 200;
const BAR_MS = 100;

/**
 * The way of a round, in the order of time: the event that ends each stretch, the tier whose log
 * has it, and whether the first or the last of its kind in the round counts.
 */
const stretches = [
  { event: "round-opened", tier: "gateway", which: "first", name: "plan to open at the gateway" },
  { event: "offer", tier: "device", which: "last", name: "to the last device's offer" },
  { event: "trained", tier: "device", which: "last", name: "to trained" },
  { event: "begun", tier: "device", which: "last", name: "to durable in the slot, begun" },
  { event: "receipt", tier: "device", which: "last", name: "to the last receipt" },
  { event: "round-sealed", tier: "gateway", which: "last", name: "to sealed" },
  { event: "partial-accepted", tier: "cloud", which: "last", name: "to accepted by the cloud" },
  { event: "model-made", tier: "cloud", which: "first", name: "to the model" },
  { event: "model-published", tier: "cloud", which: "first", name: "to published" },
] as const;

type TierName = "cloud" | "gateway" | "device";
type Tiers = Readonly<Record<TierName, Tier>>;

/** When an event happened first and last in a round, by `<tier> <event> <round>`. */
type Times = ReadonlyMap<string, { readonly first: number; readonly last: number }>;

/**
 * What the system adds to a round: a real cloud, gateway and devices with durable slots, and a
 * trainer that returns at once. Times are those of the tiers' own logs, from the cloud's
 * `round-opened` to its `model-published`.
 */
export function benchOverhead(size: OverheadSize, signal: AbortSignal): Promise<BenchLine[]> {
  return onStage(LIMIT_MS, signal, async (stage) => {
    const tiers = await startTiers(stage, size);
    const names = Object.keys(tiers) as TierName[];
    const readAll = () => Promise.all(names.map((name) => readCpuMs(tiers[name].pid)));
    await startSession(`http://127.0.0.1:${tiers.cloud.started.httpPort}/api/v1`, size);
    const ended = async (event: string, model?: string) =>
      (await tiers.cloud.log()).find(
        (line) =>
          line.name === "session-failed" ||
          (line.name === event && (model === undefined || line.model === model)),
      );
    await waitFor(
      "the warm-up ends",
      () => ended("model-published", `${SESSION}.${size.warmUp}`),
      LIMIT_MS,
      LOOK_MS,
    );
    const before = await readAll();
    const end = await waitFor(
      "the session ends",
      () => ended("session-finished"),
      LIMIT_MS,
      LOOK_MS,
    );
    const after = await readAll();
    if (end.name !== "session-finished") throw new Error(JSON.stringify(end));
    const times = await readTimes(tiers);
    return [
      ...report(times, size),
      ...names.map((name, i): BenchLine => {
        const usedMs = (after[i] as number) - (before[i] as number);
        const value = figure(usedMs / size.rounds);
        return { bench: BENCH, case: `processor time a round, ${name} process`, value, unit: "ms" };
      }),
    ];
  });
}

async function readTimes(tiers: Tiers): Promise<Times> {
  const times = new Map<string, { first: number; last: number }>();
  for (const [tier, { log }] of Object.entries(tiers)) {
    for (const line of await log()) {
      const round = line.round ?? line.model;
      if (typeof round !== "string") continue;
      const key = `${tier} ${line.name} ${round}`;
      const atMs = Date.parse(String(line.time));
      const seen = times.get(key);
      if (seen === undefined) times.set(key, { first: atMs, last: atMs });
      else seen.last = atMs;
    }
  }
  return times;
}

async function startTiers(stage: Stage, { devices }: OverheadSize): Promise<Tiers> {
  const { directory } = stage;
  const cloud = await stage.tier({
    tier: "cloud",
    name: "cloud",
    startedEvent: "cloud-started",
    config: { dataDir: join(directory, "cloud"), grpc: { port: 0 }, http: { port: 0 } },
  });
  const gateway = await stage.tier({
    tier: "gateway",
    name: "gateway",
    startedEvent: "gateway-started",
    config: {
      site: SITE,
      gateway: GATEWAY,
      dataDir: join(directory, "gateway"),
      listen: { port: 0 },
      status: { port: 0 },
      upstream: `127.0.0.1:${cloud.started.grpcPort}`,
    },
  });
  const device = await stage.tier({
    tier: "device",
    name: "devices",
    startedEvent: "started",
    config: {
      site: SITE,
      gateway: `mqtt://127.0.0.1:${gateway.started.port}`,
      devices: Array.from({ length: devices }, (_, i) => ({ device: `dev-${i}` })),
      dataDir: join(directory, "devices"),
      trainer: { module: fileURLToPath(new URL("./trainer.js", import.meta.url)) },
    },
  });
  return { cloud, gateway, device };
}

async function startSession(cloudUrl: string, size: OverheadSize): Promise<void> {
  await post(
    `${cloudUrl}/models?name=origin`,
    "application/octet-stream",
    benchModel(size.parameters),
  );
  const session = {
    name: SESSION,
    initialModel: "origin.0",
    rounds: size.warmUp + size.rounds,
    devicesMin: size.devices,
    evaluateEvery: 0,
  };
  await post(`${cloudUrl}/sessions`, "application/json", JSON.stringify(session));
}

async function post(url: string, type: string, body: Uint8Array | string): Promise<void> {
  const headers = { "content-type": type };
  const answer = await fetch(url, { method: "POST", headers, body });
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`);
}

function report(times: Times, { warmUp, rounds, devices, parameters }: OverheadSize): BenchLine[] {
  const at = (tier: string, event: string, round: number, which: "first" | "last"): number => {
    const seen = times.get(`${tier} ${event} ${SESSION}.${round}`);
    if (seen === undefined) throw new Error(`no ${event} of round ${round} in the ${tier}'s log`);
    return seen[which];
  };
  const counted = Array.from({ length: rounds }, (_, i) => warmUp + 1 + i);
  const opened = (round: number) => at("cloud", "round-opened", round, "first");
  const published = (round: number) => at("cloud", "model-published", round, "first");
  const took = (round: number) => published(round) - opened(round);
  const ofMs = (name: string, value: number): BenchLine => ({
    bench: BENCH,
    case: name,
    value: figure(value),
    unit: "ms",
  });
  // Means, so that the stretches add up; of the rounds that a busy moment of the machine missed.
  const middle = counted
    .toSorted((a, b) => took(a) - took(b))
    .slice(Math.floor(rounds / 4), Math.ceil((3 * rounds) / 4));
  return [
    {
      ...ofMs("plan to next model", median(counted.map(took))),
      bar: { atMost: BAR_MS },
      note: `median of ${rounds} rounds; ${devices} devices, ${parameters} parameters`,
    },
    ...stretches.map(({ event, tier, which, name }, i) => {
      const {
        event: from,
        tier: fromTier,
        which: fromWhich,
      } = stretches[i - 1] ?? {
        event: "round-opened",
        tier: "cloud",
        which: "first",
      };
      const stretch = (round: number) =>
        at(tier, event, round, which) - at(fromTier, from, round, fromWhich);
      const note = "mean of the middle half of the rounds";
      return { ...ofMs(`- ${name}`, mean(middle.map(stretch))), note };
    }),
    ofMs(
      "model to next model",
      median(counted.map((round) => published(round) - published(round - 1))),
    ),
  ];
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
