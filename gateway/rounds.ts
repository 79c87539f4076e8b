import type { RoundOpened, RoundProgress } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { encodeEnvelope } from "@tributary/proto/wire/envelope.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { splitNumberedId } from "@tributary/proto/wire/ids.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { z } from "zod";
import { type EndedRound, type Idle, idleOf } from "./idle.js";
import type { RoundSource } from "./ingest.js";
import { type LeafEnd, type LeafRound, openLeafRound } from "./leaf-round.js";
import { limits } from "./limits.js";
import { demandJournal, demandSiteFiles } from "./missing-files.js";
import { holdFiles, releaseFiles } from "./packages.js";
import { readPlan } from "./plan-check.js";
import { clearLeftovers, findRunning } from "./round-leftovers.js";
import { countsOf, type OpenRound, progressOf } from "./round-progress.js";
import type { RoundWorld } from "./round-world.js";
import { createSealedRounds } from "./sealed-rounds.js";
import { inSiteRounds } from "./site-plan.js";
import { startSiteRounds } from "./site-rounds.js";
import { openSiteStates } from "./site-state.js";
import type { RoundRecord, SealedRecord } from "./store.js";
import { createWaitingRounds } from "./waiting-rounds.js";

/** The rounds of this gateway: the cloud's, and within them the site's own. */
export type Rounds = RoundSource & {
  /** Opens a round, or answers a repeated opening with its progress. In order with `close`. */
  open(opened: RoundOpened): void;
  closed(round: string, outcome: string): void;
  /** No further round of the session follows. */
  sessionOver(session: string): void;
  /** More of a model can be read: what waits for the whole of it as its base opens. */
  modelProgressed(digest: string): void;
  /** The uplink is back. */
  attached(): void;
  /** The uplink is away. */
  detached(): void;
  deviceConnected(device: string): void;
  deviceDisconnected(device: string): void;
  declined(device: string, header: { round: string; code: string }): Verdict<object>;
  /** Of every round that the upstream has not closed. */
  progress(): RoundProgress[];
  openRounds(): string[];
  /** Why no device is asked; undefined while some are. */
  idle(): Idle | undefined;
  readonly journalBytes: number;
  readonly promisedBytes: number;
  close(): Promise<void>;
};

export type RoundsOptions = RoundWorld & {
  readonly modelCacheBytes: number;
  readonly onPlanRefused: (round: string, refusal: Refusal) => void;
};

const CLOSED_EARLY = "it closed before its turn came";
const ENDED = "ended";
const endedSchema = z
  .object({ session: z.string(), round: z.string(), offlineSiteRounds: z.number() })
  .nullable();

