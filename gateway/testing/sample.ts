import { type Encoding, encodingFor, type Grid } from "@tributary/proto/algebra/grid.js";
import { type Layout, parameterCount } from "@tributary/proto/algebra/layout.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Begin } from "@tributary/proto/wire/device-link.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { updatePreimage } from "@tributary/proto/wire/update.js";

/** A model file of any bytes: what is in it concerns only devices and the cloud. */
export const sampleModel = Uint8Array.from({ length: 5_000 }, (_, i) => (i * 31) & 255);

export function samplePlan(changes: Partial<Plan> = {}): Plan {
  const layout: Layout = changes.layout ?? [{ name: "w", shape: [100] }];
  const grid: Grid = changes.grid ?? { fractionBits: layout.map(() => 10), range: 4 };
  const round = changes.round ?? "mnist.1";
  return {
    version: 1,
    round,
    session: round.slice(0, round.lastIndexOf(".")),
    task: "train",
    base: makeManifest("mnist.0", sampleModel, sha256, 1024),
    layout: layout.map(({ name, shape }) => ({ name, shape: [...shape] })),
    grid: { fractionBits: [...grid.fractionBits], range: grid.range },
    encoding: encodingFor(grid),
    saturate: true,
    nMax: 1_000,
    totalMax: 1_000_000,
    training: { epochs: 1 },
    fraction: 1,
    overSelection: 0,
    siteQuorum: 1,
    siteDeadlineMs: 60_000,
    deadlineMs: 90_000,
    siteRounds: 1,
    offlineSiteRounds: 0,
    perSite: false,
    finishFirst: false,
    ...changes,
  };
}

export type SampleUpdate = { readonly begin: Begin; readonly payload: Uint8Array };

/** An update whose every value is `steps` grid steps. */
export function sampleUpdate(
  plan: Plan,
  device: string,
  steps: number,
  changes: Partial<Begin> & { readonly payload?: Uint8Array } = {},
): SampleUpdate {
  const { payload: given, ...header } = changes;
  const count = plan.task === "evaluate" ? 0 : parameterCount(plan.layout);
  const payload = given ?? encodeSteps(plan.encoding, count, steps, plan.grid.fractionBits[0] ?? 0);
  const described = {
    round: plan.round,
    gateway: "gw-1",
    base: plan.base.model,
    baseDigest: plan.base.digest,
    samples: 10,
    encoding: plan.encoding,
    bytes: payload.length,
    saturated: 0,
    metrics: { loss: 1_048_576 },
    ...header,
  };
  const digest = header.digest ?? sha256([updatePreimage(device, described), payload]);
  return { begin: { ...described, digest }, payload };
}

function encodeSteps(encoding: Encoding, count: number, steps: number, fractionBits: number) {
  if (encoding === "i16") return new Uint8Array(new Int16Array(count).fill(steps).buffer);
  if (encoding === "i32") return new Uint8Array(new Int32Array(count).fill(steps).buffer);
  return new Uint8Array(new Float32Array(count).fill(steps / 2 ** fractionBits).buffer);
}
