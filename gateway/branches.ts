import type {
  AttachResponse,
  PlanRefused,
  RoundOpened,
  RoundProgress,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { type Refusal, refuse } from "@tributary/proto/wire/verdict.js";
import {
  type BranchEffect,
  type BranchEvent,
  type BranchState,
  type BranchStep,
  branchCounts,
  membersAtWork,
  OWN,
  openBranch,
  stepBranch,
} from "./branch.js";
import { openingBelow, splitRoster, timeBelow } from "./branch-shares.js";
import { openTakings, type Takings } from "./branch-takings.js";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";
import type { Models } from "./models.js";
import type { Outbox } from "./outbox.js";
import { holdFiles, releaseFiles } from "./packages.js";
import { readPlan } from "./plan-check.js";
import type { Roll } from "./roll.js";
import type { SiteTime } from "./site-time.js";
import type { BranchRecord, Store } from "./store.js";

/** The rounds of the gateway's own devices, as far as a branch drives them. */
export type OwnRounds = {
  open(opened: RoundOpened): void;
  closed(round: string, outcome: string): void;
  progress(): RoundProgress[];
};

/** What is known of a round in which gateways below take part. */
export type BranchView = {
  readonly plan: Plan;
  readonly takings: Takings;
  /** Whether what comes for it is kept here for now. */
  readonly open: boolean;
};

/** The rounds of a regional gateway: runs what the branch machine decides. */
export type Branches = {
  /** Opens a round with those below and the own devices, or answers a repeated opening. */
  open(opened: RoundOpened): void;
  closed(round: string, outcome: string): void;
  /** How far the own devices are; the upstream is told of the whole. */
  ownProgress(progress: RoundProgress): void;
  /** The own devices' part of a round, or a round without others, cannot be run. */
  ownRefused(round: string, refusal: Refusal): void;
  /** Of every round that the upstream has not closed. */
  progress(): RoundProgress[];
  /** Rounds that the upstream has not closed, as far as is known here. */
  openRounds(): string[];
  /** Gateways below that may be at work on a round, also after it went up without them. */
  atWork(round: string): string[];
  /** What a gateway that attached is to know of its rounds; `held` are those it has results of. */
  attached(gateway: string, held: readonly string[]): AttachResponse[];
  detached(gateway: string): void;
  progressed(gateway: string, progress: RoundProgress): void;
  planRefused(gateway: string, refused: PlanRefused): void;
  view(round: string): BranchView | undefined;
  /** So many contributions of a member have become durable here, by round. */
  received(member: string, contributions: ReadonlyMap<string, number>): void;
  /** What a member sent for a round was refused for good. */
  refused(member: string, round: string): void;
  close(): Promise<void>;
};

export type BranchesOptions = {
  readonly absentGraceMs: number;
  readonly modelCacheBytes: number;
  readonly store: Store;
  readonly outbox: Pick<Outbox, "entries" | "release">;
  readonly models: Pick<Models, "want" | "pin" | "unpin">;
  readonly rounds: OwnRounds;
  readonly roll: Pick<Roll, "gateway" | "placeOf">;
  /** The way down. What is sent to a gateway that is not attached is dropped. */
  readonly send: (gateway: string, message: AttachResponse) => void;
  readonly onProgress: (progress: RoundProgress) => void;
  readonly onPlanRefused: (round: string, refusal: Refusal) => void;
  /** Something may be shipped. */
  readonly onReleased: () => void;
  readonly events: GatewayEvents;
  readonly clock: Clock;
  readonly time: Pick<SiteTime, "logicalMs">;
};

type Branch = {
  record: BranchRecord;
  readonly plan: Plan;
  readonly takings: Takings;
  state: BranchState;
  deadline: Timer | undefined;
  grace: Timer | undefined;
};

/** Goes on with the rounds that were open when the gateway last ran. */
export async function createBranches(options: BranchesOptions): Promise<Branches> {
  const { store, outbox, models, rounds, roll, events, clock, time } = options;
  const branches = new Map<string, Branch>();
  let orders = 0;
  let control: Promise<void> = Promise.resolve();
  let retries: Timer[] = [];
  let closing = false;

  function apply(branch: Branch, event: BranchEvent): void {
    if (closing) return; // what is durable says the same after the next start
    run(branch, stepBranch(branch.state, event));
  }

  function run(branch: Branch, step: BranchStep): void {
    branch.state = step.state;
    for (const effect of step.effects) perform(branch, effect);
  }

  function perform(branch: Branch, effect: BranchEffect): void {
    const { round } = branch.record;
    switch (effect.type) {
      case "report":
        return options.onProgress(progressOf(branch));
      case "absent":
        branch.grace?.cancel();
        branch.grace = effect.absent
          ? clock.setTimer(options.absentGraceMs, () => apply(branch, { type: "grace" }))
          : undefined;
        return;
      case "late":
        return inOrder(() => release(round));
      case "complete": {
        const { folded } = branchCounts(branch.state);
        const { reason } = effect;
        events({ level: "info", name: "branch-complete", round, reason, contributors: folded });
        stopTimers(branch);
        releaseFiles(models, branch.plan);
        return inOrder(async () => {
          await keep(branch, { complete: true });
          await release(round);
        });
      }
    }
  }

  function stopTimers(branch: Branch): void {
    branch.deadline?.cancel();
    branch.grace?.cancel();
  }

  async function keep(branch: Branch, change: Partial<BranchRecord>): Promise<void> {
    branch.record = { ...branch.record, ...change };
    await store.putBranch(branch.record).catch((cause: Error) => {
      // What it says comes about again after a restart: by the members' reports, or the deadline.
      events({ level: "error", name: "storage-failed", what: "branch", message: cause.message });
    });
  }

  async function release(round: string): Promise<void> {
    try {
      await outbox.release(round);
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      events({ level: "error", name: "storage-failed", what: "release", message });
      if (closing) return;
      retries = [clock.setTimer(limits.sealRetryMs, () => inOrder(() => release(round)))];
      return;
    }
    options.onReleased();
  }

  function inOrder(task: () => Promise<void> | void): void {
    control = control.then(task).catch((cause: unknown) => {
      const message = cause instanceof Error ? cause.message : String(cause);
      events({ level: "error", name: "storage-failed", what: "branch", message });
    });
  }

  async function openFresh(opened: RoundOpened): Promise<void> {
    const read = readPlan(opened.plan, opened.roster);
    if (!read.ok) return rounds.open(opened); // which refuses it
    const { plan } = read;
    const known = branches.get(plan.round);
    if (known !== undefined) return openAgain(known, opened);
    const { members, own } = splitRoster(roll, opened.roster);
    if (members.length === 0) return rounds.open(opened);
    const open = [...branches.values()].filter(({ state }) => !state.complete).length;
    if (open >= limits.openRounds) {
      return refusePlan(plan.round, refuse("busy", `${open} rounds are open here`));
    }
    if (plan.base.bytes > options.modelCacheBytes) {
      return refusePlan(plan.round, refuse("too-large", "the base does not fit modelCacheBytes"));
    }
    const remainingMs = Math.min(opened.remainingMs, plan.siteDeadlineMs);
    const { round } = plan;
    const facts = { members, own, complete: false, order: ++orders };
    const deadlineAt = time.logicalMs() + remainingMs;
    const record = { round, plan: opened.plan, deadlineAt, ...facts };
    try {
      await forgetOldest();
      await store.putBranch(record);
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      return refusePlan(round, refuse("storage-failed", message));
    }
    const devices = opened.roster.length;
    events({ level: "info", name: "branch-opened", round, gateways: members.length, devices });
    begin({ record, plan, takings: await openTakings(store, record) }, remainingMs);
  }

  function openAgain(branch: Branch, opened: RoundOpened): void {
    const { outcome: _, ...open } = branch.record;
    branch.record = open;
    openOwn(branch, opened.remainingMs);
    options.onProgress(progressOf(branch));
  }

  function openOwn({ record, plan }: Branch, remainingMs: number): void {
    if (record.own.length === 0) return;
    const { plan: bytes, own: roster } = record;
    rounds.open({
      plan: Buffer.from(bytes),
      roster: [...roster],
      remainingMs: timeBelow(remainingMs, plan),
    });
  }

  function refusePlan(round: string, refusal: Refusal): void {
    const { code, message } = refusal;
    events({ level: "warn", name: "plan-refused", round, code, message });
    options.onPlanRefused(round, refusal);
  }

  /** Makes room in the ledger: the oldest complete branch goes, with what was taken for it. */
  async function forgetOldest(): Promise<void> {
    if (branches.size < limits.ledgerRounds) return;
    const oldest = [...branches.values()].find(({ state }) => state.complete);
    if (oldest === undefined) return;
    await store.removeBranch(oldest.record.round);
    branches.delete(oldest.record.round);
  }

  function begin(from: Pick<Branch, "record" | "plan" | "takings">, remainingMs: number): void {
    const { record, plan, takings } = from;
    const below = record.members.map(({ gateway }) => ({
      name: gateway,
      detached: roll.gateway(gateway) === undefined,
      received: takings.receivedOf(gateway),
    }));
    const own = record.own.length > 0 ? [{ name: OWN, detached: false, received: 0 }] : [];
    const step = openBranch({
      round: record.round,
      finishFirst: plan.finishFirst,
      members: [...below, ...own],
      complete: record.complete,
    });
    const branch: Branch = { ...from, state: step.state, deadline: undefined, grace: undefined };
    branches.set(record.round, branch);
    if (!record.complete) {
      holdFiles(models, plan);
      branch.deadline = clock.setTimer(remainingMs, () => apply(branch, { type: "deadline" }));
    }
    run(branch, step);
    if (record.complete) return;
    for (const { gateway } of record.members) {
      const message = openingFor(branch, gateway);
      if (message !== undefined) options.send(gateway, message);
    }
    openOwn(branch, remainingMs);
  }

  /** What a member below is asked; undefined when nothing is expected of it (any more). */
  function openingFor(
    { record, plan, state }: Branch,
    gateway: string,
  ): AttachResponse | undefined {
    const member = record.members.find((some) => some.gateway === gateway);
    if (member === undefined || state.complete) return undefined;
    if (state.members.get(gateway)?.standing !== "waiting") return undefined;
    if (roll.gateway(gateway)?.incarnation !== member.incarnation) return undefined;
    const leftMs = record.deadlineAt - time.logicalMs();
    return openingBelow(record.plan, plan, member.roster, leftMs);
  }

  function eachOf(gateway: string, visit: (branch: Branch) => void): void {
    for (const branch of branches.values()) {
      if (branch.record.members.some((member) => member.gateway === gateway)) visit(branch);
    }
  }

  function takeOwn({ round, offered, folded, declined, sealed }: RoundProgress): void {
    const branch = branches.get(round);
    if (branch === undefined) return;
    const counts = { offered, folded, declined };
    const before = branch.state.members.get(OWN);
    apply(branch, { type: "progress", member: OWN, counts, sealed });
    // What it sealed is durable: it lies in the outbox already.
    if (!sealed || before === undefined || before.received >= folded) return;
    const contributions = folded - before.received;
    apply(branch, { type: "received", member: OWN, contributions });
  }

  async function close(): Promise<void> {
    closing = true;
    for (const branch of branches.values()) stopTimers(branch);
    for (const timer of retries) timer.cancel();
    await control;
  }

  await restore().catch(async (cause: unknown) => {
    await close();
    throw cause;
  });

  async function restore(): Promise<void> {
    for (const record of await store.branches()) {
      orders = Math.max(orders, record.order);
      const read = readPlan(record.plan, record.own);
      if (!read.ok) {
        await store.removeBranch(record.round);
        continue;
      }
      const takings = await openTakings(store, record);
      const leftMs = Math.max(0, record.deadlineAt - time.logicalMs());
      begin({ record, plan: read.plan, takings }, Math.min(leftMs, read.plan.siteDeadlineMs));
    }
    for (const progress of rounds.progress()) takeOwn(progress);
    // What is held for a round that nobody runs any more would wait for ever.
    const held = new Set(outbox.entries().map((entry) => entry.held));
    for (const round of held) {
      if (round !== undefined && branches.get(round)?.state.complete !== false)
        inOrder(() => release(round));
    }
  }

  return {
    open: (opened) => inOrder(() => openFresh(opened)),
    closed(round, outcome) {
      rounds.closed(round, outcome);
      inOrder(async () => {
        const branch = branches.get(round);
        if (branch === undefined) return;
        for (const { gateway } of branch.record.members) {
          options.send(gateway, { message: { $case: "roundClosed", value: { round, outcome } } });
        }
        apply(branch, { type: "closed" });
        await keep(branch, { outcome });
      });
    },
    ownProgress(progress) {
      if (branches.has(progress.round)) takeOwn(progress);
      else options.onProgress(progress);
    },
    ownRefused(round, refusal) {
      const branch = branches.get(round);
      if (branch === undefined) options.onPlanRefused(round, refusal);
      else apply(branch, { type: "refused", member: OWN });
    },
    progress() {
      const alone = rounds.progress().filter(({ round }) => !branches.has(round));
      const open = [...branches.values()].filter(({ record }) => record.outcome === undefined);
      return [...alone, ...open.map(progressOf)];
    },
    atWork(round) {
      const branch = branches.get(round);
      return branch === undefined ? [] : membersAtWork(branch.state);
    },
    openRounds: () =>
      [...branches.values()].flatMap(({ record }) =>
        record.outcome === undefined ? [record.round] : [],
      ),
    attached(gateway, held) {
      const messages: AttachResponse[] = [];
      for (const round of held) {
        const outcome = branches.get(round)?.record.outcome;
        if (outcome !== undefined)
          messages.push({ message: { $case: "roundClosed", value: { round, outcome } } });
      }
      eachOf(gateway, (branch) => {
        const member = branch.record.members.find((some) => some.gateway === gateway);
        const same = roll.gateway(gateway)?.incarnation === member?.incarnation;
        apply(branch, { type: same ? "attached" : "refused", member: gateway });
        const opening = openingFor(branch, gateway);
        if (opening !== undefined) messages.push(opening);
      });
      return messages;
    },
    detached: (gateway) =>
      eachOf(gateway, (branch) => apply(branch, { type: "detached", member: gateway })),
    progressed(gateway, { round, offered, folded, declined, sealed }) {
      const branch = branches.get(round);
      if (branch === undefined) return;
      const counts = { offered, folded, declined };
      apply(branch, { type: "progress", member: gateway, counts, sealed });
    },
    planRefused(gateway, { round, code, message }) {
      const branch = branches.get(round);
      if (branch === undefined) return;
      events({ level: "warn", name: "plan-refused-below", round, gateway, code, message });
      apply(branch, { type: "refused", member: gateway });
    },
    view(round) {
      const branch = branches.get(round);
      return branch && { plan: branch.plan, takings: branch.takings, open: !branch.state.complete };
    },
    received(member, contributions) {
      for (const [round, count] of contributions) {
        const branch = branches.get(round);
        if (branch === undefined) continue;
        apply(branch, { type: "received", member, contributions: count });
      }
    },
    refused(member, round) {
      const branch = branches.get(round);
      if (branch !== undefined) apply(branch, { type: "refused", member });
    },
    close,
  };
}

function progressOf({ state }: Branch): RoundProgress {
  return { round: state.round, ...branchCounts(state), sealed: state.complete };
}
