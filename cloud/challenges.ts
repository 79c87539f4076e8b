import type { KeyObject } from "node:crypto";
import type { Contributor, Origin, Partial as Sum } from "@tributary/proto/algebra/partial.js";
import type { AttachResponse } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import type { Random } from "@tributary/proto/host/random.js";
import type { Asked } from "@tributary/proto/identity/warrant.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import type { PartialIdentity } from "@tributary/proto/tier/identity.js";
import type { Announcement, Destination } from "@tributary/proto/tier/inbox.js";
import type { AnswerPort } from "@tributary/proto/tier/service.js";
import { cloudRound, splitNumberedId } from "@tributary/proto/wire/ids.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { receiveAnswers } from "./challenge-answers.js";
import { checkHeader, updateBytes } from "./challenge-check.js";
import { challengeLimits as limits } from "./challenge-limits.js";
import { createRefold, type Refold } from "./challenge-refold.js";
import type { CloudEvents } from "./events.js";
import { readPlan } from "./round-plan.js";
import type { OpenRound } from "./store/rows.js";

/** What was found wrong with one update, or with the sum of all of them. */
export type ChallengeFault = {
  /** Null where it is about the sum. */
  readonly round: string | null;
  readonly device: string | null;
  readonly code: string;
  readonly message: string;
};

/** A challenge, and what came of it. */
export type ChallengeView = PartialIdentity & {
  readonly id: string;
  readonly by: "chance" | "demand";
  /** Of the Partial. */
  readonly digest: string;
  readonly session: string;
  readonly round: string;
  readonly contributors: number;
  /** Updates that were asked for, and how many of them have come. */
  readonly asked: number;
  readonly answered: number;
  readonly state: "open" | "passed" | "failed";
  /**
   * Whether the sum was made again to the bit, from all updates behind it. Null: it was not, for only some
   * were asked for, or it is composed of several site rounds.
   */
  readonly refolded: boolean | null;
  readonly faults: readonly ChallengeFault[];
  readonly faultCount: number;
  readonly askedAtMs: number;
  readonly endedAtMs: number | null;
};

/** Which Partial to challenge, the newest that it fits, and how many updates behind it to ask for. */
export type ChallengeRequest = {
  readonly gateway?: string | undefined;
  readonly round?: string | undefined;
  readonly digest?: string | undefined;
  readonly updates: number | "all";
};

/** Has gateways prove that devices stand behind their Partials. */
export type Challenges = {
  /** Takes note of the Partials that a destination takes, and challenges some by chance. */
  watch(destination: Destination): Destination;
  /** Refusals: `unknown-partial`, `busy`, `too-large`. */
  challenge(request: ChallengeRequest): Verdict<{ readonly challenge: ChallengeView }>;
  readonly answer: AnswerPort;
  /** The newest first. */
  list(): readonly ChallengeView[];
  get(id: string): ChallengeView | undefined;
  close(): void;
};

export type ChallengeRules = {
  /** Chance that a Partial is challenged when it comes, from 0 to 1. */
  readonly rate: number;
  /** Updates that are asked for then; of a Partial with no more, all. */
  readonly updates: number;
  /** A challenge fails for what has not come by then, in milliseconds. */
  readonly timeoutMs: number;
};

export type ChallengesOptions = {
  /** Whether devices sign: without an authority none has a key, and none is challenged by chance. */
  readonly isSigned: () => boolean;
  readonly rules: ChallengeRules;
  readonly kernel: Kernel;
  readonly random: Random;
  readonly clock: Clock;
  readonly wholeRound: (id: string) => Promise<OpenRound | undefined>;
  /** Keys that a device is, or was, enrolled with. */
  readonly keysOf: (device: string) => Promise<readonly KeyObject[]>;
  /** The fleet's word that it asks. */
  readonly warrant: (asked: Asked) => Promise<string>;
  readonly send: (gateway: string, message: AttachResponse) => void;
  readonly events: CloudEvents;
  /** A challenge has ended: puts it on record. */
  readonly onEnded?: (challenge: ChallengeView) => Promise<void>;
};

type Known = Origin & {
  readonly identity: PartialIdentity;
  readonly digest: string;
  readonly round: string;
  readonly site: string | null;
  readonly contributors: readonly Contributor[];
};

type Open = {
  readonly known: Known;
  view: ChallengeView;
  /** What was asked for and has not come; by index. */
  readonly missing: Map<number, Contributor>;
  readonly refold: Refold;
  /** Of the rounds behind the Partial, as far as they were needed. */
  readonly plans: Map<string, Plan>;
  timers: Timer[];
};

