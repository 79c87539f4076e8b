import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import type { Verdict } from "@tributary/proto/wire/verdict.js";
import type { CloudEvents } from "../events.js";
import type { AuditStore } from "../store/audit.js";
import type { AuditEntry } from "./chain.js";
import { auditLimits } from "./limits.js";
import { type PendingLine, withPending } from "./pending.js";

/**
 * Who did what, and who was refused what. A change's line comes with its transaction (see `pending.ts`);
 * here is what has no transaction of its own, and the reading.
 */
export type Audit = {
  /** Puts down what changed nothing that a transaction shows. */
  done(entry: AuditEntry): Promise<void>;
  /**
   * Puts down a refusal. Anybody can have himself refused, as often as he likes: like ones within a time
   * are one line, and one more with their number (see limits). Never throws: the answer is a refusal
   * either way, and `audit-failed` says that the line is missing.
   */
  refused(entry: AuditEntry): Promise<void>;
  /** Runs work that did not come by the API; its line is that of a change, or of a refusal. */
  follow<T, C extends string>(
    what: Pick<AuditEntry, "actor" | "action" | "target">,
    work: () => Promise<Verdict<T, C>>,
  ): Promise<Verdict<T, C>>;
  list: AuditStore["list"];
  /** Puts down what was only counted. */
  close(): Promise<void>;
};

type Repeats = { readonly entry: AuditEntry; readonly timer: Timer; times: number };

export function createAudit(store: AuditStore, clock: Clock, events: CloudEvents): Audit {
  const repeats = new Map<string, Repeats>();
  const append = (entry: AuditEntry) =>
    store.append(entry).catch((error: unknown) => {
      const message = error instanceof Error ? error.message : String(error);
      events({ level: "error", name: "audit-failed", action: entry.action, message });
    });
  const end = async (key: string): Promise<void> => {
    const counted = repeats.get(key);
    if (counted === undefined) return;
    repeats.delete(key);
    counted.timer.cancel();
    const { entry, times } = counted;
    if (times === 0) return;
    const detail = { ...entry.detail, times: `${times}` };
    await append({ ...entry, atMs: clock.nowMs(), detail });
  };
  const audit: Audit = {
    done: (entry) => store.append(entry),
    async follow(what, work) {
      const entry = { ...what, atMs: clock.nowMs(), project: null, outcome: "done", detail: {} };
      const pending: PendingLine = { entry };
      const result = await withPending(pending, work);
      const left = pending.entry;
      // What goes on after the answer is nobody's any more.
      pending.entry = undefined;
      if (!result.ok) await audit.refused({ ...(left ?? entry), outcome: result.code });
      else if (left !== undefined) await audit.done(left);
      return result;
    },
    async refused(given) {
      const { actor, action, outcome } = given;
      const own = `${actor}\n${action}\n${outcome}`;
      const crowded = !repeats.has(own) && repeats.size >= auditLimits.refusalKinds;
      const entry = crowded ? { ...given, actor: "many", action: "many", target: "many" } : given;
      const key = crowded ? "many" : own;
      const counted = repeats.get(key);
      if (counted !== undefined) {
        counted.times++;
        return;
      }
      const timer = clock.setTimer(auditLimits.refusalWindowMs, () => void end(key));
      repeats.set(key, { entry, timer, times: 0 });
      await append(entry);
    },
    list: (filter, page) => store.list(filter, page),
    async close() {
      for (const key of [...repeats.keys()]) await end(key);
    },
  };
  return audit;
}
