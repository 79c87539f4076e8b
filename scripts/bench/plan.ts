import { encodingFor, type Grid } from "@tributary/proto/algebra/grid.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { FRACTION_BITS, gridValues, RANGE } from "./values.js";

export const SESSION = "bench";
export const SITE = "plant";
export const GATEWAY = "gw-1";

const grid: Grid = { fractionBits: [FRACTION_BITS], range: RANGE };

/** A model file of so many parameters in one tensor. */
export function benchModel(parameters: number): Uint8Array {
  return encodeSafetensors(layoutOf(parameters), gridValues(parameters));
}

function layoutOf(parameters: number): Plan["layout"] {
  return [{ name: "w", shape: [parameters] }];
}

/** Makes the plans of a session whose rounds all start from `model`. */
export function benchPlans(parameters: number, model: Uint8Array): (round: number) => Plan {
  const base = makeManifest(`${SESSION}.0`, model, sha256, wire.chunkBytes);
  return (round) => ({
    version: 1,
    round: `${SESSION}.${round}`,
    session: SESSION,
    task: "train",
    base,
    layout: layoutOf(parameters),
    grid: { fractionBits: [...grid.fractionBits], range: grid.range },
    encoding: encodingFor(grid),
    saturate: true,
    nMax: 1_000,
    totalMax: 1_000_000,
    training: {},
    fraction: 1,
    overSelection: 0,
    siteQuorum: 1,
    siteDeadlineMs: 300_000,
    deadlineMs: 600_000,
    siteRounds: 1,
    offlineSiteRounds: 0,
    perSite: false,
    finishFirst: false,
  });
}
