import type { Timer } from "@tributary/proto/host/clock.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { refuse } from "@tributary/proto/wire/verdict.js";
import type { SessionActor } from "./actor.js";
import { createDiskWait } from "./disk-wait.js";
import { mendLate } from "./late-damage.js";
import { hasRoom, type LatePartials } from "./late-partials.js";
import { limits } from "./limits.js";
import { modelPublished, roundOpened, sessionOver } from "./links.js";
import type { LiveRound } from "./live-round.js";
import { createMailbox } from "./mailbox.js";
import { createOptimizerFiles } from "./optimizer-files.js";
import { servesProject } from "./project-fleet.js";
import { settledIn, type Taken, takePartial } from "./reception.js";
import type { RoundStep } from "./round.js";
import { outcomesOf, settle } from "./round-end.js";
import { type Finishing, finishRound } from "./round-finish.js";
import {
  fleetNow,
  liveRound,
  planRound,
  recallRound,
  recallToStop,
  reportClosed,
  reportOpened,
  reportPlanRefused,
  reportResumed,
  roundTimes,
  tellMembers,
} from "./round-opening.js";
import { pooledFor } from "./round-pool.js";
import {
  type SessionEffect,
  type SessionEvent,
  type SessionState,
  type SessionStep,
  stepSession,
} from "./session.js";
import {
  decisionsOf,
  endedBy,
  isFor,
  keptBy,
  persistently,
  progressOf,
  reportPhase,
  sessionView,
  type Tally,
} from "./session-record.js";
import type { SessionWorld } from "./session-world.js";
import type { OpenRound, SessionRow } from "./store/rows.js";
import type { RoundEnd } from "./store/store.js";

