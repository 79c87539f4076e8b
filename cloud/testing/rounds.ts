import { encodePartial } from "@tributary/proto/algebra/frame.js";
import { parameterCount } from "@tributary/proto/algebra/layout.js";
import { metricToFixed, type Partial as Sum } from "@tributary/proto/algebra/partial.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import { type Plan, planSchema } from "@tributary/proto/wire/plan.js";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";

/** Rounds and Partials for tests, as gateways would make them. */

export const layout: Plan["layout"] = [
  { name: "w", shape: [2] },
  { name: "b", shape: [1] },
];
export const initialValues = Float32Array.of(0.5, -1, 2);
export const modelBytes = encodeSafetensors(layout, initialValues);

export function plan(over: Partial<Plan> = {}): Plan {
  return planSchema.parse({
    version: 1,
    round: "s.1",
    session: "s",
    task: "train",
    base: makeManifest("s.0", modelBytes, sha256),
    layout,
    grid: { fractionBits: [8, 8], range: 1 },
    encoding: "i16",
    saturate: true,
    nMax: 100,
    totalMax: 1_000,
    training: {},
    fraction: 1,
    overSelection: 0,
    siteQuorum: 1,
    siteDeadlineMs: 1_000,
    deadlineMs: 2_000,
    ...over,
  });
}

/** Every contributor's delta is 1/4 in every coordinate unless `q` says otherwise (steps of 2^-8). */
export function sumOf(
  of: Plan,
  samples: Readonly<Record<string, number>>,
  {
    q = 64,
    metrics = {},
    site = "s1",
  }: { q?: number; metrics?: Readonly<Record<string, number>>; site?: string | null } = {},
): Sum {
  const contributors = Object.keys(samples)
    .sort()
    .map((device) => ({ round: of.round, device, samples: samples[device] ?? 0, updates: 1 }));
  const weight = contributors.reduce((sum, c) => sum + BigInt(c.samples), 0n);
  const coordinates = of.task === "evaluate" ? 0 : parameterCount(of.layout);
  const metricSums = Object.entries(metrics).map(([name, value]) => {
    const fixed = metricToFixed(value);
    if (typeof fixed !== "bigint") throw new RangeError(fixed.message);
    return [name, { sum: fixed * weight, weight }];
  });
  return {
    site,
    base: of.base.model,
    baseDigest: of.base.digest,
    grid: of.grid,
    layout: of.layout,
    weight,
    contributors,
    metrics: Object.fromEntries(metricSums),
    saturated: 0,
    sum: new BigInt64Array(coordinates).fill(BigInt(q) * weight),
  };
}

export function encodedSum(partial: Sum): { readonly bytes: Uint8Array; readonly digest: string } {
  const bytes = new Uint8Array(Buffer.concat(encodePartial(partial)));
  return { bytes, digest: sha256(bytes) };
}
