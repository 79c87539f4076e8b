import type { PartialIdentity } from "@tributary/proto/tier/identity.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { storeLimits } from "../store/limits.js";
import { contributionsFromEarlier } from "../store/rounds.js";
import type {
  ContributionRow,
  DeviceRow,
  EvaluationRow,
  EventRow,
  GatewayRow,
  ModelRow,
  OpenRound,
  PartialRow,
  RoundRow,
  SampleRow,
  SessionProgress,
  SessionRow,
} from "../store/rows.js";
import { askFor, sliceOf } from "../store/slice.js";
import type {
  ContributionKey,
  ModelDecision,
  Page,
  RoundEnd,
  Settlement,
  Slice,
  Store,
  TelemetryBatch,
} from "../store/store.js";
import { storable, toJson } from "../store/tables.js";
import { type MemoryTable, type MemoryTables, memoryTables } from "./memory-tables.js";

/**
 * The cloud's store in memory, for tests and simulation. `crash` loses what the store's contract
 * lets a power cut take: fleet and events written since the last durable transaction.
 */
export type MemoryStore = Store & { crash(): void };

type Fleet = {
  readonly gateways: Map<string, GatewayRow>;
  readonly devices: Map<string, DeviceRow>;
  events: EventRow[];
  samples: SampleRow[];
  /** Newest sequence taken, by gateway, incarnation and class. */
  readonly marks: Map<string, number>;
};

export function memoryStore(): MemoryStore {
  const tables = memoryTables();
  const durable = <R>(body: () => R): R => {
    const result = tables.transaction(body);
    fleet.sync();
    return result;
  };
  const fleet = fleetIn();
  const sessions = sessionsIn(tables, durable);
  const models = modelsIn(tables, durable);
  const roundTable = tables.table<OpenRound>("round", ({ id }) => id);
  const partials = partialsIn(tables, durable, roundTable);
  const rounds = roundsIn(roundTable, durable, sessions.update, models.decide, partials.update);
  return {
    ...sessions.queries,
    ...models.queries,
    ...partials.queries,
    ...rounds,
    ...fleet.queries,
    saveProgress: async (session, progress, atMs, settled = []) =>
      durable(() => {
        sessions.update.progress(session, progress, atMs);
        partials.update.settle(session, settled);
      }),
    takeTelemetry: async (batch) => durable(() => fleet.take(batch)),
    crash: () => fleet.crash(),
    async ping() {},
    async close() {},
  };
}

type Durably = <R>(body: () => R) => R;

function byId<T extends { readonly id: string }>(rows: T[]): T[] {
  return rows.sort((a, b) => (a.id < b.id ? -1 : 1));
}

/** The slice of rows in order that follows a key. */
function page<R, T, K>(
  rows: readonly R[],
  limit: number,
  keyOf: (row: R) => K,
  itemOf: (row: R) => T,
): Slice<T, K> {
  return sliceOf(rows.slice(0, askFor(limit)), limit, keyOf, itemOf);
}

const self = <T>(row: T): T => row;

function sessionsIn(tables: MemoryTables, durable: Durably) {
  const sessions = tables.table<SessionRow>("session", ({ id }) => id);
  const update = (session: string, progress: SessionProgress, atMs: number): void => {
    const row = sessions.get(session);
    if (row === undefined)
      throw new TributaryError("store-unknown", `the store has no session ${session}`);
    const reason = progress.reason === null ? null : storable(progress.reason);
    sessions.replace(session, { ...row, ...progress, reason, updatedAtMs: atMs });
  };
  const queries: Pick<Store, "addSession" | "session" | "listSessions" | "runningSessions"> = {
    addSession: async (session) => durable(() => sessions.insertNew(session)),
    session: async (id) => sessions.get(id),
    async listSessions({ after, limit }) {
      const rows = byId(sessions.where(({ id }) => after === undefined || id > after));
      return page(rows, limit, ({ id }) => id, self);
    },
    runningSessions: async () => byId(sessions.where(({ state }) => state === "running")),
  };
  /** Moves `nextRound` past a round that opens; nothing happens for an unknown session. */
  const opened = (id: string, number: number, atMs: number): void => {
    const row = sessions.get(id);
    if (row === undefined) return;
    const nextRound = Math.max(row.nextRound, number + 1);
    sessions.replace(id, { ...row, nextRound, updatedAtMs: atMs });
  };
  return { queries, update: { progress: update, opened } };
}

type Numbered<T> = T & { readonly key: number };

