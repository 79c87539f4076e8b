import assert from "node:assert/strict";
import { test } from "node:test";
import { roundsOf, type Partial as Sum } from "@tributary/proto/algebra/partial.js";
import type { AttachResponse } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { AppendFile } from "@tributary/proto/host/disk.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import { createInbox, type InboxAnswer } from "@tributary/proto/tier/inbox.js";
import fc from "fast-check";
import { aggregationSchema } from "./aggregation.js";
import { createDevices } from "./devices.js";
import { createGateways } from "./gateways.js";
import { createModels } from "./models.js";
import { readPlan } from "./round-plan.js";
import { openSessions } from "./sessions.js";
import type { Store } from "./store/store.js";
import { paramsOf } from "./testing/cloud.js";
import { memoryStore } from "./testing/memory-store.js";
import { encodedSum, modelBytes, sumOf } from "./testing/rounds.js";

/**
 * Sessions on a store and a disk in memory, with a clock, links and gateways that the test
 * plays, and a process that dies between any two calls to its store or disk.
 */

const store: Store = memoryStore();
let runs = 0;
type Rules = {
  readonly aggregation: Parameters<typeof aggregationSchema.parse>[0];
  readonly nMax?: number;
  readonly totalMax?: number;
};
const kernel = loadKernel();

const gatewayIds = ["g1", "g2", "g3"] as const;
type GatewayId = (typeof gatewayIds)[number];
const devicesOf = { g1: ["a", "b"], g2: ["c", "d"], g3: ["e"] } as const;
const stepsOf = { g1: 10, g2: -7, g3: 31 } as const;

type Operation =
  | { readonly kind: "attach" | "detach" | "empty"; readonly gateway: GatewayId }
  | {
      readonly kind: "deliver";
      readonly gateway: GatewayId;
      readonly back: number;
      readonly only: boolean;
      readonly wait: boolean;
    }
  | { readonly kind: "advance"; readonly ms: number }
  | { readonly kind: "stop" | "resume" | "activate" | "settle" }
  | { readonly kind: "crash"; readonly afterCalls: number };

const gateway = fc.constantFrom(...gatewayIds);
const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("attach" as const), gateway }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom("detach", "empty"), gateway }) },
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant("deliver" as const),
      gateway,
      back: fc.integer({ min: 0, max: 2 }),
      only: fc.boolean(),
      wait: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("advance" as const),
      ms: fc.integer({ min: 1, max: 700 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("settle" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom("stop", "resume", "activate") }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("crash" as const),
      afterCalls: fc.integer({ min: 0, max: 12 }),
    }),
  },
);

/** A part that fails every call once the process that holds it is dead. */
function mortal<T extends object>(part: T, life: { calls: number }): T {
  return new Proxy(part, {
    get(target, name, receiver) {
      const value: unknown = Reflect.get(target, name, receiver);
      if (typeof value !== "function") return value;
      return (...given: unknown[]) => {
        if (life.calls <= 0) return Promise.reject(new Error("the process is dead"));
        life.calls--;
        const made: unknown = Reflect.apply(value, target, given);
        return name === "openAppend"
          ? (made as Promise<AppendFile>).then((file) => mortal(file, life))
          : made;
      };
    },
  });
}

