import assert from "node:assert/strict";
import type { KeyObject } from "node:crypto";
import { describe, it } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { makeKey, publicJwk, publicKey } from "@tributary/proto/identity/keys.js";
import { signUpdate } from "@tributary/proto/identity/statement.js";
import type { Begin } from "@tributary/proto/wire/device-link.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { createIngest, type IngestOptions, type RoundView, type Update } from "./ingest.js";
import type { Replies } from "./replies.js";
import { type SampleUpdate, samplePlan, sampleUpdate } from "./testing/sample.js";

const plan = samplePlan({ layout: [{ name: "w", shape: [256] }] });

type Said = {
  device: string;
  kind: string;
  code?: string;
  offset?: number;
  expectedOffset?: number | undefined;
  retryAfterMs?: number | undefined;
};

function bench(
  changes: {
    slots?: number;
    ledger?: Pick<Map<string, string>, "get">;
    check?: () => Refusal;
    commit?: () => Promise<Verdict<object>>;
    plan?: Partial<typeof plan>;
    keys?: ReadonlyMap<string, KeyObject>;
    keepSigned?: NonNullable<IngestOptions["keepSigned"]>;
  } = {},
) {
  const said: Said[] = [];
  const replies: Replies = {
    grant: (device, { offset }) => void said.push({ device, kind: "grant", offset }),
    receipt: (device) => void said.push({ device, kind: "receipt" }),
    repeatReceipt: (device) => void said.push({ device, kind: "repeat" }),
    refuse(device, _, { code }, { expectedOffset, retryAfterMs } = {}) {
      said.push({ device, kind: "refusal", code, expectedOffset, retryAfterMs });
    },
    counts: { refusals: new Map(), duplicates: 0 },
  };
  const clock = createManualClock();
  const commits: { update: Update; settle: (verdict: Verdict<object>) => void }[] = [];
  const refusals: string[] = [];
  const clippings: { round: string; device: string; norm: number }[] = [];
  const round = { open: true, weight: 0 };
  const view: RoundView = {
    plan: { ...plan, ...changes.plan },
    get open() {
      return round.open;
    },
    weightBeside: () => round.weight,
    offered: () => true,
    contributed: () => undefined,
  };
  const ingest = createIngest({
    gateway: "gw-1",
    uploadSlots: changes.slots ?? 2,
    uploadIdleMs: 1_000,
    retryAfterMs: 50,
    storage: { fits: () => true, state: "ok" },
    keyOf: (device) => changes.keys?.get(device),
    ...(changes.keepSigned && { keepSigned: changes.keepSigned }),
    onClipped: (round, device, norm) => void clippings.push({ round, device, norm }),
    replies,
    clock,
    rounds: {
      facts: (name) => (name === plan.round ? view : name === "old.1" ? "sealed" : undefined),
      recall: async (_, device) => changes.ledger?.get(device),
      check: () => (changes.check?.() ?? { ok: true }) as { ok: true },
      refused: (_, device, code) => void refusals.push(`${device} ${code}`),
      commit: (update) =>
        changes.commit?.() ?? new Promise((settle) => commits.push({ update, settle })),
    },
  });
  const send = (device: string, { begin, payload }: SampleUpdate, from = 0, size = 128) => {
    for (let offset = from; offset < payload.length; offset += size) {
      ingest.chunk(device, { round: begin.round, offset }, payload.subarray(offset, offset + size));
    }
  };
  const last = () => said.at(-1);
  return { ingest, said, last, clock, commits, round, send, refusals, clippings };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));
const update = (device: string, steps = 3) => sampleUpdate(plan, device, steps);

const [keyA, keyB] = [makeKey("EdDSA"), makeKey("EdDSA")];
const enrolled = new Map([
  ["a", publicKey(publicJwk(keyA))],
  ["b", publicKey(publicJwk(keyB))],
]);
const signedBy = (key: KeyObject, device: string, begin: Begin): Begin => ({
  ...begin,
  signature: signUpdate({ round: begin.round, device, digest: begin.digest }, key),
});