function modelsIn(tables: MemoryTables, durable: Durably) {
  const models = tables.table<Numbered<ModelRow>>("model", ({ id }) => id);
  const evaluations = tables.table<Numbered<EvaluationRow>>("evaluation", ({ round }) => round);
  let sequence = 0;
  const bare = <T>(keyed: Numbered<T>): T => {
    const { key: _key, ...row } = keyed;
    return row as T;
  };
  const insert = (model: ModelRow): void => {
    if (model.parent !== null && models.get(model.parent) === undefined)
      throw new TributaryError("store-conflict", `${model.id} has no parent ${model.parent}`);
    models.insert({ ...model, key: ++sequence });
  };
  const decide = ({ model, state, metrics }: ModelDecision): void => {
    const row = models.get(model);
    if (row === undefined)
      throw new TributaryError("store-unknown", `the store has no model ${model}`);
    models.replace(model, { ...row, state, metrics: { ...row.metrics, ...metrics } });
  };
  const newestFirst = <T>(rows: Numbered<T>[]) => rows.sort((a, b) => b.key - a.key);
  const queries: Pick<
    Store,
    | "addModel"
    | "model"
    | "decideModel"
    | "listModels"
    | "trail"
    | "knownDigests"
    | "evaluations"
    | "evaluationOf"
  > = {
    addModel: async (model) =>
      durable(() => {
        if (models.get(model.id) !== undefined) return false;
        insert(model);
        return true;
      }),
    async model(id) {
      const row = models.get(id);
      return row && bare(row);
    },
    decideModel: async (decision) => durable(() => decide(decision)),
    async listModels({ session, state }, { after, limit }) {
      const rows = models.where(
        (row) =>
          (session === undefined || row.session === session) &&
          (state === undefined || row.state === state) &&
          (after === undefined || row.key < after),
      );
      return page(newestFirst(rows), limit, ({ key }) => key, bare<ModelRow>);
    },
    async trail(model, { after = 0, limit }) {
      const line: Numbered<ModelRow>[] = [];
      for (let id: string | null = model; id !== null; ) {
        const row: ModelRow | undefined = models.get(id);
        if (row === undefined) break;
        line.push({ ...row, key: line.length + 1 });
        id = row.parent;
      }
      return page(line.slice(after), limit, ({ key }) => key, bare<ModelRow>);
    },
    async knownDigests(digests) {
      const asked = new Set(digests);
      return new Set(models.where(({ digest }) => asked.has(digest)).map(({ digest }) => digest));
    },
    async evaluations(session, { after, limit }) {
      const rows = evaluations.where(
        (row) => row.session === session && (after === undefined || row.key < after),
      );
      return page(newestFirst(rows), limit, ({ key }) => key, bare<EvaluationRow>);
    },
    async evaluationOf(model) {
      const [newest] = newestFirst(evaluations.where((row) => row.model === model));
      return newest && bare(newest);
    },
  };
  const evaluate = (row: EvaluationRow) => evaluations.insert({ ...row, key: ++sequence });
  return { queries, decide: { decide, insert, evaluate } };
}

type Sessions = ReturnType<typeof sessionsIn>["update"];
type Models = ReturnType<typeof modelsIn>["decide"];

type Partials = ReturnType<typeof partialsIn>["update"];

function roundsIn(
  rounds: MemoryTable<OpenRound>,
  durable: Durably,
  sessions: Sessions,
  models: Models,
  partials: Partials,
) {
  const end = (given: RoundEnd): boolean => {
    const row = rounds.get(given.round);
    if (row === undefined)
      throw new TributaryError("store-unknown", `the store has no round ${given.round}`);
    if (row.state !== "open") return false;
    const { state, rule, closedAtMs } = given;
    const model = given.model?.id ?? null;
    const count = given.partials.length;
    rounds.replace(row.id, { ...row, state, rule, closedAtMs, model, partials: count });
    if (given.model !== undefined) models.insert(given.model);
    for (const decision of given.decided ?? []) models.decide(decision);
    partials.insert(given.partials, given.contributions);
    partials.settle(row.session, given.settled ?? []);
    const fromEarlier = contributionsFromEarlier(given, row.number);
    const counted = rounds.get(row.id) ?? row;
    rounds.replace(row.id, { ...counted, fromEarlier });
    if (given.evaluation !== undefined) models.evaluate(given.evaluation);
    sessions.progress(row.session, given.progress, closedAtMs);
    return true;
  };
  const queries: Pick<
    Store,
    "openRound" | "endRound" | "round" | "wholeRound" | "openRounds" | "listRounds"
  > = {
    openRound: async (round) =>
      durable(() => {
        rounds.insert(round);
        sessions.opened(round.session, round.number, round.openedAtMs);
      }),
    endRound: async (given) => durable(() => end(given)),
    async round(id) {
      const row = rounds.get(id);
      return row && withoutPlan(row);
    },
    wholeRound: async (id) => rounds.get(id),
    async openRounds(session) {
      const rows = rounds.where((row) => row.session === session && row.state === "open");
      return rows.sort((a, b) => a.number - b.number);
    },
    async listRounds(session, { after, limit }) {
      const rows = rounds
        .where((row) => row.session === session && (after === undefined || row.number < after))
        .sort((a, b) => b.number - a.number);
      return page(rows, limit, ({ number }) => number, withoutPlan);
    },
  };
  return queries;
}