async function simulate(session: string, { aggregation, ...sizes }: Rules) {
  const clock = createManualClock(1_000_000);
  const disk = memoryDisk({ random: seededRandom(runs) });
  const offers: Record<GatewayId, Map<string, ReturnType<typeof readPlan>>> = {
    g1: new Map(),
    g2: new Map(),
    g3: new Map(),
  };
  const sums = new Map<string, { readonly gateway: GatewayId; readonly sum: Sum; done: boolean }>();
  const attached = new Set<GatewayId>();
  const underWay: Promise<unknown>[] = [];

  const boot = async () => {
    const life = { calls: Number.POSITIVE_INFINITY };
    // The runs of this file share one store, since making one takes seconds.
    const held = mortal({ ...store, listSessions: onlySession(session) }, life);
    const files = mortal(disk, life);
    const gateways = createGateways(clock, []);
    const devices = createDevices(clock, []);
    const take = (id: string, { message }: AttachResponse) => {
      if (message?.$case !== "roundOpened" || life.calls <= 0) return;
      const plan = readPlan(message.value.plan);
      if (plan.session === session) offers[id as GatewayId].set(plan.round, plan);
    };
    const links = { send: take, broadcast: () => {} };
    const sessions = await openSessions({
      clock,
      random: seededRandom(runs),
      disk: files,
      kernel,
      store: held,
      models: createModels(files, held, seededRandom(runs)),
      gateways,
      devices,
      links,
      events: () => {},
    });
    const inbox = createInbox(files, clock, sessions.destination);
    await sessions.resumeAll();
    return { life, sessions, inbox, gateways, devices, take };
  };
  let world = await boot();

  const models = createModels(disk, store, seededRandom(runs));
  const attach = async (id: GatewayId) => {
    attached.add(id);
    const { gateways, devices, sessions, take } = world;
    gateways.attach({ gateway: id, site: id, incarnation: "i", softwareVersion: "" });
    const joined = devicesOf[id].map((device) => ({
      device,
      sdk: "",
      attributes: Buffer.alloc(0),
      site: "",
      gateway: "",
    }));
    devices.change(id, id, { all: true, joined, left: [] });
    for (const message of await sessions.members.attached(id, [])) take(id, message);
    sessions.members.fleetChanged();
  };
  const deliver = async (identity: string): Promise<InboxAnswer | undefined> => {
    const sent = sums.get(identity);
    if (sent === undefined) return undefined;
    const { bytes, digest } = encodedSum(sent.sum);
    const [from = "", number = ""] = identity.split(" ");
    // Identities are shared by every run of this file's store.
    const partial = { gateway: from, incarnation: session, sequence: Number(number) };
    const announcement = {
      identity: partial,
      round: roundsOf(sent.sum).at(-1) ?? "",
      digest,
      totalBytes: bytes.length,
    };
    const opened = await world.inbox.open(announcement);
    const ended = opened.ok && (opened.state.receipt ?? opened.state.refusal);
    const answer =
      !opened.ok || ended
        ? opened
        : await world.inbox
            .sender(partial)
            ?.write(opened.state.receivedBytes, bytes.subarray(opened.state.receivedBytes));
    if (answer?.ok) {
      assert.equal(answer.state.refusal, undefined, JSON.stringify(answer));
      if (answer.state.receipt) sent.done = true;
    }
    return answer;
  };
  const crash = async (afterCalls: number) => {
    world.life.calls = afterCalls;
    await settle();
    world.life.calls = 0;
    disk.crash();
    attached.clear();
    world = await boot();
  };

  const apply = async (what: Operation): Promise<void> => {
    const { sessions } = world;
    switch (what.kind) {
      case "attach":
        return attach(what.gateway);
      case "detach":
        if (!attached.delete(what.gateway)) return;
        world.gateways.detach(what.gateway);
        sessions.members.detached(what.gateway);
        return;
      case "empty": {
        const plan = [...offers[what.gateway].values()].at(-1);
        // A gateway that has sent a Partial never says that it has none.
        if (plan === undefined || sums.has(identityOf(what.gateway, plan.round))) return;
        const { round } = plan;
        const figures = { offered: 0, folded: 0, declined: 0, sealed: true };
        sessions.members.progressed(what.gateway, { round, ...figures });
        return;
      }
      case "deliver": {
        const plan = [...offers[what.gateway].values()].at(-1 - what.back);
        if (plan === undefined) return;
        const identity = identityOf(what.gateway, plan.round);
        if (!sums.has(identity)) {
          const devices = devicesOf[what.gateway].slice(0, what.only ? 1 : undefined);
          const samples = Object.fromEntries(devices.map((device, i) => [device, i + 1]));
          const q = stepsOf[what.gateway];
          const metrics = { accuracy: 0.5 };
          const sum = sumOf(plan, samples, { q, metrics, site: what.gateway });
          sums.set(identity, { gateway: what.gateway, sum, done: false });
        }
        const delivery = deliver(identity).catch(dead);
        underWay.push(delivery);
        if (what.wait) await delivery;
        return;
      }
      case "advance":
        return clock.advance(what.ms);
      case "settle":
        return settle();
      case "stop":
      case "resume":
        await sessions.sessions[what.kind](session).catch(dead);
        return;
      case "activate": {
        const { items } = await store.listModels({ session }, { limit: 10 });
        const model = items.at(-1)?.id;
        if (model !== undefined) await sessions.sessions.activate(model).catch(dead);
        return;
      }
      case "crash":
        return crash(what.afterCalls);
    }
  };

  const start = async () => {
    const imported = await models.importFile(session, pieces(modelBytes), 0);
    assert.ok(imported.ok);
    const params = paramsOf({
      name: session,
      initialModel: `${session}.0`,
      rounds: 1_000,
      sitesQuorum: 1,
      siteQuorum: 1,
      evaluateEvery: 4,
      deadlineMs: 1_000,
      uploadWindowMs: 100,
      absentGraceMs: 100,
      failedRoundsMax: 1_000,
      aggregation: aggregationSchema.parse(aggregation),
      ...sizes,
    });
    assert.ok((await world.sessions.sessions.start(params)).ok);
  };
  /** Ends the session and sends again what has no receipt yet, as gateways do until they have one. */
  const end = async () => {
    await crash(0);
    await Promise.all(underWay);
    await world.sessions.sessions.resume(session);
    for (const id of gatewayIds) await attach(id);
    await settle();
    // The faults are over: what is late comes first, then rounds bring it into models.
    for (let round = 0; round < 3; round++) {
      for (const identity of [...sums.keys()].reverse()) await deliver(identity);
      for (const gateway of gatewayIds)
        await apply({ kind: "deliver", gateway, back: 0, only: false, wait: true });
      await settle();
    }
    await Promise.all(underWay);
    await world.sessions.sessions.stop(session);
    for (const [identity, sent] of sums)
      if (!sent.done) {
        await deliver(identity);
        assert.ok(sent.done, `${identity} has no receipt`);
      }
    const view = world.sessions.sessions.status(session);
    const { items } = await store.listContributions({ session }, { limit: 1_000 });
    const count = (of: string) => items.filter(({ outcome }) => outcome === of).length;
    assert.deepEqual(
      [view?.counts.merged, view?.counts.expired, view?.kept.contributions],
      [count("model"), count("expired"), count("kept")],
      "what is shown of the session is what is on record",
    );
    await world.sessions.close();
  };
  return { apply, start, end, attach, sums: () => [...sums.values()].map(({ sum }) => sum) };
}

