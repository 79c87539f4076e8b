import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { sessionParamsSchema } from "../params.js";
import { storeLimits } from "./limits.js";
import type {
  ContributionRow,
  DeviceRow,
  EvaluationRow,
  GatewayRow,
  ModelRow,
  OpenRound,
  PartialRow,
  SessionProgress,
  SessionRow,
} from "./rows.js";
import type { RoundEnd, Store } from "./store.js";

const progress = (session: string, nextRound: number): SessionProgress => ({
  state: "running",
  reason: null,
  head: `${session}.0`,
  nextRound,
  failedRounds: 0,
  evaluated: null,
});

export const sessionRow = (id: string): SessionRow => ({
  id,
  params: sessionParamsSchema.parse({ name: id, initialModel: `${id}.0` }),
  ...progress(id, 1),
  createdAtMs: 1_700_000_000_000,
  updatedAtMs: 1_700_000_000_000,
});

export const modelRow = (session: string, number: number): ModelRow => ({
  id: `${session}.${number}`,
  digest: `${number}`.padStart(64, "0"),
  bytes: 4096,
  parameters: 1000,
  parent: number === 0 ? null : `${session}.${number - 1}`,
  version: number,
  session,
  round: number === 0 ? null : `${session}.${number}`,
  state: number === 0 ? "published" : "candidate",
  weight: number === 0 ? 0 : 2 ** 52 + 1,
  contributors: 2,
  metrics: { loss: 0.1 + 0.2, accuracy: 1 / 3 },
  sumDigest: number === 0 ? null : "ab".repeat(32),
  groups:
    number === 0
      ? null
      : [
          {
            base: `${session}.${number - 1}`,
            age: 0,
            site: null,
            coefficient: 0.1 + 0.2,
            samples: 2 ** 52 + 1,
            contributors: 2,
            carried: 0,
            sumDigest: "ab".repeat(32),
          },
        ],
  fractionBits: number === 0 ? null : [20, 16],
  createdAtMs: 1_700_000_000_000 + number,
});

const openRound = (session: string, number: number): OpenRound => ({
  id: `${session}.${number}`,
  session,
  number,
  task: "train",
  base: `${session}.${number - 1}`,
  state: "open",
  rule: null,
  model: null,
  sites: 2,
  roster: 3,
  partials: 0,
  merged: 0,
  kept: 0,
  expired: 0,
  fromEarlier: 0,
  openedAtMs: 1_700_000_000_100,
  closedAtMs: null,
  plan: Uint8Array.of(0, 1, 255, 92, 120, 0),
  rosters: { g1: ["d1", "d2"], g2: ["d3"] },
  incarnations: { g1: "i1", g2: "i7" },
});

const contribution = (session: string, round: number, device: string): ContributionRow => ({
  session,
  round,
  stretch: 0,
  device,
  gateway: "g1",
  samples: 2 ** 40,
  updates: 3,
  outcome: "model",
  rule: null,
  model: `${session}.${round}`,
});

const partialRow = (round: string, sequence: number): PartialRow => ({
  gateway: "g1",
  incarnation: round.replace(".", "-"),
  sequence,
  digest: "cd".repeat(32),
  session: round.slice(0, round.indexOf(".")),
  round,
  site: "site-g1",
  base: `${round.slice(0, round.indexOf("."))}.0`,
  bytes: 2 ** 30,
  weight: 2 ** 41,
  contributors: 2,
  outcome: "merged",
  rule: null,
  retained: false,
  receivedAtMs: 1_700_000_000_150,
});

const roundEnd = (session: string, number: number, devices: string[]): RoundEnd => ({
  round: `${session}.${number}`,
  state: "committed",
  rule: null,
  closedAtMs: 1_700_000_000_200,
  model: modelRow(session, number),
  partials: [partialRow(`${session}.${number}`, 1)],
  contributions: devices.map((device) => contribution(session, number, device)),
  progress: { ...progress(session, number + 1), head: `${session}.${number}` },
});

