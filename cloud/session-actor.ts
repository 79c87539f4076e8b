import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import type {
  AttachResponse,
  PlanRefused,
  RoundProgress,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Timer } from "@tributary/proto/host/clock.js";
import { isCode } from "@tributary/proto/wire/codes.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { writeCandidate } from "./candidate.js";
import { identityText } from "./identity.js";
import type { Announcement, PartialReceipt, Settled } from "./inbox.js";
import { limits } from "./limits.js";
import { modelPublished, roundClosed, roundOpened } from "./links.js";
import { createLiveRound, type HeldPartial, type LiveRound } from "./live-round.js";
import { createMailbox } from "./mailbox.js";
import { createOptimizerFiles } from "./optimizer-files.js";
import { mergePartials, metricMeans } from "./reduce.js";
import type { RoundEvent, RoundStep } from "./round.js";
import { type Close, closeRows, heldFrom, partialRows } from "./round-end.js";
import { createRoundJournal } from "./round-journal.js";
import { makePlan } from "./round-plan.js";
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
import type { ModelState, OpenRound, PartialIdentity, SessionRow } from "./store/rows.js";
import type { RoundEnd } from "./store/store.js";

/** One session on real parts. Everything that changes it runs one job at a time. */
export type SessionActor = {
  view(): SessionView;
  /** Whether its row says that it runs. */
  running(): boolean;
  settled(identity: PartialIdentity): Settled | undefined;
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
  /** What to tell a gateway that attached. */
  opened(gateway: string): AttachResponse | undefined;
  /** Begins, or after a restart goes on with, what the rows say. */
  run(): Promise<void>;
  stop(): Promise<void>;
  resume(): Promise<void>;
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
  const { clock, store, models, gateways, devices, links, events } = world;
  const { id: session, params } = row;
  const mailbox = createMailbox(limits.sessionBacklog);
  const optimizers = createOptimizerFiles(world.disk, session);
  let machine = restored;
  let progress = progressOf(restored);
  let updatedAtMs = row.updatedAtMs;
  let live: LiveRound | undefined;
  let timer: Timer | undefined;
  let fleetPending = false;
  let closed = false;
  let cleaning: Promise<unknown> = Promise.resolve();

  // --- jobs ---------------------------------------------------------------------------------

  /** A job that fails leaves the session failed, with its round as it is on disk. */
  const put = <T>(job: () => Promise<T>): Promise<T> | undefined =>
    mailbox.put(async () => {
      if (closed) throw new TributaryError("store-failed", "the cloud is shutting down");
      return job();
    });
  const inBackground = (job: () => Promise<void>) => {
    put(job)?.catch(breakDown);
  };
  const breakDown = async (cause: unknown): Promise<void> => {
    if (closed) return;
    const reason = cause instanceof Error ? cause.message : String(cause);
    timer?.cancel();
    const broken = live;
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

  // --- the session's machine ----------------------------------------------------------------

  /** Steps the machine: makes the step durable, adopts it, then carries out its effects. */
  const advance = async (
    event: SessionEvent,
    persist: (step: SessionStep) => Promise<void> = saveStep,
  ): Promise<void> => {
    const step = stepSession({ ...machine, fleet: fleetNow() }, event);
    await persist(step);
    const before = machine.phase.kind;
    machine = step.state;
    progress = progressOf(machine);
    if (machine.phase.kind !== before) reportPhase();
    for (const effect of step.effects) await perform(effect);
  };
  const saveStep = async (step: SessionStep): Promise<void> => {
    for (const [model, state] of decisionsOf(step))
      await persistently(world, () => store.decideModel({ model, state, metrics: {} }));
    const next = progressOf(step.state);
    if (JSON.stringify(next) === JSON.stringify(progress)) return;
    // The round's own row moves `nextRound`, in the transaction that opens it.
    if (step.effects.some((effect) => effect.kind === "open") && next.state === progress.state)
      return;
    updatedAtMs = clock.nowMs();
    await persistently(world, () => store.saveProgress(session, next, updatedAtMs));
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
        return announce(effect.model);
      case "hold":
        events({
          level: "warn",
          name: "model-held",
          session,
          model: effect.model,
          reason: effect.reason,
        });
        return;
      case "stop-round":
        if (live !== undefined) await follow(live.step({ kind: "stop", nowMs: clock.nowMs() }));
        return;
    }
  };
  const announce = async (model: string) => {
    events({ level: "info", name: "model-published", session, model });
    const base = await models.base(model);
    if (base !== undefined) links.broadcast(modelPublished(session, base));
  };
  const fleetNow = () => {
    const sites = new Map<string, number>();
    for (const gateway of gateways.attachedIds()) {
      const site = gateways.siteOf(gateway) ?? gateway;
      sites.set(site, (sites.get(site) ?? 0) + devices.countAt(gateway));
    }
    const counts = [...sites.values()];
    return {
      sitesReady: counts.filter((count) => count >= params.siteQuorum).length,
      devices: counts.reduce((sum, count) => sum + count, 0),
    };
  };

  // --- opening a round ----------------------------------------------------------------------

  const open = async ({ round: number, task, base: from }: SessionEffect & { kind: "open" }) => {
    const base = await models.base(from);
    if (base === undefined) throw new TributaryError("store-unknown", `no model ${from}`);
    const made = makePlan(params, number, task, base);
    if (!made.ok) throw new TributaryError("store-failed", `${made.code}: ${made.message}`);
    const rosters: Record<string, string[]> = {};
    for (const gateway of gateways.attachedIds()) {
      const roster = devices.connectedAt(gateway).slice(0, wireLimits.roster);
      if (roster.length > 0) rosters[gateway] = roster;
    }
    const members = Object.keys(rosters);
    const assigned = Object.values(rosters).reduce((sum, roster) => sum + roster.length, 0);
    const opened: OpenRound = {
      id: made.plan.round,
      session,
      number,
      task,
      base: from,
      state: "open",
      rule: null,
      model: null,
      sites: members.length,
      roster: assigned,
      partials: 0,
      merged: 0,
      expired: 0,
      openedAtMs: clock.nowMs(),
      closedAtMs: null,
      plan: made.bytes,
      rosters,
    };
    await persistently(world, () => store.openRound(opened));
    const { deadlineMs } = params;
    live = liveRound(opened, opened.openedAtMs + deadlineMs);
    events({
      level: "info",
      name: "round-opened",
      session,
      round: opened.id,
      task,
      base: from,
      gateways: members.length,
      devices: assigned,
      deadlineMs,
    });
    await beginRound(live);
  };
  const liveRound = (opened: OpenRound, deadlineAtMs: number): LiveRound =>
    createLiveRound({
      row: opened,
      journal: createRoundJournal(world.disk, world.random, opened.id),
      absentGraceMs: params.absentGraceMs,
      sitesQuorum: params.sitesQuorum,
      deadlineAtMs,
      siteOf: (gateway) => gateways.siteOf(gateway) ?? gateway,
    });
  /** Tells the members, and takes note of those whose link went down meanwhile. */
  const beginRound = async (begun: LiveRound) => {
    const nowMs = clock.nowMs();
    for (const gateway of Object.keys(begun.row.rosters)) {
      if (gateways.attached(gateway)) {
        const message = roundOpened(begun, gateway, nowMs);
        if (message !== undefined) links.send(gateway, message);
      } else begun.adopt(begun.step({ kind: "detached", gateway, nowMs }));
    }
    await follow(begun.step({ kind: "tick", nowMs }));
  };
  const takeUp = async (opened: OpenRound) => {
    const nowMs = clock.nowMs();
    // Gateways get the grace to come back after a restart, even where the deadline passed meanwhile.
    const deadlineAtMs = Math.max(
      opened.openedAtMs + params.deadlineMs,
      nowMs + params.absentGraceMs,
    );
    const taken = liveRound(opened, deadlineAtMs);
    await taken.replay();
    live = taken;
    events({
      level: "info",
      name: "round-resumed",
      session,
      round: opened.id,
      partials: taken.state.partials.length,
      remainingMs: deadlineAtMs - nowMs,
    });
    await beginRound(taken);
  };

  // --- an open round ------------------------------------------------------------------------

  /** Adopts a round's step and carries out its effects; what became of a Partial is the caller's. */
  const follow = async (step: RoundStep): Promise<void> => {
    if (live === undefined) return;
    live.adopt(step);
    // A round that closed in a step whose caller only adopted it closes here.
    for (const effect of step.effects) {
      if (effect.kind === "wake") wakeAt(effect.atMs);
      if (effect.kind === "close") await finish(live, effect);
    }
  };
  const inRound = (round: string, event: (nowMs: number) => RoundEvent) =>
    inBackground(async () => {
      if (live?.row.id === round) await follow(live.step(event(clock.nowMs())));
    });
  const standing = (gateway: string, round: string, next: "empty" | "refused") =>
    inBackground(async () => {
      if (live?.row.id !== round || live.state.members[gateway]?.standing !== "waiting") return;
      // Without the record a restart only waits for the gateway to say it again.
      await live.keepStanding(gateway, next).catch(() => undefined);
      await follow(live.step({ kind: next, gateway, nowMs: clock.nowMs() }));
    });

  const finish = async (ended: LiveRound, close: Close): Promise<void> => {
    timer?.cancel();
    const { plan, row: round } = ended;
    const end = (
      how: Pick<RoundEnd, "state" | "rule"> & Partial<RoundEnd>,
      step: SessionStep,
      inModel: string | null,
    ) =>
      conclude(ended, close, {
        round: round.id,
        closedAtMs: clock.nowMs(),
        ...closeRows(ended, close, inModel),
        progress: progressOf(step.state),
        ...how,
      });
    if (close.outcome === "stopped")
      return advance({ kind: "round-stopped" }, (step) =>
        end({ state: "stopped", rule: "stopped" }, step, null),
      );
    if (close.outcome === "failed") {
      const reason = "sites-quorum";
      return advance({ kind: "round-failed", reason, nowMs: clock.nowMs() }, (step) =>
        end({ state: "failed", rule: reason }, step, null),
      );
    }
    const merged = await mergePartials(world.kernel, plan, ended.each(close.merged));
    const metrics = metricMeans(merged);
    tally.metrics = metrics;
    if (plan.task === "evaluate") return finishEvaluation(ended, merged, metrics, end);
    const { row: model, finite } = await writeCandidate(
      params,
      ended,
      merged,
      models,
      optimizers,
      events,
      clock.nowMs(),
    );
    await advance({ kind: "trained", model: model.id, finite }, async (step) => {
      const state: ModelState = decisionsOf(step).get(model.id) ?? "candidate";
      const held = state === "held";
      const rule = held ? "not-finite" : null;
      await end(
        { state: held ? "held" : "committed", rule, model: { ...model, state } },
        step,
        model.id,
      );
      events({
        level: "info",
        name: "model-made",
        session,
        model: model.id,
        parent: round.base,
        samples: model.weight,
        contributors: model.contributors,
        sumDigest: model.sumDigest ?? "",
      });
    });
    await optimizers
      .prune([machine.head, machine.candidate ?? machine.head])
      .catch(() => undefined);
  };
  const finishEvaluation = (
    ended: LiveRound,
    merged: Sum,
    metrics: Readonly<Record<string, number>>,
    end: (
      how: Pick<RoundEnd, "state" | "rule"> & Partial<RoundEnd>,
      step: SessionStep,
      inModel: string | null,
    ) => Promise<void>,
  ): Promise<void> => {
    const model = ended.row.base;
    const against = machine.baseline?.model ?? null;
    const shown = Object.entries(metrics).map(([name, value]) => [`evaluation.${name}`, value]);
    return advance({ kind: "evaluated", metrics }, async (step) => {
      const state = decisionsOf(step).get(model) ?? "candidate";
      const passed = state === "published";
      await end(
        {
          state: passed ? "committed" : "held",
          rule: passed ? null : "gate",
          decided: [{ model, state, metrics: Object.fromEntries(shown) }],
          evaluation: {
            round: ended.row.id,
            session,
            model,
            against,
            passed,
            weight: Number(merged.weight),
            contributors: merged.contributors.length,
            metrics,
            atMs: clock.nowMs(),
          },
        },
        step,
        null,
      );
      const { metric } = params.gate;
      events({
        level: "info",
        name: "model-evaluated",
        session,
        model,
        round: ended.row.id,
        passed,
        metric,
        value: metrics[metric],
      });
    });
  };
  /** Makes a round's end durable, then lets go of it. */
  const conclude = async (ended: LiveRound, close: Close, end: RoundEnd): Promise<void> => {
    await persistently(world, () => store.endRound(end));
    live = undefined;
    updatedAtMs = end.closedAtMs;
    const merged = end.contributions.filter(({ outcome }) => outcome === "model").length;
    const expired = end.contributions.length - merged;
    tally.merged += merged;
    tally.expired += expired;
    for (const gateway of Object.keys(ended.row.rosters))
      links.send(gateway, roundClosed(ended.row.id, end.state));
    events({
      level: close.outcome === "failed" || expired > 0 ? "warn" : "info",
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

  // --- Partials -----------------------------------------------------------------------------

  const settled = (identity: PartialIdentity): Settled | undefined => {
    const held = live?.held(identityText(identity));
    if (live === undefined || held === undefined) return undefined;
    const overflowed = live.state.overflow.some((p) => p.identity === identityText(identity));
    const receipt = receiptOf(held.digest, overflowed ? "total-overflow" : undefined);
    return { digest: held.digest, state: { receivedBytes: held.bytes, receipt } };
  };
  type Taken = Verdict<{ readonly receipt: PartialReceipt; readonly step?: RoundStep }>;
  const take = async (
    announcement: Announcement,
    partial: Sum,
    bytes: Uint8Array,
  ): Promise<Taken> => {
    const before = settled(announcement.identity);
    if (before?.state.receipt !== undefined)
      return before.digest === announcement.digest
        ? { ok: true, receipt: before.state.receipt }
        : refuse("partial-conflict", "this identity was received with another digest");
    const nowMs = clock.nowMs();
    const held = heldFrom(announcement, partial, nowMs);
    if (live?.row.id !== announcement.round || live.state.closed !== undefined)
      return takeLate(announcement, partial, held);
    const admitted = live.admit(announcement, partial, nowMs);
    if (!admitted.ok) return admitted;
    await live.keep(held, bytes);
    const fate = admitted.step.effects.find((effect) => effect.kind === "expired");
    if (fate?.kind === "expired") reportExpired(held, announcement.round, fate.rule);
    else
      events({
        level: "info",
        name: "partial-accepted",
        session,
        round: announcement.round,
        gateway: held.identity.gateway,
        contributors: held.contributors.length,
        samples: held.samples,
        bytes: held.bytes,
      });
    const rule = fate?.kind === "expired" ? fate.rule : undefined;
    return { ok: true, receipt: receiptOf(held.digest, rule), step: admitted.step };
  };
  const takeLate = async (
    { round, digest }: Announcement,
    partial: Sum,
    held: HeldPartial,
  ): Promise<Taken> => {
    const known = await store.round(round);
    if (known === undefined) return refuse("unknown-round", `no round ${round}`);
    if (known.base !== partial.base)
      return refuse("base-mismatch", `${round} starts from ${known.base}, not ${partial.base}`);
    if (held.contributors.length === 0)
      return refuse("partial-malformed", "a Partial without contributors");
    const rows = partialRows(round, held, { outcome: "expired", rule: "late" });
    await store.recordPartial(rows.partial, rows.contributions);
    tally.expired += held.contributors.length;
    reportExpired(held, round, "late");
    return { ok: true, receipt: receiptOf(digest, "late") };
  };
  const reportExpired = (held: HeldPartial, round: string, rule: string) =>
    events({
      level: "warn",
      name: "partial-expired",
      session,
      round,
      gateway: held.identity.gateway,
      rule,
      contributors: held.contributors.length,
    });

  return {
    view: () =>
      sessionView({
        row,
        machine,
        progress,
        updatedAtMs,
        tally,
        round: live?.view(gateways.attached) ?? null,
      }),
    running: () => progress.state === "running",
    settled,
    deliver(announcement, partial, bytes) {
      return new Promise<Taken>((resolve, reject) => {
        const job = put(async () => {
          const taken = await take(announcement, partial, bytes);
          // The sender need not wait for the merge that its Partial may set off.
          resolve(taken);
          if (taken.ok && taken.step !== undefined) await follow(taken.step).catch(breakDown);
        });
        if (job === undefined) resolve(refuse("busy", `${session} has a backlog`));
        else job.catch(reject);
      });
    },
    fleetChanged() {
      if (fleetPending || machine.phase.kind !== "waiting") return;
      fleetPending = true;
      inBackground(async () => {
        fleetPending = false;
        await advance({ kind: "fleet" });
      });
    },
    linkChanged(gateway, attached) {
      const round = live?.row.id;
      const kind = attached ? "attached" : "detached";
      if (round !== undefined) inRound(round, (nowMs) => ({ kind, gateway, nowMs }));
    },
    progressed(gateway, { round, offered, folded, declined, sealed }) {
      if (live?.row.id !== round) return;
      live.figures(gateway, { offered, folded, declined, sealed });
      events({
        level: "info",
        name: "round-progress",
        session,
        round,
        gateway,
        offered,
        folded,
        declined,
        sealed,
      });
      if (sealed && folded === 0) standing(gateway, round, "empty");
    },
    planRefused(gateway, { round, code, message }) {
      if (live?.row.id !== round) return;
      events({
        level: "warn",
        name: "plan-refused",
        session,
        round,
        gateway,
        code: isCode(code) ? code : "unknown",
        message: message.slice(0, wireLimits.messageChars),
      });
      standing(gateway, round, "refused");
    },
    opened: (gateway) => live && roundOpened(live, gateway, clock.nowMs()),
    run: () => runJob(begin),
    stop: () => runJob(() => advance({ kind: "stop" })),
    resume: () => runJob(begin),
    activate: (model, baseline) =>
      runJob(async () => {
        events({ level: "info", name: "model-activated", session, model });
        await advance({ kind: "activate", model, ...(baseline && { baseline }) });
        await advance({ kind: "fleet" });
      }),
    async close() {
      closed = true;
      timer?.cancel();
      await mailbox.idle();
      await live?.close();
      await cleaning;
    },
  };

  /** Goes on with an open round, else from where the machine stands. */
  async function begin(): Promise<void> {
    const [left] = live === undefined ? await store.openRounds(session) : [];
    if (left !== undefined) {
      const { number: round, task } = left;
      machine = {
        ...machine,
        failedRounds: 0,
        phase: { kind: "round", round, task, after: "go-on" },
      };
      progress = progressOf(machine);
      await persistently(world, () => store.saveProgress(session, progress, clock.nowMs()));
      return takeUp(left);
    }
    await advance({ kind: "resume" });
    await advance({ kind: "fleet" });
  }
  async function runJob(job: () => Promise<void>): Promise<void> {
    const run = put(() => job().catch(breakDown));
    if (run === undefined)
      throw new TributaryError("store-failed", `${session} has a backlog`, { retryable: true });
    await run;
  }
}

function receiptOf(digest: string, rule: string | undefined): PartialReceipt {
  return rule === undefined
    ? { digest, outcome: "merged", rule: "" }
    : { digest, outcome: "expired", rule };
}