export function createChallenges(options: ChallengesOptions): Challenges {
  const { rules, kernel, random, clock, events } = options;
  /** By digest, the oldest first. */
  const known = new Map<string, Known>();
  let contributors = 0;
  const views = new Map<string, ChallengeView>();
  const open = new Map<string, Open>();
  let closed = false;

  function remember({ identity, digest, round }: Announcement, partial: Sum): Known {
    const { base, baseDigest, site } = partial;
    const one = { identity, digest, round, base, baseDigest, site };
    const entry = { ...one, contributors: partial.contributors };
    known.set(digest, entry);
    contributors += entry.contributors.length;
    for (const [oldest, { contributors: own }] of known) {
      const isWithin = known.size <= limits.partials && contributors <= limits.contributors;
      if (isWithin || oldest === digest) break;
      known.delete(oldest);
      contributors -= own.length;
    }
    return entry;
  }

  /** `count` of the contributors, each as likely as any other. */
  function draw(all: readonly Contributor[], count: number): readonly Contributor[] {
    const left = [...all];
    const drawn: Contributor[] = [];
    while (drawn.length < count && left.length > 0) {
      const at = Math.floor(random.next() * left.length);
      const last = left.pop() as Contributor;
      drawn.push(at < left.length ? (left[at] as Contributor) : last);
      if (at < left.length) left[at] = last;
    }
    return drawn;
  }

  function begin(
    entry: Known,
    wanted: number | "all",
    by: ChallengeView["by"],
  ): Verdict<{ readonly challenge: ChallengeView }> {
    if (open.size >= limits.open) return refuse("busy", `${open.size} challenges are open`);
    const total = entry.contributors.length;
    const count = wanted === "all" ? total : Math.min(wanted, total);
    if (count > limits.updates)
      return refuse("too-large", `${count} updates; ${limits.updates} can be asked for at a time`);
    const asked = draw(entry.contributors, count);
    const view: ChallengeView = {
      ...entry.identity,
      id: random.id(16),
      by,
      digest: entry.digest,
      session: splitNumberedId(entry.round)?.session ?? "",
      round: entry.round,
      contributors: total,
      asked: count,
      answered: 0,
      state: "open",
      refolded: null,
      faults: [],
      faultCount: 0,
      askedAtMs: clock.nowMs(),
      endedAtMs: null,
    };
    const challenge: Open = {
      known: entry,
      view,
      missing: new Map(asked.entries()),
      refold: createRefold(kernel, entry),
      plans: new Map(),
      timers: [],
    };
    open.set(view.id, challenge);
    show(view);
    challenge.timers.push(
      clock.setTimer(rules.timeoutMs, () => {
        for (const contributor of challenge.missing.values())
          blame(challenge, contributor, "update-missing", "it did not come in time");
        end(challenge);
      }),
    );
    const { id, digest, gateway, round } = view;
    const of = { challenge: id, gateway, round, digest };
    events({ level: "info", name: "challenge-sent", ...of, updates: count });
    ask(challenge);
    return { ok: true, challenge: view };
  }

  /** Asks for what has not come. A gateway that is away is asked again, like one whose answer broke off. */
  function ask(challenge: Open): void {
    if (challenge.view.state !== "open" || closed) return;
    const { id, digest, gateway } = challenge.view;
    const updates = [...challenge.missing].map(([index, { round, device }]) => ({
      index,
      round,
      device,
    }));
    const asked = { id, digest, updates };
    challenge.timers.push(clock.setTimer(limits.againMs, () => ask(challenge)));
    options
      .warrant(asked)
      .then((warrant) => {
        const value = { ...asked, warrant };
        options.send(gateway, { message: { $case: "challenge", value } });
      })
      .catch((cause: unknown) => {
        const message = cause instanceof Error ? cause.message : String(cause);
        events({ level: "warn", name: "challenge-unsent", challenge: id, message });
      });
  }

  function show(view: ChallengeView): void {
    views.set(view.id, view);
    for (const [id, { state }] of views) {
      if (views.size <= limits.challenges) break;
      if (state !== "open") views.delete(id);
    }
  }

  function change(challenge: Open, changes: Partial<ChallengeView>): void {
    challenge.view = { ...challenge.view, ...changes };
    show(challenge.view);
  }

  function blame(
    challenge: Open,
    of: Pick<Contributor, "round" | "device"> | undefined,
    code: string,
    message: string,
  ): void {
    const fault = { round: of?.round ?? null, device: of?.device ?? null, code, message };
    const { faults, faultCount } = challenge.view;
    const told = faults.length < limits.faults ? [...faults, fault] : faults;
    change(challenge, { faults: told, faultCount: faultCount + 1 });
  }

  function end(challenge: Open): void {
    if (!open.delete(challenge.view.id)) return;
    for (const timer of challenge.timers) timer.cancel();
    const { known: entry, refold } = challenge;
    if (challenge.view.asked === entry.contributors.length && challenge.view.faultCount === 0) {
      const isComposed = entry.contributors.some(({ updates }) => updates > 1);
      const digest = isComposed ? undefined : refold.digest();
      change(challenge, { refolded: digest === undefined ? null : digest === entry.digest });
      if (challenge.view.refolded === false)
        blame(challenge, undefined, "sum-mismatch", "the updates do not make this sum");
    }
    refold.release();
    const state = challenge.view.faultCount > 0 ? "failed" : "passed";
    change(challenge, { state, endedAtMs: clock.nowMs() });
    report(challenge.view);
    const failed = (cause: unknown) => {
      const message = cause instanceof Error ? cause.message : String(cause);
      events({
        level: "error",
        name: "challenge-unrecorded",
        challenge: challenge.view.id,
        message,
      });
    };
    options.onEnded?.(challenge.view).catch(failed);
  }

  function report({ id, gateway, round, digest, asked, refolded, state, faults }: ChallengeView) {
    const of = { challenge: id, gateway, round, digest, updates: asked };
    const [first] = faults;
    if (state === "passed")
      events({ level: "info", name: "challenge-passed", ...of, refolded: refolded === true });
    else
      events({
        level: "error",
        name: "challenge-failed",
        ...of,
        code: first?.code ?? "",
        message: first?.message ?? "",
      });
  }

  async function planOf({ plans }: Open, { round }: Contributor): Promise<Plan | undefined> {
    const id = cloudRound(round);
    const found = plans.get(id);
    if (found !== undefined) return found;
    const row = await options.wholeRound(id);
    if (row === undefined) return undefined;
    const plan = readPlan(row.plan);
    plans.set(id, plan);
    return plan;
  }

  return {
    watch: (destination) => ({
      ...destination,
      async deliver(announcement, partial, bytes) {
        const taken = await destination.deliver(announcement, partial, bytes);
        if (!taken.ok || taken.receipt.outcome === "expired" || closed) return taken;
        if (partial.contributors.length === 0 || !options.isSigned()) return taken;
        const entry = remember(announcement, partial);
        if (random.next() < rules.rate) begin(entry, rules.updates, "chance");
        return taken;
      },
    }),
    challenge({ gateway, round, digest, updates }) {
      const fits = (entry: Known) =>
        (gateway === undefined || entry.identity.gateway === gateway) &&
        (digest === undefined || entry.digest === digest) &&
        (round === undefined || entry.contributors.some((one) => cloudRound(one.round) === round));
      const entry = [...known.values()].findLast(fits);
      if (entry === undefined)
        return refuse("unknown-partial", "no such Partial was received of late");
      return begin(entry, updates, "demand");
    },
    answer: (messages) =>
      receiveAnswers(messages, {
        async expects(id, index) {
          const challenge = open.get(id);
          const contributor = challenge?.missing.get(index);
          if (challenge === undefined || contributor === undefined) return undefined;
          const plan = await planOf(challenge, contributor);
          return plan && updateBytes(plan);
        },
        async take(id, index, update) {
          const challenge = open.get(id);
          const contributor = challenge?.missing.get(index);
          if (challenge === undefined || contributor === undefined) return;
          const plan = await planOf(challenge, contributor);
          const keys = await options.keysOf(contributor.device);
          // Another answer may have brought it in the meantime.
          if (plan === undefined || !challenge.missing.delete(index)) return;
          if (challenge.view.state !== "open") return;
          const { round, device } = contributor;
          const judged = checkHeader(update.begin, contributor, plan, challenge.known, keys);
          const verdict = judged.ok ? challenge.refold.add(round, device, update, plan) : judged;
          change(challenge, { answered: challenge.view.answered + 1 });
          if (!verdict.ok) blame(challenge, contributor, verdict.code, verdict.message);
          if (challenge.missing.size === 0) end(challenge);
        },
      }),
    list: () => [...views.values()].reverse(),
    get: (id) => views.get(id),
    close() {
      closed = true;
      for (const { timers, refold } of open.values()) {
        for (const timer of timers) timer.cancel();
        refold.release();
      }
      open.clear();
    },
  };
}
