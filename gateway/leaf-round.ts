import type { Partial } from "@tributary/proto/algebra/partial.js";
import type { Timer } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { leanPlan, type Plan } from "@tributary/proto/wire/plan.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { type Combine, openCombine } from "./combine.js";
import type { RoundView, Update } from "./ingest.js";
import { limits } from "./limits.js";
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
import { journalOf, type RoundWorld } from "./round-world.js";
import type { SealedRecord } from "./store.js";

/** One round with the devices of this gateway: the cloud's own, or one of its site rounds. */
export type LeafRound = {
  readonly plan: Plan;
  readonly state: RoundState;
  readonly contributors: ReadonlyMap<string, string>;
  readonly journalBytes: number;
  /** The sealed Partial, about, in bytes. */
  readonly partialBytes: number;
  /** Makes the first offers. Before it nothing happens. */
  start(): void;
  apply(event: RoundEvent): void;
  facts(): RoundView;
  check: Combine["check"];
  commit(update: Update): Promise<Verdict<object>>;
  /** The device declined the offer. */
  declined(device: string, code: string): Verdict<object>;
  /** The device's update was refused for good: the round need not wait for it. */
  refused(device: string, code: string): void;
  close(): Promise<void>;
};

/** What a round has come to. */
export type LeafEnd = {
  /** Its sum; undefined when nobody contributed. */
  readonly partial: Partial | undefined;
  readonly record: Omit<SealedRecord, "order">;
  /** Digest of each contributor's update. */
  readonly digests: ReadonlyMap<string, string>;
};

export type LeafOpening = {
  /** As the devices get it. */
  readonly plan: Plan;
  /** The round and base for which its contributions count. */
  readonly subject: Pick<Plan, "round" | "base">;
  readonly roster: readonly string[];
  readonly remainingMs: number;
  /** How long roster devices that are not here are waited for. */
  readonly graceMs: number;
  /** Makes a new round known to the next start, once its journal is there. */
  readonly keep?: () => Promise<void>;
  /** Samples from before this round that count beside a device's, see `RoundView.weightBeside`. */
  readonly carried?: (device: string, contributed: ReadonlyMap<string, string>) => number;
  /** Makes the end durable, and says how many bytes that took. Called again when it rejects. */
  readonly land: (end: LeafEnd) => Promise<number>;
  /** It takes nothing more and its end is durable; the devices have not heard of it yet. */
  readonly onLanded: (leaf: LeafRound, end: LeafEnd) => void;
  /** The devices have heard of it. */
  readonly onEnded?: (end: LeafEnd) => void;
  readonly onReport: (leaf: LeafRound) => void;
};

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

