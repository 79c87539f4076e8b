import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import type {
  AttachResponse,
  PlanRefused,
  RoundProgress,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Timer } from "@tributary/proto/host/clock.js";
import type { PartialIdentity } from "@tributary/proto/tier/identity.js";
import type { Announcement, PartialReceipt, Settled } from "@tributary/proto/tier/inbox.js";
import { isCode } from "@tributary/proto/wire/codes.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { limits } from "./limits.js";
import { modelPublished, roundClosed, roundOpened } from "./links.js";
import type { LiveRound } from "./live-round.js";
import { createMailbox } from "./mailbox.js";
import { createOptimizerFiles } from "./optimizer-files.js";
import { settledIn, type Taken, takePartial } from "./reception.js";
import type { RoundStep } from "./round.js";
import { type Finishing, finishRound } from "./round-finish.js";
import { fleetNow, liveRound, planRound, tellMembers } from "./round-opening.js";
import {
  type Baseline,
  type SessionEffect,
  type SessionEvent,
  type SessionState,
  type SessionStep,
  stepSession,
} from "./session.js";
import {
  decisionsOf,
  persistently,
  progressOf,
  sessionView,
  type Tally,
} from "./session-record.js";
import type { SessionView } from "./session-view.js";
import type { SessionWorld } from "./session-world.js";
import type { OpenRound, SessionRow } from "./store/rows.js";
import type { RoundEnd } from "./store/store.js";

/** One session on real parts. Everything that changes it runs one job at a time. */
export type SessionActor = {
  view(): SessionView;
  /** Whether its row says that it runs. */
  running(): boolean;
  settled(identity: PartialIdentity): Settled | undefined;
  /** Looks up what a round holds that a session which does not run left open. */
  recall(): Promise<void>;
  deliver(
    announcement: Announcement,
    partial: Sum,
    bytes: Uint8Array,
  ): Promise<Verdict<{ readonly receipt: PartialReceipt }>>;
  /** Gateways or devices came or went. */
  fleetChanged(): void;
  linkChanged(gateway: string, attached: boolean): void;
  progressed(gateway: string, progress: RoundProgress): void;
  planRefused(gateway: string, refused: PlanRefused): void;
  /** The open round, as a gateway that attached is to be told. */
  opened(gateway: string): AttachResponse | undefined;
  /** Begins, or goes on where the rows stand, an open round included. */
  run(): Promise<void>;
  stop(): Promise<void>;
  activate(model: string, baseline: Baseline | undefined): Promise<void>;
  close(): Promise<void>;
};

