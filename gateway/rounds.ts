import type { RoundOpened, RoundProgress } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import type { Random } from "@tributary/proto/host/random.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { leanPlan, type Plan } from "@tributary/proto/wire/plan.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { DeviceLink } from "./broker.js";
import { type Combine, openCombine } from "./combine.js";
import type { GatewayEvents } from "./events.js";
import type { RoundSource, RoundView, Update } from "./ingest.js";
import { limits } from "./limits.js";
import type { Models } from "./models.js";
import type { Outbox } from "./outbox.js";
import { readPlan } from "./plan-check.js";
import {
  countRound,
  openRound,
  type RoundEffect,
  type RoundEvent,
  type RoundState,
  type RoundStep,
  type SealReason,
  stepRound,
} from "./round.js";
import { createSealedRounds } from "./sealed-rounds.js";
import type { SiteTime } from "./site-time.js";
import type { RoundRecord, SealedRecord, Store } from "./store.js";

/** The rounds of this gateway: runs what the round machine decides. */
export type Rounds = RoundSource & {
  /** Opens a round, or answers a repeated opening with its progress. In order with `close`. */
  open(opened: RoundOpened): void;
  closed(round: string, outcome: string): void;
  deviceConnected(device: string): void;
  deviceDisconnected(device: string): void;
  declined(device: string, header: { round: string; code: string }): Verdict<object>;
  /** Of every round that the upstream has not closed. */
  progress(): RoundProgress[];
  openRounds(): string[];
  readonly journalBytes: number;
  readonly promisedBytes: number;
  close(): Promise<void>;
};

export type RoundsOptions = {
  readonly gateway: string;
  readonly site: string;
  readonly absentGraceMs: number;
  readonly modelCacheBytes: number;
  readonly disk: Disk;
  readonly store: Store;
  readonly kernel: Kernel;
  readonly outbox: Outbox;
  readonly models: Pick<Models, "want" | "pin" | "unpin">;
  readonly link: Pick<DeviceLink, "send">;
  /** Devices that are connected and have said hello. */
  readonly present: () => Iterable<string>;
  readonly uploading: () => number;
  /** The round takes no more updates. */
  readonly onSealing: (round: string) => void;
  readonly onProgress: (progress: RoundProgress) => void;
  readonly onPartial: () => void;
  readonly onPlanRefused: (round: string, refusal: Refusal) => void;
  readonly events: GatewayEvents;
  readonly clock: Clock;
  readonly time: Pick<SiteTime, "logicalMs">;
  readonly random: Random;
};

type Round = {
  readonly plan: Plan;
  readonly combine: Combine;
  readonly deadlineMs: number; // on the monotonic clock
  state: RoundState;
  timers: Timer[];
};

const JOURNALS = "rounds";
const journalOf = (round: string) => `${JOURNALS}/${round}.journal`;

/**
 * The order in which a round's devices are asked: by a hash of the round and the device, so that
 * it is the same after a restart and another in every round.
 */
export function askOrder(round: string, roster: readonly string[]): string[] {
  return roster
    .map((device) => ({ device, rank: sha256(`${round}\n${device}`) }))
    .sort((a, b) => (a.rank < b.rank ? -1 : 1))
    .map(({ device }) => device);
}