export const gatewayRow = (id: string): GatewayRow => ({
  id,
  site: `site-${id}`,
  incarnation: "i1",
  softwareVersion: "0.1.0",
  attached: true,
  connectedDevices: 3,
  outboxPartials: 1,
  outboxBytes: 2 ** 41,
  oldestAgeMs: 12,
  freeDiskBytes: 2 ** 45,
  refusals: { "not-finite": 2 },
  duplicatesDropped: 4,
  budgetBytes: 2 ** 33,
  roundTripMs: 12,
  clockOffsetMs: -(2 ** 40),
  classes: { results: { bytes: 2 ** 32, budgetBytes: 2 ** 33, evicted: 0 } },
  firstSeenMs: 1,
  lastSeenMs: 2,
});

const deviceRow = (id: string, gateway: string): DeviceRow => ({
  id,
  site: `site-${gateway}`,
  gateway,
  via: `above-${gateway}`,
  sdk: "typescript/0.1.0",
  attributes: { os: "linux", cores: 4, mains: true },
  connected: true,
  firstSeenMs: 1,
  lastSeenMs: 2,
});

export const failsWith = (code: string) => (error: unknown) =>
  error instanceof TributaryError && error.code === code;

/** Where stores are; `open` gives the same one each time. */
export type Place = { open(): Promise<Store>; remove(): Promise<void> };