/** @param restored the machine as the rows describe it */
export function createSessionActor(
  world: SessionWorld,
  row: SessionRow,
  restored: SessionState,
  tally: Tally,
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
  const surely = <T>(write: () => Promise<T>) => persistently(world, closing.signal, write);
  let closed = false;
  let cleaning: Promise<unknown> = Promise.resolve();

  const put = <T>(job: () => Promise<T>): Promise<T> | undefined =>
    mailbox.put(async () => {
      if (closed)
        throw new TributaryError("store-failed", "the cloud is shutting down", { retryable: true });
      return job();
    });
  const inBackground = (job: () => Promise<void>) => {
    put(job)?.catch(breakDown);
  };
  /** Waits for a job whose failure leaves the session failed, which its view then says. */
  const runJob = async (job: () => Promise<void>): Promise<void> => {
    const run = put(() => job().catch(breakDown));
    if (run === undefined)
      throw new TributaryError("store-failed", `${session} has a backlog`, { retryable: true });
    await run;
  };
  /** The session fails; its round stays as it is on disk, for when it is resumed. */
  const breakDown = async (cause: unknown): Promise<void> => {
    if (closed) return;
    const reason = cause instanceof Error ? cause.message : String(cause);
    timer?.cancel();
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
    timer = clock.setTimer(atMs - clock.nowMs(), () => inBackground(tick));
  };
  const tick = async () => {
    const nowMs = clock.nowMs();
    if (live === undefined) await advance({ kind: "tick", nowMs });
    else await follow(live.step({ kind: "tick", nowMs }));
  };

  /** Steps the machine: makes the step durable, adopts it, then carries out its effects. */
  const advance = async (
    event: SessionEvent,
    persist: (step: SessionStep) => Promise<void> = saveStep,
  ): Promise<void> => {
    const fleet = fleetNow(world, params.siteQuorum);
    const step = stepSession({ ...machine, fleet }, event);
    await persist(step);
    const before = machine.phase.kind;
    machine = step.state;
    progress = progressOf(machine);
    if (machine.phase.kind !== before) reportPhase();
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
    updatedAtMs = clock.nowMs();
    await surely(() => store.saveProgress(session, next, updatedAtMs));
  };
  const reportPhase = () => {
    const { phase, head, made } = machine;
    if (phase.kind === "finished")
      events({ level: "info", name: "session-finished", session, head, models: made });
    if (phase.kind === "stopped") events({ level: "info", name: "session-stopped", session });
    if (phase.kind === "failed")
      events({ level: "error", name: "session-failed", session, reason: phase.reason });
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
        if (live !== undefined) await follow(live.step({ kind: "stop", nowMs: clock.nowMs() }));
    }
  };
  const publish = async (model: string) => {
    events({ level: "info", name: "model-published", session, model });
    const base = await models.base(model);
    if (base !== undefined) links.broadcast(modelPublished(session, base));
  };

  const open = async (effect: Extract<SessionEffect, { kind: "open" }>) => {
    const opened = await planRound(world, params, effect);
    await surely(() => store.openRound(opened));
    const { deadlineMs } = params;
    live = liveRound(world, params, opened, opened.openedAtMs + deadlineMs);
    const { id: round, task, base, sites, roster } = opened;
    const counts = { gateways: sites, devices: roster };
    events({
      level: "info",
      name: "round-opened",
      session,
      round,
      task,
      base,
      ...counts,
      deadlineMs,
    });
    tellMembers(world, live);
    await tick();
  };
  /** Goes on with a round that a stop of the process, or a failure, left open. */
  const takeUp = async (opened: OpenRound) => {
    const nowMs = clock.nowMs();
    // Gateways get the grace to come back, even where the deadline passed meanwhile.
    const endsAtMs = Math.max(opened.openedAtMs + params.deadlineMs, nowMs + params.absentGraceMs);
    const taken = liveRound(world, params, opened, endsAtMs);
    await taken.replay();
    live = taken;
    left = undefined;
    events({
      level: "info",
      name: "round-resumed",
      session,
      round: opened.id,
      partials: taken.state.partials.length,
      remainingMs: endsAtMs - nowMs,
    });
    tellMembers(world, taken);
    await tick();
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
  const conclude = async (ended: LiveRound, end: RoundEnd): Promise<void> => {
    await surely(() => store.endRound(end));
    live = undefined;
    updatedAtMs = end.closedAtMs;
    const merged = end.contributions.filter(({ outcome }) => outcome === "model").length;
    const expired = end.contributions.length - merged;
    tally.merged += merged;
    tally.expired += expired;
    for (const gateway of Object.keys(ended.row.rosters))
      links.send(gateway, roundClosed(ended.row.id, end.state));
    events({
      level: end.state === "failed" || expired > 0 ? "warn" : "info",
      name: "round-closed",
      session,
      round: ended.row.id,
      outcome: end.state,
      merged,
      expired,
      tookMs: end.closedAtMs - ended.row.openedAtMs,
    });
    // The next start sweeps what a crash before this leaves behind.
    cleaning = Promise.all([cleaning, ended.remove().catch(() => undefined)]);
  };
  const finishing: Finishing = {
    world,
    params,
    optimizers: createOptimizerFiles(world.disk, session),
    tally,
    machine: () => machine,
    surely,
    advance,
    conclude,
  };
  const standing = (gateway: string, round: string, next: "empty" | "refused") =>
    inBackground(async () => {
      if (live?.row.id !== round || live.state.members[gateway]?.standing !== "waiting") return;
      // Without the record a restart only waits for the gateway to say it again.
      await live.keepStanding(gateway, next).catch(() => undefined);
      await follow(live.step({ kind: next, gateway, nowMs: clock.nowMs() }));
    });
  const begin = async (): Promise<void> => {
    const [opened] = live === undefined ? await store.openRounds(session) : [];
    if (opened === undefined) {
      await advance({ kind: "resume" });
      return advance({ kind: "fleet" });
    }
    const { number: round, task } = opened;
    const phase = { kind: "round", round, task, after: "go-on" } as const;
    machine = { ...machine, failedRounds: 0, phase };
    progress = progressOf(machine);
    await surely(() => store.saveProgress(session, progress, clock.nowMs()));
    return takeUp(opened);
  };

  return {
    view() {
      const round = live?.view(gateways.attached) ?? null;
      return sessionView({ row, machine, progress, updatedAtMs, tally, round });
    },
    running: () => progress.state === "running",
    settled: (identity) => settledIn(live ?? left, identity),
    async recall() {
      await put(async () => {
        const [opened] = live === undefined ? await store.openRounds(session) : [];
        if (opened === undefined) return;
        const recalled = liveRound(world, params, opened, opened.openedAtMs + params.deadlineMs);
        await recalled.replay();
        await recalled.close();
        left = recalled;
      });
    },
    deliver: (announcement, partial, bytes) =>
      new Promise<Taken>((resolve, reject) => {
        const job = put(async () => {
          const taken = await takePartial(world, live, left, tally, announcement, partial, bytes);
          // The sender need not wait for the merge that its Partial may set off.
          resolve(taken);
          if (taken.ok && taken.step !== undefined) await follow(taken.step).catch(breakDown);
        });
        if (job === undefined) resolve(refuse("busy", `${session} has a backlog`));
        else job.catch(reject);
      }),
    fleetChanged() {
      if (fleetPending || machine.phase.kind !== "waiting") return;
      fleetPending = true;
      inBackground(async () => {
        fleetPending = false;
        await advance({ kind: "fleet" });
      });
    },
    linkChanged(gateway, attached) {
      const kind = attached ? "attached" : "detached";
      inBackground(async () => {
        if (live?.state.members[gateway] !== undefined)
          await follow(live.step({ kind, gateway, nowMs: clock.nowMs() }));
      });
    },
    progressed(gateway, { round, offered, folded, declined, sealed }) {
      if (live?.row.id !== round) return;
      const figures = { offered, folded, declined, sealed };
      live.figures(gateway, figures);
      events({ level: "debug", name: "round-progress", session, round, gateway, ...figures });
      if (sealed && folded === 0) standing(gateway, round, "empty");
    },
    planRefused(gateway, { round, code, message }) {
      if (live?.row.id !== round) return;
      const shown = isCode(code) ? code : "unknown";
      const words = message.slice(0, wireLimits.messageChars);
      const what = { session, round, gateway, code: shown, message: words };
      events({ level: "warn", name: "plan-refused", ...what });
      standing(gateway, round, "refused");
    },
    opened: (gateway) => live && roundOpened(live, gateway, clock.nowMs()),
    run: () => runJob(begin),
    stop: () => runJob(() => advance({ kind: "stop" })),
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
