import type { RoundProgress } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Timer } from "@tributary/proto/host/clock.js";
import { siteRoundId } from "@tributary/proto/wire/ids.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { type LeafEnd, type LeafRound, openLeafRound } from "./leaf-round.js";
import { limits } from "./limits.js";
import { countRound } from "./round.js";
import type { RoundWorld } from "./round-world.js";
import { openSiteBase } from "./site-base.js";
import { carriedFrom } from "./site-carried.js";
import {
  type CycleEffect,
  type CycleEvent,
  type CycleState,
  type CycleStep,
  openCycle,
  stepCycle,
} from "./site-cycle.js";
import { addSiteRound, beginStretch, composeSite } from "./site-model.js";
import { sitePlan } from "./site-plan.js";
import type { HandedRounds, SiteState, SiteStates } from "./site-state.js";
import type { RoundRecord, SealedRecord } from "./store.js";

/** The site rounds of one of the cloud's rounds: runs what the cycle decides. */
export type SiteRounds = {
  readonly plan: Plan;
  /** Whether the first stretch is handed over: the cloud's round is over here. */
  readonly handed: boolean;
  /** What its cycle is at, and how often in a row nobody contributed. */
  readonly standing: Pick<CycleState, "phase" | "empty">;
  /** Of the cloud's round as a whole, until its first stretch is handed over. */
  progress(): RoundProgress;
  /** The uplink is back. */
  attached(): void;
  /** The uplink is away. */
  detached(): void;
  /** The upstream closed the round. */
  closed(): void;
  /** The session's next training round is to open here, or there will be none. */
  over(): void;
  /** A device is here; its site round, if one runs, has heard of it. */
  connected(device: string): void;
  /** Its state and the journal of the site round that runs, in bytes. */
  readonly journalBytes: number;
  /** What it will take beside them before it is over, about, in bytes. */
  readonly promisedBytes: number;
  close(): Promise<void>;
};

export type SiteRoundsOpening = {
  readonly plan: Plan;
  /** As the store has it. */
  readonly record: RoundRecord;
  /** Until the site deadline, in milliseconds. */
  readonly remainingMs: number;
  /** From before a restart. */
  readonly state?: SiteState | undefined;
  /** A site round that was open then. */
  readonly running?: number | undefined;
  /** The highest number that a site round of it has had. */
  readonly newest: number;
};

export type SiteRoundsHooks = {
  readonly states: SiteStates;
  /** Whether a site round's end, with its contributors, is in the ledger. */
  readonly known: (round: string) => boolean;
  /** A site round takes part in what devices send, until it has landed. */
  readonly onOpen: (leaf: LeafRound) => void;
  /** A site round that had landed before a restart is in the ledger now. */
  readonly onSealed: (record: Omit<SealedRecord, "order">) => void;
  readonly onLanded: (leaf: LeafRound, end: LeafEnd) => void;
  /** The cloud's round is over here, and its Partial, if there is one, in the outbox. */
  readonly onHanded: (record: Omit<SealedRecord, "order">) => void;
  /** After it: there will be no further stretch. */
  readonly onEnded: () => void;
};