/** What every store must do. */
export function storeContract(driver: string, makePlace: () => Promise<Place>): void {
  describe(`store, ${driver}`, () => {
    let place: Place;
    let store: Store;
    before(async () => {
      place = await makePlace();
      store = await place.open();
    });
    after(async () => {
      await store?.close();
      await place?.remove();
    });

    test("a session is found as it was added, and its id is taken once", async () => {
      const session = sessionRow("alpha");
      assert.equal(await store.addSession(session), true);
      assert.equal(await store.addSession({ ...session, head: "x.0" }), false);
      assert.deepEqual(await store.session("alpha"), session);
      assert.equal(await store.session("nobody"), undefined);
      const stopped = { ...progress("alpha", 4), state: "stopped", reason: "by\0hand" } as const;
      await store.saveProgress("alpha", stopped, 5);
      const after = { ...session, ...stopped, reason: "by\ufffdhand", updatedAtMs: 5 };
      assert.deepEqual(await store.session("alpha"), after);
      assert.ok(!(await store.runningSessions()).some(({ id }) => id === "alpha"));
      await assert.rejects(store.saveProgress("nobody", stopped, 5), failsWith("store-unknown"));
    });

    test("lists come in slices, each after the key of the one before", async () => {
      for (const id of ["Slice-b", "Slice_a", "Slice-a"]) await store.addSession(sessionRow(id));
      const seen: string[] = [];
      let after: string | undefined = "Slice";
      do {
        const slice = await store.listSessions({ after, limit: 2 });
        seen.push(...slice.items.map(({ id }) => id));
        after = slice.next;
      } while (after !== undefined);
      assert.deepEqual(
        seen.filter((id) => id.startsWith("Slice")),
        ["Slice-a", "Slice-b", "Slice_a"],
      );
    });

    test("a round opens, can be gone on with, and ends in one transaction", async () => {
      await store.addSession(sessionRow("beta"));
      assert.equal(await store.addModel(modelRow("beta", 0)), true);
      assert.equal(await store.addModel(modelRow("beta", 0)), false);
      const round = openRound("beta", 1);
      await store.openRound(round);
      assert.equal((await store.session("beta"))?.nextRound, 2);
      assert.deepEqual(await store.openRounds("beta"), [round]);
      const { plan: _plan, rosters: _rosters, incarnations: _incarnations, ...row } = round;
      assert.deepEqual(await store.round("beta.1"), row);
      const end = roundEnd("beta", 1, ["d1", "d2"]);
      assert.equal(await store.endRound(end), true);
      assert.deepEqual(await store.openRounds("beta"), []);
      const ended = { ...row, state: "committed", closedAtMs: end.closedAtMs, model: "beta.1" };
      assert.deepEqual(await store.round("beta.1"), { ...ended, partials: 1, merged: 2 });
      assert.deepEqual(await store.model("beta.1"), end.model);
      assert.deepEqual(await store.partial(partialRow("beta.1", 1)), partialRow("beta.1", 1));
      assert.equal((await store.session("beta"))?.head, "beta.1");
      assert.equal(await store.endRound(end), false, "a round ends once");
    });

    test("a contribution counted twice undoes the whole end of the round", async () => {
      await store.addSession(sessionRow("gamma"));
      await store.addModel(modelRow("gamma", 0));
      await store.openRound(openRound("gamma", 1));
      await assert.rejects(
        store.endRound(roundEnd("gamma", 1, ["d1", "d1"])),
        failsWith("store-conflict"),
      );
      assert.equal((await store.round("gamma.1"))?.state, "open");
      assert.equal(await store.model("gamma.1"), undefined);
      assert.equal(await store.partial(partialRow("gamma.1", 1)), undefined);
      assert.equal((await store.session("gamma"))?.head, "gamma.0");
      assert.deepEqual(
        (await store.listContributions({ session: "gamma" }, { limit: 9 })).items,
        [],
      );
      assert.equal(await store.endRound(roundEnd("gamma", 1, ["d1"])), true);
    });

    test("no model without its parent, no round twice, no end of a round that is not there", async () => {
      await store.addSession(sessionRow("delta"));
      await assert.rejects(store.addModel(modelRow("delta", 7)), failsWith("store-conflict"));
      await store.openRound(openRound("delta", 1));
      await assert.rejects(store.openRound(openRound("delta", 1)), failsWith("store-conflict"));
      await assert.rejects(store.endRound(roundEnd("delta", 9, [])), failsWith("store-unknown"));
      const decision = { model: "delta.9", state: "held", metrics: {} } as const;
      await assert.rejects(store.decideModel(decision), failsWith("store-unknown"));
    });

    test("an evaluation decides about the candidate and is kept", async () => {
      await store.addSession(sessionRow("eval"));
      await store.addModel(modelRow("eval", 0));
      await store.openRound({ ...openRound("eval", 1), task: "evaluate" });
      const evaluation: EvaluationRow = {
        round: "eval.1",
        session: "eval",
        model: "eval.0",
        against: null,
        passed: true,
        weight: 10,
        contributors: 2,
        metrics: { accuracy: 0.9 },
        atMs: 3,
      };
      const { model: _model, ...end } = roundEnd("eval", 1, []);
      const metrics = { "evaluation.accuracy": 0.9 };
      await store.endRound({
        ...end,
        decided: [{ model: "eval.0", state: "held", metrics }],
        evaluation,
      });
      assert.deepEqual(await store.evaluationOf("eval.0"), evaluation);
      assert.deepEqual(await store.evaluations("eval", { limit: 5 }), {
        items: [evaluation],
        next: undefined,
      });
      const decided = await store.model("eval.0");
      assert.equal(decided?.state, "held");
      assert.deepEqual(decided?.metrics, { ...modelRow("eval", 0).metrics, ...metrics });
    });

    const countsOf = async (round: string) => {
      const { merged, kept, expired, fromEarlier } = (await store.round(round)) ?? {};
      return { merged, kept, expired, fromEarlier };
    };
    const keepLate = async (session: string, devices: readonly string[]) => {
      await store.addSession(sessionRow(session));
      await store.addModel(modelRow(session, 0));
      await store.openRound(openRound(session, 1));
      await store.endRound(roundEnd(session, 1, ["d1"]));
      const partial = {
        ...partialRow(`${session}.1`, 2),
        outcome: "kept",
        retained: true,
      } as const;
      const kept = devices.map((device) => ({
        ...contribution(session, 1, device),
        outcome: "kept" as const,
        model: null,
      }));
      await store.recordPartial(partial, kept);
      return { partial, kept };
    };

    test("a Partial that comes late is recorded once, and never over what is on record", async () => {
      const { partial, kept } = await keepLate("late", ["d2", "d3"]);
      await store.recordPartial(partial, kept);
      const again = { ...partial, sequence: 3 };
      const [overlap] = kept;
      await assert.rejects(
        store.recordPartial(again, overlap === undefined ? [] : [overlap]),
        failsWith("store-conflict"),
      );
      assert.equal(await store.partial(again), undefined);
      const { items } = await store.listContributions({ session: "late" }, { limit: 10 });
      assert.deepEqual(items, [contribution("late", 1, "d1"), ...kept]);
      assert.deepEqual(await countsOf("late.1"), {
        merged: 1,
        kept: 2,
        expired: 0,
        fromEarlier: 0,
      });
      assert.deepEqual(await store.partial(partial), partial);
      assert.deepEqual(await store.retainedPartials("late"), [partial]);
      const keys = ["d1", "d3", "d4"].map((device) => ({ round: 1, stretch: 0, device }));
      assert.deepEqual(await store.knownContributions("late", keys), keys.slice(0, 2));
      const asked = { round: 1, stretch: 0, device: "d1" };
      assert.deepEqual(await store.knownContributions("late", [{ ...asked, round: 2 }]), []);
      assert.deepEqual(await store.knownContributions("other", [asked]), []);
    });

    test("a device contributes to a round once in each stretch of its site rounds", async () => {
      const { partial, kept } = await keepLate("apart", ["d1", "d2"].slice(1));
      const later = [2, 10].map((stretch) => ({
        ...(kept[0] as ContributionRow),
        stretch,
        device: "d1",
      }));
      await store.recordPartial({ ...partial, sequence: 3 }, later);
      const again = { ...partial, sequence: 4 };
      await assert.rejects(store.recordPartial(again, later), failsWith("store-conflict"));
      const filter = { session: "apart" };
      const all = [contribution("apart", 1, "d1"), ...kept, ...later];
      const first = await store.listContributions(filter, { limit: 2 });
      assert.deepEqual(first.items, all.slice(0, 2));
      assert.deepEqual(first.next, [1, 0, "d2"]);
      const rest = await store.listContributions(filter, { limit: 9, after: first.next });
      assert.deepEqual(rest.items, all.slice(2));
      const keys = [0, 2, 3, 10].map((stretch) => ({ round: 1, stretch, device: "d1" }));
      const known = await store.knownContributions("apart", keys);
      assert.deepEqual(
        known.map(({ stretch }) => stretch),
        [0, 2, 10],
      );
      const fate = { outcome: "expired", rule: "max-staleness" } as const;
      const { gateway, incarnation } = partial;
      const identity = { gateway, incarnation, sequence: 3, retained: false, fate };
      const contributions = later.map(({ round, stretch, device }) => ({ round, stretch, device }));
      const settled = [{ ...identity, contributions }];
      await store.saveProgress("apart", progress("apart", 2), 9, settled);
      const { items } = await store.listContributions(filter, { limit: 9 });
      assert.deepEqual(
        items.map(({ outcome }) => outcome),
        ["model", "kept", "expired", "expired"],
      );
      assert.deepEqual(await countsOf("apart.1"), {
        merged: 1,
        kept: 1,
        expired: 2,
        fromEarlier: 0,
      });
    });

    test("what was kept ends once: in a model that another round makes, or expired", async () => {
      const { partial, kept } = await keepLate("settle", ["d2"]);
      const contributions = kept.map(({ round, stretch, device }) => ({ round, stretch, device }));
      const { gateway, incarnation, sequence } = partial;
      const identity = { gateway, incarnation, sequence };
      await store.openRound(openRound("settle", 2));
      const end = roundEnd("settle", 2, ["d1"]);
      const fate = { outcome: "merged", model: "settle.2" } as const;
      const settled = [{ ...identity, fate, retained: true, contributions }];
      assert.equal(await store.endRound({ ...end, settled }), true);
      const held = { ...contribution("settle", 1, "d2"), model: "settle.2" };
      const inModel = { session: "settle", model: "settle.2" };
      const listed = (await store.listContributions(inModel, { limit: 9 })).items;
      assert.deepEqual(listed, [held, contribution("settle", 2, "d1")]);
      assert.deepEqual(await countsOf("settle.1"), {
        merged: 2,
        kept: 0,
        expired: 0,
        fromEarlier: 0,
      });
      assert.deepEqual(await countsOf("settle.2"), {
        merged: 1,
        kept: 0,
        expired: 0,
        fromEarlier: 1,
      });
      assert.deepEqual(await store.retainedPartials("settle"), [{ ...partial, outcome: "merged" }]);
      // Its file is given up; what became of it stays.
      const dropped = [{ ...identity, fate: null, retained: false, contributions }];
      await store.saveProgress("settle", progress("settle", 3), 9, dropped);
      assert.deepEqual(await store.retainedPartials("settle"), []);
      assert.equal((await store.partial(identity))?.outcome, "merged");
    });

    test("an outcome that is decided is not decided again, and undoes all around it", async () => {
      const { partial, kept } = await keepLate("once", ["d2"]);
      const contributions = kept.map(({ round, stretch, device }) => ({ round, stretch, device }));
      const fate = { outcome: "expired", rule: "max-staleness" } as const;
      const expiry = { ...partial, fate, retained: false, contributions };
      await store.saveProgress("once", progress("once", 2), 9, [expiry]);
      const expired = { ...contribution("once", 1, "d2"), ...fate, model: null };
      const only = { session: "once", outcome: "expired" } as const;
      assert.deepEqual((await store.listContributions(only, { limit: 9 })).items, [expired]);
      assert.equal((await store.round("once.1"))?.expired, 1);
      await store.openRound(openRound("once", 2));
      const end = roundEnd("once", 2, ["d1"]);
      for (const settled of [
        [expiry],
        [{ ...expiry, fate: null }],
        [{ ...expiry, sequence: 9, contributions: [] }],
      ])
        await assert.rejects(store.endRound({ ...end, settled }), failsWith("store-conflict"));
      await assert.rejects(
        store.saveProgress("once", progress("once", 7), 9, [expiry]),
        failsWith("store-conflict"),
      );
      assert.equal((await store.session("once"))?.nextRound, 3);
      assert.equal((await store.round("once.2"))?.state, "open");
      assert.equal(await store.model("once.2"), undefined);
    });

    test("a gateway's notes are taken once each, by incarnation and class", async () => {
      const batch = { gateway: "t1", incarnation: "i1", class: "metrics", atMs: 5 } as const;
      const sample = (sequence: number) => ({ sequence, atMs: 100 + sequence, fields: { n: 1 } });
      await store.takeTelemetry({ ...batch, last: 2, entries: [sample(1), sample(2)] });
      await store.takeTelemetry({ ...batch, last: 2, entries: [sample(1), sample(2)] });
      await store.takeTelemetry({ ...batch, last: 4, entries: [sample(2), sample(3)] });
      await store.takeTelemetry({ ...batch, last: 4, entries: [sample(4)] });
      const next = { ...batch, incarnation: "i2", atMs: 6 };
      await store.takeTelemetry({ ...next, last: 1, entries: [sample(1)] });
      const times = async (after?: number, limit = 9) => {
        const { items, next } = await store.listSamples("t1", { after, limit });
        return { atMs: items.map(({ atMs }) => atMs), next };
      };
      assert.deepEqual((await times()).atMs, [101, 103, 102, 101]);
      const first = await times(undefined, 1);
      assert.deepEqual((await times(first.next)).atMs, [103, 102, 101]);
      assert.deepEqual((await store.listSamples("t2", { limit: 9 })).items, []);
      const event = { sequence: 1, atMs: 7, level: "warn", name: "x", fields: { gateway: "t1" } };
      const logs = { ...batch, class: "logs", last: 1, entries: [event] } as const;
      await store.takeTelemetry(logs as Parameters<Store["takeTelemetry"]>[0]);
      await store.takeTelemetry(logs as Parameters<Store["takeTelemetry"]>[0]);
      const events = (await store.listEvents({ limit: 9 })).items;
      assert.deepEqual(
        events.filter(({ name }) => name === "x").map(({ atMs, fields }) => [atMs, fields]),
        [[7, { gateway: "t1" }]],
      );
    });

    test("contributions are filtered and paged by round and device", async () => {
      await store.addSession(sessionRow("pages"));
      await store.addModel(modelRow("pages", 0));
      for (const number of [1, 2]) {
        await store.openRound(openRound("pages", number));
        await store.endRound(roundEnd("pages", number, ["b", "B", "a"]));
      }
      const seen: string[] = [];
      let after: readonly [number, number, string] | undefined;
      do {
        const slice = await store.listContributions({ session: "pages" }, { after, limit: 2 });
        seen.push(...slice.items.map(({ round, device }) => `${round}${device}`));
        after = slice.next;
      } while (after !== undefined);
      assert.deepEqual(seen, ["1B", "1a", "1b", "2B", "2a", "2b"]);
      const only = { session: "pages", round: 2, outcome: "expired" } as const;
      assert.deepEqual((await store.listContributions(only, { limit: 9 })).items, []);
      const second = { session: "pages", round: 2, outcome: "model" } as const;
      assert.equal((await store.listContributions(second, { limit: 9 })).items.length, 3);
      const rounds = await store.listRounds("pages", { limit: 1 });
      assert.deepEqual([rounds.items[0]?.number, rounds.next], [2, 2]);
      const older = await store.listRounds("pages", { limit: 1, after: 2 });
      assert.deepEqual([older.items[0]?.number, older.next], [1, undefined]);
    });

    test("the trail leads from a model back to its root, in slices too", async () => {
      for (let number = 0; number < 5; number++) await store.addModel(modelRow("trail", number));
      const ids = async (after: number | undefined, limit: number) => {
        const { items, next } = await store.trail("trail.4", { after, limit });
        return [items.map(({ id }) => id.slice(6)).join(""), next];
      };
      assert.deepEqual(await ids(undefined, 10), ["43210", undefined]);
      assert.deepEqual(await ids(undefined, 2), ["43", 2]);
      assert.deepEqual(await ids(2, 2), ["21", 4]);
      assert.deepEqual(await ids(4, 2), ["0", undefined]);
      assert.deepEqual((await store.trail("nobody.1", { limit: 3 })).items, []);
      const newest = await store.listModels({ session: "trail" }, { limit: 2 });
      assert.deepEqual(
        newest.items.map(({ id }) => id),
        ["trail.4", "trail.3"],
      );
      const rest = await store.listModels({ session: "trail" }, { limit: 9, after: newest.next });
      assert.equal(rest.items.length, 3);
      const published = await store.listModels(
        { session: "trail", state: "published" },
        { limit: 9 },
      );
      assert.equal(published.items.length, 1);
      const digest = modelRow("trail", 3).digest;
      assert.deepEqual([...(await store.knownDigests([digest, "f".repeat(64)]))], [digest]);
    });

    test("the fleet is replaced row by row, keeps when it was first seen, and detaches", async () => {
      await store.saveGateways([gatewayRow("g1"), { ...gatewayRow("g2"), attached: false }]);
      const later = { ...gatewayRow("g1"), firstSeenMs: 50, lastSeenMs: 60, incarnation: "i2" };
      await store.saveGateways([gatewayRow("g1"), later]);
      const [g1, g2] = (await store.listGateways({ limit: 9 })).items;
      assert.deepEqual(g1, { ...later, firstSeenMs: 1 });
      assert.equal(g2?.attached, false);
      await store.saveDevices([
        deviceRow("d1", "g1"),
        deviceRow("d2", "g2"),
        deviceRow("d3", "g2"),
      ]);
      assert.deepEqual((await store.listDevices({}, { limit: 9 })).items[0], deviceRow("d1", "g1"));
      assert.equal((await store.listDevices({ gateway: "g2" }, { limit: 9 })).items.length, 2);
      const slice = await store.listDevices({ site: "site-g2" }, { limit: 1 });
      assert.deepEqual([slice.items[0]?.id, slice.next], ["d2", "d2"]);
      await store.detachAll();
      assert.ok((await store.listGateways({ limit: 9 })).items.every(({ attached }) => !attached));
      assert.ok(
        (await store.listDevices({}, { limit: 9 })).items.every(({ connected }) => !connected),
      );
    });

    test("a device that is connected was seen when its gateway was", async () => {
      await store.saveGateways([{ ...gatewayRow("seen"), lastSeenMs: 900 }]);
      const here = { ...deviceRow("seen-a", "below"), via: "seen" };
      await store.saveDevices([here, { ...here, id: "seen-b", connected: false }]);
      const { items } = await store.listDevices({ gateway: "below" }, { limit: 9 });
      assert.deepEqual(
        items.map(({ lastSeenMs }) => lastSeenMs),
        [900, 2],
      );
    });

    test("text that SQL cannot hold is stored all the same", async () => {
      const attributes = JSON.parse(
        '{"a\\u0000":"x\\u0000y","half\\ud800":"\\udfff","__proto__":1}',
      );
      await store.saveDevices([{ ...deviceRow("odd", "g1"), sdk: "\0'; --", attributes }]);
      const [odd] = (await store.listDevices({}, { after: "od", limit: 1 })).items;
      assert.equal(odd?.sdk, "\ufffd'; --");
      assert.equal(odd?.attributes["a\ufffd"], "x\ufffdy");
      assert.equal(odd?.attributes["half\ufffd"], "\ufffd");
    });

    test("events keep their order, can be followed, and the oldest make room", async () => {
      const event = (at: number) =>
        ({ atMs: at, level: "info", name: "round-opened", fields: { round: "r.1", at } }) as const;
      await store.appendEvents([event(1), event(2), event(3)]);
      const newest = await store.listEvents({ limit: 2 });
      assert.deepEqual(
        newest.items.map(({ atMs }) => atMs),
        [2, 3],
      );
      const last = newest.items[1]?.sequence as number;
      await store.appendEvents([event(4)]);
      const { items } = await store.listEvents({ after: last, limit: 9 });
      assert.deepEqual(items, [{ ...event(4), sequence: last + 1 }]);
      for (let batch = 0; batch < 3; batch++)
        await store.appendEvents(
          Array.from({ length: storeLimits.eventsKept / 2 }, (_, i) => event(i)),
        );
      let count = 0;
      let after: number | undefined = 0;
      while (after !== undefined) {
        const slice = await store.listEvents({ after, limit: storeLimits.sliceItems });
        count += slice.items.length;
        after = slice.next;
      }
      assert.equal(count, storeLimits.eventsKept);
    });

    test("a slice is bounded whatever is asked for", async () => {
      const slice = await store.listEvents({ after: 0, limit: 1e9 });
      assert.equal(slice.items.length, storeLimits.sliceItems);
      assert.equal((await store.listEvents({ after: 0, limit: -5 })).items.length, 1);
    });

    test("what was written is there after reopening", async () => {
      await store.close();
      store = await place.open();
      assert.deepEqual(await store.model("beta.1"), modelRow("beta", 1));
    });
  });
}
