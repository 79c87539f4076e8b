import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { admitBegin, type RoundFacts, refuseChunk, type StorageFacts } from "./admit.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";

const plan = samplePlan();
const { begin, payload } = sampleUpdate(plan, "dev-a", 3);
const ample: StorageFacts = { fits: () => true, state: "ok" };

function facts(changes: Partial<RoundFacts> = {}): RoundFacts {
  return {
    plan,
    open: true,
    offered: () => true,
    contributed: () => undefined,
    weightBeside: () => 0,
    ...changes,
  };
}

const judge = (
  changed: object,
  round: RoundFacts | "sealed" | undefined = facts(),
  storage = ample,
) => admitBegin({ ...begin, ...changed }, "dev-a", "gw-1", round, storage);
const codeOf = (verdict: ReturnType<typeof judge>) => (verdict.ok ? verdict.next : verdict.code);

describe("admission of a header", () => {
  it("lets a good update through", () => {
    assert.deepEqual(judge({}), { ok: true, next: "upload" });
  });

  it("has a code for every way to be wrong", () => {
    const cases: [string, ReturnType<typeof judge>][] = [
      ["wrong-gateway", judge({ gateway: "gw-2" })],
      ["unknown-round", admitBegin(begin, "dev-a", "gw-1", undefined, ample)],
      ["round-closed", judge({}, "sealed")],
      ["round-closed", judge({}, facts({ open: false }))],
      ["not-offered", judge({}, facts({ offered: () => false }))],
      ["wrong-base", judge({ base: "mnist.7" })],
      ["wrong-base", judge({ baseDigest: "0".repeat(64) })],
      ["wrong-encoding", judge({ encoding: "f32" })],
      ["wrong-shape", judge({ bytes: begin.bytes - 2 })],
      ["wrong-shape", judge({ bytes: 0 })],
      ["too-large", judge({ bytes: wire.modelBytes + 1 })],
      ["bad-sample-count", judge({ samples: 0 })],
      ["bad-sample-count", judge({ samples: -1 })],
      ["bad-sample-count", judge({ samples: 1.5 })],
      ["bad-sample-count", judge({ samples: plan.nMax + 1 })],
      ["bad-sample-count", judge({ samples: 1e300 })],
      ["bad-sample-count", judge({ samples: Number.NaN })],
      ["bad-sample-count", judge({ samples: Number.POSITIVE_INFINITY })],
      ["total-overflow", judge({}, facts({ weightBeside: () => plan.totalMax - 9 }))],
      ["conflict", judge({}, facts({ contributed: () => "0".repeat(64) }))],
      ["storage-full", judge({}, facts(), { fits: () => false, state: "budget" })],
      ["out-of-range", judge({ saturated: 1 }, facts({ plan: { ...plan, saturate: false } }))],
    ];
    for (const [code, verdict] of cases) assert.equal(codeOf(verdict), code);
  });

  it("says which it is that has no room", () => {
    for (const [state, words] of [
      ["budget", /budget is used up/],
      ["full", /disk is full/],
      ["read-only", /cannot be written/],
      ["failed", /disk fails/],
    ] as const) {
      const verdict = judge({}, facts(), { fits: () => false, state });
      assert.match(verdict.ok ? "" : verdict.message, words);
    }
  });

  it("takes the last sample that fits the total", () => {
    const round = facts({ weightBeside: () => plan.totalMax - begin.samples });
    assert.equal(codeOf(judge({}, round)), "upload");
  });

  it("repeats a receipt whether or not the round is open", () => {
    const contributed = () => begin.digest;
    assert.equal(codeOf(judge({}, facts({ contributed }))), "receipt");
    assert.equal(codeOf(judge({}, facts({ contributed, open: false }))), "receipt");
  });
});

describe("admission of a chunk", () => {
  const upload = { round: plan.round, bytes: payload.length, received: 64, valueBytes: 2 };
  const judgeChunk = (offset: number, length: number, at: typeof upload | undefined = upload) =>
    refuseChunk({ round: plan.round, offset }, length, at);

  it("lets the next bytes through", () => {
    assert.equal(judgeChunk(64, 64), undefined);
    assert.equal(judgeChunk(64, payload.length - 64), undefined);
  });

  it("has a code for every way to be wrong", () => {
    const codes = (refused: ReturnType<typeof judgeChunk>) => [
      refused?.refusal.code,
      refused?.drop,
    ];
    assert.deepEqual(codes(refuseChunk({ round: plan.round, offset: 0 }, 64, undefined)), [
      "not-granted",
      false,
    ]);
    assert.deepEqual(codes(refuseChunk({ round: "other.1", offset: 64 }, 64, upload)), [
      "not-granted",
      false,
    ]);
    assert.deepEqual(codes(judgeChunk(0, 64)), ["chunk-out-of-order", false]);
    assert.equal(judgeChunk(128, 64)?.expectedOffset, 64);
    assert.deepEqual(codes(judgeChunk(64, 0)), ["malformed", true]);
    assert.deepEqual(codes(judgeChunk(64, 3)), ["malformed", true]);
    assert.deepEqual(codes(judgeChunk(64, payload.length)), ["wrong-shape", true]);
    assert.deepEqual(codes(judgeChunk(64, wire.chunkBytes + 2)), ["too-large", true]);
  });
});
