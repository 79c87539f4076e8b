import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createAccumulator } from "@tributary/proto/algebra/accumulator.js";
import { decodePartial, encodePartial } from "@tributary/proto/algebra/frame.js";
import { meanFloat64, type Partial } from "@tributary/proto/algebra/partial.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import fc from "fast-check";
import { addSiteRound, composeSite, type SiteWork, siteModel } from "./site-model.js";

const kernel = loadKernel();
const layout = [
  { name: "a", shape: [3] },
  { name: "b", shape: [2] },
];
const grid = { fractionBits: [6, 3], range: 2 };
const bitsOf = (coordinate: number) => (coordinate < 3 ? 6 : 3);
const base = Float32Array.of(0.5, -1.25, 1 / 3, 0, -7);
const subject = { site: "plant", base: "s.0", baseDigest: "0".repeat(64), grid, layout };
const totalMax = 1_000_000n;

type Update = { device: string; samples: number; steps: number[]; loss: number };

/** The exact sum of a site round, by the parts that sum it at a gateway. */
function sumOf(updates: readonly Update[]): Partial {
  const { site, base: model, baseDigest } = subject;
  const origin = { round: "s.1", site, base: model, baseDigest };
  const accumulator = createAccumulator(kernel, layout, grid, totalMax, origin);
  for (const { device, samples, steps, loss } of updates) {
    const bytes = new Uint8Array(Int16Array.from(steps).buffer);
    const added = accumulator.add(bytes, "i16", { device, samples }, { loss }, 0);
    assert.ok(added.ok);
  }
  const partial = accumulator.snapshot();
  accumulator.release();
  return partial;
}

const workOf = (rounds: readonly (readonly Update[])[]): SiteWork =>
  rounds.reduce<SiteWork | undefined>(
    (work, updates) => addSiteRound(work, sumOf(updates)),
    undefined,
  ) as SiteWork;

/**
 * The same in plain doubles, from the specification alone. Each number below is small enough for
 * each quotient's operands to be exact, so that one division is correctly rounded.
 */
function oracle(rounds: readonly (readonly Update[])[]) {
  const sums = Array.from(base, () => 0);
  const newest = new Map<string, { samples: number; updates: number }>();
  const D = Array.from(base, () => 0);
  for (const updates of rounds) {
    const weight = updates.reduce((n, { samples }) => n + samples, 0);
    for (const i of D.keys()) {
      const s = updates.reduce((n, { samples, steps }) => n + samples * (steps[i] as number), 0);
      D[i] = (D[i] as number) + s / (weight * 2 ** bitsOf(i));
    }
    for (const { device, samples } of updates)
      newest.set(device, { samples, updates: (newest.get(device)?.updates ?? 0) + 1 });
  }
  const weight = [...newest.values()].reduce((n, { samples }) => n + samples, 0);
  let clamped = 0;
  for (const [i, d] of D.entries()) {
    const scaled = d * 2 ** bitsOf(i);
    let q = Math.round(scaled);
    if (Math.abs(scaled - Math.trunc(scaled)) === 0.5) q = 2 * Math.round(scaled / 2);
    const most = 2 * 2 ** bitsOf(i);
    if (Math.abs(q) > most) {
      q = Math.sign(q) * most;
      clamped++;
    }
    sums[i] = weight * q + 0; // no negative zero
  }
  const model = Array.from(base, (w, i) => Math.fround(w + (D[i] as number)));
  const contributors = [...newest]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([device, counted]) => ({ round: "s.1", device, ...counted }));
  return { model, sums, weight, clamped, contributors };
}

const updateOf = (device: string) =>
  fc.record({
    device: fc.constant(device),
    samples: fc.integer({ min: 1, max: 50 }),
    steps: fc.tuple(
      ...Array.from({ length: 5 }, (_, i) => {
        const most = 2 * 2 ** bitsOf(i);
        return fc.integer({ min: -most, max: most });
      }),
    ),
    loss: fc.integer({ min: -1000, max: 1000 }),
  });
const roundOf = fc
  .subarray(["d1", "d2", "d3", "d4"], { minLength: 1 })
  .chain((devices) => fc.tuple(...devices.map(updateOf)));
const siteRounds = fc.array(roundOf, { minLength: 1, maxLength: 6 });

