import type { FaultEntry } from "../report/report.js";

/** What the pilot does to a site, and when, in training rounds. */
export type FaultPlan = {
  readonly cut: {
    readonly site: number;
    readonly fromRound: number;
    /** How long it lasts: so many rounds, or a time. */
    readonly lasts: { readonly rounds: number } | { readonly ms: number };
  };
  readonly kill: {
    readonly site: number;
    /** Not before it, and not before the cut is over. */
    readonly inRound: number;
    /** Past it the site would not be back for the last rounds. */
    readonly lastRound: number;
    readonly downMs: number;
  };
};

/** Shortest run in which both faults have rounds before, between and after them. */
export const FAULT_ROUNDS_MIN = 8;

/**
 * A third into the run one site's uplink is cut in mid-round, so that receipted updates wait
 * behind it, and stays cut for several rounds, or for `outageMs`; two thirds into the run another site's gateway is
 * killed in mid-round.
 */
export function planFaults(rounds: number, sites: number, outageMs?: number): FaultPlan {
  const fromRound = Math.max(2, Math.floor(rounds / 3));
  const length = Math.max(2, Math.min(4, Math.floor(rounds / 6)));
  return {
    cut: {
      site: Math.min(1, sites - 1),
      fromRound,
      lasts: outageMs === undefined ? { rounds: length } : { ms: outageMs },
    },
    kill: {
      site: sites - 1,
      inRound: Math.max(fromRound + length + 1, Math.floor((rounds * 2) / 3)),
      lastRound: rounds - 1,
      downMs: 1_000,
    },
  };
}

/** The site's side of a fault. */
export type FaultTarget = {
  readonly site: string;
  cut(): void;
  restore(): void;
  /** Ends the gateway with SIGKILL and starts it again after a while; resolves with its number. */
  killAndRestart(downMs: number): Promise<{ readonly pid: number }>;
};

/** What is known of the open round when the schedule is asked. */
export type RoundMoment = {
  readonly round: number;
  /** Whether the site has folded updates of the open round and has not sealed it yet. */
  isMidRound(site: number): boolean;
};

export type FaultSchedule = {
  /** Applies what is due; call it often. */
  step(moment: RoundMoment): void;
  readonly entries: readonly FaultEntry[];
  isKilled(site: number): boolean;
  isCut(site: number): boolean;
  /** Ends what still goes on. Rejects when a site could not be started again. */
  finish(): Promise<void>;
};

export function createFaultSchedule(
  plan: FaultPlan,
  targets: readonly FaultTarget[],
  elapsedMs: () => number,
  note: (text: string) => void,
): FaultSchedule {
  const entries: FaultEntry[] = [];
  let cutState: "before" | "cut" | "after" = "before";
  const { lasts } = plan.cut;
  let isOver = (_round: number): boolean => false;
  let killState: "before" | "killed" | "after" = "before";
  let killing: Promise<void> = Promise.resolve();
  const at = (site: number): FaultTarget => {
    const target = targets[site];
    if (target === undefined) throw new RangeError(`no site ${site}`);
    return target;
  };
  const settle = (kind: FaultEntry["kind"]) => {
    const index = entries.findIndex((entry) => entry.kind === kind);
    const entry = entries[index];
    if (entry !== undefined) entries[index] = { ...entry, toMs: elapsedMs() };
  };
  const cut = () => {
    const target = at(plan.cut.site);
    cutState = "cut";
    target.cut();
    entries.push({ kind: "cut", site: target.site, what: "uplink cut", fromMs: elapsedMs() });
    note(`${target.site}: uplink cut`);
  };
  const restore = () => {
    const target = at(plan.cut.site);
    cutState = "after";
    target.restore();
    settle("cut");
    note(`${target.site}: uplink restored`);
  };
  const kill = async () => {
    const target = at(plan.kill.site);
    killState = "killed";
    const fromMs = elapsedMs();
    note(`${target.site}: gateway killed with SIGKILL in mid-round`);
    const { pid } = await target.killAndRestart(plan.kill.downMs);
    entries.push({
      kind: "kill",
      site: target.site,
      what: `gateway killed (SIGKILL, pid ${pid})`,
      fromMs,
      pid,
    });
    settle("kill");
    killState = "after";
    note(`${target.site}: gateway is back on its data directory`);
  };
  return {
    entries,
    step(moment) {
      if (
        cutState === "before" &&
        moment.round >= plan.cut.fromRound &&
        moment.isMidRound(plan.cut.site)
      ) {
        cut();
        // Counted from where it really began: a fast run may be past the planned round.
        const [fromMs, fromRound] = [elapsedMs(), moment.round];
        isOver =
          "ms" in lasts
            ? () => elapsedMs() >= fromMs + lasts.ms
            : (round) => round >= fromRound + lasts.rounds;
      }
      if (cutState === "cut" && isOver(moment.round)) restore();
      if (
        killState === "before" &&
        cutState !== "cut" &&
        moment.round >= plan.kill.inRound &&
        moment.round <= plan.kill.lastRound &&
        moment.isMidRound(plan.kill.site)
      ) {
        killing = kill();
        // Whoever awaits finish() hears of it; until then it may not end the process.
        killing.catch(() => {});
      }
    },
    isKilled: (site) => killState === "killed" && site === plan.kill.site,
    isCut: (site) => cutState === "cut" && site === plan.cut.site,
    async finish() {
      if (cutState === "cut") restore();
      await killing;
    },
  };
}