/** @param restored the machine as the rows describe it */
export function createSessionActor(
  world: SessionWorld,
  row: SessionRow,
  restored: SessionState,
  tally: Tally,
  late: LatePartials,
): SessionActor {
  const { clock, store, models, gateways, links, events } = world;
  const { id: session, params } = row;
  const mailbox = createMailbox(limits.sessionBacklog);
  let machine = restored;
  let progress = progressOf(restored);
  let updatedAtMs = row.updatedAtMs;
  let live: LiveRound | undefined;
  // Open on disk while the session is failed: known for what it received.
  let left: LiveRound | undefined;
  let timer: Timer | undefined;
  let fleetPending = false;
  const closing = new AbortController();
  const disk = createDiskWait();
  const surely = <T>(write: () => Promise<T>) =>
    persistently(world, closing.signal, write, disk.waits);
  let closed = false;
  let cleaning: Promise<unknown> = Promise.resolve();

  const put = <T>(job: () => Promise<T>): Promise<T> | undefined =>
    mailbox.put(async () => {
      if (closed)
        throw new TributaryError("store-failed", "the cloud is shutting down", { retryable: true });
      return job();
    });
  /** Whoever closes waits for a break-down, too: it is on record then. */
  const guarded = (job: () => Promise<void>) => put(() => job().catch(breakDown));
  /** Whether there is room for it. */
  const inBackground = (job: () => Promise<void>): boolean => {
    const run = guarded(job);
    run?.catch(() => undefined);
    return run !== undefined;
  };
  /** Waits for a job whose failure leaves the session failed, which its view then says. */
  const runJob = async (job: () => Promise<void>): Promise<void> => {
    const run = guarded(job);
    if (run === undefined)
      throw new TributaryError("store-failed", `${session} has a backlog`, { retryable: true });
    await run;
  };
  /** The session fails; its round stays as it is on disk, for when it is resumed. */
  const breakDown = async (cause: unknown): Promise<void> => {
    if (closed) return;
    const reason = cause instanceof Error ? cause.message : String(cause);
    timer?.cancel();
    late.doubt();
    const broken = live;
    left = broken ?? left;
    live = undefined;
    machine = stepSession(machine, { kind: "broken", reason }).state;
    progress = progressOf(machine);
    events({ level: "error", name: "session-failed", session, reason });
    await broken?.close().catch(() => undefined);
    // Where the store is what failed, the row still says `running`, and a restart goes on.
    await store.saveProgress(session, progress, clock.nowMs()).catch(() => undefined);
  };
  const wakeAt = (atMs: number) => {
    timer?.cancel();
    timer = clock.setTimer(atMs - clock.monotonicMs(), () => inBackground(tick));
  };
  const tick = async () => {
    const nowMs = clock.monotonicMs();
    if (live === undefined) await advance({ kind: "tick", nowMs });
    else await follow(live.step({ kind: "tick", nowMs }));
  };

  /** Steps the machine: makes the step durable, adopts it, then carries out its effects. */
  const advance = async (
    event: SessionEvent,
    persist: (step: SessionStep) => Promise<void> = saveStep,
  ): Promise<void> => {
    const fleet = fleetNow(world, params);
    const step = stepSession({ ...machine, fleet }, event);
    await persist(step);
    const before = machine.phase.kind;
    machine = step.state;
    progress = progressOf(machine);
    if (machine.phase.kind !== before) {
      reportPhase(events, session, machine);
      if (endedBy(machine)) links.broadcast(sessionOver(session));
    }
    for (const effect of step.effects) await perform(effect);
  };
  const saveStep = async (step: SessionStep): Promise<void> => {
    for (const [model, state] of decisionsOf(step))
      await surely(() => store.decideModel({ model, state, metrics: {} }));
    const next = progressOf(step.state);
    // The transaction that opens a round moves `nextRound`.
    const opens = step.effects.some((effect) => effect.kind === "open");
    const settled = opens ? { ...next, nextRound: progress.nextRound } : next;
    if (JSON.stringify(settled) === JSON.stringify(progress)) return;
    // Of a session that stands still, this says since when.
    if (next.state === "running" || next.state !== progress.state) updatedAtMs = clock.nowMs();
    const ended = endedBy(step.state);
    if (ended !== undefined) await surely(() => late.renew());
    if (ended === undefined || late.list().length === 0)
      return surely(() => store.saveProgress(session, next, updatedAtMs));
    const end = settle(session, [], late.list(), new Map(), ended);
    await surely(() => store.saveProgress(session, next, updatedAtMs, end.settled));
    const given = end.settled.filter(({ fate }) => fate !== null);
    tally.expired += given.reduce((sum, { contributions }) => sum + contributions.length, 0);
    await late.adopt(end.retained);
  };
  const perform = async (effect: SessionEffect): Promise<void> => {
    switch (effect.kind) {
      case "wake":
        return wakeAt(effect.atMs);
      case "open":
        return open(effect);
      case "publish":
        return publish(effect.model);
      case "hold": {
        const { model, reason } = effect;
        return events({ level: "warn", name: "model-held", session, model, reason });
      }
      case "stop-round":
        if (live !== undefined)
          await follow(live.step({ kind: "stop", nowMs: clock.monotonicMs() }));
    }
  };
  const publish = async (model: string) => {
    events({ level: "info", name: "model-published", session, model });
    const base = await models.base(model);
    if (base === undefined) return;
    if (world.projects === undefined) return links.broadcast(modelPublished(session, base));
    // A project's models are for its own sites.
    for (const gateway of gateways.attachedIds())
      if (servesProject(world, params, gateway)) links.send(gateway, modelPublished(session, base));
  };

  const open = async (effect: Extract<SessionEffect, { kind: "open" }>) => {
    const opened = await planRound(world, params, effect);
    await surely(() => store.openRound(opened));
    const { deadlineMs } = params;
    live = liveRound(world, params, opened, roundTimes(world, params, deadlineMs));
    reportOpened(world, opened, deadlineMs);
    await begun(live);
  };
  /** Offers a round to its members, and closes it if it is due already. */
  const begun = async (begins: LiveRound) => {
    const gone = tellMembers(world, begins);
    await pooled();
    for (const gateway of gone) await replaced(gateway);
    if (live === begins) await tick();
  };
  const buffers = () => live?.row.task === "train" && params.aggregation.kind === "buffered";
  /** Tells a round that buffers what is kept for its model. */
  const pooled = async () => {
    if (live === undefined || !buffers()) return;
    await surely(() => late.renew());
    const kept = await surely(() => pooledFor(world, params, machine.head, late.list()));
    await follow(live.step({ kind: "pooled", ...kept, nowMs: clock.monotonicMs() }));
    await filled();
  };
  /** Tells a round that buffers when no more can be kept than what it has. */
  const filled = async (full = !hasRoom(late.list(), [...(live?.all() ?? []), { bytes: 0 }])) => {
    if (live === undefined || !full || !buffers()) return;
    await follow(live.step({ kind: "full", nowMs: clock.monotonicMs() }));
  };
  /** A gateway is another incarnation than the open round's: what that had of it is not to come. */
  const replaced = async (gateway: string) => {
    if (live?.state.members[gateway]?.standing !== "waiting") return;
    const { id: round } = live.row;
    const incarnation = gateways.incarnationOf(gateway) ?? "";
    const what = { session, round, gateway, incarnation };
    events({ level: "warn", name: "gateway-replaced", ...what });
    await follow(live.step({ kind: "gone", gateway, nowMs: clock.monotonicMs() }));
  };
  /** Goes on with a round that a stop of the process, or a failure, left open. */
  const takeUp = async (opened: OpenRound) => {
    const taken = await recallRound(world, params, opened);
    live = taken;
    left = undefined;
    reportResumed(world, taken);
    await begun(taken);
  };
  /** Ends a round that was left open and is not to go on. */
  const putDown = async (opened: OpenRound, after: "go-on" | "stop") => {
    const recalled = await surely(() => recallToStop(world, params, opened, left));
    const { number: round, task } = opened;
    machine = { ...machine, phase: { kind: "round", round, task, after } };
    live = recalled;
    left = undefined;
    await follow(recalled.step({ kind: "stop", nowMs: clock.monotonicMs() }));
  };
  /** Adopts a round's step and carries out what it leads to. */
  const follow = async (step: RoundStep): Promise<void> => {
    if (live === undefined) return;
    live.adopt(step);
    for (const effect of step.effects) {
      if (effect.kind === "wake") wakeAt(effect.atMs);
      if (effect.kind === "close") {
        timer?.cancel();
        await finishRound(finishing, live, effect);
      }
    }
  };
  const conclude: Finishing["conclude"] = async (ended, step, endings, how) => {
    const { row } = ended;
    if (endedBy(step.state)) await surely(() => late.renew());
    const own = ended.all();
    const { retained, ...rows } = settle(row.id, own, late.list(), endings, endedBy(step.state));
    const closedAtMs = clock.nowMs();
    const after = { progress: progressOf(step.state), ...how };
    const end: RoundEnd = { round: row.id, closedAtMs, ...rows, ...after };
    await surely(() => store.endRound(end));
    live = undefined;
    updatedAtMs = closedAtMs;
    const { merged, kept, expired } = outcomesOf(rows);
    tally.merged += merged;
    tally.expired += expired;
    await late.adopt(retained);
    const tookMs = Math.round(clock.monotonicMs() - ended.times.openedAtMs);
    reportClosed(world, row, end.state, { merged, kept, expired }, tookMs);
    // The next start sweeps what a crash before this leaves behind.
    cleaning = Promise.all([cleaning, ended.remove().catch(() => undefined)]);
  };
  const finishing: Finishing = {
    world,
    params,
    optimizers: createOptimizerFiles(world.disk, session),
    late,
    tally,
    machine: () => machine,
    surely,
    advance,
    conclude,
  };
  /** What a gateway said of its part in the open round. */
  const standing = (gateway: string, round: string, next: "delivered" | "empty" | "refused") =>
    inBackground(async () => {
      if (live?.row.id !== round || live.state.members[gateway]?.standing !== "waiting") return;
      // Without the record a restart only waits for the gateway to say it again.
      if (next !== "delivered") await live.keepStanding(gateway, next).catch(() => undefined);
      await follow(live.step({ kind: next, gateway, nowMs: clock.monotonicMs() }));
    });
  const mend = () =>
    mendLate(finishing, (settled) => store.saveProgress(session, progress, updatedAtMs, settled));
  const begin = async (): Promise<void> => {
    await mend();
    const [opened] = live === undefined ? await store.openRounds(session) : [];
    if (opened === undefined) {
      await advance({ kind: "resume" });
      return advance({ kind: "fleet" });
    }
    machine = { ...machine, failedRounds: 0 };
    // It is for another head where a model was activated and the round was not stopped with it.
    if (!isFor(machine, opened)) return putDown(opened, "go-on");
    const { number: round, task } = opened;
    machine = { ...machine, phase: { kind: "round", round, task, after: "go-on" } };
    progress = progressOf(machine);
    await surely(() => store.saveProgress(session, progress, clock.nowMs()));
    return takeUp(opened);
  };
  const stop = async (): Promise<void> => {
    const [opened] = machine.phase.kind === "failed" ? await store.openRounds(session) : [];
    if (machine.phase.kind === "failed") await mend();
    return opened === undefined ? advance({ kind: "stop" }) : putDown(opened, "stop");
  };

  return {
    view() {
      const round = live?.view(gateways.attached, clock.monotonicMs(), clock.nowMs()) ?? null;
      const shown = { row, machine, progress, updatedAtMs, tally, round };
      return sessionView({ ...shown, kept: keptBy(late), waitsFor: disk.reason() });
    },
    running: () => progress.state === "running",
    settled: (identity) => settledIn(live ?? left, identity),
    async recall() {
      await put(async () => {
        const [opened] = live === undefined ? await store.openRounds(session) : [];
        if (opened === undefined) return;
        const recalled = await recallRound(world, params, opened);
        await recalled.close();
        left = recalled;
      });
    },
    deliver: (announcement, partial, bytes) =>
      new Promise<Taken>((resolve, reject) => {
        const job = put(async () => {
          const { kind } = machine.phase;
          const ended = kind === "stopped" || kind === "finished";
          const bySite = params.aggregation.kind === "site-memory";
          const reception = { world, session, live, left, late, ended, bySite, tally };
          const taken = await takePartial(reception, announcement, partial, bytes);
          // The sender need not wait for the merge that its Partial may set off.
          resolve(taken);
          if (!taken.ok && taken.code !== "storage-full") return;
          if (taken.ok && taken.step !== undefined) await follow(taken.step).catch(breakDown);
          if (taken.ok && taken.kept === true) await pooled().catch(breakDown);
          else await filled(taken.ok ? undefined : true).catch(breakDown);
        });
        if (job === undefined) resolve(refuse("busy", `${session} has a backlog`));
        else job.catch(reject);
      }),
    fleetChanged() {
      if (fleetPending) return;
      // Judged in its turn: what a round's end is just being written by may wait for this site.
      fleetPending = inBackground(async () => {
        fleetPending = false;
        if (machine.phase.kind === "waiting") await advance({ kind: "fleet" });
      });
    },
    linkChanged(gateway, attached) {
      const kind = attached ? "attached" : "detached";
      inBackground(async () => {
        if (live?.state.members[gateway] === undefined) return;
        if (attached && !live.opensFor(gateway, gateways.incarnationOf(gateway)))
          return replaced(gateway);
        await follow(live.step({ kind, gateway, nowMs: clock.monotonicMs() }));
      });
    },
    progressed(gateway, { round, offered, folded, declined, sealed }) {
      if (live?.row.id !== round) return;
      const figures = { offered, folded, declined, sealed };
      live.figures(gateway, figures);
      events({ level: "debug", name: "round-progress", session, round, gateway, ...figures });
      if (sealed && folded === 0) standing(gateway, round, "empty");
      else if (sealed && live.brought(gateway) >= folded) standing(gateway, round, "delivered");
    },
    planRefused(gateway, refused) {
      const { round } = refused;
      if (live?.row.id !== round) return;
      reportPlanRefused(world, session, gateway, refused);
      standing(gateway, round, "refused");
    },
    opened: (gateway) =>
      live?.opensFor(gateway, gateways.incarnationOf(gateway)) === true
        ? roundOpened(live, gateway, clock.monotonicMs())
        : undefined,
    run: () => runJob(begin),
    // While the disk is full it is answered at once, and carried out when there is room.
    stop: () => Promise.race([runJob(stop), disk.waiting()]),
    activate: (model, baseline) =>
      runJob(async () => {
        events({ level: "info", name: "model-activated", session, model });
        await advance({ kind: "activate", model, ...(baseline && { baseline }) });
        await advance({ kind: "fleet" });
      }),
    async close() {
      closed = true;
      closing.abort();
      timer?.cancel();
      await mailbox.idle();
      await live?.close();
      await cleaning;
    },
  };
}
