import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { decodeCbor, encodeCbor } from "../wire/cbor.js";
import { decodePartial, encodePartial } from "./frame.js";
import { merge, type Partial, roundsOf } from "./partial.js";

const sample: Partial = {
  site: "hall",
  base: "s.2",
  baseDigest: "ab".repeat(32),
  grid: { fractionBits: [10, 4], range: 0.75 },
  layout: [
    { name: "w", shape: [2, 1] },
    { name: "b", shape: [] },
  ],
  weight: 12n,
  contributors: [
    { round: "s.9", device: "b", samples: 5, updates: 3 },
    { round: "s.10", device: "a", samples: 7, updates: 1 },
  ],
  metrics: {
    acc: { sum: -5n, weight: 5n },
    loss: { sum: 12n * 2n ** 40n, weight: 12n },
  },
  saturated: 4,
  sum: BigInt64Array.of(12n * 768n, -12n * 768n, 12n * 12n),
};

const joined = (partial: Partial) => new Uint8Array(Buffer.concat(encodePartial(partial)));

function codeOf(bytes: Uint8Array): string {
  const decoded = decodePartial(bytes);
  return decoded.ok ? "accepted" : decoded.code;
}

/** The frame of `sample` with its header changed. */
function reheaded(change: (header: Record<string, unknown>) => void): Uint8Array {
  const bytes = joined(sample);
  const view = new DataView(bytes.buffer);
  const length = view.getUint32(8, true);
  const decoded = decodeCbor(bytes.subarray(12, 12 + length), { depth: 9, items: 999 });
  assert.ok(decoded.ok);
  const header = decoded.value as Record<string, unknown>;
  change(header);
  const cbor = encodeCbor(header);
  const head = new Uint8Array(Math.ceil((12 + cbor.length) / 8) * 8);
  head.set(bytes.subarray(0, 12));
  head.set(cbor, 12);
  new DataView(head.buffer).setUint32(8, cbor.length, true);
  return new Uint8Array(Buffer.concat([head, bytes.subarray(bytes.length - 24)]));
}

test("a Partial comes back as it went, from any alignment and from a Buffer", () => {
  const bytes = joined(sample);
  const shifted = Buffer.concat([Buffer.of(1, 2, 3), bytes]).subarray(3);
  for (const form of [bytes, Buffer.from(bytes), shifted]) {
    const decoded = decodePartial(form);
    assert.ok(decoded.ok, decoded.ok ? "" : decoded.message);
    assert.deepEqual(decoded.partial, sample);
  }
  assert.equal(codeOf(reheaded(() => {})), "accepted");
});

test("a frame of version 1 is read: one round, one update each, no site", () => {
  const current = reheaded((h) => {
    for (const field of ["rounds", "counts", "updates", "site"]) delete h[field];
    h.round = "s.3";
    h.devices = ["a", "b"];
  });
  current[4] = 1;
  const decoded = decodePartial(current);
  assert.ok(decoded.ok, decoded.ok ? "" : decoded.message);
  assert.equal(decoded.partial.site, null);
  assert.deepEqual(decoded.partial.contributors, [
    { round: "s.3", device: "a", samples: 5, updates: 1 },
    { round: "s.3", device: "b", samples: 7, updates: 1 },
  ]);
  const mixed = joined(sample);
  mixed[4] = 1;
  assert.equal(codeOf(mixed), "partial-malformed");
});

test("a frame leaves out what is usual", () => {
  const plain = {
    ...sample,
    site: null,
    contributors: sample.contributors.map((c) => ({ ...c, updates: 1 })),
  };
  const decoded = decodePartial(joined(plain));
  assert.ok(decoded.ok, decoded.ok ? "" : decoded.message);
  assert.deepEqual(decoded.partial, plain);
  assert.ok(joined(plain).length < joined(sample).length);
});

test("later stretches of a round come back, after its first, by number", () => {
  const rounds = ["s.9", "s.9.2", "s.9.10", "s.10"];
  const contributors = rounds.map((round) => ({ round, device: "a", samples: 3, updates: 1 }));
  const stretched = { ...sample, weight: 12n, contributors, metrics: {} };
  const decoded = decodePartial(joined(stretched));
  assert.ok(decoded.ok, decoded.ok ? "" : decoded.message);
  assert.deepEqual(roundsOf(decoded.partial), rounds);
  const halves = [0, 1].map((odd) => ({
    ...stretched,
    weight: 6n,
    contributors: contributors.filter((_, i) => i % 2 === odd),
    sum: new BigInt64Array(3),
  })) as [typeof stretched, typeof stretched];
  const both = merge(...halves, 100n);
  assert.ok(both.ok);
  assert.deepEqual(roundsOf(both.partial), rounds);
});

