import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Cloud, type CloudOptions, createCloud } from "../cloud.js";
import { configSchema } from "../config.js";
import type { CloudEvent } from "../events.js";
import type { SessionParams } from "../params.js";
import { sessionParamsSchema } from "../params.js";
import { modelBytes } from "./rounds.js";

export type TestCloud = Cloud & {
  readonly dataDir: string;
  readonly events: CloudEvent[];
  /** Resolves with the first event, past or to come, that matches. */
  event(matches: (event: CloudEvent) => boolean): Promise<CloudEvent>;
};

export async function temporaryDir(): Promise<{ dir: string; remove(): Promise<void> }> {
  const dir = await mkdtemp(join(tmpdir(), "tributary-cloud-"));
  return { dir, remove: () => rm(dir, { recursive: true, force: true }) };
}

export async function startCloud(
  dataDir: string,
  over: Partial<CloudOptions> = {},
): Promise<TestCloud> {
  const events: CloudEvent[] = [];
  let waiting: (() => void)[] = [];
  const config = configSchema.parse({
    dataDir,
    // In the clear: what a test is about is seldom the TLS in front of it.
    grpc: { port: 0, plain: true },
    http: { port: 0, plain: true },
    // The gateways of tests send no heartbeats.
    heartbeatMissedMs: 600_000,
  });
  const cloud = await createCloud({
    config,
    softwareVersion: "test",
    events(event) {
      events.push(event);
      const waking = waiting;
      waiting = [];
      for (const wake of waking) wake();
    },
    ...over,
  });
  return {
    ...cloud,
    dataDir,
    events,
    async event(matches) {
      for (;;) {
        const found = events.find(matches);
        if (found !== undefined) return found;
        await new Promise<void>((resolve) => waiting.push(resolve));
      }
    },
  };
}

/** A session named `s` from the imported model `s.0`. */
export function paramsOf(over: Partial<SessionParams> = {}): SessionParams {
  return sessionParamsSchema.parse({
    name: "s",
    initialModel: "s.0",
    rounds: 2,
    deadlineMs: 60_000,
    absentGraceMs: 100,
    evaluateEvery: 0,
    grid: { fractionBits: 8, range: 1 },
    nMax: 100,
    totalMax: 1_000,
    ...over,
  });
}

export async function importInitialModel(cloud: Pick<Cloud, "models">): Promise<void> {
  const imported = await cloud.models.importFile("s", pieces(modelBytes), 0);
  if (!imported.ok) throw new Error(imported.message);
}

async function* pieces(bytes: Uint8Array) {
  yield bytes;
}
