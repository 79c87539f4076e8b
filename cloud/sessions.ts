import { isDeepStrictEqual } from "node:util";
import type { AttachResponse } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Members } from "@tributary/proto/tier/attach.js";
import type { PartialIdentity } from "@tributary/proto/tier/identity.js";
import type {
  Announcement,
  Destination,
  Settled,
  UploadState,
} from "@tributary/proto/tier/inbox.js";
import { isCode } from "@tributary/proto/wire/codes.js";
import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import type { PlanPackage } from "@tributary/proto/wire/plan.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { SessionActor } from "./actor.js";
import { openLatePartials, sweepLatePartials } from "./late-partials.js";
import { limits } from "./limits.js";
import { modelPublished, roundClosed, sessionOver } from "./links.js";
import type { SessionParams } from "./params.js";
import { servesProject } from "./project-fleet.js";
import { JOURNAL_FOLDER, roundOfJournal } from "./round-journal.js";
import { makePlan } from "./round-plan.js";
import { newSession } from "./session.js";
import { createSessionActor } from "./session-actor.js";
import { baselineOf, progressOf, restoreSession, rulesOf, type Tally } from "./session-record.js";
import type { SessionCode, Sessions, SessionView } from "./session-view.js";
import type { SessionWorld } from "./session-world.js";
import type { SessionRow } from "./store/rows.js";
import { takeTelemetry } from "./telemetry.js";

export type RunningSessions = {
  readonly sessions: Sessions;
  readonly members: Members;
  readonly destination: Destination;
  /** Goes on with every session that ran, its open round included. */
  resumeAll(): Promise<void>;
  close(): Promise<void>;
};

type Answer = Verdict<{ readonly session: SessionView }, SessionCode>;

/** Every session that the store holds, on real parts. */
export async function openSessions(world: SessionWorld): Promise<RunningSessions> {
  const { store, events } = world;
  const actors = new Map<string, SessionActor>();
  const starting = new Set<string>();
  for (let after: string | undefined; ; ) {
    const slice = await store.listSessions({ after, limit: SLICE });
    for (const row of slice.items) await enlist(world, actors, row);
    after = slice.next;
    if (after === undefined) break;
  }
  const running = () => [...actors.values()].filter((actor) => actor.running());
  const actorOfRound = (round: string) => {
    const split = splitNumberedId(round);
    return split && actors.get(split.session);
  };
  const full = () =>
    running().length + starting.size >= limits.sessionsRunning
      ? refuse("busy", `${limits.sessionsRunning} sessions run already`)
      : undefined;

  /** A session on record is found, also when the answer of the write that put it there was lost. */
  const actorOf = async (id: string): Promise<SessionActor | undefined> => {
    const known = actors.get(id);
    if (known !== undefined || starting.has(id)) return known;
    const row = await store.session(id);
    return row && enlist(world, actors, row);
  };
  /** Puts a session on record; gives a row of that name that is there already and that nobody runs. */
  const record = async (row: SessionRow): Promise<SessionRow | undefined> => {
    try {
      if (await store.addSession(row)) return row;
      return await store.session(row.id);
    } catch (error) {
      const written = await store.session(row.id).catch(() => undefined);
      if (written === undefined) throw error;
      return written;
    }
  };

  const start = async (params: SessionParams): Promise<Answer> => {
    const { name } = params;
    const exists = refuse("session-exists", `a session named ${name} exists`);
    if (actors.has(name) || starting.has(name)) return exists;
    const busy = full();
    if (busy !== undefined) return busy;
    starting.add(name);
    try {
      const checked = await checkStart(world, params);
      if (!checked.ok) return checked;
      // Whatever can fail comes before the row: a session on record is one that can be asked about.
      const late = await openLatePartials(world.disk, store, name);
      const recorded = await record(newRow(params, world.clock.nowMs()));
      if (recorded === undefined) return exists;
      const { initialModel } = recorded.params;
      events({ level: "info", name: "session-started", session: name, initialModel });
      const tally: Tally = { merged: 0, expired: 0, metrics: {} };
      const machine = newSession(rulesOf(recorded.params), initialModel);
      const actor = createSessionActor(world, recorded, machine, tally, late);
      actors.set(name, actor);
      await actor.run();
      // An earlier start of that name may have left its row alone, with parameters of its own.
      return sameParams(recorded.params, params) ? { ok: true, session: actor.view() } : exists;
    } finally {
      starting.delete(name);
    }
  };

  const sessions: Sessions = {
    start,
    async stop(id) {
      const actor = await actorOf(id);
      if (actor === undefined) return unknownSession(id);
      const { state } = actor.view();
      if (state !== "running" && state !== "failed")
        return refuse("wrong-state", `${id} is ${state}; running and failed ones stop`);
      await actor.stop();
      return { ok: true, session: actor.view() };
    },
    async resume(id) {
      const lost = !actors.has(id);
      const actor = await actorOf(id);
      if (actor === undefined) return unknownSession(id);
      const { state, head } = actor.view();
      // One that was only just found on record has to be set going, whatever its row says.
      if (state !== "stopped" && state !== "failed" && !(lost && state === "running"))
        return refuse("wrong-state", `${id} is ${state}; stopped and failed ones resume`);
      const busy = full();
      if (busy !== undefined) return busy;
      await actor.run();
      events({ level: "info", name: "session-resumed", session: id, head });
      return { ok: true, session: actor.view() };
    },
    status: (id) => actors.get(id)?.view(),
    list: () =>
      [...actors.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, actor]) => actor.view()),
    activate: async (model, session) => {
      if (session !== undefined) await actorOf(session);
      const found = await findActivated(world, actors, model, session);
      if (!found.ok) return found;
      const { actor, params } = found;
      await actor.activate(model, await baselineOf(store, params, model));
      return { ok: true, session: actor.view(), model };
    },
  };

  return {
    sessions,
    members: membersOf(world, actors, actorOfRound),
    destination: destinationOf(world, actors, actorOfRound),
    async resumeAll() {
      await sweepJournals(world);
      await sweepLatePartials(world.disk, store, [...actors.keys()]);
      // A failed one keeps its round as it is, and still knows what was received of it.
      for (const actor of actors.values())
        if (!actor.running()) await actor.recall().catch(() => undefined);
      for (const actor of running()) {
        const { id, head } = actor.view();
        events({ level: "info", name: "session-resumed", session: id, head });
        await actor.run();
      }
    },
    async close() {
      await Promise.all([...actors.values()].map((actor) => actor.close()));
    },
  };
}

