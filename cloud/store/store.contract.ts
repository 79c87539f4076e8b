import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import {
  contribution,
  modelRow,
  openRound,
  partialRow,
  progress,
  roundEnd,
  sessionRow,
} from "../testing/store-rows.js";
import { fleetContract } from "./fleet.contract.js";
import type { ContributionRow, EvaluationRow } from "./rows.js";
import type { Store } from "./store.js";

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
      const { plan: _p, rosters: _r, siteRosters: _s, incarnations: _i, ...row } = round;
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
      const known = keys.slice(0, 2).map((key) => ({ ...key, updates: 3 }));
      assert.deepEqual(await store.knownContributions("late", keys), known);
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
      const asked = { round: 1, device: "d1" };
      const known = await store.knownContributions("apart", [asked, asked]);
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

    fleetContract(() => store);

    test("what was written is there after reopening", async () => {
      await store.close();
      store = await place.open();
      assert.deepEqual(await store.model("beta.1"), modelRow("beta", 1));
    });
  });
}
