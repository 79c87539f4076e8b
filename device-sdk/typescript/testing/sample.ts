import { createHash } from "node:crypto";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import type { Task } from "../round.js";
import { makeEvaluateUpdate, makeTrainUpdate, type Update } from "../update.js";

/** Small models, plans and updates for this package's tests. */

export const sha256 = (bytes: Uint8Array): string =>
  createHash("sha256").update(bytes).digest("hex");

export type SampleModel = {
  readonly id: string;
  readonly layout: Plan["layout"];
  readonly values: Float32Array;
  readonly file: Uint8Array;
  readonly manifest: Plan["base"];
};

/** A model of one matrix (`size` x 2), each value a little above the one before, and one vector of 2 with `fill`. */
export function sampleModel(id: string, size = 3, fill = 0.5, chunkBytes = 1024): SampleModel {
  const layout = [
    { name: "w", shape: [size, 2] },
    { name: "b", shape: [2] },
  ];
  // Steps of 2^-20 keep every sum with 0.25 exact in float32, and no two chunks alike.
  const values = Float32Array.from({ length: size * 2 + 2 }, (_, i) =>
    i < size * 2 ? fill + i * 2 ** -20 : fill,
  );
  const file = encodeSafetensors(layout, values);
  return { id, layout, values, file, manifest: makeManifest(id, file, sha256, chunkBytes) };
}

export function samplePlan(round: string, base: SampleModel, changes: Partial<Plan> = {}): Plan {
  return {
    version: 1,
    round,
    session: round.slice(0, round.lastIndexOf(".")),
    task: "train",
    base: base.manifest,
    layout: base.layout,
    grid: { fractionBits: [16, 16], range: 4 },
    encoding: "f32",
    saturate: true,
    nMax: 1000,
    totalMax: 1_000_000,
    training: { epochs: 1, learningRate: 0.1 },
    fraction: 1,
    overSelection: 0,
    siteQuorum: 1,
    siteDeadlineMs: 60_000,
    deadlineMs: 120_000,
    siteRounds: 1,
    offlineSiteRounds: 0,
    perSite: false,
    finishFirst: false,
    ...changes,
  };
}

export function sampleTask(round: string, base: SampleModel, changes: Partial<Plan> = {}): Task {
  return { plan: samplePlan(round, base, changes), gateway: "gw-1", deadlineMs: 60_000 };
}

/** The update of a device that moved every weight by `delta`. */
export function sampleUpdate(task: Task, base: SampleModel, delta = 0.25): Update {
  const { plan, gateway } = task;
  const origin = { device: "press-7", gateway, plan };
  const measured = { samples: 10, metrics: { loss: 0.5 } };
  const moved = (from: number, to: number) =>
    base.values.slice(from, to).map((value) => value + delta);
  const bias = base.values.length - 2;
  const weights = new Map([
    ["w", moved(0, bias)],
    ["b", moved(bias, base.values.length)],
  ]);
  const { id, layout, values } = base;
  const stored = { id, digest: base.manifest.digest, layout, values };
  const made =
    plan.task === "train"
      ? makeTrainUpdate(origin, stored, { ...measured, weights })
      : makeEvaluateUpdate(origin, measured);
  if (!made.ok) throw new Error(made.message);
  return made.update;
}