describe("site rounds", () => {
  it("give the oracle's models, sums, weight and contributors to the bit", () => {
    fc.assert(
      fc.property(siteRounds, (rounds) => {
        const work = workOf(rounds);
        const expected = oracle(rounds);
        assert.deepEqual([...siteModel(base, work.delta)], expected.model);
        const partial = composeSite(work, subject);
        assert.deepEqual(partial.contributors, expected.contributors);
        assert.equal(partial.weight, BigInt(expected.weight));
        if (rounds.length === 1) return;
        assert.deepEqual([...partial.sum].map(Number), expected.sums);
        assert.equal(partial.saturated, expected.clamped);
      }),
    );
  });

  it("make a Partial that its frame carries, whatever was clamped", () => {
    fc.assert(
      fc.property(siteRounds, (rounds) => {
        const partial = composeSite(workOf(rounds), subject);
        const read = decodePartial(Buffer.concat(encodePartial(partial)));
        assert.deepEqual(read.ok && read.partial, partial);
      }),
    );
  });

  it("do not depend on the order in which a round's updates arrive", () => {
    fc.assert(
      fc.property(siteRounds, fc.infiniteStream(fc.nat()), (rounds, ranks) => {
        const shuffled = rounds.map((updates) =>
          updates
            .map((update) => ({ update, rank: ranks.next().value as number }))
            .sort((a, b) => a.rank - b.rank)
            .map(({ update }) => update),
        );
        assert.deepEqual(
          encodePartial(composeSite(workOf(shuffled), subject)),
          encodePartial(composeSite(workOf(rounds), subject)),
        );
      }),
    );
  });

  it("of which there is one give that round's own sum", () => {
    fc.assert(
      fc.property(roundOf, (updates) => {
        const sum = sumOf(updates);
        assert.equal(composeSite(addSiteRound(undefined, sum), subject), sum);
        assert.deepEqual(addSiteRound(undefined, sum).delta, meanFloat64(sum));
      }),
    );
  });

  it("keep the newest round's metrics, with that round's weight", () => {
    const [d1, d2] = ["d1", "d2"].map((device) => ({ device, steps: [1, 1, 1, 1, 1] }));
    const work = workOf([
      [{ ...d1, samples: 4, loss: 9 } as Update],
      [{ ...d2, samples: 5, loss: 3 } as Update],
    ]);
    const { metrics, weight } = composeSite(work, subject);
    assert.deepEqual(metrics, { loss: { sum: 15n, weight: 5n } });
    assert.equal(weight, 9n);
  });

  it("clamp to the last grid point within the range, and count it", () => {
    const steps = [128, -128, 0, 16, 1];
    const update = { device: "d1", samples: 3, steps, loss: 0 };
    const { sum, saturated } = composeSite(workOf([[update], [update], [update]]), subject);
    assert.deepEqual([...sum], [384n, -384n, 0n, 48n, 9n]);
    assert.equal(saturated, 3);
  });

  it("return to the grid with ties to even", () => {
    const halves = (a: number, b: number) => [
      { device: "d1", samples: 1, steps: [a, b, 0, 0, 0], loss: 0 },
      { device: "d2", samples: 1, steps: [0, 0, 0, 0, 0], loss: 0 },
    ];
    // Two rounds of mean steps: 0.5 + 0 and 0.5 + 1, that is 0 and 2 on the grid.
    const work = workOf([halves(1, 1), halves(0, 2)]);
    const { sum, weight } = composeSite(work, subject);
    assert.deepEqual([...sum.subarray(0, 2)], [0n * weight, 2n * weight]);
  });

  it("keep sums exact where a product passes 2^53", () => {
    const wide = { fractionBits: [30], range: 1 };
    const one = [{ name: "w", shape: [2] }];
    const weight = 2n ** 30n + 1n;
    const contributor = { round: "s.1", device: "d1", samples: Number(weight), updates: 2 };
    const work: SiteWork = {
      rounds: 2,
      delta: Float64Array.of((2 ** 29 + 1) / 2 ** 30, -0.25),
      start: undefined,
      only: undefined,
      contributors: [contributor],
      metrics: {},
      saturated: 0,
    };
    const { sum } = composeSite(work, { ...subject, grid: wide, layout: one });
    assert.deepEqual([...sum], [weight * (2n ** 29n + 1n), weight * -(2n ** 28n)]);
  });
});