function partialsIn(tables: MemoryTables, durable: Durably, rounds: MemoryTable<OpenRound>) {
  const partials = tables.table<PartialRow>("Partial", partialKey);
  const contributions = tables.table<ContributionRow>("contribution", contributionKey);
  /** Adds a contribution to the counts of its round, and takes it from what it counted as before. */
  const count = ({ session, round, outcome }: ContributionRow, before?: "kept"): void => {
    const row = rounds.get(`${session}.${round}`);
    if (row === undefined) return;
    const field = outcome === "model" ? "merged" : outcome;
    const kept = before === undefined ? row.kept : row.kept - 1;
    const known = { ...row, kept };
    rounds.replace(row.id, { ...known, [field]: known[field] + 1 });
  };
  const insert = (rows: readonly PartialRow[], given: readonly ContributionRow[]): void => {
    for (const partial of rows) partials.insert(partial);
    for (const contribution of given) {
      contributions.insert(contribution);
      count(contribution);
    }
  };
  const settle = (session: string, settled: readonly Settlement[]): void => {
    for (const { fate, retained, contributions: keys, ...identity } of settled) {
      const key = partialKey(identity);
      const row = partials.get(key);
      if (row?.session !== session || !row.retained || (fate !== null && row.outcome !== "kept"))
        throw new TributaryError("store-conflict", `${key} was decided before`);
      const { outcome } = fate ?? row;
      const rule = fate?.outcome === "expired" ? fate.rule : row.rule;
      partials.replace(key, { ...row, outcome, rule, retained });
      if (fate === null) continue;
      for (const at of keys) {
        const contribution = contributions.get(contributionKey({ session, ...at }));
        if (contribution?.outcome !== "kept")
          throw new TributaryError("store-conflict", `a contribution of ${key} was decided before`);
        const decided: ContributionRow =
          fate.outcome === "merged"
            ? { ...contribution, outcome: "model", model: fate.model }
            : { ...contribution, outcome: "expired", rule: fate.rule };
        contributions.replace(contributionKey(decided), decided);
        count(decided, "kept");
      }
    }
  };
  const queries: Pick<
    Store,
    "recordPartial" | "partial" | "retainedPartials" | "knownContributions" | "listContributions"
  > = {
    recordPartial: async (partial, given) =>
      durable(() => {
        if (partials.get(partialKey(partial)) === undefined) insert([partial], given);
      }),
    partial: async (identity) => partials.get(partialKey(identity)),
    async retainedPartials(session) {
      const rows = partials.where((row) => row.session === session && row.retained);
      return rows.sort(
        (a, b) => a.receivedAtMs - b.receivedAtMs || (partialKey(a) < partialKey(b) ? -1 : 1),
      );
    },
    async knownContributions(session, keys) {
      const asked = new Set(keys.map(({ round, device }) => `${round} ${device}`));
      return contributions
        .where((row) => row.session === session && asked.has(`${row.round} ${row.device}`))
        .map(({ round, stretch, device, updates }) => ({ round, stretch, device, updates }))
        .sort(byContribution);
    },
    async listContributions({ session, round, model, outcome }, { after, limit }) {
      const rows = contributions.where(
        (row) =>
          row.session === session &&
          (round === undefined || row.round === round) &&
          (model === undefined || row.model === model) &&
          (outcome === undefined || row.outcome === outcome) &&
          (after === undefined ||
            byContribution(row, { round: after[0], stretch: after[1], device: after[2] }) > 0),
      );
      rows.sort(byContribution);
      return page(rows, limit, (row) => [row.round, row.stretch, row.device] as const, self);
    },
  };
  return { queries, update: { insert, settle } };
}

function contributionKey(of: ContributionKey & Pick<ContributionRow, "session">): string {
  return `${of.session} ${of.round} ${of.stretch} ${of.device}`;
}

function byContribution(a: ContributionKey, b: ContributionKey): number {
  const byStretch = a.round - b.round || a.stretch - b.stretch;
  return byStretch || (a.device === b.device ? 0 : a.device < b.device ? -1 : 1);
}

