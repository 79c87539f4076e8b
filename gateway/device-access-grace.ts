import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { z } from "zod";
import { limits } from "./limits.js";
import type { TimeStore } from "./site-time.js";

/**
 * Spares devices at a site that is cut off: what they show may end, and nobody there can renew it. What
 * ended after the link to the cloud was last there is taken until it is back, and for
 * `limits.graceAfterCutMs` more. A link that comes and goes within that time is one cut.
 */
export type CutGrace = {
  /** The way up to the cloud is there, or is not. To say the same again changes nothing. */
  linked(whole: boolean): void;
  /** Whether what ended at a time, in milliseconds since 1970, is taken now. */
  spares(endedAtMs: number): boolean;
  close(): Promise<void>;
};

export type CutGraceOptions = {
  readonly store: TimeStore;
  /** The site's time. */
  readonly nowMs: () => number;
  readonly clock: Pick<Clock, "setTimer">;
};

const NOTE = "link-cut";

const noteSchema = z.object({
  /** When the way up was last known to be there. */
  linkedMs: z.number().min(0),
  /** When the cut began that still counts; null where none does. */
  cutMs: z.number().min(0).nullable(),
  /** When it ended; null while it goes on. */
  backMs: z.number().min(0).nullable(),
});
type Note = z.infer<typeof noteSchema>;

/** A gateway that starts has no link yet: its cut began when it last had one, or now. */
function begin(note: Note | undefined, nowMs: number): Note {
  if (note === undefined) return { linkedMs: nowMs, cutMs: nowMs, backMs: null };
  return note.cutMs === null || note.backMs !== null ? cut(note, note.linkedMs) : note;
}

function cut({ linkedMs, cutMs, backMs }: Note, atMs: number): Note {
  const goesOn = cutMs !== null && (backMs === null || atMs < backMs + limits.graceAfterCutMs);
  return { linkedMs, cutMs: goesOn ? cutMs : atMs, backMs: null };
}

export async function openCutGrace({ store, nowMs, clock }: CutGraceOptions): Promise<CutGrace> {
  let note = begin(await store.readNote(NOTE, noteSchema), nowMs());
  let whole = false;
  let timer: Timer | undefined;
  let writing: Promise<void> = Promise.resolve();

  // A note that is not written is the grace of one that came before it: no more is at stake.
  const write = (): void => {
    writing = writing.then(() => store.putNote(NOTE, note, { sync: false })).catch(() => {});
  };
  const stamp = (): void => {
    note = { ...note, linkedMs: nowMs() };
    write();
    timer = clock.setTimer(limits.linkNoteMs, stamp);
  };
  write();

  return {
    linked(now) {
      if (now === whole) return;
      whole = now;
      timer?.cancel();
      if (whole) {
        note = { ...note, backMs: nowMs() };
        stamp();
      } else {
        note = cut({ ...note, linkedMs: nowMs() }, nowMs());
        write();
      }
    },
    spares(endedAtMs) {
      const { cutMs, backMs } = note;
      if (cutMs === null || endedAtMs < cutMs) return false;
      return backMs === null || nowMs() < backMs + limits.graceAfterCutMs;
    },
    async close() {
      timer?.cancel();
      if (whole) {
        note = { ...note, linkedMs: nowMs() };
        write();
      }
      await writing;
    },
  };
}
