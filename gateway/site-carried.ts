import type { SiteState } from "./site-state.js";

/**
 * Samples of earlier site rounds that count beside those of a device: of all but itself and those
 * whose newest contribution is of this round.
 */
export function carriedFrom(state: SiteState | undefined) {
  const samplesOf = new Map(
    state?.work.contributors.map(({ device, samples }) => [device, samples]),
  );
  const total = [...samplesOf.values()].reduce((sum, samples) => sum + samples, 0);
  let replaced = { contributors: 0, samples: 0 };
  return (device: string, contributed: ReadonlyMap<string, string>): number => {
    if (replaced.contributors !== contributed.size) {
      let samples = 0;
      for (const name of contributed.keys()) samples += samplesOf.get(name) ?? 0;
      replaced = { contributors: contributed.size, samples };
    }
    const own = contributed.has(device) ? 0 : (samplesOf.get(device) ?? 0);
    return total - replaced.samples - own;
  };
}