test("an evaluation's Partial and an empty one come back", () => {
  const evaluation = { ...sample, sum: new BigInt64Array(0) };
  const empty = { ...sample, weight: 0n, contributors: [], metrics: {}, sum: new BigInt64Array(3) };
  for (const partial of [evaluation, empty]) {
    const decoded = decodePartial(joined(partial));
    assert.ok(decoded.ok, decoded.ok ? "" : decoded.message);
    assert.deepEqual(decoded.partial, partial);
  }
});

test("the decoded sums do not share memory with the frame", () => {
  const bytes = joined(sample);
  const decoded = decodePartial(bytes);
  bytes.fill(0xff);
  assert.ok(decoded.ok);
  assert.deepEqual(decoded.partial.sum, sample.sum);
});

test("every truncation and any trailing byte is refused", () => {
  const bytes = joined(sample);
  for (let length = 0; length < bytes.length; length++) {
    assert.equal(codeOf(bytes.subarray(0, length)), "partial-malformed", `${length} bytes`);
  }
  for (const extra of [1, 8]) {
    assert.equal(codeOf(Buffer.concat([bytes, Buffer.alloc(extra)])), "partial-malformed");
  }
});

const inconsistent: Record<string, (header: Record<string, unknown>) => void> = {
  "contributors out of order": (h) => {
    h.rounds = ["s.9"];
    h.counts = [2];
  },
  "a contributor twice": (h) => {
    h.rounds = ["s.9"];
    h.counts = [2];
    h.devices = ["a", "a"];
  },
  "rounds out of order": (h) => {
    h.rounds = ["s.10", "s.9"];
  },
  "a round twice": (h) => {
    h.rounds = ["s.9", "s.9"];
    h.devices = ["a", "a"];
  },
  "rounds of two sessions": (h) => {
    h.rounds = ["s.9", "t.10"];
  },
  "stretches out of order": (h) => {
    h.rounds = ["s.9.10", "s.9.2"];
  },
  "a later stretch before the round's first": (h) => {
    h.rounds = ["s.9.2", "s.9"];
  },
  "a site model as its base": (h) => {
    h.base = "s.2.1";
  },
  "fewer places in its rounds than devices": (h) => {
    h.counts = [1];
    h.rounds = ["s.9"];
  },
  "an absurd place in its rounds": (h) => {
    h.counts = [2 ** 50, 1];
  },
  "more rounds than counts": (h) => {
    h.rounds = ["s.8", "s.9", "s.10"];
  },
  "a contributor of no update": (h) => {
    h.updates = [0, 1];
  },
  "more devices than update counts": (h) => {
    h.updates = [1];
  },
  "a site that is no id": (h) => {
    h.site = "../hall";
  },
  "more devices than sample counts": (h) => {
    h.devices = ["b", "a", "c"];
  },
  "a weight that is not the sum of the samples": (h) => {
    h.weight = "13";
  },
  "a negative weight": (h) => {
    h.weight = "-12";
  },
  "a weight that is a number": (h) => {
    h.weight = 12;
  },
  "zero samples": (h) => {
    h.samples = [0, 12];
  },
  "a fraction of a sample": (h) => {
    h.samples = [5.5, 6.5];
  },
  "an absurd sample count": (h) => {
    h.samples = [5, 2 ** 41];
  },
  "a device id that is no id": (h) => {
    h.devices = ["../b", "a"];
  },
  "coordinates without bytes": (h) => {
    h.coordinates = 2 ** 50;
  },
  "a layout larger than the sums": (h) => {
    h.layout = [
      { name: "w", shape: [2 ** 29, 2 ** 29, 2 ** 29, 2 ** 29] },
      { name: "b", shape: [] },
    ];
  },
  "a grid for other tensors": (h) => {
    h.grid = { fractionBits: [10], range: 0.75 };
  },
  "an infinite range": (h) => {
    h.grid = { fractionBits: [10, 4], range: Number.POSITIVE_INFINITY };
  },
  "a range without headroom": (h) => {
    h.grid = { fractionBits: [10, 4], range: 1e300 };
  },
  "a sum past its weight's reach": (h) => {
    h.grid = { fractionBits: [10, 4], range: 0.749 };
  },
  "a metric heavier than the Partial": (h) => {
    h.metrics = [{ name: "acc", sum: "1", weight: "13" }];
  },
  "a metric past its weight's reach": (h) => {
    h.metrics = [{ name: "acc", sum: `${2n ** 40n + 1n}`, weight: "1" }];
  },
  "a metric far below its weight's reach": (h) => {
    h.metrics = [{ name: "acc", sum: `${-(2n ** 40n) - 1n}`, weight: "1" }];
  },
  "a metric that nobody reported": (h) => {
    h.metrics = [{ name: "acc", sum: "0", weight: "0" }];
  },
  "a range whose steps no double can count": (h) => {
    h.grid = { fractionBits: [10, 4], range: 1.7e308 };
  },
  "a weight without headroom": (h) => {
    h.samples = [2 ** 40, 2 ** 40];
    h.weight = `${2 ** 41}`;
    h.grid = { fractionBits: [10, 4], range: 2 ** 20 };
  },
  "metrics out of order": (h) => {
    h.metrics = (h.metrics as unknown[]).toReversed();
  },
  "an endless number": (h) => {
    h.weight = "9".repeat(100_000);
  },
  "an unknown field": (h) => {
    h.extra = 1;
  },
  "a missing field": (h) => {
    delete h.saturated;
  },
};

