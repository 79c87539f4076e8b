import type { SessionParams } from "@tributary/cloud/params.js";
import type {
  ModelRow,
  OpenRound,
  PartialRow,
  SessionProgress,
} from "@tributary/cloud/store/rows.js";
import type { RoundEnd, Settlement } from "@tributary/cloud/store/store.js";
import type { Quorum, Received } from "./quorum.js";
import { nameOf } from "./register.js";
import type { Settings } from "./settings.js";

/** A Partial whose file the cloud keeps on. */
export type Kept = {
  readonly partial: PartialRow;
  /** Of the round that it was for. */
  readonly task: OpenRound["task"];
  /** Whether a model holds it. */
  readonly applied: boolean;
};

/** A round that ends, with what it received and what was kept before. */
export type Ending = {
  readonly end: RoundEnd;
  readonly round: OpenRound;
  readonly received: readonly Received[];
  /** Names of those that came when the round had all the samples that it may have. */
  readonly overflow: ReadonlySet<string>;
  readonly quorum: Quorum;
  readonly before: readonly Kept[];
};

/** Where things stand after some of the cloud's transactions, and where they stood. */
export type Book = {
  readonly session: SessionParams;
  readonly models: Map<string, ModelRow>;
  readonly rounds: Map<string, OpenRound>;
  readonly open: Set<string>;
  /** By the name of the Partial. */
  readonly kept: Map<string, Kept>;
  progress: SessionProgress | undefined;
  /** It failed, and no row says so yet. */
  broken: boolean;
  stopsAsked: number;
  stops: number;
  /** Models that the session made. */
  made: number;
  /** Alarms that the model made last calls for, and those that came. */
  alarms: Alarms | undefined;
  /** Model versions between a base and a head; undefined for one that is not on its trail. */
  ageOf(base: string | null, head: string): number | undefined;
  siteOf(partial: PartialRow): string;
  /** Where a device may be whose contribution a gateway at the cloud sent. */
  sitesOfDevice(device: string, gateway: string): ReadonlySet<string>;
  settle(settled: readonly Settlement[]): void;
};

type Alarms = {
  readonly model: string;
  readonly due: readonly string[];
  readonly heard: string[];
};

export function createBook({ session, gateways, everyMs }: Settings): Book {
  const models = new Map<string, ModelRow>();
  const kept = new Map<string, Kept>();
  const roams = everyMs.roam !== undefined;
  return {
    session,
    models,
    rounds: new Map(),
    open: new Set(),
    kept,
    progress: undefined,
    broken: false,
    stopsAsked: 0,
    stops: 0,
    made: 0,
    alarms: undefined,
    ageOf(base, head) {
      let age = 0;
      for (let at: string | null | undefined = head; at; at = models.get(at)?.parent, age++)
        if (at === base) return age;
      return undefined;
    },
    siteOf: ({ site, gateway }) =>
      site ?? gateways.find(({ name }) => name === gateway)?.site ?? gateway,
    sitesOfDevice(device, gateway) {
      const places = gateways.filter(
        ({ name, devices }) =>
          roams || name === gateway || devices.some((one) => one.name === device),
      );
      return new Set(places.map(({ site }) => site));
    },
    settle(settled) {
      for (const one of settled) {
        const before = kept.get(nameOf(one));
        if (before === undefined) continue;
        if (!one.retained) kept.delete(nameOf(one));
        else kept.set(nameOf(one), { ...before, applied: before.applied || one.fate !== null });
      }
    },
  };
}

export function isOver(progress: SessionProgress | undefined): boolean {
  return progress?.state === "stopped" || progress?.state === "finished";
}

/** Whether rounds of a task make a model of a number of contributions, and not of a quorum of sites. */
export function buffers({ session }: Book, task: OpenRound["task"]): boolean {
  return task === "train" && session.aggregation.kind === "buffered";
}
