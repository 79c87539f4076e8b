import { createHash } from "node:crypto";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { anchorOf } from "@tributary/proto/identity/claim.js";
import type { Authority } from "../authority/authority.js";
import type { AuditStore } from "../store/audit.js";
import { auditLimits } from "./limits.js";

const ACTION = "keys changed beside the cloud";

/**
 * Puts the authority's keys on the audit log when they are not those that it has: they are made, rotated
 * and restored beside the cloud, by who can read its files.
 */
export async function watchKeyChanges({
  authority,
  store,
  clock,
  failed,
}: {
  readonly authority: Pick<Authority, "trust">;
  readonly store: AuditStore;
  readonly clock: Clock;
  readonly failed: (error: unknown) => void;
}): Promise<{ close(): void }> {
  let known = await newest(store);
  let timer: Timer | undefined;
  let closed = false;
  const look = async () => {
    const { jwks, anchors } = await authority.trust();
    const detail = {
      signing: jwks.keys.map(({ kid }) => kid).join(" "),
      authorities: anchors.map((one) => anchorOf(one)).join(" "),
    };
    const found = digestOf(detail);
    if (found === known) return;
    const what = { actor: "keys", action: ACTION, target: "authority", project: null };
    await store.append({ ...what, atMs: clock.nowMs(), outcome: "done", detail });
    known = found;
  };
  const again = () => {
    if (closed) return;
    timer = clock.setTimer(auditLimits.keyLookMs, () => {
      look().catch(failed).finally(again);
    });
  };
  await look();
  again();
  return {
    close() {
      closed = true;
      timer?.cancel();
    },
  };
}

/** What the last such line says. */
async function newest(store: AuditStore): Promise<string | undefined> {
  let last: string | undefined;
  for (let after: number | undefined; ; ) {
    const { items, next } = await store.list({ action: ACTION }, { after, limit: 1_000 });
    const line = items.at(-1);
    if (line !== undefined) last = digestOf(line.detail);
    if (next === undefined) return last;
    after = next;
  }
}

function digestOf(detail: Readonly<Record<string, string>>): string {
  const { signing = "", authorities = "" } = detail;
  return createHash("sha256").update(`${signing}\n${authorities}`).digest("hex");
}