const SLICE = 200;

/** As they are written down: what is undefined is left out, and the order of names is no matter. */
function sameParams(one: SessionParams, other: SessionParams): boolean {
  const written = (params: SessionParams): unknown => JSON.parse(JSON.stringify(params));
  return isDeepStrictEqual(written(one), written(other));
}

/** Gives a session on record an actor, which does not run yet. */
async function enlist(
  world: SessionWorld,
  actors: Map<string, SessionActor>,
  row: SessionRow,
): Promise<SessionActor> {
  const { machine, tally } = await restoreSession(world.store, row);
  const late = await openLatePartials(world.disk, world.store, row.id);
  const actor = actors.get(row.id) ?? createSessionActor(world, row, machine, tally, late);
  actors.set(row.id, actor);
  return actor;
}

function unknownSession(id: string): Refusal<SessionCode> {
  return refuse("unknown-session", `no session ${id}`);
}

function newRow(params: SessionParams, nowMs: number): SessionRow {
  const machine = newSession(rulesOf(params), params.initialModel);
  return {
    ...progressOf(machine),
    id: params.name,
    params,
    createdAtMs: nowMs,
    updatedAtMs: nowMs,
  };
}

/** A session whose first plan cannot be made is refused before it exists. */
async function checkStart(
  { models, packages, store }: SessionWorld,
  params: SessionParams,
): Promise<Verdict<object, SessionCode>> {
  const { name, initialModel } = params;
  const row = await store.model(initialModel);
  const base = row && (await models.base(initialModel));
  if (base === undefined) return refuse("unknown-model", `no model ${initialModel}`);
  const code = await checkPackage(packages, params);
  if (!code.ok) return code;
  const plan = makePlan(params, 1, "train", base, code.offered);
  if (!plan.ok) return plan;
  const taken = await store.listModels({ session: name }, { limit: 1 });
  return taken.items.some((model) => model.id !== initialModel)
    ? refuse("session-exists", `models of a session named ${name} exist`)
    : { ok: true };
}

/** The session's package, if it has one: known in its project, and with the commands that it will need. */
async function checkPackage(
  packages: SessionWorld["packages"],
  { package: id, project, evaluateEvery }: SessionParams,
): Promise<Verdict<{ readonly offered?: PlanPackage }, SessionCode>> {
  if (id === undefined) return { ok: true };
  const planned = await packages?.planned(id);
  if (planned === undefined || planned.project !== project)
    return refuse("unknown-package", `no package ${id} in the project ${project}`);
  const { train, validate } = planned.says.entryPoints;
  if (train === undefined) return refuse("plan-invalid", `package: ${id} has no command to train`);
  if (validate === undefined && evaluateEvery > 0)
    return refuse(
      "plan-invalid",
      `package: ${id} has no command to validate; set evaluateEvery to 0`,
    );
  return { ok: true, offered: planned.offered };
}

async function findActivated(
  { store }: SessionWorld,
  actors: ReadonlyMap<string, SessionActor>,
  model: string,
  session: string | undefined,
): Promise<Verdict<{ readonly actor: SessionActor; readonly params: SessionParams }, SessionCode>> {
  const row = await store.model(model);
  if (row === undefined) return refuse("unknown-model", `no model ${model}`);
  const owners = [...actors].filter(
    ([id, actor]) => row.session === id || actor.view().params.initialModel === model,
  );
  const own = session ?? row.session;
  const [found, ...others] = own === null ? owners : owners.filter(([id]) => id === own);
  if (found === undefined)
    return refuse("foreign-model", `${model} belongs to no session that is here`);
  if (others.length > 0)
    return refuse("foreign-model", `${owners.length} sessions began with ${model}: name one`);
  const [, actor] = found;
  return { ok: true, actor, params: actor.view().params };
}