/** Opens the rounds that were open when the gateway last ran. */
export async function createRounds(options: RoundsOptions): Promise<Rounds> {
  const { disk, store, outbox, models, link, events, clock, time } = options;
  const rounds = new Map<string, Round>();
  const sealed = createSealedRounds(await store.sealed());
  let control: Promise<void> = Promise.resolve();
  const seals = new Set<Promise<void>>();
  let closing = false;

  function apply(round: Round, event: RoundEvent): void {
    run(round, stepRound(round.state, event));
  }

  function run(round: Round, step: RoundStep): void {
    round.state = step.state;
    const name = step.state.round;
    const offered: string[] = [];
    for (const effect of step.effects) {
      if (effect.type === "offer") offered.push(effect.device);
      perform(round, name, effect);
    }
    if (offered.length > 0) noteAsks(name, offered, "offered");
  }

  function perform(round: Round, name: string, effect: RoundEffect): void {
    switch (effect.type) {
      case "offer":
        return offer(round, name, effect.device);
      case "seal":
        options.onSealing(name);
        return beginSeal(round, name, effect.reason);
      case "dismiss":
        return link.send(effect.device, "closed", encodeEnvelope({ round: name }));
      case "report":
        return options.onProgress(progressOf(round.state, round.state.phase === "sealed"));
    }
  }

  function noteAsks(round: string, devices: readonly string[], ask: "offered" | "declined"): void {
    const noted = devices.map((device) => [device, ask] as const);
    store.noteAsks(round, noted).catch((cause: Error) => {
      // After a restart these devices are asked again: harmless.
      events({ level: "error", name: "storage-failed", what: "asks", message: cause.message });
    });
  }

  function offer(round: Round, name: string, device: string): void {
    const remainingMs = Math.max(0, Math.round(round.deadlineMs - clock.monotonicMs()));
    const header = { gateway: options.gateway, plan: leanPlan(round.plan), remainingMs };
    link.send(device, "offer", encodeEnvelope(header));
    events({ level: "debug", name: "round-offered", round: name, device });
  }

  function beginSeal(round: Round, name: string, reason: SealReason): void {
    const task = seal(round, name, reason).finally(() => seals.delete(task));
    seals.add(task);
  }

  async function seal(round: Round, name: string, reason: SealReason): Promise<void> {
    for (const timer of round.timers) timer.cancel();
    round.timers = [];
    const { combine } = round;
    try {
      const partial = await combine.seal();
      const counts = countRound(round.state);
      const record = { round: name, ...counts, folded: combine.digests.size };
      let bytes = 0;
      if (partial === undefined) await store.seal(record, [], undefined);
      else bytes = (await outbox.add(partial, record, combine.digests, round.plan)).bytes;
      const contributors = combine.digests.size;
      events({ level: "info", name: "round-sealed", round: name, reason, contributors, bytes });
      sealed.add(record);
    } catch (cause) {
      if (closing) return;
      const message = cause instanceof Error ? cause.message : String(cause);
      const retryMs = limits.sealRetryMs;
      events({ level: "error", name: "seal-failed", round: name, message, retryMs });
      round.timers.push(clock.setTimer(retryMs, () => beginSeal(round, name, reason)));
      return;
    }
    rounds.delete(name);
    apply(round, { type: "sealed" });
    sealed.keepState(round.state);
    models.unpin(round.plan.base.digest);
    options.onPartial();
    // The sealed Partial is durable, so a journal that stays is removed at the next start.
    await combine.remove().catch(() => {});
  }

  async function openFresh(opened: RoundOpened): Promise<void> {
    const read = readPlan(opened.plan, opened.roster);
    if (!read.ok) return refusePlan("", read);
    const { plan } = read;
    const name = plan.round;
    const open = rounds.get(name);
    if (open !== undefined) {
      return options.onProgress(progressOf(open.state, open.state.phase === "sealed"));
    }
    const known = sealed.get(name);
    if (known !== undefined) {
      sealed.reopenUpstream(name);
      return options.onProgress(progressOf(known, true));
    }
    if (rounds.size >= limits.openRounds) {
      return refusePlan(name, refuse("busy", `${rounds.size} rounds are open here`));
    }
    if (plan.base.bytes > options.modelCacheBytes) {
      return refusePlan(name, refuse("too-large", "the base does not fit modelCacheBytes"));
    }
    const remainingMs = Math.min(opened.remainingMs, plan.siteDeadlineMs);
    const record: RoundRecord = {
      round: name,
      plan: opened.plan,
      roster: opened.roster,
      deadlineAtMs: time.logicalMs() + remainingMs,
    };
    try {
      await start(plan, record, remainingMs, () => store.putRound(record));
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      return refusePlan(name, refuse("storage-failed", message));
    }
  }

  function refusePlan(round: string, refusal: Refusal): void {
    const { code, message } = refusal;
    events({ level: "warn", name: "plan-refused", round, code, message });
    options.onPlanRefused(round, refusal);
  }

  /** `keep` makes a new round known to the next start; where that fails nothing is left of it. */
  async function start(
    plan: Plan,
    record: RoundRecord,
    remainingMs: number,
    keep?: () => Promise<void>,
  ): Promise<void> {
    const name = plan.round;
    const combine = await openCombine({
      disk,
      path: journalOf(name),
      kernel: options.kernel,
      plan,
      site: options.site,
      clock,
      random: options.random,
      uploading: options.uploading,
    });
    try {
      await keep?.();
    } catch (cause) {
      await combine.remove().catch(() => {});
      throw cause;
    }
    const asks = new Map<string, "offered" | "declined" | "folded">(await store.asks(name));
    const resumed = asks.size > 0 || combine.digests.size > 0;
    for (const device of combine.digests.keys()) asks.set(device, "folded");
    models.pin(plan.base.digest);
    models.want(plan.base);
    const order = askOrder(name, record.roster);
    const present = options.present();
    const { fraction, overSelection } = plan;
    const step = openRound({ round: name, order, fraction, overSelection, present, asks });
    const deadlineMs = clock.monotonicMs() + remainingMs;
    const round: Round = { plan, combine, deadlineMs, state: step.state, timers: [] };
    rounds.set(name, round);
    round.timers = [
      clock.setTimer(remainingMs, () => apply(round, { type: "deadline" })),
      clock.setTimer(options.absentGraceMs, () => apply(round, { type: "grace" })),
    ];
    const contributors = combine.digests.size;
    if (resumed) {
      events({ level: "info", name: "round-resumed", round: name, contributors, remainingMs });
    } else {
      const { wanted } = step.state;
      const roster = record.roster.length;
      events({ level: "info", name: "round-opened", round: name, roster, wanted });
    }
    run(round, step);
  }

  function inOrder(task: () => Promise<void> | void): void {
    control = control.then(task).catch((cause: unknown) => {
      const message = cause instanceof Error ? cause.message : String(cause);
      events({ level: "error", name: "storage-failed", what: "round", message });
    });
  }

  /** The round stops waiting for the device; an update that comes all the same is still taken. */
  function decline(round: Round, device: string, code: string): void {
    const name = round.plan.round;
    events({ level: "info", name: "device-declined", round: name, device, code });
    noteAsks(name, [device], "declined");
    apply(round, { type: "declined", device });
  }

  function facts(name: string): RoundView | "sealed" | undefined {
    const round = rounds.get(name);
    if (round === undefined) return sealed.get(name) !== undefined ? "sealed" : undefined;
    const { plan, combine, state } = round;
    return {
      plan,
      open: state.phase === "open",
      weight: combine.weight,
      offered: (device) => state.asks.has(device),
      contributed: (device) => combine.digests.get(device),
    };
  }

  async function commit(update: Update): Promise<Verdict<object>> {
    const round = rounds.get(update.round);
    if (round === undefined) {
      update.release();
      return refuse("round-closed", `round ${update.round} has sealed`);
    }
    const verdict = await round.combine.commit(update);
    if (!verdict.ok) return verdict;
    const { device, begin } = update;
    const { samples } = begin;
    events({ level: "debug", name: "update-receipted", round: update.round, device, samples });
    apply(round, { type: "folded", device });
    return verdict;
  }

  await resume();

  async function resume(): Promise<void> {
    await disk.makeDir(JOURNALS);
    const records = await store.openRounds();
    const wanted = new Set(records.map(({ round }) => journalOf(round)));
    for (const name of await disk.list(JOURNALS)) {
      if (!wanted.has(`${JOURNALS}/${name}`)) await disk.remove(`${JOURNALS}/${name}`);
    }
    for (const record of records) {
      const read = readPlan(record.plan, record.roster);
      if (!read.ok) {
        refusePlan(record.round, read);
        continue;
      }
      const leftMs = record.deadlineAtMs - time.logicalMs();
      // What a kill took back of the logical time must not make the round longer than its plan.
      const remainingMs = Math.min(Math.max(0, leftMs), read.plan.siteDeadlineMs);
      await start(read.plan, record, remainingMs);
    }
  }

  return {
    open: (opened) => inOrder(() => openFresh(opened)),
    closed(name, outcome) {
      inOrder(() => {
        events({ level: "info", name: "round-closed", round: name, outcome });
        sealed.closeUpstream(name);
        const round = rounds.get(name);
        if (round !== undefined) apply(round, { type: "closed" });
      });
    },
    deviceConnected(device) {
      for (const round of [...rounds.values()]) apply(round, { type: "connected", device });
      for (const round of sealed.dismissing(device)) {
        link.send(device, "closed", encodeEnvelope({ round }));
      }
    },
    deviceDisconnected(device) {
      for (const round of [...rounds.values()]) apply(round, { type: "disconnected", device });
    },
    declined(device, { round: name, code }) {
      const round = rounds.get(name);
      if (round === undefined) {
        return sealed.get(name) !== undefined
          ? refuse("round-closed", `round ${name} has sealed`)
          : refuse("unknown-round", `no round ${name} here`);
      }
      if (!round.state.asks.has(device)) {
        return refuse("not-offered", `round ${name} was not offered to ${device}`);
      }
      decline(round, device, code);
      return { ok: true };
    },
    facts,
    recall: (round, device) => store.recall(round, device),
    check(name, piece, byteOffset) {
      const round = rounds.get(name);
      return round === undefined ? { ok: true } : round.combine.check(piece, byteOffset);
    },
    commit,
    refused(name, device, code) {
      const round = rounds.get(name);
      if (round?.state.asks.get(device) === "offered") decline(round, device, code);
    },
    progress() {
      const open = [...rounds.values()].map(({ state }) => progressOf(state, false));
      return [...open, ...sealed.awaited().map((record) => progressOf(record, true))];
    },
    openRounds: () => [...rounds.keys()],
    get journalBytes() {
      return [...rounds.values()].reduce((sum, { combine }) => sum + combine.journalBytes, 0);
    },
    get promisedBytes() {
      return [...rounds.values()].reduce((sum, { combine }) => sum + combine.partialBytes, 0);
    },
    async close() {
      closing = true;
      await control;
      await Promise.all(seals);
      for (const round of rounds.values()) {
        for (const timer of round.timers) timer.cancel();
        await round.combine.close();
      }
    },
  };
}

function progressOf(
  source: RoundState | Omit<SealedRecord, "order">,
  isSealed: boolean,
): RoundProgress {
  const counts = "asks" in source ? countRound(source) : source;
  const { offered, folded, declined } = counts;
  return { round: source.round, offered, folded, declined, sealed: isSealed };
}
