import type { TrustHeld } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { denials } from "@tributary/proto/identity/denylist.js";
import type { Attachments } from "@tributary/proto/tier/attach.js";
import type { TrustKeeper } from "@tributary/proto/tier/trust.js";
import type { Authority, DenylistView } from "./authority/authority.js";
import type { CloudEvents } from "./events.js";
import type { Gateways } from "./gateways.js";
import { limits } from "./limits.js";

/** How far the newest denylist has come. */
export type SpreadView = {
  readonly sequence: number;
  readonly issuedAtMs: number;
  readonly gateways: readonly GatewayListView[];
};

export type GatewayListView = {
  readonly gateway: string;
  readonly attached: boolean;
  /** It is on the list itself, and not attached. */
  readonly shutOut: boolean;
  /** Of the list that it holds; null before it has said so since the cloud started. */
  readonly sequence: number | null;
  /** Whether that is the newest. */
  readonly inEffect: boolean;
  /** From the newest list's issue until it took effect there, in milliseconds; null where it has not. */
  readonly afterMs: number | null;
  /** Live connections that it ended there. */
  readonly cut: number | null;
};

/** Brings the denylist to the gateways, and keeps account of when it took effect at each. */
export type DenylistSpread = {
  readonly keeper: TrustKeeper;
  /** Somebody was revoked: sends the new list to all that are attached, and cuts off who is on it. */
  changed(): Promise<void>;
  view(): Promise<SpreadView>;
  close(): void;
};

export type SpreadPorts = {
  readonly authority: Pick<Authority, "denylist">;
  readonly attachments: Pick<Attachments, "links" | "shut">;
  readonly gateways: Pick<Gateways, "rows" | "attached">;
  readonly clock: Clock;
  readonly events: CloudEvents;
};

type Held = {
  /** The gateway, attached here, through which it said so. */
  readonly by: string;
  readonly sequence: number;
  readonly sinceMs: number;
  readonly cut: number;
};

export async function createDenylistSpread(ports: SpreadPorts): Promise<DenylistSpread> {
  const { authority, attachments, gateways, clock, events } = ports;
  const held = new Map<string, Held>();
  let list = await authority.denylist();
  let lateTimer: Timer | undefined;

  const failed = (cause: unknown) => {
    const message = cause instanceof Error ? cause.message : String(cause);
    events({ level: "error", name: "call-failed", call: "denylist", message });
  };

  /** The list as it is now, which also has another signature once keys were rotated. */
  async function refresh(): Promise<DenylistView> {
    const now = await authority.denylist();
    if (now.sequence >= list.sequence) list = now;
    return list;
  }

  async function send(gateway: string): Promise<void> {
    const { sequence, text } = await refresh();
    attachments.links.send(gateway, trustOf(sequence, text));
  }

  function note(by: string, { gateway, sequence, ageMs, cut }: TrustHeld["denylists"][number]) {
    // Who is attached here speaks for itself.
    if (gateway !== by && gateways.attached(gateway)) return;
    const before = held.get(gateway);
    const now = {
      by,
      sequence: Number(sequence),
      sinceMs: clock.nowMs() - Number(ageMs),
      cut,
    };
    // Said again, it is the same moment: the first time knows it best.
    if (before?.sequence === now.sequence) held.set(gateway, { ...before, by });
    else held.set(gateway, now);
    const [oldest] = held.keys();
    if (held.size > limits.gateways && oldest !== undefined) held.delete(oldest);
    // The list that voids nothing is in effect everywhere.
    if (now.sequence === 0 || now.sequence !== list.sequence) return;
    if (before?.sequence === now.sequence) return;
    const afterMs = Math.max(0, now.sinceMs - list.issuedAtMs);
    events({
      level: "info",
      name: "denylist-in-effect",
      gateway,
      sequence: now.sequence,
      afterMs,
      cut,
    });
  }

  function viewOf(gateway: string, attached: boolean): GatewayListView {
    const found = held.get(gateway);
    const inEffect = (found?.sequence ?? -1) >= list.sequence;
    return {
      gateway,
      attached,
      shutOut:
        !attached && list.entries.some((one) => one.kind === "gateway" && one.name === gateway),
      sequence: found?.sequence ?? null,
      inEffect,
      afterMs:
        found && inEffect && list.sequence > 0
          ? Math.max(0, found.sinceMs - list.issuedAtMs)
          : null,
      cut: found && inEffect ? found.cut : null,
    };
  }

  function views(): GatewayListView[] {
    const direct = gateways.rows().map(({ id, attached }) => viewOf(id, attached));
    const known = new Set(direct.map(({ gateway }) => gateway));
    const below = [...held].filter(([gateway]) => !known.has(gateway));
    return [
      ...direct,
      ...below.map(([gateway, { by }]) => viewOf(gateway, gateways.attached(by))),
    ].sort((a, b) => (a.gateway < b.gateway ? -1 : 1));
  }

  /** One that is attached and has not taken the list is no partition: something is wrong there. */
  function watchLate(): void {
    lateTimer?.cancel();
    lateTimer = clock.setTimer(limits.denylistLateMs, () => {
      const { sequence } = list;
      for (const { gateway, attached, inEffect } of views())
        if (attached && !inEffect)
          events({ level: "error", name: "denylist-late", gateway, sequence });
    });
  }

  return {
    keeper: {
      held(gateway, { denylists }) {
        for (const one of denylists) note(gateway, one);
        const own = Number(denylists.find((one) => one.gateway === gateway)?.sequence ?? 0n);
        if (own < list.sequence) void send(gateway).catch(failed);
        if (own > list.sequence)
          events({ level: "error", name: "denylist-ahead", gateway, sequence: own });
        // A gateway below it may hold an older one: that is the gateway's to mend.
        return undefined;
      },
      carried() {}, // nobody knows a newer one than who signs them
    },
    async changed() {
      const { sequence, text } = await refresh();
      attachments.links.broadcast(trustOf(sequence, text));
      attachments.shut(denials(list));
      watchLate();
    },
    async view() {
      const { sequence, issuedAtMs } = await refresh();
      return { sequence, issuedAtMs, gateways: views() };
    },
    close() {
      lateTimer?.cancel();
    },
  };
}

function trustOf(sequence: number, denylist: string) {
  const value = { denylistSequence: BigInt(sequence), denylist };
  return { message: { $case: "trust" as const, value } };
}