function membersOf(
  world: SessionWorld,
  actors: ReadonlyMap<string, SessionActor>,
  actorOfRound: (round: string) => SessionActor | undefined,
): Members {
  const { store, models } = world;
  const each = (visit: (actor: SessionActor) => void) => {
    for (const actor of actors.values()) if (actor.running()) visit(actor);
  };
  return {
    fleetChanged: () => each((actor) => actor.fleetChanged()),
    async attached(gateway, rounds) {
      each((actor) => actor.linkChanged(gateway, true));
      const messages: AttachResponse[] = [];
      const over = new Set<string>();
      for (const round of rounds) {
        const row = splitNumberedId(round) && (await store.round(round));
        if (row && row.state !== "open") messages.push(roundClosed(round, row.state));
        const state = row && actors.get(row.session)?.view().state;
        if (row && (state === "finished" || state === "stopped")) over.add(row.session);
      }
      const newest = [...actors.values()]
        .map((actor) => ({ actor, view: actor.view() }))
        .sort((x, y) => y.view.startedAtMs - x.view.startedAtMs)
        .slice(0, limits.publishedSessions);
      // A gateway that names no round of it may have others below that stand by for its next one.
      for (const { view } of newest) if (view.state === "finished") over.add(view.id);
      for (const session of over) messages.push(sessionOver(session));
      for (const { view } of newest) {
        if (!servesProject(world, view.params, gateway)) continue;
        const row = await store.model(view.head);
        const base = row?.state === "published" ? await models.base(view.head) : undefined;
        if (base !== undefined) messages.push(modelPublished(view.id, base));
      }
      each((actor) => {
        const opened = actor.opened(gateway);
        if (opened !== undefined) messages.push(opened);
      });
      return messages;
    },
    detached: (gateway) => each((actor) => actor.linkChanged(gateway, false)),
    progressed: (gateway, progress) => actorOfRound(progress.round)?.progressed(gateway, progress),
    planRefused: (gateway, refused) => actorOfRound(refused.round)?.planRefused(gateway, refused),
    async telemetry(gateway, telemetry) {
      const incarnation = world.gateways.incarnationOf(gateway);
      if (incarnation === undefined) return undefined;
      return takeTelemetry(store, world.clock, gateway, incarnation, telemetry);
    },
  };
}

function destinationOf(
  { store, clock, events }: SessionWorld,
  actors: ReadonlyMap<string, SessionActor>,
  actorOfRound: (round: string) => SessionActor | undefined,
): Destination {
  return {
    async settled(identity) {
      for (const actor of actors.values()) {
        const settled = actor.settled(identity);
        if (settled !== undefined) return settled;
      }
      return storedSettlement(store, identity);
    },
    async knowsRound(round) {
      return actorOfRound(round) !== undefined && (await store.round(round)) !== undefined;
    },
    async deliver(announcement, partial, bytes) {
      const actor = actorOfRound(announcement.round);
      if (actor === undefined) return refuse("unknown-round", `no round ${announcement.round}`);
      return actor.deliver(announcement, partial, bytes);
    },
    async recordRefusal(announcement, refusal) {
      const { round, identity } = announcement;
      const { code, message } = refusal;
      const { gateway } = identity;
      events({ level: "warn", name: "partial-refused", round, gateway, code, message });
      await store.recordPartial(refusedRow(announcement, code, clock.nowMs()), []);
    },
  };
}

function refusedRow(
  { identity, digest, round, totalBytes }: Announcement,
  code: string,
  receivedAtMs: number,
) {
  const outcome = "refused" as const;
  const empty = { weight: 0, contributors: 0 };
  return {
    ...identity,
    digest,
    session: splitNumberedId(round)?.session ?? "",
    round,
    site: null,
    base: null,
    bytes: totalBytes,
    ...empty,
    outcome,
    rule: code,
    retained: false,
    receivedAtMs,
  };
}

async function storedSettlement(
  store: SessionWorld["store"],
  identity: PartialIdentity,
): Promise<Settled | undefined> {
  const row = await store.partial(identity);
  if (row === undefined) return undefined;
  const { digest, bytes, outcome } = row;
  const rule = row.rule ?? "";
  const state: UploadState =
    outcome === "refused"
      ? {
          receivedBytes: 0,
          refusal: refuse(isCode(rule) ? rule : "partial-malformed", "it was refused before"),
        }
      : { receivedBytes: bytes, receipt: { digest, outcome, rule } };
  return { digest, state };
}

/** Journals of rounds that ended: a crash may come between a round's end and their removal. */
async function sweepJournals({ disk, store }: SessionWorld): Promise<void> {
  const names = await disk.list(JOURNAL_FOLDER);
  for (const name of names) {
    const round = roundOfJournal(name);
    const row = round === undefined ? undefined : await store.round(round);
    if (row !== undefined && row.state !== "open") await disk.remove(`${JOURNAL_FOLDER}/${name}`);
  }
}
