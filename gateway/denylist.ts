import type { Trust, TrustHeld } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { type Denylist, denials, type IsVoid } from "@tributary/proto/identity/denylist.js";
import type { TrustKeeper } from "@tributary/proto/tier/trust.js";
import type { Verdict } from "@tributary/proto/wire/verdict.js";
import { z } from "zod";
import type { DenylistWay, GatewayEvents } from "./events.js";
import type { GatewayIdentity } from "./identity.js";
import type { SiteTime, TimeStore } from "./site-time.js";
import type { StatusView } from "./status-view.js";

/**
 * The fleet's denylist at a gateway: puts a newer one into effect at once, whatever way it came, and
 * hands it on to whoever holds an older one: the upstream, gateways below, devices.
 */
export type DenylistHolder = {
  /** Of the list that is held; 0 for none. */
  readonly sequence: number;
  /** As it travels; undefined where none is held. */
  readonly text: string | undefined;
  take(text: string, way: DenylistWay): Promise<Verdict<{ readonly news: boolean }>>;
  /** Of gateways that attach below. */
  readonly keeper: TrustKeeper;
  /** What the upstream is to know of this gateway and those below. */
  held(): TrustHeld;
  /** For the status. */
  view(): NonNullable<StatusView["denylist"]>;
  /** The upstream said what it holds; what to send it, if anything. */
  heard(trust: Trust): Trust | undefined;
  /** Resolves once what is to outlive this process is written. */
  close(): Promise<void>;
};

export type DenylistOptions = {
  readonly identity: Pick<
    GatewayIdentity,
    "name" | "denylist" | "denylistText" | "takeDenylist" | "onChange"
  >;
  readonly store: TimeStore;
  readonly time: Pick<SiteTime, "logicalMs">;
  /** Ends live connections of those who are shut out; returns how many. */
  readonly cut: (isVoid: IsVoid) => number;
  /** A newer list is in effect: all who are connected are to get it. */
  readonly onNewer: (list: { readonly sequence: number; readonly text: string }) => void;
  /** What `held` says has changed. */
  readonly onHeld: () => void;
  /** Gateways that are attached below, at any depth. */
  readonly below: () => readonly string[];
  readonly events: GatewayEvents;
};

const NOTE = "denylist";

const noteSchema = z.object({
  sequence: z.number().int().min(0),
  /** The logical time at which it took effect. */
  sinceMs: z.number(),
  cut: z.number().int().min(0),
});

export async function openDenylist(options: DenylistOptions): Promise<DenylistHolder> {
  const { identity, store, time, events } = options;
  const note = await store.readNote(NOTE, noteSchema);
  const first = identity.denylist?.sequence ?? 0;
  /** When the list took effect; one that came while nothing ran does so now. */
  let since =
    note?.sequence === first ? note : { sequence: first, sinceMs: time.logicalMs(), cut: 0 };
  let way: DenylistWay = "grant";
  let writing = Promise.resolve();
  let taking: Promise<unknown> = Promise.resolve();
  const below = new Map<string, TrustHeld["denylists"]>();

  const stop = identity.onChange(() => {
    const list = identity.denylist;
    const text = identity.denylistText;
    if (list === undefined || text === undefined || list.sequence <= since.sequence) return;
    effect(list);
    options.onNewer({ sequence: list.sequence, text });
    options.onHeld();
  });

  function effect(list: Denylist): void {
    const { sequence, entries } = list;
    const cut = options.cut(denials(list));
    since = { sequence, sinceMs: time.logicalMs(), cut };
    events({ level: "warn", name: "denylist-taken", sequence, entries: entries.length, way, cut });
    write();
  }

  function write(): void {
    const kept = since;
    writing = writing
      .then(() => store.putNote(NOTE, kept, { sync: true }))
      .catch((cause: unknown) => {
        const message = cause instanceof Error ? cause.message : String(cause);
        events({ level: "error", name: "storage-failed", what: "denylist", message });
      });
  }

  /** One after the other, so that each is known by the way that it came. */
  function take(text: string, from: DenylistWay) {
    const taken = taking.then(async () => {
      way = from;
      const verdict = await identity.takeDenylist(text).finally(() => {
        way = "grant"; // what else brings one is a grant of the own identity
      });
      if (verdict.ok) return verdict;
      const { code, message } = verdict;
      events({ level: "warn", name: "denylist-refused", way: from, code, message });
      return verdict;
    });
    taking = taken.catch(() => {});
    return taken;
  }

  /** In answer to nobody: what keeps it from being taken is reported. */
  function takeAlone(text: string, from: DenylistWay): void {
    take(text, from).catch((cause: unknown) => {
      const message = cause instanceof Error ? cause.message : String(cause);
      events({ level: "error", name: "storage-failed", what: "denylist", message });
    });
  }

  const ageMs = () => Math.max(0, Math.round(time.logicalMs() - since.sinceMs));

  /** What somebody who holds a list is to get: this one, where theirs is older. */
  const answerTo = (sequence: bigint): Trust => {
    const own = BigInt(since.sequence);
    const text = sequence < own ? identity.denylistText : undefined;
    return { denylistSequence: own, denylist: text ?? "" };
  };

  if (note !== since) write();
  return {
    get sequence() {
      return since.sequence;
    },
    get text() {
      return identity.denylistText;
    },
    take,
    keeper: {
      held(gateway, { denylists }) {
        below.set(gateway, denylists);
        options.onHeld();
        const own = denylists.find((one) => one.gateway === gateway);
        return answerTo(own?.sequence ?? 0n);
      },
      carried(_gateway, { denylistSequence, denylist }) {
        if (denylistSequence > BigInt(since.sequence)) takeAlone(denylist, "below");
      },
    },
    view: () => ({
      sequence: since.sequence,
      entries: identity.denylist?.entries.length ?? 0,
      ageMs: ageMs(),
    }),
    held() {
      const attached = new Set(options.below());
      for (const gateway of below.keys()) if (!attached.has(gateway)) below.delete(gateway);
      const own = {
        gateway: identity.name,
        sequence: BigInt(since.sequence),
        ageMs: BigInt(ageMs()),
        cut: since.cut,
      };
      return { denylists: [own, ...[...below.values()].flat()] };
    },
    heard({ denylistSequence, denylist }) {
      if (denylist !== "") takeAlone(denylist, "upstream");
      const answer = answerTo(denylistSequence);
      return answer.denylist === "" ? undefined : answer;
    },
    async close() {
      stop();
      await taking;
      await writing;
    },
  };
}