/** Begins, or goes on with what a restart left. Rejects when a journal cannot be read. */
export async function startSiteRounds(
  world: RoundWorld,
  opening: SiteRoundsOpening,
  hooks: SiteRoundsHooks,
): Promise<SiteRounds> {
  const { store, events, clock } = world;
  const { plan } = opening;
  const { roster } = opening.record;
  const members = new Set(roster);
  const base = openSiteBase(world.models, plan);
  const deadlineMs = clock.monotonicMs() + opening.remainingMs;
  const slotMs = Math.ceil(plan.siteDeadlineMs / plan.siteRounds);
  let { handed } = opening.record;
  let site = opening.state;
  let stateBytes = 8 * (site?.work.delta.length ?? 0);
  let leaf: LeafRound | undefined;
  /** Asks and refusals of the newest site round, for the upstream. */
  let counts = { offered: 0, declined: 0 };
  /** A site round that is being opened is to be cut as soon as it is open. */
  let cutting = false;
  let pause: Timer | undefined;
  /** Ends the wait after a failure. */
  let retry: (() => void) | undefined;
  let working: Promise<void> = Promise.resolve();
  /** Whether no site round has been opened since the gateway started. */
  let isFirst = true;
  let closing = false;

  const present = () => {
    for (const device of world.present()) if (members.has(device)) return true;
    return false;
  };
  const due = clock.setTimer(opening.remainingMs, () => apply({ type: "due" }));
  const { siteRounds, offlineSiteRounds, finishFirst } = plan;
  const first = openCycle({
    siteRounds,
    offlineSiteRounds,
    finishFirst,
    attached: world.attached(),
    due: opening.remainingMs <= 0,
    present: present(),
    done: (handed?.done ?? 0) + (site?.work.rounds ?? 0),
    handed: handed?.done,
    number: opening.running ?? opening.newest,
    running: opening.running !== undefined,
  });
  let cycle: CycleState = first.state;

  function apply(event: CycleEvent): void {
    if (closing) return;
    if (cycle.attached && !world.attached())
      run(stepCycle(cycle, { type: "detached", present: present() }));
    run(stepCycle(cycle, event));
  }

  function run(step: CycleStep): void {
    cycle = step.state;
    for (const effect of step.effects) perform(effect);
  }

  function perform(effect: CycleEffect): void {
    pause?.cancel();
    switch (effect.type) {
      case "open":
        cutting = false;
        return work(() => open(effect.number, false));
      case "cut":
        cutting = true;
        return leaf?.apply({ type: "closed" });
      case "pause": {
        const waitMs = effect.why === "grace" ? world.absentGraceMs : pauseMs(cycle.empty);
        const { why } = effect;
        events({ level: "info", name: "site-rounds-paused", round: plan.round, why, waitMs });
        pause = clock.setTimer(waitMs, () => apply({ type: "waited", present: present() }));
        return;
      }
      case "compose": {
        const { number, done, last } = effect;
        let isRetry = false;
        return work(async () => {
          const landed = isRetry && (await isHandedOver(number));
          isRetry = true;
          await compose({ number, done }, last, landed);
        });
      }
      case "end":
        return work(end);
    }
  }

  function work(task: () => Promise<void>): void {
    working = working.then(() => persist(task));
  }

  /** Does it, and again after a while as long as it fails: what is durable, and what follows, wait. */
  async function persist(task: () => Promise<void>): Promise<void> {
    while (!closing) {
      try {
        return await task();
      } catch (cause) {
        if (closing) return;
        const message = cause instanceof Error ? cause.message : String(cause);
        const retryMs = limits.sealRetryMs;
        events({ level: "error", name: "seal-failed", round: plan.round, message, retryMs });
        await new Promise<void>((resolve) => {
          const timer = clock.setTimer(retryMs, resolve);
          retry = () => {
            timer.cancel();
            resolve();
          };
        });
      }
    }
  }

  /** The round of the contributions of the stretch that runs, or would begin. */
  const stretch = () =>
    handed === undefined ? plan.round : siteRoundId(plan.round, handed.number + 1);

  /** The time for the next site round: its share of what is left, or of the whole once that is over. */
  function shareMs(): number {
    const leftMs = deadlineMs - clock.monotonicMs();
    const toGo = handed === undefined ? siteRounds - cycle.done : 0;
    return leftMs > 0 && toGo > 0 ? Math.ceil(leftMs / toGo) : slotMs;
  }

  async function open(number: number, resumed: boolean): Promise<void> {
    if (closing) return;
    const made = await base.make(site);
    if (!made.ok) {
      const { message } = made;
      events({ level: "warn", name: "site-model-failed", round: plan.round, message });
      // What a journal holds is still summed: a round without a roster seals at once.
      if (!resumed) return apply({ type: "stuck" });
    }
    const opened = await openLeafRound(world, {
      plan: sitePlan(plan, number, made.ok ? made.manifest : plan.base),
      subject: { round: stretch(), base: plan.base },
      roster: made.ok ? roster : [],
      remainingMs: shareMs(),
      // Who is away now was waited for in the site round before, but for a start and a common loss.
      graceMs: isFirst || !present() ? world.absentGraceMs : 0,
      carried: carriedFrom(site),
      land,
      onLanded(landed, end) {
        leaf = undefined;
        const { offered, declined } = end.record;
        counts = { offered, declined };
        hooks.onLanded(landed, end);
      },
      onEnded({ digests }) {
        apply({ type: "sealed", contributors: digests.size, present: present() });
      },
      onReport() {
        if (handed === undefined) world.onProgress(progress());
      },
    });
    leaf = opened;
    isFirst = false;
    hooks.onOpen(opened);
    opened.start();
    if (cutting) opened.apply({ type: "closed" });
    // It runs: to fail now would be to open it once more. A model that stays goes at the next start.
    await base.prune().catch(() => {});
  }

  /** Makes a site round's sum part of the state, then forgets the round. Safe to repeat. */
  async function land({ partial, record, digests }: LeafEnd): Promise<number> {
    if (partial === undefined) {
      await store.seal(record, [], undefined);
      return 0;
    }
    const number = cycle.number;
    const newest = new Map(site?.newest);
    for (const [device, digest] of digests) newest.set(device, { digest, number });
    const before = handed && beginStretch(new Float64Array(partial.sum.length));
    const next = { work: addSiteRound(site?.work ?? before, partial), number, newest };
    stateBytes = await hooks.states.write(plan.round, next, handed);
    await store.seal(record, digests, undefined);
    site = next;
    return stateBytes;
  }

  /** A kill between the state's write and the ledger's leaves the newest site round out of it. */
  async function completeLedger({ number, newest }: SiteState): Promise<void> {
    const round = siteRoundId(plan.round, number);
    if (hooks.known(round)) return;
    const digests = [...newest]
      .filter(([, taken]) => taken.number === number)
      .map(([device, { digest }]) => [device, digest] as const);
    const folded = digests.length;
    const record = { round, offered: folded, folded, declined: 0 };
    await store.seal(record, digests, undefined);
    hooks.onSealed(record);
  }

  /** A write that was reported as failed may be there all the same, and its Partial merged by now. */
  async function isHandedOver(number: number): Promise<boolean> {
    const known = (await store.openRounds(() => {})).find(({ round }) => round === plan.round);
    return known === undefined || known.handed?.number === number;
  }

  /** @param landed it is durable already */
  async function compose(through: HandedRounds, last: boolean, landed: boolean): Promise<void> {
    due.cancel();
    const contributors = site?.work.contributors ?? [];
    const record = { round: plan.round, ...counts, folded: contributors.length };
    const digests = [...(site?.newest ?? [])].map(
      ([device, { digest }]) => [device, digest] as const,
    );
    const kept = { ...opening.record, handed: through };
    const ending = handed === undefined ? { sealed: record, contributors: digests } : undefined;
    let bytes = 0;
    if (site === undefined && !landed) {
      if (last) await store.seal(record, [], undefined);
      else await store.handOver(kept, ending, undefined);
    } else if (site !== undefined && !landed) {
      const { grid, layout } = plan;
      const origin = { base: plan.base.model, baseDigest: plan.base.digest };
      const partial = composeSite(site.work, { site: world.site, ...origin, grid, layout });
      const entry =
        last && ending !== undefined
          ? await world.outbox.add(partial, record, digests, plan)
          : await world.outbox.handOver(partial, kept, ending, plan);
      bytes = entry.bytes;
    }
    const updates = contributors.reduce((sum, contributor) => sum + contributor.updates, 0);
    const numbers = { first: (handed?.number ?? 0) + 1, newest: through.number };
    const siteRounds = through.done - (handed?.done ?? 0);
    const told = { ...numbers, siteRounds, contributors: contributors.length, updates, bytes };
    const { round } = plan;
    events({ level: "info", name: "site-rounds-composed", round, stretch: stretch(), ...told });
    const isFirst = handed === undefined;
    handed = through;
    if (isFirst) {
      hooks.onHanded(record);
      world.onProgress({ ...record, sealed: true });
    }
    world.onPartial();
    if (site !== undefined)
      site = { ...site, work: beginStretch(site.work.delta), newest: new Map() };
    if (last) return isFirst ? forget() : work(end);
    // The next stretch makes its model anew.
    await base.dropMade().catch(() => {});
  }

  /** Everything is handed over: the store lets the round go, then the disk its state. */
  async function end(): Promise<void> {
    await store.removeRound(plan.round);
    await forget();
  }

  async function forget(): Promise<void> {
    hooks.onEnded();
    // A state or a model that stays is removed at the next start.
    await hooks.states.remove(plan.round).catch(() => {});
    await base.close().catch(() => {});
  }

  function progress(): RoundProgress {
    const folded = new Set(site?.work.contributors.map(({ device }) => device));
    for (const device of leaf?.contributors.keys() ?? []) folded.add(device);
    const { offered, declined } = leaf === undefined ? counts : countRound(leaf.state);
    return { round: plan.round, offered, declined, folded: folded.size, sealed: false };
  }

  async function close(): Promise<void> {
    closing = true;
    due.cancel();
    pause?.cancel();
    retry?.();
    await working;
    await leaf?.close();
  }

  try {
    if (site !== undefined && site.work.rounds > 0) await completeLedger(site);
    if (opening.running === undefined) run(first);
    else await open(opening.running, true);
  } catch (cause) {
    // Nobody would close it: its timers go, and act on nothing any more.
    await close();
    throw cause;
  }
  return {
    plan,
    progress,
    get handed() {
      return handed !== undefined;
    },
    get standing() {
      return cycle;
    },
    attached: () => apply({ type: "attached", present: present() }),
    detached: () => apply({ type: "detached", present: present() }),
    closed: () => apply({ type: "closed", present: present() }),
    over: () => apply({ type: "over" }),
    connected(device) {
      if (members.has(device)) apply({ type: "connected" });
    },
    get journalBytes() {
      return stateBytes + (leaf?.journalBytes ?? 0);
    },
    get promisedBytes() {
      const deltaBytes = leaf?.partialBytes ?? 8 * (site?.work.delta.length ?? 0);
      // Its composed Partial, and the next state beside the last one while it is written.
      if (handed === undefined) return 2 * deltaBytes;
      // That state has two deltas. With all handed over there is nothing to come.
      return leaf === undefined && (site?.work.rounds ?? 0) === 0 ? 0 : 3 * deltaBytes;
    },
    close,
  };
}

/** After so many site rounds in a row that nobody contributed to; each is twice the one before. */
function pauseMs(empty: number): number {
  return Math.min(limits.sitePauseMaxMs, limits.sitePauseFirstMs * 2 ** Math.min(empty - 1, 30));
}