for (const [name, change] of Object.entries(inconsistent)) {
  test(`a frame with ${name} is refused`, () => {
    assert.equal(codeOf(reheaded(change)), "partial-malformed");
  });
}

test("a wrong mark, version, reserved byte, header length or padding is refused", () => {
  const bytes = joined(sample);
  const view = new DataView(bytes.buffer);
  const end = 12 + view.getUint32(8, true);
  assert.notEqual(end % 8, 0, "the sample needs padding for this test");
  for (const at of [0, 3, 4, 5, 6, 7, 8, 11, end]) {
    const changed = bytes.slice();
    changed[at] = (changed[at] as number) ^ 0x81;
    assert.equal(codeOf(changed), "partial-malformed", `byte ${at}`);
  }
});

test("a sum one past its weight's reach is refused where doubles cannot tell", () => {
  const samples = 2 ** 40 - 1;
  const steps = 2 ** 20 - 1;
  const most = BigInt(samples) * BigInt(steps);
  assert.equal(Number(most), Number(most + 1n));
  const frame = (sum: bigint) =>
    joined({
      ...sample,
      grid: { fractionBits: [10], range: steps / 2 ** 10 },
      layout: [{ name: "w", shape: [1] }],
      weight: BigInt(samples),
      contributors: [{ round: "s.3", device: "a", samples, updates: 1 }],
      sum: BigInt64Array.of(sum),
    });
  assert.deepEqual([most, -most].map(frame).map(codeOf), ["accepted", "accepted"]);
  for (const sum of [most + 1n, -most - 1n]) assert.equal(codeOf(frame(sum)), "partial-malformed");
});

test("sizes past the bounds are refused before anything is read", () => {
  const messageOf = (bytes: Uint8Array) => {
    const decoded = decodePartial(bytes);
    return decoded.ok ? "accepted" : decoded.message;
  };
  assert.match(messageOf(new Uint8Array(1024 ** 3 + 1)), /too many/);
  const long = new Uint8Array(17 * 1024 * 1024);
  long.set(joined(sample).subarray(0, 8));
  new DataView(long.buffer).setUint32(8, 16 * 1024 * 1024 + 1, true);
  assert.match(messageOf(long), /too large/);
  assert.match(messageOf(joined(sample).subarray(0, 40)), /cut short/);
});

test("no bytes make the decoder throw", () => {
  const bytes = joined(sample);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (noise) => {
      assert.equal(codeOf(noise), "partial-malformed");
      const framed = new Uint8Array(12 + noise.length);
      framed.set(bytes.subarray(0, 8));
      new DataView(framed.buffer).setUint32(8, noise.length, true);
      framed.set(noise, 12);
      assert.equal(codeOf(framed), "partial-malformed");
    }),
  );
  const edits = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), {
    minLength: 1,
    maxLength: 6,
  });
  fc.assert(
    fc.property(edits, (changes) => {
      const changed = bytes.slice();
      for (const [at, byte] of changes) changed[at] = byte;
      assert.match(codeOf(changed), /^(accepted|partial-malformed)$/);
    }),
    { numRuns: 1000 },
  );
});