describe("an update of a device that is enrolled with a key", () => {
  it("is taken when it is signed with that key", () => {
    const { ingest, last, commits, send } = bench({ keys: enrolled });
    const a = update("a");
    ingest.begin("a", signedBy(keyA, "a", a.begin));
    assert.equal(last()?.kind, "grant");
    send("a", a);
    assert.equal(commits.length, 1);
  });

  it("is refused for good without a signature, or with another key's, before a byte is sent", () => {
    const { ingest, last, refusals } = bench({ keys: enrolled });
    const { begin } = update("a");
    ingest.begin("a", begin);
    assert.equal(last()?.code, "update-unsigned");
    ingest.begin("a", signedBy(keyB, "a", begin));
    assert.equal(last()?.code, "update-signature");
    assert.deepEqual(refusals, ["a update-unsigned", "a update-signature"]);
  });

  it("is checked a few times in a round, whatever comes", () => {
    const { ingest, said, last, clock, commits, send } = bench({ keys: enrolled });
    const { begin } = update("a");
    for (let n = 0; n < 20; n++) ingest.begin("a", signedBy(keyB, "a", begin));
    const codes = said.map(({ code }) => code);
    assert.equal(codes.filter((code) => code === "update-signature").length, 8);
    assert.equal(codes.filter((code) => code === "busy").length, 12);
    ingest.begin("a", begin);
    assert.equal(last()?.code, "update-unsigned");
    const b = update("b");
    const good = signedBy(keyB, "b", b.begin);
    for (let n = 0; n < 20; n++) {
      ingest.begin("b", good);
      assert.equal(last()?.kind, "grant");
      // It stalls, and loses its place.
      clock.advance(2_000);
    }
    ingest.begin("b", { ...good, signature: new Uint8Array(64) });
    assert.equal(last()?.code, "update-signature");
    ingest.begin("b", good);
    send("b", b);
    assert.equal(commits.length, 1);
    ingest.endRound(plan.round);
    ingest.begin("a", signedBy(keyA, "a", begin));
    assert.equal(last()?.kind, "grant");
  });

  it("replayed by another device, in another round or at another gateway is refused", () => {
    const { ingest, said, last, commits, send } = bench({ keys: enrolled });
    const a = update("a");
    const signed = signedBy(keyA, "a", a.begin);
    ingest.begin("b", signed);
    assert.equal(last()?.code, "update-signature");
    // Signed anew by the thief, it still is not what the digest says.
    const stolen = signedBy(keyB, "b", a.begin);
    ingest.begin("b", stolen);
    send("b", a);
    assert.equal(last()?.code, "digest-mismatch");
    const former = sampleUpdate({ ...plan, round: "mnist.0" }, "a", 3);
    const moved = { ...signedBy(keyA, "a", former.begin), round: plan.round };
    ingest.begin("a", moved);
    assert.equal(last()?.code, "update-signature");
    ingest.begin("a", { ...signed, gateway: "gw-2" });
    assert.equal(last()?.code, "wrong-gateway");
    assert.ok(said.every(({ kind }) => kind !== "receipt"));
    assert.equal(commits.length, 0);
  });

  it("replayed by its own device is answered with the receipt, and counts once", async () => {
    const { ingest, last, commits, send } = bench({
      keys: enrolled,
      ledger: new Map([["a", sampleUpdate({ ...plan, round: "old.1" }, "a", 3).begin.digest]]),
    });
    const old = sampleUpdate({ ...plan, round: "old.1" }, "a", 3);
    ingest.begin("a", signedBy(keyA, "a", old.begin));
    await turn();
    assert.equal(last()?.kind, "repeat");
    send("a", old);
    assert.equal(commits.length, 0);
  });

  it("is kept as it was signed before it is clipped and committed, and counts while it is", async () => {
    const kept: { device: string; begin: Begin; payload: Buffer; done: () => void }[] = [];
    const { ingest, last, commits, send, refusals } = bench({
      keys: enrolled,
      plan: { clipNorm: 0.03125, totalMax: 15 },
      keepSigned: (device, begin, payload) =>
        new Promise((done) => kept.push({ device, begin, payload: Buffer.from(payload), done })),
    });
    const a = update("a", 4);
    const begin = signedBy(keyA, "a", a.begin);
    ingest.begin("a", begin);
    send("a", a);
    assert.deepEqual(kept[0]?.payload, Buffer.from(a.payload));
    assert.equal(kept[0]?.begin, begin);
    assert.equal(commits.length, 0);
    ingest.begin("b", signedBy(keyB, "b", update("b").begin));
    assert.equal(last()?.code, "total-overflow");
    kept[0]?.done();
    await turn();
    assert.equal(commits[0]?.update.clipped, true);
    assert.deepEqual(
      Buffer.from(commits[0]?.update.payload ?? []),
      Buffer.from(update("a", 2).payload),
    );
    assert.deepEqual(refusals, ["b total-overflow"]);
  });

  it("that is not enrolled need not sign, and what it signs is not kept", () => {
    let keeping = 0;
    const { ingest, commits, send } = bench({
      keys: enrolled,
      keepSigned: async () => void keeping++,
    });
    const c = update("c");
    ingest.begin("c", signedBy(keyA, "c", c.begin));
    send("c", c);
    assert.equal(commits.length, 1);
    assert.equal(keeping, 0);
  });
});