/** Opens a round on its journal: a new one, or one that was open when the gateway last ran. */
export async function openLeafRound(world: RoundWorld, opening: LeafOpening): Promise<LeafRound> {
  const { disk, store, link, events, clock } = world;
  const { plan } = opening;
  const name = plan.round;
  const combine = await openCombine({
    disk,
    path: journalOf(name),
    kernel: world.kernel,
    plan,
    subject: opening.subject,
    site: world.site,
    clock,
    random: world.random,
    uploading: world.uploading,
  });
  const { cutBytes: bytes, journalBytes: offset } = combine;
  if (bytes > 0)
    events({ level: "warn", name: "journal-cut", file: journalOf(name), offset, bytes });
  const asks = await startAsks();
  const step = openRound({
    round: name,
    order: askOrder(name, opening.roster),
    fraction: plan.fraction,
    overSelection: plan.overSelection,
    present: world.present(),
    asks,
  });
  const deadlineMs = clock.monotonicMs() + opening.remainingMs;
  let state = step.state;
  let timers: Timer[] = [];
  let sealing: Promise<void> = Promise.resolve();
  let closing = false;
  let landed = false;

  async function startAsks(): Promise<Map<string, "offered" | "declined" | "folded">> {
    try {
      await opening.keep?.();
      const known = new Map<string, "offered" | "declined" | "folded">(await store.asks(name));
      for (const device of combine.digests.keys()) known.set(device, "folded");
      return known;
    } catch (cause) {
      // The journal stays: a write of the index that failed may be there all the same. A round that
      // is not gives it up at the next start.
      await combine.close().catch(() => {});
      throw cause;
    }
  }

  function apply(event: RoundEvent): void {
    run(stepRound(state, event));
  }

  function run(next: RoundStep): void {
    state = next.state;
    const offered: string[] = [];
    for (const effect of next.effects) {
      if (effect.type === "offer") offered.push(effect.device);
      perform(effect);
    }
    if (offered.length > 0) noteAsks(offered, "offered");
  }

  function perform(effect: RoundEffect): void {
    switch (effect.type) {
      case "offer":
        return offer(effect.device);
      case "seal":
        world.onSealing(name);
        sealing = seal(effect.reason);
        return;
      case "dismiss":
        return link.send(effect.device, "closed", encodeEnvelope({ round: name }));
      case "report":
        return opening.onReport(leaf);
    }
  }

  function noteAsks(devices: readonly string[], ask: "offered" | "declined"): void {
    const noted = devices.map((device) => [device, ask] as const);
    store.noteAsks(name, noted).catch((cause: Error) => {
      // After a restart these devices are asked again: harmless.
      events({ level: "error", name: "storage-failed", what: "asks", message: cause.message });
    });
  }

  function offer(device: string): void {
    const remainingMs = Math.max(0, Math.round(deadlineMs - clock.monotonicMs()));
    const header = { gateway: world.gateway, plan: leanPlan(plan), remainingMs };
    link.send(device, "offer", encodeEnvelope(header));
    events({ level: "debug", name: "round-offered", round: name, device });
  }

  async function seal(reason: SealReason): Promise<void> {
    stopTimers();
    let end: LeafEnd;
    try {
      const partial = await combine.seal();
      const contributors = combine.digests.size;
      const record = { round: name, ...countRound(state), folded: contributors };
      end = { partial, record, digests: combine.digests };
      const bytes = await opening.land(end);
      events({ level: "info", name: "round-sealed", round: name, reason, contributors, bytes });
    } catch (cause) {
      if (closing) return;
      const message = cause instanceof Error ? cause.message : String(cause);
      const retryMs = limits.sealRetryMs;
      events({ level: "error", name: "seal-failed", round: name, message, retryMs });
      const again = () => {
        sealing = seal(reason);
      };
      timers.push(clock.setTimer(retryMs, again));
      return;
    }
    landed = true;
    opening.onLanded(leaf, end);
    apply({ type: "sealed" });
    // What it came to is durable elsewhere, so a journal that stays is removed at the next start.
    await combine.remove().catch(() => {});
    opening.onEnded?.(end);
  }

  function stopTimers(): void {
    for (const timer of timers) timer.cancel();
    timers = [];
  }

  /** The round stops waiting for the device; an update that comes all the same is still taken. */
  function decline(device: string, code: string): void {
    events({ level: "info", name: "device-declined", round: name, device, code });
    noteAsks([device], "declined");
    apply({ type: "declined", device });
  }

  function report(): void {
    const contributors = combine.digests.size;
    const { remainingMs } = opening;
    if (asks.size > 0) {
      events({ level: "info", name: "round-resumed", round: name, contributors, remainingMs });
    } else {
      const roster = opening.roster.length;
      events({ level: "info", name: "round-opened", round: name, roster, wanted: state.wanted });
    }
  }

  const leaf: LeafRound = {
    plan,
    get state() {
      return state;
    },
    contributors: combine.digests,
    get journalBytes() {
      return combine.journalBytes;
    },
    partialBytes: combine.partialBytes,
    start() {
      timers = [
        clock.setTimer(opening.remainingMs, () => apply({ type: "deadline" })),
        clock.setTimer(opening.graceMs, () => apply({ type: "grace" })),
      ];
      report();
      run(step);
    },
    apply,
    facts: () => ({
      plan,
      open: state.phase === "open",
      weightBeside: (device) => combine.weight + (opening.carried?.(device, combine.digests) ?? 0),
      offered: (device) => state.asks.has(device),
      contributed: (device) => combine.digests.get(device),
    }),
    check: combine.check,
    async commit(update) {
      const verdict = await combine.commit(update);
      if (!verdict.ok) return verdict;
      const { device, begin } = update;
      const { samples } = begin;
      events({ level: "debug", name: "update-receipted", round: name, device, samples });
      apply({ type: "folded", device });
      return verdict;
    },
    declined(device, code) {
      if (!state.asks.has(device)) {
        return refuse("not-offered", `round ${name} was not offered to ${device}`);
      }
      decline(device, code);
      return { ok: true };
    },
    refused(device, code) {
      if (state.asks.get(device) === "offered") decline(device, code);
    },
    async close() {
      closing = true;
      stopTimers();
      await sealing;
      if (!landed) await combine.close();
    },
  };
  return leaf;
}
