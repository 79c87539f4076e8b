import type { SessionParams } from "@tributary/cloud/params.js";
import type { RoundRow, RoundState } from "@tributary/cloud/store/rows.js";

/** What is so when the contributions of a Partial expire. */
export type Moment = {
  readonly aggregation: SessionParams["aggregation"];
  /** Of the round with which it came, or for which it came too late. */
  readonly task: RoundRow["task"];
  /**
   * `round`: received in time by the round that ends now. `late`: it comes after its round.
   * `kept`: received before, and in no model yet.
   */
  readonly was: "round" | "late" | "kept";
  /** How the round ends that ends now. */
  readonly ends: Exclude<RoundState, "open"> | undefined;
  /** A model is made now. */
  readonly made: boolean;
  /** The session has stopped or finished, or does now. */
  readonly over: boolean;
  /** Model versions between its base and the head; undefined for a base that is not on its trail. */
  readonly age: number | undefined;
  /** Its site delivered on a newer base. */
  readonly isSuperseded: boolean;
  /** The model that is made now has no room for its samples. */
  readonly hasNoRoom: boolean;
  /** Its round had all the samples that it may have before it came. */
  readonly isOverflow: boolean;
  /** Sites of the round have their quorum, as many as the round needs: for certain. */
  readonly hasSites: boolean;
  /** One of its own sites has its quorum, or it brings nothing to the round that ends: for certain. */
  readonly hasSite: boolean;
  /** The session keeps as many Partials as it may. */
  readonly isFull: boolean;
};

const HALF_LIVES = 5;

/** Versions that a base may lie behind the head. */
export function ageMost(aggregation: SessionParams["aggregation"]): number {
  return aggregation.kind === "site-memory"
    ? HALF_LIVES * aggregation.halfLife
    : aggregation.maxStaleness;
}

/** Whether what a round brought waits for a later model when the round ends as it does. */
export function waitsOn({ aggregation, task, ends }: Omit<Moment, "was">): boolean {
  if (task !== "train") return false;
  return aggregation.kind === "buffered"
    ? ends === "kept"
    : aggregation.kind === "site-memory" && ends === "failed";
}

const isOld = ({ aggregation, age }: Moment) => age !== undefined && age > ageMost(aggregation);

/**
 * Every rule under which the cloud lets a contribution expire, and what must be so when it does:
 * from the table of `cloud/README.md`. What a gateway refuses, or gives up as damaged, is under no
 * rule here: it is on no record, and `account` finds that.
 */
const rules: Readonly<Record<string, (moment: Moment) => boolean>> = {
  "max-staleness": (moment) => moment.aggregation.kind !== "site-memory" && isOld(moment),
  "site-memory-age": (moment) => moment.aggregation.kind === "site-memory" && isOld(moment),
  "off-trail": ({ task, age }) => task === "train" && age === undefined,
  superseded: ({ aggregation, made, isSuperseded }) =>
    aggregation.kind === "site-memory" && made && isSuperseded,
  "session-ended": (moment) => {
    if (!moment.over || moment.task !== "train") return false;
    if (moment.made) return moment.hasNoRoom;
    return moment.was !== "round" || waitsOn(moment);
  },
  "late-evaluation": ({ was, task }) => was === "late" && task === "evaluate",
  "storage-full": ({ was, isFull }) => was === "round" && isFull,
  "total-overflow": (moment) =>
    moment.was === "round" && moment.isOverflow && moment.ends !== "stopped",
  "site-quorum": ({ was, aggregation, task, ends, hasSite }) =>
    was === "round" &&
    (aggregation.kind !== "buffered" || task === "evaluate") &&
    (ends === "committed" || ends === "held") &&
    !hasSite,
  "sites-quorum": (moment) =>
    moment.was === "round" && moment.ends === "failed" && !moment.hasSites && !waitsOn(moment),
  stopped: ({ was, ends }) => was === "round" && ends === "stopped",
};

/** Whether a rule is one, and applies. */
export function applies(rule: string | null, moment: Moment): boolean {
  return rule !== null && rules[rule]?.(moment) === true;
}