describe("an upload under a norm", () => {
  it("past it is scaled down in place, on record under the digest that its device gave it", () => {
    const { ingest, commits, send, clippings } = bench({ plan: { clipNorm: 0.03125 } });
    for (const [device, steps] of [
      ["a", 4],
      ["b", 2],
    ] as const) {
      const sent = update(device, steps);
      ingest.begin(device, sent.begin);
      send(device, sent);
    }
    // 256 values of 4 / 1024 have a norm of 1/16.
    assert.deepEqual(clippings, [{ round: plan.round, device: "a", norm: 0.0625 }]);
    const taken = commits.map(({ update: { device, begin, payload, clipped } }) => ({
      device,
      digest: begin.digest,
      clipped,
      payload: Buffer.from(payload),
    }));
    const half = Buffer.from(update("a", 2).payload);
    assert.deepEqual(taken, [
      { device: "a", digest: update("a", 4).begin.digest, clipped: true, payload: half },
      { device: "b", digest: update("b", 2).begin.digest, clipped: false, payload: half },
    ]);
  });

  it("is as it came where the plan names none", () => {
    const { ingest, commits, send, clippings } = bench();
    const a = update("a", 4_000);
    ingest.begin("a", a.begin);
    send("a", a);
    assert.deepEqual(clippings, []);
    assert.deepEqual(Buffer.from(commits[0]?.update.payload ?? []), Buffer.from(a.payload));
  });
});