function onlySession(session: string): Store["listSessions"] {
  return async () => {
    const row = await store.session(session);
    return { items: row === undefined ? [] : [row], next: undefined };
  };
}

function identityOf(gatewayId: GatewayId, round: string): string {
  return `${gatewayId} ${round.slice(round.lastIndexOf(".") + 1)}`;
}

function dead(error: unknown): void {
  if (!(error instanceof Error && error.message === "the process is dead")) throw error;
}

async function settle(): Promise<void> {
  for (let i = 0; i < 30; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}

async function* pieces(bytes: Uint8Array) {
  yield bytes;
}

/** What the trail must say, from what the gateways sent alone. */
async function audit(session: string, sums: readonly Sum[], carries: boolean): Promise<void> {
  const { items: rows } = await store.listContributions({ session }, { limit: 1_000 });
  const sent = sums.flatMap(({ contributors }) =>
    contributors.map(({ round, device, samples }) => `${round} ${device} ${samples}`),
  );
  const { items: rounds } = await store.listRounds(session, { limit: 1_000 });
  const bases = new Map(rounds.map(({ number, base }) => [number, base]));
  const recorded = rows.map(
    ({ round, device, samples }) => `${session}.${round} ${device} ${samples}`,
  );
  assert.deepEqual(recorded.sort(), sent.sort(), "each contribution is on record once");
  const retained = await store.retainedPartials(session);
  assert.ok(
    retained.every(({ outcome }) => outcome !== "kept"),
    "nothing stays kept in a stopped session",
  );
  assert.ok(carries || retained.length === 0, "only site memory outlasts a stop");
  const { items: models } = await store.listModels({ session }, { limit: 1_000 });
  const versions = new Map(models.map(({ id, version }) => [id, version]));
  const carriedBy = new Map<string, number>();
  for (const { id, round, parent, weight, contributors, sumDigest, groups } of models) {
    if (round === null) continue;
    const own = rows.filter(({ model }) => model === id);
    assert.equal(own.length, contributors);
    assert.ok(own.every(({ outcome }) => outcome === "model"));
    assert.equal(
      own.reduce((sum, { samples }) => sum + samples, 0),
      weight,
    );
    assert.ok(groups !== null && groups.length > 0);
    const fresh = groups.reduce((sum, group) => sum + group.contributors - group.carried, 0);
    assert.equal(fresh, contributors);
    const ages = groups.map(({ age }) => age);
    assert.deepEqual(
      ages,
      [...ages].sort((a, b) => b - a),
      "oldest base first",
    );
    for (const { base, age, carried } of groups) {
      assert.equal((versions.get(parent ?? "") ?? 0) - (versions.get(base) ?? 0), age);
      carriedBy.set(id, (carriedBy.get(id) ?? 0) + carried);
    }
    // What is carried on was summed in an earlier model, among others' rows.
    if ((carriedBy.get(id) ?? 0) === 0) {
      const sums = groups.map(({ base, site, samples, sumDigest: digest }) => {
        const members = own.filter(
          ({ round: number, gateway }) =>
            bases.get(number) === base && (site === null || site === gateway),
        );
        assert.equal(
          members.reduce((sum, row) => sum + row.samples, 0),
          samples,
        );
        const bytes = sumOfRows(members);
        assert.equal(digest, sha256(bytes), `${id} has the exact sum on ${base}`);
        return bytes;
      });
      assert.equal(sumDigest, sha256(Buffer.concat(sums)));
    }
  }
  for (const { id, number, model, merged, kept, expired, fromEarlier } of rounds) {
    const own = rows.filter((row) => row.round === number).map(({ outcome }) => outcome);
    const count = (outcome: string) => own.filter((each) => each === outcome).length;
    assert.deepEqual([merged, kept, expired], [count("model"), 0, count("expired")], id);
    const earlier = rows.filter((row) => row.model === model && row.round !== number);
    assert.equal(fromEarlier, model === null ? 0 : earlier.length, id);
  }
  for (const { outcome, rule, model } of rows) {
    assert.notEqual(outcome, "kept");
    if (outcome === "expired") assert.ok(rule !== null && model === null);
    else if (model !== null) assert.ok(models.some(({ id }) => id === model));
  }
}

function sumOfRows(rows: readonly { readonly samples: number; readonly gateway: string }[]) {
  const total = rows.reduce(
    (sum, row) => sum + BigInt(row.samples * stepsOf[row.gateway as GatewayId]),
    0n,
  );
  return new Uint8Array(new BigInt64Array(3).fill(total).buffer);
}

const rules: Record<string, Rules> = {
  sync: { aggregation: { kind: "sync", maxStaleness: 1 } },
  buffered: { aggregation: { kind: "buffered", contributors: 4, maxStaleness: 1 } },
  "buffered, K that does not fit": {
    aggregation: { kind: "buffered", contributors: 6, maxStaleness: 1 },
    nMax: 3,
    totalMax: 6,
  },
  "site-memory": {
    aggregation: { kind: "site-memory", halfLife: 0.4, populations: { g1: 3 } },
  },
};

for (const [name, of] of Object.entries(rules))
  test(`whatever happens in whatever order, each contribution is in one model or one expiry: ${name}`, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(operation, { minLength: 30, maxLength: 80, size: "max" }),
        async (operations) => {
          const session = `sim${++runs}`;
          const simulation = await simulate(session, of);
          await simulation.start();
          for (const id of gatewayIds) await simulation.attach(id);
          await settle();
          for (const what of operations) await simulation.apply(what);
          await simulation.end();
          await audit(session, simulation.sums(), name === "site-memory");
        },
      ),
      { numRuns: 30, includeErrorInReport: true },
    );
  });
