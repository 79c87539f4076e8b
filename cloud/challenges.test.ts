import assert from "node:assert/strict";
import type { KeyObject } from "node:crypto";
import { describe, it } from "node:test";
import { createAccumulator } from "@tributary/proto/algebra/accumulator.js";
import { clipUpdate } from "@tributary/proto/algebra/clip.js";
import { encodePartial } from "@tributary/proto/algebra/frame.js";
import { merge, type Partial as Sum } from "@tributary/proto/algebra/partial.js";
import type {
  AnswerChallengeRequest,
  AttachResponse,
  Challenge,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import { makeKey, publicJwk, publicKey } from "@tributary/proto/identity/keys.js";
import { signUpdate } from "@tributary/proto/identity/statement.js";
import type { Destination } from "@tributary/proto/tier/inbox.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import type { Begin } from "@tributary/proto/wire/device-link.js";
import { cloudRound } from "@tributary/proto/wire/ids.js";
import { encodePlan, type Plan } from "@tributary/proto/wire/plan.js";
import { updatePreimage } from "@tributary/proto/wire/update.js";
import type { AnsweredUpdate } from "./challenge-check.js";
import {
  type ChallengeRequest,
  type ChallengeRules,
  type ChallengeView,
  createChallenges,
} from "./challenges.js";
import type { OpenRound } from "./store/rows.js";
import { plan } from "./testing/rounds.js";

const kernel = loadKernel();
const keys = new Map(["a", "b", "c", "d"].map((device) => [device, makeKey("EdDSA")] as const));
const keyOf = (device: string) => keys.get(device) as KeyObject;

/** An update of a device, three values of `q` steps. */
function updateOf(
  of: Plan,
  device: string,
  q: number,
  changes: Partial<Begin> & { key?: KeyObject | null } = {},
): AnsweredUpdate {
  const { key = keyOf(device), ...header } = changes;
  const payload =
    of.task === "evaluate" ? new Uint8Array(0) : new Uint8Array(Int16Array.of(q, q, q).buffer);
  const described = {
    round: of.round,
    gateway: "gw-1",
    base: of.base.model,
    baseDigest: of.base.digest,
    samples: 10,
    encoding: of.encoding,
    bytes: payload.length,
    saturated: 0,
    metrics: { loss: 1_048_576 },
    ...header,
  };
  const digest = header.digest ?? sha256([updatePreimage(device, described), payload]);
  const begin = { ...described, digest };
  const signature = key && signUpdate({ round: begin.round, device, digest }, key);
  return { begin: signature === null ? begin : { ...begin, signature }, payload };
}

type Updates = ReadonlyMap<string, AnsweredUpdate>;
const updatesOf = (of: Plan, steps: Readonly<Record<string, number>>): Updates =>
  new Map(Object.entries(steps).map(([device, q]) => [device, updateOf(of, device, q)]));

/** The Partial that an honest gateway makes of them, for a round of the cloud's. */
function fold(of: Plan, updates: Updates, round = of.round): Sum {
  const subject = {
    round,
    site: "hall",
    base: plan().base.model,
    baseDigest: plan().base.digest,
    evaluation: of.task === "evaluate",
  };
  const accumulator = createAccumulator(kernel, of.layout, of.grid, BigInt(of.totalMax), subject);
  for (const [device, { begin, payload }] of updates) {
    const { encoding, samples, metrics } = begin;
    const values = payload.slice();
    const { clipped = false } =
      of.clipNorm === undefined
        ? {}
        : clipUpdate(values, encoding, of.layout, of.grid, of.clipNorm);
    assert.ok(accumulator.add(values, encoding, { device, samples, clipped }, metrics, 0).ok);
  }
  const partial = accumulator.snapshot();
  accumulator.release();
  return partial;
}

function stage(
  changes: Partial<ChallengeRules> = {},
  plans: readonly Plan[] = [plan()],
  signed = true,
) {
  const clock = createManualClock();
  const sent: { gateway: string; challenge: Challenge }[] = [];
  const said: string[] = [];
  const ended: ChallengeView[] = [];
  const challenges = createChallenges({
    isSigned: () => signed,
    rules: { rate: 0, updates: 2, timeoutMs: 60_000, ...changes },
    kernel,
    random: seededRandom(3),
    clock,
    wholeRound: async (id) => {
      const found = plans.find(({ round }) => round === id);
      return found && ({ plan: encodePlan(found) } as OpenRound);
    },
    keysOf: async (device) => {
      const key = keys.get(device);
      return key ? [publicKey(publicJwk(makeKey("EdDSA"))), publicKey(publicJwk(key))] : [];
    },
    warrant: async ({ id }) => `the word for ${id}`,
    send(gateway, { message }: AttachResponse) {
      assert.ok(message?.$case === "challenge");
      assert.equal(message.value.warrant, `the word for ${message.value.id}`);
      sent.push({ gateway, challenge: message.value });
    },
    events: (event) => void said.push(event.name),
    onEnded: async (view) => void ended.push(view),
  });
  const destination = challenges.watch({
    deliver: async ({ digest }) => ({
      ok: true,
      receipt: { digest, outcome: "merged", rule: "" },
    }),
  } as Partial<Destination> as Destination);
  let sequence = 0;
  const deliver = async (partial: Sum, round: string) => {
    const bytes = Buffer.concat(encodePartial(partial));
    const identity = { gateway: "gw-1", incarnation: "k3v9", sequence: ++sequence };
    const digest = sha256(bytes);
    const announcement = { identity, round, digest, totalBytes: bytes.length };
    assert.ok((await destination.deliver(announcement, partial, bytes)).ok);
    await turn();
    return digest;
  };
  const begin = async (request: ChallengeRequest) => {
    const begun = challenges.challenge(request);
    await turn();
    return begun;
  };
  /** Answers the newest challenge with what a gateway has, by round and device. */
  const answer = (updates: Updates, from = sent.at(-1)?.challenge) => {
    assert.ok(from);
    return challenges.answer(
      messagesOf(
        from.id,
        from.updates.flatMap(({ index, device }) => {
          const update = updates.get(device);
          return update === undefined ? [] : [{ index, update }];
        }),
      ),
    );
  };
  const outcome = (id = sent.at(-1)?.challenge.id ?? "") => {
    const { state, refolded, faults } = challenges.get(id) as ChallengeView;
    return { state, refolded, faults: faults.map(({ device, code }) => `${device} ${code}`) };
  };
  return { clock, challenges, sent, said, ended, begin, deliver, answer, outcome };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** In pieces of four bytes. */
async function* messagesOf(
  id: string,
  updates: readonly { index: number; update: AnsweredUpdate }[],
): AsyncGenerator<AnswerChallengeRequest> {
  let named = id;
  for (const { index, update } of updates) {
    const begin = Buffer.from(encodeCbor(update.begin));
    yield { id: named, update: { index, begin }, data: Buffer.alloc(0) };
    named = "";
    for (let at = 0; at < update.payload.length; at += 4)
      yield { id: "", update: undefined, data: Buffer.from(update.payload.subarray(at, at + 4)) };
  }
}

const passed = { state: "passed", refolded: true, faults: [] };

describe("a challenge for all updates of a Partial", () => {
  it("passes when they make its sum again to the bit, and puts that on record", async () => {
    const { challenges, begin, sent, said, ended, deliver, answer, outcome } = stage();
    const updates = updatesOf(plan(), { a: 64, b: -3, c: 200 });
    const digest = await deliver(fold(plan(), updates), "s.1");
    const begun = await begin({ updates: "all" });
    assert.ok(begun.ok);
    assert.equal(sent[0]?.gateway, "gw-1");
    assert.equal(sent[0]?.challenge.digest, digest);
    assert.deepEqual(await answer(updates), { ok: true, taken: 3 });
    assert.deepEqual(outcome(), passed);
    assert.deepEqual(said, ["challenge-sent", "challenge-passed"]);
    assert.deepEqual(
      ended.map(({ digest: of, asked, contributors }) => ({ of, asked, contributors })),
      [{ of: digest, asked: 3, contributors: 3 }],
    );
    assert.equal(challenges.list()[0]?.id, begun.challenge.id);
  });

  it("follows the clipping, in an evaluation, over several rounds, and where a site ran one site round", async () => {
    const clipping = plan({ clipNorm: 0.25 });
    const evaluation = plan({ round: "s.2", task: "evaluate" });
    const other = plan({ round: "s.3" });
    const onSite = plan({ round: "s.4", siteRounds: 3 });
    const siteRound = { ...onSite, round: "s.4.1" };
    const clipped = stage({}, [clipping]);
    const far = updatesOf(clipping, { a: 256, b: 2 });
    const partial = fold(clipping, far);
    assert.equal(partial.clipped, 1);
    await clipped.deliver(partial, "s.1");
    await clipped.begin({ updates: "all" });
    await clipped.answer(far);
    assert.deepEqual(clipped.outcome(), passed);

    const { begin, deliver, answer, outcome } = stage({}, [evaluation, other, onSite, plan()]);
    const measured = updatesOf(evaluation, { a: 0, b: 0 });
    await deliver(fold(evaluation, measured), "s.2");
    await begin({ updates: "all" });
    await answer(measured);
    assert.deepEqual(outcome(), passed);

    const [first, second] = [updatesOf(plan(), { a: 5 }), updatesOf(other, { b: 7 })];
    const both = merge(fold(plan(), first), fold(other, second), 1_000n);
    assert.ok(both.ok);
    await deliver({ ...both.partial, site: null }, "s.3");
    await begin({ updates: "all", round: "s.1" });
    await answer(new Map([...first, ...second]));
    assert.deepEqual(outcome(), passed);

    const once = updatesOf(siteRound, { a: 9, d: 1 });
    await deliver(fold(siteRound, once, "s.4"), "s.4");
    await begin({ updates: "all", round: cloudRound("s.4") });
    await answer(once);
    assert.deepEqual(outcome(), passed);
  });

  it("fails when the sum is not theirs, though each update is", async () => {
    const { begin, said, deliver, answer, outcome } = stage();
    const updates = updatesOf(plan(), { a: 64, b: -3 });
    const partial = fold(plan(), updates);
    const sum = partial.sum.slice();
    sum[0] = (sum[0] ?? 0n) + 1n;
    await deliver({ ...partial, sum }, "s.1");
    await begin({ updates: "all" });
    await answer(updates);
    const faults = ["null sum-mismatch"];
    assert.deepEqual(outcome(), { state: "failed", refolded: false, faults });
    assert.equal(said.at(-1), "challenge-failed");
  });

  it("checks each of a Partial that is composed of several site rounds, and says that it made no sum", async () => {
    const onSite = plan({ round: "s.4", siteRounds: 2 });
    const { begin, deliver, answer, outcome } = stage({}, [onSite]);
    const second = { ...onSite, round: "s.4.2", base: { ...onSite.base, model: "s.4.1" } };
    const updates = new Map([
      ["a", updateOf({ ...onSite, round: "s.4.1" }, "a", 3)],
      ["b", updateOf(second, "b", 4)],
    ]);
    await deliver(fold(onSite, updates), "s.4");
    await begin({ updates: "all" });
    await answer(updates);
    assert.deepEqual(outcome(), { state: "passed", refolded: null, faults: [] });
    const newest = updatesOf({ ...onSite, round: "s.4.2" }, { a: 3, b: 4 });
    const twice = fold(onSite, newest);
    const contributors = twice.contributors.map((one) => ({ ...one, updates: 2 }));
    await deliver({ ...twice, contributors }, "s.4");
    await begin({ updates: "all" });
    await answer(newest);
    assert.deepEqual(outcome(), { state: "passed", refolded: null, faults: [] });
  });
});

describe("a gateway is found out", () => {
  const honest = updatesOf(plan(), { a: 64, b: -3 });
  const forged: readonly (readonly [string, string, AnsweredUpdate])[] = [
    [
      "that invents a contributor",
      "x identity-unknown",
      updateOf(plan(), "x", 5, { key: keyOf("a") }),
    ],
    [
      "that signs for a device itself",
      "c update-signature",
      updateOf(plan(), "c", 5, { key: makeKey("EdDSA") }),
    ],
    ["that has no signature", "c update-unsigned", updateOf(plan(), "c", 5, { key: null })],
    ["that hands in another device's update", "c update-signature", updateOf(plan(), "a", 64)],
    [
      "that replays an update of another round",
      "c unknown-round",
      updateOf(plan({ round: "s.2" }), "c", 5),
    ],
    [
      "that replays it under this round's name",
      "c update-signature",
      (({ begin, payload }) => ({ begin: { ...begin, round: "s.1" }, payload }))(
        updateOf(plan({ round: "s.2" }), "c", 5),
      ),
    ],
    [
      "that gives it another weight",
      "c bad-sample-count",
      updateOf(plan(), "c", 5, { samples: 9 }),
    ],
    [
      "that had it trained from elsewhere",
      "c wrong-base",
      updateOf(plan(), "c", 5, { base: "s.7" }),
    ],
    ["that took what the plan forbids", "c out-of-range", updateOf(plan(), "c", 257)],
    [
      "that changed its bytes",
      "c digest-mismatch",
      { ...updateOf(plan(), "c", 5), payload: updateOf(plan(), "c", 6).payload },
    ],
    ["that hands in fewer bytes", "c wrong-shape", updateOf(plan(), "c", 5, { bytes: 4 })],
  ];
  for (const [what, fault, update] of forged)
    it(what, async () => {
      const { begin, said, deliver, answer, outcome } = stage();
      const [device = ""] = fault.split(" ");
      const folded = new Map([
        ...honest,
        [device, updateOf(plan(), device, 5, { key: keyOf("a") })],
      ]);
      await deliver(fold(plan(), folded), "s.1");
      await begin({ updates: "all" });
      await answer(new Map([...honest, [device, update]]));
      assert.deepEqual(outcome(), { state: "failed", refolded: null, faults: [fault] });
      assert.equal(said.at(-1), "challenge-failed");
    });

  it("that does not answer in time, whether it is away or has lost what it was to keep", async () => {
    const { begin, clock, sent, deliver, answer, outcome } = stage();
    await deliver(fold(plan(), updatesOf(plan(), { a: 64, b: -3, c: 5 })), "s.1");
    await begin({ updates: "all" });
    await answer(honest);
    clock.advance(15_000);
    await turn();
    assert.equal(sent.length, 2);
    assert.deepEqual(
      sent[1]?.challenge.updates.map(({ device }) => device),
      ["c"],
    );
    clock.advance(44_999);
    assert.equal(outcome().state, "open");
    clock.advance(1);
    assert.deepEqual(outcome(), { state: "failed", refolded: null, faults: ["c update-missing"] });
    const times = sent.length;
    clock.advance(60_000);
    assert.equal(sent.length, times);
  });
});

describe("challenges", () => {
  it("come by chance, for some of the contributors, each as likely as another", async () => {
    const { challenges, sent, deliver, answer, outcome } = stage({ rate: 1 });
    const drawn = new Map<string, number>();
    const updates = updatesOf(plan(), { a: 1, b: 2, c: 3, d: 4 });
    for (let n = 0; n < 300; n++) {
      await deliver(fold(plan(), updates), "s.1");
      const devices = sent.at(-1)?.challenge.updates.map(({ device }) => device) ?? [];
      assert.equal(new Set(devices).size, 2);
      for (const device of devices) drawn.set(device, (drawn.get(device) ?? 0) + 1);
      await answer(updates);
      assert.deepEqual(outcome(), { state: "passed", refolded: null, faults: [] });
    }
    assert.equal(sent.length, 300);
    for (const times of drawn.values()) assert.ok(times > 100 && times < 200, `${times}`);
    assert.equal(challenges.list()[0]?.by, "chance");
    const rare = stage();
    await rare.deliver(fold(plan(), updates), "s.1");
    assert.equal(rare.sent.length, 0);
    const unsigned = stage({ rate: 1 }, [plan()], false);
    await unsigned.deliver(fold(plan(), updates), "s.1");
    assert.equal(unsigned.sent.length, 0);
  });

  it("are for the newest Partial that fits, and for none that was not received", async () => {
    const { begin, deliver } = stage({}, [plan(), plan({ round: "s.2" })]);
    const none = await begin({ updates: 1 });
    assert.equal(!none.ok && none.code, "unknown-partial");
    const one = await deliver(fold(plan(), updatesOf(plan(), { a: 1 })), "s.1");
    const two = await deliver(
      fold(plan({ round: "s.2" }), updatesOf(plan({ round: "s.2" }), { a: 1 })),
      "s.2",
    );
    const digestOf = async (request: object) => {
      const begun = await begin({ updates: 1, ...request });
      return begun.ok ? begun.challenge.digest : begun.code;
    };
    assert.equal(await digestOf({}), two);
    assert.equal(await digestOf({ round: "s.1" }), one);
    assert.equal(await digestOf({ digest: one, gateway: "gw-1" }), one);
    assert.equal(await digestOf({ gateway: "gw-2" }), "unknown-partial");
  });

  it("are bounded, and take from an answer only what they asked for", async () => {
    const { challenges, begin, sent, deliver, outcome } = stage();
    const updates = updatesOf(plan(), { a: 1, b: 2 });
    await deliver(fold(plan(), updates), "s.1");
    for (let n = 0; n < 16; n++) assert.ok((await begin({ updates: 1 })).ok);
    const full = await begin({ updates: 1 });
    assert.equal(!full.ok && full.code, "busy");
    const id = sent.at(-1)?.challenge.id ?? "";
    const update = updateOf(plan(), "a", 1);
    const codeOf = async (messages: AsyncIterable<AnswerChallengeRequest>) => {
      const answered = await challenges.answer(messages);
      return answered.ok ? answered.taken : answered.code;
    };
    assert.equal(await codeOf(messagesOf("nobody", [{ index: 0, update }])), 0);
    assert.equal(await codeOf(messagesOf(id, [{ index: 7, update }])), 0);
    const long = { ...update, payload: new Uint8Array(8) };
    assert.equal(await codeOf(messagesOf(id, [{ index: 0, update: long }])), "malformed");
    const none = { ...update, begin: {} as Begin };
    assert.equal(await codeOf(messagesOf(id, [{ index: 0, update: none }])), "malformed");
    assert.equal(outcome(id).state, "open");
    challenges.close();
  });
});