/** Opens the rounds that were open when the gateway last ran. */
export async function createRounds(options: RoundsOptions): Promise<Rounds> {
  const { disk, store, outbox, models, link, events, clock, time } = options;
  const open = new Map<string, OpenRound>();
  /** What devices take part in, by the round's name as they know it. */
  const leaves = new Map<string, LeafRound>();
  const waiting = createWaitingRounds(clock);
  const states = openSiteStates(disk);
  const sealed = createSealedRounds(await store.sealed());
  /** Rounds from before the start that could not be read: they stay for the next one. */
  const unread = new Set<string>();
  let ended = (await store.readNote(ENDED, endedSchema)) ?? undefined;
  let control: Promise<void> = Promise.resolve();

  function inOrder(task: () => Promise<void> | void): void {
    control = control.then(task).catch((cause: unknown) => {
      const message = describe(cause);
      events({ level: "error", name: "storage-failed", what: "round", message });
    });
  }

  async function openFresh(opened: RoundOpened): Promise<void> {
    const read = readPlan(opened.plan, opened.roster);
    if (!read.ok) return refusePlan("", read);
    const { plan } = read;
    if (answerRepeated(plan.round) || waitsBehindAnother(plan, opened)) return;
    const refusal = refuseFresh(plan);
    if (refusal !== undefined) return refusePlan(plan.round, refusal);
    const remainingMs = Math.min(opened.remainingMs, plan.siteDeadlineMs);
    const record: RoundRecord = {
      round: plan.round,
      plan: opened.plan,
      roster: opened.roster,
      deadlineAtMs: time.logicalMs() + remainingMs,
    };
    try {
      if (inSiteRounds(plan)) {
        await store.putRound(record);
        await startCycle(plan, record, remainingMs, []);
      } else await startLeaf(plan, record, remainingMs, () => store.putRound(record));
    } catch (cause) {
      refusePlan(plan.round, refuse("storage-failed", describe(cause)));
    }
  }

  /** Answers the opening of a round that is, or was, open here with its progress. */
  function answerRepeated(name: string): boolean {
    const here = open.get(name);
    if (here !== undefined && here.cycle?.handed !== true) {
      options.onProgress(progressOf(here));
      return true;
    }
    const known = sealed.get(name);
    if (known === undefined) return false;
    sealed.reopenUpstream(name);
    options.onProgress({ ...countsOf(known), sealed: true });
    return true;
  }

  /**
   * Under `finishFirst` a session's next round waits; else it ends site rounds of the one before, once
   * it has a base to start from: cut off in between, the site goes on from what it has. An evaluation
   * does not end what follows the first stretch.
   */
  function waitsBehindAnother(plan: Plan, opened: RoundOpened): boolean {
    const trains = plan.task === "train";
    const others = [...open.values()].filter((other) => other.plan.session === plan.session);
    const goesOn = others.find(({ cycle }) => trains && cycle?.handed);
    if (goesOn !== undefined && isEarlier(goesOn.plan.round, plan.round) && !isHere(plan.base)) {
      models.want(plan.base);
      return wait(plan, opened, goesOn.plan.round);
    }
    for (const { plan: other, cycle } of others) {
      if (!isEarlier(other.round, plan.round)) continue;
      if (trains) cycle?.over();
      else if (!plan.finishFirst) cycle?.closed();
    }
    if (!plan.finishFirst) return false;
    const behind = others.find(
      ({ cycle }) =>
        cycle === undefined || !cycle.handed || (trains && cycle.standing.phase === "running"),
    );
    return behind !== undefined && wait(plan, opened, behind.plan.round);
  }

  function wait(plan: Plan, opened: RoundOpened, behind: string): true {
    events({ level: "info", name: "round-waits", round: plan.round, behind });
    const displaced = waiting.add(plan, opened);
    if (displaced !== undefined) {
      refusePlan(displaced.round, refuse("busy", "the session's next round came before its turn"));
    }
    return true;
  }

  const isHere = ({ digest, bytes }: Plan["base"]) => models.available(digest)?.bytes === bytes;

  function refuseFresh(plan: Plan): Refusal | undefined {
    if (unread.has(plan.round)) return refuse("storage-failed", "it is here and cannot be read");
    const handed = [...open.values()].filter(({ cycle }) => cycle?.handed);
    // The session of the oldest may be over without this gateway's knowing.
    if (handed.length >= limits.openRounds) handed[0]?.cycle?.over();
    const count = open.size - handed.length;
    if (count >= limits.openRounds) return refuse("busy", `${count} rounds are open here`);
    return plan.base.bytes > options.modelCacheBytes
      ? refuse("too-large", "the base does not fit modelCacheBytes")
      : undefined;
  }

  function refusePlan(round: string, refusal: Refusal): void {
    const { code, message } = refusal;
    events({ level: "warn", name: "plan-refused", round, code, message });
    options.onPlanRefused(round, refusal);
  }

  async function startLeaf(
    plan: Plan,
    { roster }: RoundRecord,
    remainingMs: number,
    keep?: () => Promise<void>,
  ): Promise<void> {
    const leaf = await openLeafRound(options, {
      plan,
      subject: plan,
      roster,
      remainingMs,
      graceMs: options.absentGraceMs,
      ...(keep && { keep }),
      async land({ partial, record, digests }) {
        if (partial !== undefined) return (await outbox.add(partial, record, digests, plan)).bytes;
        await store.seal(record, [], undefined);
        return 0;
      },
      onLanded(landed, end) {
        onLanded(landed, end);
        finish(plan, end.record);
        releaseFiles(models, plan);
        options.onPartial();
      },
      onReport: (leaf) => options.onProgress(progressOf({ plan, leaf })),
    });
    holdFiles(models, plan);
    open.set(plan.round, { plan, leaf });
    leaves.set(plan.round, leaf);
    leaf.start();
  }

  async function startCycle(
    plan: Plan,
    record: RoundRecord,
    remainingMs: number,
    journals: readonly number[],
  ): Promise<void> {
    const { handed } = record;
    const state = await states.read(plan, handed);
    const landed = Math.max(state?.number ?? 0, handed?.number ?? 0);
    const running = await findRunning(options, plan.round, journals, landed);
    const newest = Math.max(sealed.newestSiteRound(plan.round), landed);
    await demandSiteFiles(options, record, { state: state !== undefined, running, newest });
    let over = false;
    const cycle = await startSiteRounds(
      options,
      { plan, record, remainingMs, state, running, newest },
      {
        states,
        known: (round) => sealed.get(round) !== undefined,
        onOpen: (leaf) => void leaves.set(leaf.plan.round, leaf),
        onSealed: sealed.add,
        onLanded,
        onHanded(ended) {
          sealed.add(ended);
          openWaiting(plan.session);
        },
        onEnded() {
          over = true;
          end(plan);
        },
      },
    );
    // What a restart left can come to its end at once.
    if (!over) open.set(plan.round, { plan, cycle });
  }

  /** The leaf takes nothing more; its contributors are in the ledger. */
  function onLanded({ state }: LeafRound, { record }: LeafEnd): void {
    leaves.delete(record.round);
    sealed.add(record);
    sealed.keepState(state);
  }

  function finish(plan: Plan, record: Omit<SealedRecord, "order">): void {
    sealed.add(record);
    end(plan);
  }

  function end(plan: Plan): void {
    open.delete(plan.round);
    if (plan.task === "train") noteEnded(plan);
    openWaiting(plan.session);
  }

  /** For the status alone: a restart may lose it. */
  function noteEnded(plan: EndedRound | undefined): void {
    ended = plan && endedOf(plan);
    store.putNote(ENDED, ended ?? null, { sync: false }).catch(() => {});
  }

  function openWaiting(session: string): void {
    inOrder(async () => {
      const next = waiting.take(session);
      if (next === undefined) return;
      if (next.opened.remainingMs > 0) return openFresh(next.opened);
      refusePlan(next.plan.round, refuse("busy", "its time was over before its turn came"));
    });
  }

  async function close(): Promise<void> {
    await control;
    await Promise.all(
      [...open.values()].map(async ({ leaf, cycle }) => {
        await leaf?.close();
        await cycle?.close();
      }),
    );
  }

  await resume().catch(async (cause: unknown) => {
    await close().catch(() => {});
    throw cause;
  });
  async function resume(): Promise<void> {
    const leave = (round: string, message: string) => {
      unread.add(round);
      events({ level: "error", name: "round-unread", round, message });
    };
    // What belongs to a round that cannot be read stays, for a version or a person that can.
    const known = new Set<string>();
    const records = await store.openRounds((round, message) => {
      known.add(round);
      leave(round, message);
    });
    for (const { round } of records) known.add(round);
    const journals = await clearLeftovers(options, states, known, sealed.get);
    for (const record of records) {
      const read = readPlan(record.plan, record.roster);
      if (!read.ok) {
        refusePlan(record.round, read);
        continue;
      }
      const { plan } = read;
      const leftMs = record.deadlineAtMs - time.logicalMs();
      // What a kill took back of the logical time must not make the round longer than its plan.
      const remainingMs = Math.min(Math.max(0, leftMs), plan.siteDeadlineMs);
      try {
        if (!inSiteRounds(plan)) {
          await demandJournal(options, plan.round);
          await startLeaf(plan, record, remainingMs);
        } else await startCycle(plan, record, remainingMs, journals.get(plan.round) ?? []);
      } catch (cause) {
        // Damage is not guessed around. What cannot be read now stays for the next start.
        if (cause instanceof TributaryError && cause.code.startsWith("journal-")) throw cause;
        leave(plan.round, describe(cause));
      }
    }
    // A kill can come between the opening of a round and the end of the one before.
    for (const { plan } of [...open.values()]) {
      if (plan.task !== "train") continue;
      for (const other of [...open.values()]) {
        const isBefore = isEarlier(other.plan.round, plan.round);
        if (other.plan.session === plan.session && isBefore && other.cycle?.handed)
          other.cycle.over();
      }
    }
  }

  return {
    open: (opened) => inOrder(() => openFresh(opened)),
    closed(name, outcome) {
      inOrder(() => {
        events({ level: "info", name: "round-closed", round: name, outcome });
        sealed.closeUpstream(name);
        // Answered, like all that is not run: a gateway in between would wait for it.
        if (waiting.forget(name)) refusePlan(name, refuse("round-closed", CLOSED_EARLY));
        const here = open.get(name);
        if (here === undefined) return;
        if (!here.plan.finishFirst) here.leaf?.apply({ type: "closed" });
        here.cycle?.closed();
      });
    },
    sessionOver(session) {
      inOrder(() => {
        for (const { plan, cycle } of [...open.values()]) {
          if (plan.session === session) cycle?.over();
        }
        const next = waiting.take(session)?.plan.round;
        if (next !== undefined) refusePlan(next, refuse("round-closed", CLOSED_EARLY));
        if (ended?.session === session) noteEnded(undefined);
      });
    },
    modelProgressed(digest) {
      const here = models.available(digest);
      if (here === undefined || here.bytes < here.manifest.bytes) return;
      for (const session of waiting.onBase(digest)) openWaiting(session);
    },
    attached() {
      for (const { cycle } of [...open.values()]) cycle?.attached();
    },
    detached() {
      for (const { cycle } of [...open.values()]) cycle?.detached();
    },
    deviceConnected(device) {
      for (const leaf of [...leaves.values()]) leaf.apply({ type: "connected", device });
      for (const { cycle } of [...open.values()]) cycle?.connected(device);
      for (const round of sealed.dismissing(device)) {
        link.send(device, "closed", encodeEnvelope({ round }));
      }
    },
    deviceDisconnected(device) {
      for (const leaf of [...leaves.values()]) leaf.apply({ type: "disconnected", device });
    },
    declined(device, { round: name, code }) {
      const leaf = leaves.get(name);
      if (leaf !== undefined) return leaf.declined(device, code);
      return sealed.get(name) !== undefined
        ? refuse("round-closed", `round ${name} has sealed`)
        : refuse("unknown-round", `no round ${name} here`);
    },
    facts(name) {
      const leaf = leaves.get(name);
      if (leaf !== undefined) return leaf.facts();
      return sealed.get(name) !== undefined ? "sealed" : undefined;
    },
    recall: (round, device) => store.recall(round, device),
    check: (name, piece, byteOffset) => leaves.get(name)?.check(piece, byteOffset) ?? { ok: true },
    async commit(update) {
      const leaf = leaves.get(update.round);
      if (leaf !== undefined) return leaf.commit(update);
      update.release();
      return refuse("round-closed", `round ${update.round} has sealed`);
    },
    refused: (name, device, code) => leaves.get(name)?.refused(device, code),
    progress: () => [
      ...[...open.values()].filter(({ cycle }) => !cycle?.handed).map(progressOf),
      ...sealed.awaited().map((record) => ({ ...countsOf(record), sealed: true })),
    ],
    openRounds: () => [...open.keys()],
    idle: () =>
      idleOf({
        asking: leaves.size > 0,
        attached: options.attached(),
        cycles: [...open.values()].flatMap(({ plan: { round }, cycle }) =>
          cycle === undefined ? [] : [{ round, ...cycle.standing }],
        ),
        ended,
      }),
    get journalBytes() {
      return total([...open.values()], ({ leaf, cycle }) => (leaf ?? cycle)?.journalBytes ?? 0);
    },
    get promisedBytes() {
      return total(
        [...open.values()],
        ({ leaf, cycle }) => leaf?.partialBytes ?? cycle?.promisedBytes ?? 0,
      );
    },
    close,
  };
}

const endedOf = ({ session, round, offlineSiteRounds }: EndedRound): EndedRound => ({
  session,
  round,
  offlineSiteRounds,
});

function total<T>(all: readonly T[], bytesOf: (one: T) => number): number {
  return all.reduce((sum, one) => sum + bytesOf(one), 0);
}

function describe(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

function isEarlier(a: string, b: string): boolean {
  return (splitNumberedId(a)?.number ?? 0) < (splitNumberedId(b)?.number ?? 0);
}
