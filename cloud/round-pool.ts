import { identityText } from "@tributary/proto/tier/identity.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { ageMax } from "./aggregation.js";
import type { HeldPartial } from "./held-partial.js";
import type { LatePartial } from "./late-partials.js";
import type { SessionParams } from "./params.js";
import { decidePool, type PoolDecision, type PoolEntry } from "./pool.js";
import { isOwnSite } from "./project-fleet.js";
import type { Pooled } from "./round.js";
import type { SessionWorld } from "./session-world.js";

/** What a model on `head` would hold of a round's own Partials and of those kept before. */
export async function decideFor(
  world: SessionWorld,
  params: SessionParams,
  head: string,
  fresh: readonly HeldPartial[],
  late: readonly LatePartial[],
): Promise<{ readonly decision: PoolDecision; readonly version: number }> {
  const entries = [...fresh, ...late].map((held) => entryOf(world, held));
  const { aggregation, totalMax } = params;
  const { version, ages } = await agesOf(world, head, entries, ageMax(aggregation));
  const populations =
    aggregation.kind === "site-memory"
      ? populationsOf(world, params, aggregation.populations, entries)
      : new Map<string, number>();
  const ageOf = (base: string) => ages.get(base);
  return { decision: decidePool({ aggregation, totalMax, ageOf, populations }, entries), version };
}

/** What is kept from before for a model on `head`, which would be the first to hold it. */
export async function pooledFor(
  world: SessionWorld,
  params: SessionParams,
  head: string,
  late: readonly LatePartial[],
): Promise<Pooled> {
  if (late.length === 0) return { contributors: 0, samples: 0 };
  const { decision } = await decideFor(world, params, head, [], late);
  return {
    contributors: decision.groups.reduce(
      (sum, { contributors, carried }) => sum + contributors - carried,
      0,
    ),
    samples: late
      .filter(({ base }) => base === head)
      .reduce((sum, { samples }) => sum + samples, 0),
  };
}

/** The site of a Partial; the sending gateway's own where the Partial names none. */
export function siteOfPartial(
  { gateways }: Pick<SessionWorld, "gateways">,
  { site, identity }: Pick<HeldPartial, "site" | "identity">,
): string {
  return site ?? gateways.siteOf(identity.gateway) ?? identity.gateway;
}

function entryOf(world: SessionWorld, held: HeldPartial | LatePartial): PoolEntry {
  return {
    identity: identityText(held.identity),
    site: siteOfPartial(world, held),
    base: held.base,
    samples: held.samples,
    contributors: held.contributors.length,
    applied: "applied" in held && held.applied,
  };
}

const SLICE = 500;

/** How many versions each base lies behind the head; one that is not on its trail is left out. */
async function agesOf(
  { store }: SessionWorld,
  head: string,
  entries: readonly PoolEntry[],
  most: number,
): Promise<{ readonly version: number; readonly ages: ReadonlyMap<string, number> }> {
  const row = await store.model(head);
  if (row === undefined) throw new TributaryError("store-unknown", `no model ${head}`);
  const ages = new Map([[head, 0]]);
  const sought = new Set<string>();
  let oldest = row.version;
  for (const base of new Set(entries.map((entry) => entry.base))) {
    const version = (await store.model(base))?.version;
    if (version === undefined || base === head) continue;
    // Too old to count, whether on the trail or off it.
    if (row.version - version > most) ages.set(base, row.version - version);
    else sought.add(base);
    oldest = Math.min(oldest, version);
  }
  for (let after: number | undefined; sought.size > 0; ) {
    const slice = await store.trail(head, { after, limit: SLICE });
    for (const { id, version } of slice.items)
      if (sought.delete(id)) ages.set(id, row.version - version);
    after = slice.next;
    const last = slice.items.at(-1);
    if (after === undefined || last === undefined || last.version <= oldest) break;
  }
  return { version: row.version, ages };
}

/**
 * The sites that are named, and how much each counts; without such a list every registered site, by
 * its devices. A site that has a delta and is not listed counts as its registered devices too.
 */
function populationsOf(
  world: SessionWorld,
  params: SessionParams,
  named: Readonly<Record<string, number>> | undefined,
  entries: readonly PoolEntry[],
): ReadonlyMap<string, number> {
  const registered = new Map(
    [...world.devices.populations()].filter(([site]) => isOwnSite(world, params, site)),
  );
  const populations = new Map(named === undefined ? registered : Object.entries(named));
  for (const { site, contributors } of entries)
    if (!populations.has(site)) populations.set(site, registered.get(site) ?? contributors);
  return populations;
}

/** Says what no model will hold: a site's whole memory lost is an alarm. */
export function reportDropped(
  { events }: SessionWorld,
  session: string,
  { aggregation }: SessionParams,
  { dropped }: PoolDecision,
): void {
  for (const { entry, rule } of dropped) {
    const { site, base, contributors, applied } = entry;
    if (aggregation.kind === "site-memory" && rule === "site-memory-age")
      events({ level: "error", name: "site-forgotten", session, site, base, applied });
    if (applied) continue;
    const [gateway = ""] = entry.identity.split(".");
    events({ level: "warn", name: "partial-expired", session, gateway, rule, contributors });
  }
}