describe("an upload", () => {
  it("is granted, taken in order, and receipted once it is committed", async () => {
    const { ingest, said, commits, send } = bench();
    const a = update("a");
    ingest.begin("a", a.begin);
    assert.deepEqual(said, [{ device: "a", kind: "grant", offset: 0 }]);
    send("a", a);
    assert.equal(commits.length, 1);
    assert.deepEqual(Buffer.from(commits[0]?.update.payload ?? []), Buffer.from(a.payload));
    assert.equal(said.length, 1);
    commits[0]?.settle({ ok: true });
    await turn();
    assert.equal(said.at(-1)?.kind, "receipt");
  });

  it("gets no receipt when the commit fails, and can come again", async () => {
    const { ingest, last, commits, send } = bench();
    const a = update("a");
    ingest.begin("a", a.begin);
    send("a", a);
    commits[0]?.settle(refuse("storage-failed", "no"));
    await turn();
    assert.equal(last()?.code, "storage-failed");
    ingest.begin("a", a.begin);
    assert.equal(last()?.kind, "grant");
  });

  it("whose commit breaks is refused for now, and can come again", async () => {
    const { ingest, last, send } = bench({ commit: () => Promise.reject(new Error("broken")) });
    const a = update("a");
    ingest.begin("a", a.begin);
    send("a", a);
    await turn();
    assert.equal(last()?.code, "storage-failed");
    ingest.begin("a", a.begin);
    assert.equal(last()?.kind, "grant");
  });

  it("of a round whose ledger cannot be read is held, not dropped", async () => {
    const unreadable = {
      get: () => {
        throw new Error("unreadable");
      },
    };
    const { ingest, last } = bench({ ledger: unreadable });
    const a = update("a");
    ingest.begin("a", { ...a.begin, round: "old.1" });
    await turn();
    assert.equal(last()?.code, "storage-failed");
  });

  it("that is refused for good is an answer; one that may come again is not", async () => {
    const outOfRange = () => refuse("out-of-range", "too large") as Refusal;
    const { ingest, commits, send, refusals } = bench({ check: outOfRange });
    const [a, b, c] = [update("a"), update("b"), update("c")];
    ingest.begin("a", a.begin);
    send("a", a, 0, a.payload.length);
    ingest.begin("b", { ...b.begin, samples: 0.5 });
    ingest.begin("c", { ...c.begin, gateway: "gw-2" });
    assert.deepEqual(refusals, ["a out-of-range", "b bad-sample-count"]);
    const calm = bench();
    calm.ingest.begin("a", a.begin);
    calm.send("a", { ...a, payload: Uint8Array.from(a.payload).fill(1, 200, 201) });
    assert.equal(calm.last()?.code, "digest-mismatch");
    assert.deepEqual([calm.refusals, commits], [[], []]);
  });

  it("takes no chunk out of order, twice, or without a grant", () => {
    const { ingest, said, last, commits, send } = bench();
    const a = update("a");
    const chunk = (offset: number) =>
      ingest.chunk("a", { round: plan.round, offset }, a.payload.subarray(offset, offset + 128));
    chunk(0);
    assert.equal(last()?.code, "not-granted");
    ingest.begin("a", a.begin);
    chunk(0);
    chunk(256);
    assert.deepEqual([last()?.code, last()?.expectedOffset], ["chunk-out-of-order", 128]);
    chunk(0);
    assert.deepEqual([last()?.code, last()?.expectedOffset], ["chunk-out-of-order", 128]);
    const before = said.length;
    send("a", a, 128);
    assert.equal(said.length, before);
    assert.equal(commits.length, 1);
    assert.deepEqual(Buffer.from(commits[0]?.update.payload ?? []), Buffer.from(a.payload));
  });

  it("with another digest is refused and forgotten", () => {
    const { ingest, last, commits, send } = bench();
    const a = update("a");
    ingest.begin("a", a.begin);
    const wrong = { ...a, payload: Uint8Array.from(a.payload).fill(1, 200, 201) };
    send("a", wrong);
    assert.deepEqual([last()?.code, last()?.retryAfterMs], ["digest-mismatch", 50]);
    assert.equal(commits.length, 0);
    ingest.begin("a", a.begin);
    send("a", a);
    assert.equal(commits.length, 1);
  });

  it("of a metric that the digest does not cover is refused", () => {
    const { ingest, last, send } = bench();
    const a = update("a");
    const forged = { ...a, begin: { ...a.begin, samples: 11 } };
    ingest.begin("a", forged.begin);
    send("a", forged);
    assert.equal(last()?.code, "digest-mismatch");
  });

  it("with a value that the check objects to is refused at that chunk", () => {
    const { ingest, last, send, commits } = bench({ check: () => refuse("off-grid", "no") });
    const a = update("a");
    ingest.begin("a", a.begin);
    send("a", { ...a, payload: a.payload.subarray(0, 128) });
    assert.equal(last()?.code, "off-grid");
    assert.equal(ingest.uploading, 0);
    assert.equal(commits.length, 0);
  });

  it("begun again goes on where it stands; another update takes its place", () => {
    const { ingest, last } = bench();
    const a = update("a");
    ingest.begin("a", a.begin);
    ingest.chunk("a", { round: plan.round, offset: 0 }, a.payload.subarray(0, 128));
    ingest.begin("a", a.begin);
    assert.equal(last()?.offset, 128);
    ingest.begin("a", update("a", 4).begin);
    assert.equal(last()?.offset, 0);
    assert.equal(ingest.uploading, 1);
  });

  it("for a sealed round is answered from the ledger", async () => {
    const a = sampleUpdate({ ...plan, round: "old.1" }, "a", 3);
    const { ingest, said } = bench({ ledger: new Map([["a", a.begin.digest]]) });
    ingest.begin("a", a.begin);
    ingest.begin("a", sampleUpdate({ ...plan, round: "old.1" }, "a", 4).begin);
    ingest.begin("b", sampleUpdate({ ...plan, round: "old.1" }, "b", 4).begin);
    ingest.begin("b", sampleUpdate({ ...plan, round: "new.1" }, "b", 4).begin);
    await turn();
    assert.deepEqual(
      said.map((s) => s.code ?? s.kind),
      ["repeat", "conflict", "round-closed", "unknown-round"],
    );
  });
});

