import type { CloudEvent } from "@tributary/cloud/events.js";
import type {
  ContributionRow,
  ModelRow,
  OpenRound,
  PartialRow,
  SessionProgress,
} from "@tributary/cloud/store/rows.js";
import type { RoundEnd, Settlement, Store } from "@tributary/cloud/store/store.js";

/** What the cloud wrote down and said, and what it was asked, in the order of time. */
export type Entry =
  | { readonly kind: "session"; readonly progress: SessionProgress }
  | { readonly kind: "model"; readonly model: ModelRow }
  | { readonly kind: "opened"; readonly round: OpenRound }
  | { readonly kind: "ended"; readonly end: RoundEnd }
  | {
      readonly kind: "recorded";
      readonly partial: PartialRow;
      readonly contributions: readonly ContributionRow[];
    }
  | {
      readonly kind: "moved";
      readonly progress: SessionProgress;
      readonly settled: readonly Settlement[];
    }
  | { readonly kind: "stop-asked" }
  | { readonly kind: "said"; readonly event: Said };

const saidOf = ["cloud-started", "session-failed", "site-forgotten", "model-made"] as const;
/** Of what the cloud says, what its transactions are checked against. */
export type Said = Extract<CloudEvent, { readonly name: (typeof saidOf)[number] }>;

export type Register = {
  readonly entries: readonly Entry[];
  note(entry: Entry): void;
  /** Puts down what the cloud says, if it matters here. */
  said(event: CloudEvent): void;
  /** The store, each of whose transactions is put down here when it changes something. */
  overheard(store: Store): Store;
};

export function createRegister(): Register {
  const entries: Entry[] = [];
  const known = new Set<string>();
  const note = (entry: Entry): void => {
    entries.push(entry);
  };
  return {
    entries,
    note,
    said(event) {
      if (isSaid(event)) note({ kind: "said", event });
    },
    overheard: (store) => ({
      ...store,
      async addSession(session) {
        const added = await store.addSession(session);
        if (added) note({ kind: "session", progress: session });
        return added;
      },
      async addModel(model) {
        const added = await store.addModel(model);
        if (added) note({ kind: "model", model });
        return added;
      },
      async openRound(round) {
        await store.openRound(round);
        note({ kind: "opened", round });
      },
      async endRound(end) {
        const ended = await store.endRound(end);
        if (!ended) return false;
        for (const partial of end.partials) known.add(nameOf(partial));
        note({ kind: "ended", end });
        return true;
      },
      async saveProgress(session, progress, atMs, settled = []) {
        await store.saveProgress(session, progress, atMs, settled);
        note({ kind: "moved", progress, settled });
      },
      async recordPartial(partial, contributions) {
        await store.recordPartial(partial, contributions);
        // One that is on record stays as it is.
        if (known.has(nameOf(partial))) return;
        known.add(nameOf(partial));
        note({ kind: "recorded", partial, contributions });
      },
    }),
  };
}

function isSaid(event: CloudEvent): event is Said {
  return saidOf.some((name) => name === event.name);
}

/** The identity of a Partial, in one word. */
export function nameOf(partial: Pick<PartialRow, "gateway" | "incarnation" | "sequence">): string {
  return `${partial.gateway}.${partial.incarnation}.${partial.sequence}`;
}
