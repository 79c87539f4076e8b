import { bytesPerValue, type Encoding } from "@tributary/proto/algebra/grid.js";
import { limits } from "./limits.js";

/** What a site is to do, for `sizeSite`. */
export type SiteLoad = {
  readonly devices: number;
  /** Values of the model. */
  readonly parameters: number;
  readonly encoding: Encoding;
  /** Rounds an hour while the uplink is there, site rounds among them. */
  readonly roundsPerHour: number;
  /** The longest time without the uplink, in milliseconds. */
  readonly outageMs: number;
  /** Whether the site goes on with rounds of its own meanwhile (`offlineSiteRounds`). */
  readonly siteRounds: boolean;
  readonly uploadSlots: number;
};

/** One figure and the formula that it comes from. */
export type Figure = { readonly name: string; readonly bytes: number; readonly formula: string };

export type SiteSize = {
  /** Sizes that the others are made of. */
  readonly parts: readonly Figure[];
  /** Results that are kept at the worst moment of the outage. */
  readonly buffer: Figure;
  /** The least `budgetBytes` that has room for them beside the other classes' shares. */
  readonly budget: Figure;
  /** Resident memory of the process, about. */
  readonly memory: Figure;
  /** Bytes written in a day with the uplink, and in one without it; flash wears by these. */
  readonly writtenOnline: Figure;
  readonly writtenOffline: Figure;
  /** What goes up when the uplink is back: one Partial, however long the outage was. */
  readonly upload: Figure;
  /** Site rounds in the outage. */
  readonly outageRounds: number;
};

/** Of an update's record in the journal, beside its values: frame, header, digest, metrics. */
const UPDATE_HEADER_BYTES = 320;
/** Of a Partial beside its values, and of each contributor that it names. */
const PARTIAL_HEADER_BYTES = 4_096;
const CONTRIBUTOR_BYTES = 64;
/** A round in the index: its plan and what was asked, receipted and sealed, written and compacted. */
const INDEX_ROUND_BYTES = 32 * 1024;
const INDEX_DEVICE_BYTES = 800;
/** The site's time and rate, once a minute at most, each at least a page of flash. */
const NOTES_DAY_BYTES = 1_600 * 4_096;
/** Node.js with the gateway's code, a full part cache among it. */
const PROCESS_BYTES = 127e6;
const DEVICE_BYTES = 24_000;
const HOUR_MS = 3_600_000;
/** Control, metrics and logs take a sixteenth of the budget each, or less: see `bufferBudgets`. */
const BUDGET_FACTOR = 16 / 13;

/**
 * What a site needs, from formulas: `P` parameters, `N` devices, `b` bytes a value. The journal is
 * reckoned at its most, with updates that come one by one; where many come at a time, checkpoints
 * take their place and it is less. A file system writes whole pages and its own journal: allow for
 * twice the figures on small flash.
 */
export function sizeSite(load: SiteLoad): SiteSize {
  const { devices, parameters, encoding, roundsPerHour, outageMs, siteRounds, uploadSlots } = load;
  const update = parameters * bytesPerValue(encoding);
  const journal = devices * (update + UPDATE_HEADER_BYTES);
  const partial = 8 * parameters + PARTIAL_HEADER_BYTES + CONTRIBUTOR_BYTES * devices;
  const model = 4 * parameters;
  const index = INDEX_ROUND_BYTES + INDEX_DEVICE_BYTES * devices;
  // In a further stretch it has what the site came to, and what it was when the stretch began.
  const state = siteRounds ? partial + 8 * parameters : 0;
  const waiting = limits.mergeWaiting + 1;
  const buffer = journal + partial + state + waiting * partial;
  const roundOffline = siteRounds ? journal + state + model + index : 0;
  const day = 24 * roundsPerHour;
  return {
    parts: [
      figure("update", update, "P b"),
      figure("journal of a round", journal, `N (P b + ${UPDATE_HEADER_BYTES})`),
      figure("Partial", partial, `8 P + ${PARTIAL_HEADER_BYTES} + ${CONTRIBUTOR_BYTES} N`),
      figure("model file", model, "4 P"),
      figure("index, a round", index, `${INDEX_ROUND_BYTES} + ${INDEX_DEVICE_BYTES} N`),
    ],
    budget: figure("budgetBytes, at least", Math.ceil(buffer * BUDGET_FACTOR), "16/13 results"),
    buffer: figure(
      "results kept at most",
      buffer,
      `journal + Partial${siteRounds ? " + site state (a Partial + 8 P)" : ""} + ${waiting} waiting Partials`,
    ),
    memory: figure(
      "memory",
      PROCESS_BYTES +
        DEVICE_BYTES * devices +
        uploadSlots * update +
        2 * partial +
        (siteRounds ? 24 * parameters : 0),
      `${PROCESS_BYTES / 1e6} MB + ${DEVICE_BYTES} N + ${uploadSlots} slots of an update + 2 Partials${siteRounds ? " + 24 P" : ""}`,
    ),
    writtenOnline: figure(
      "written a day, online",
      day * (journal + partial + model + index) + NOTES_DAY_BYTES,
      `24 R (journal + Partial + model + index) + ${NOTES_DAY_BYTES}`,
    ),
    writtenOffline: figure(
      "written a day, offline",
      day * roundOffline + NOTES_DAY_BYTES,
      siteRounds
        ? `24 R (journal + site state + model + index) + ${NOTES_DAY_BYTES}`
        : `${NOTES_DAY_BYTES}: no round begins without the uplink`,
    ),
    upload: figure("upload after it", partial, "one Partial"),
    outageRounds: siteRounds ? Math.floor((roundsPerHour * outageMs) / HOUR_MS) : 0,
  };
}

function figure(name: string, bytes: number, formula: string): Figure {
  return { name, bytes, formula };
}