function partialKey({ gateway, incarnation, sequence }: PartialIdentity): string {
  return `${gateway} ${incarnation} ${sequence}`;
}

function withoutPlan({
  plan: _plan,
  rosters: _rosters,
  siteRosters: _siteRosters,
  incarnations: _incarnations,
  ...row
}: OpenRound): RoundRow {
  return row;
}

/** The fleet and the events: written lazily. */
function fleetIn() {
  let written: Fleet = {
    gateways: new Map(),
    devices: new Map(),
    events: [],
    samples: [],
    marks: new Map(),
  };
  let safe: Fleet = copyFleet(written);
  let dirty = false;
  let sequence = 0;
  const put = <T extends { readonly id: string; readonly firstSeenMs: number }>(
    rows: Map<string, T>,
    given: readonly T[],
  ): void => {
    dirty = true;
    for (const row of given) {
      const { firstSeenMs } = rows.get(row.id) ?? row;
      rows.set(row.id, { ...(JSON.parse(toJson(row)) as T), firstSeenMs });
    }
  };
  const listed = <T extends { readonly id: string }>(
    rows: ReadonlyMap<string, T>,
    { after, limit }: Page<string>,
    matches: (row: T) => boolean,
  ) =>
    page(
      byId(
        [...rows.values()].filter((row) => (after === undefined || row.id > after) && matches(row)),
      ),
      limit,
      ({ id }) => id,
      (row) => ({ ...row }),
    );
  const append = (events: readonly Omit<EventRow, "sequence">[]): void => {
    dirty = true;
    written.events.push(...events.map((event) => ({ ...event, sequence: ++sequence })));
    written.events = written.events.slice(-storeLimits.eventsKept);
  };
  const queries: Pick<
    Store,
    | "saveGateways"
    | "listGateways"
    | "saveDevices"
    | "listDevices"
    | "detachAll"
    | "appendEvents"
    | "listEvents"
    | "listSamples"
  > = {
    saveGateways: async (gateways) => put(written.gateways, gateways),
    listGateways: async (at) => listed(written.gateways, at, () => true),
    saveDevices: async (devices) => put(written.devices, devices),
    async listDevices({ site, gateway }, at) {
      const slice = listed(
        written.devices,
        at,
        (row) =>
          (site === undefined || row.site === site) &&
          (gateway === undefined || row.gateway === gateway),
      );
      const items = slice.items.map((row) => {
        const via = row.connected ? written.gateways.get(row.via) : undefined;
        return { ...row, lastSeenMs: Math.max(row.lastSeenMs, via?.lastSeenMs ?? 0) };
      });
      return { ...slice, items };
    },
    async detachAll() {
      dirty = true;
      for (const [id, row] of written.gateways)
        written.gateways.set(id, { ...row, attached: false });
      for (const [id, row] of written.devices)
        written.devices.set(id, { ...row, connected: false });
    },
    appendEvents: async (events) => append(events),
    async listEvents({ after, limit }) {
      if (after === undefined)
        return { items: written.events.slice(1 - askFor(limit)), next: undefined };
      const rows = written.events.filter((event) => event.sequence > after);
      return page(rows, limit, (event) => event.sequence, self);
    },
    async listSamples(gateway, { after, limit }) {
      const rows = written.samples
        .filter((row) => row.gateway === gateway && (after === undefined || row.sequence < after))
        .reverse();
      return page(rows, limit, (row) => row.sequence, self);
    },
  };
  const take = (batch: TelemetryBatch): void => {
    const mark = `${batch.gateway} ${batch.incarnation} ${batch.class}`;
    const taken = written.marks.get(mark) ?? -1;
    if (batch.last <= taken) return;
    written.marks.set(mark, batch.last);
    const fresh = batch.entries.filter((entry) => entry.sequence > taken);
    dirty = true;
    if (batch.class === "logs") return append(fresh as EventRow[]);
    for (const { atMs, fields } of fresh)
      written.samples.push({ sequence: ++sequence, gateway: batch.gateway, atMs, fields });
    written.samples = written.samples.slice(-storeLimits.samplesKept);
  };
  return {
    queries,
    take,
    sync() {
      if (dirty) safe = copyFleet(written);
      dirty = false;
    },
    crash() {
      written = copyFleet(safe);
      dirty = false;
    },
  };
}

function copyFleet({ gateways, devices, events, samples, marks }: Fleet): Fleet {
  return {
    gateways: new Map(gateways),
    devices: new Map(devices),
    events: [...events],
    samples: [...samples],
    marks: new Map(marks),
  };
}