describe("slots", () => {
  it("bound the uploads; others wait in order without a buffer", () => {
    const { ingest, said, send } = bench({ slots: 2 });
    for (const name of ["a", "b", "c", "d"]) ingest.begin(name, update(name).begin);
    assert.deepEqual(
      said.map((s) => s.device),
      ["a", "b"],
    );
    send("a", { ...update("a"), payload: new Uint8Array(512) }); // a wrong digest frees the slot
    assert.deepEqual(
      said.filter((s) => s.kind === "grant").map((s) => s.device),
      ["a", "b", "c"],
    );
    assert.equal(ingest.uploading, 2);
  });

  it("are free again as soon as the commit needs the bytes no more", () => {
    const { ingest, last, commits, send } = bench({ slots: 1 });
    const a = update("a");
    ingest.begin("a", a.begin);
    ingest.begin("b", update("b").begin);
    send("a", a);
    assert.equal(last()?.device, "a");
    commits[0]?.update.release();
    assert.deepEqual(last(), { device: "b", kind: "grant", offset: 0 });
    commits[0]?.update.release();
    assert.equal(ingest.uploading, 1);
  });

  it("are taken from a device that does not move", () => {
    const { ingest, said, clock } = bench({ slots: 1 });
    const a = update("a");
    ingest.begin("a", a.begin);
    ingest.begin("b", update("b").begin);
    clock.advance(900);
    ingest.chunk("a", { round: plan.round, offset: 0 }, a.payload.subarray(0, 128));
    clock.advance(900);
    assert.equal(ingest.uploading, 1);
    assert.equal(said.length, 1);
    clock.advance(1_000);
    assert.deepEqual(
      said.slice(1).map((s) => [s.device, s.code ?? s.kind]),
      [
        ["a", "not-granted"],
        ["b", "grant"],
      ],
    );
  });

  it("are watched also when they were given after the sweep found none", async () => {
    const { ingest, said, clock, commits, send } = bench({ slots: 1 });
    const [a, b, c] = [update("a"), update("b"), update("c")];
    ingest.begin("a", a.begin);
    ingest.begin("b", b.begin);
    ingest.begin("c", c.begin);
    send("a", a);
    // The sweep comes while the only upload is being committed: it finds nothing to watch.
    clock.advance(600);
    commits[0]?.settle({ ok: true });
    await turn();
    assert.deepEqual(said.at(-1), { device: "b", kind: "grant", offset: 0 });
    clock.advance(5_000);
    assert.ok(said.some(({ device, code }) => device === "b" && code === "not-granted"));
    assert.ok(said.some(({ device, kind }) => device === "c" && kind === "grant"));
  });

  it("of a device that left go to one that waits, else are kept for its return", () => {
    const { ingest, last } = bench({ slots: 1 });
    const a = update("a");
    ingest.begin("a", a.begin);
    ingest.chunk("a", { round: plan.round, offset: 0 }, a.payload.subarray(0, 128));
    ingest.disconnected("a");
    ingest.begin("a", a.begin);
    assert.deepEqual(last(), { device: "a", kind: "grant", offset: 128 });
    ingest.disconnected("a");
    ingest.begin("b", update("b").begin);
    assert.deepEqual(last(), { device: "b", kind: "grant", offset: 0 });
  });

  it("forget a device that left while it waited", () => {
    const { ingest, said, send } = bench({ slots: 1 });
    ingest.begin("a", update("a").begin);
    ingest.begin("b", update("b").begin);
    ingest.disconnected("b");
    send("a", { ...update("a"), payload: new Uint8Array(512) });
    assert.ok(said.every((s) => s.device === "a"));
    assert.equal(ingest.uploading, 0);
  });
});

describe("the total weight", () => {
  it("counts what is on its way", () => {
    const { ingest, last, round } = bench({ slots: 2 });
    round.weight = plan.totalMax - 15;
    ingest.begin("a", update("a").begin);
    assert.equal(last()?.kind, "grant");
    ingest.begin("b", update("b").begin);
    assert.equal(last()?.code, "total-overflow");
  });
});

describe("the end of a round", () => {
  it("ends its uploads, waiting or not, each with its code", () => {
    const { ingest, said, round } = bench({ slots: 1 });
    ingest.begin("a", update("a").begin);
    ingest.begin("b", update("b").begin);
    round.open = false;
    ingest.endRound(plan.round);
    assert.deepEqual(
      said
        .slice(1)
        .map((s) => `${s.device} ${s.code}`)
        .sort(),
      ["a round-closed", "b round-closed"],
    );
    assert.equal(ingest.uploading, 0);
  });
});
