import { identityText } from "@tributary/proto/tier/identity.js";
import type { LatePartials } from "./late-partials.js";
import { contributionKeys } from "./round-end.js";
import type { Finishing } from "./round-finish.js";
import type { SessionWorld } from "./session-world.js";
import type { ContributionKey, Settlement } from "./store/store.js";

const DAMAGED_FOLDER = "damaged";
const SLICE = 500;

/**
 * Reads again what a session keeps, if need be. What is damaged of it is a failure while the session
 * runs; it is given up when somebody says that a failed or a stopped one goes on, or ends.
 *
 * @param settle makes it durable what becomes of Partials
 */
export async function mendLate(
  { world, params, late, tally, machine, surely }: Mending,
  settle: Settle,
): Promise<void> {
  const { kind } = machine().phase;
  if (kind !== "failed" && kind !== "stopped") return surely(() => late.renew());
  await giveUpDamaged(world, params.name, late, async (settled) => {
    await surely(() => settle(settled));
    tally.expired += settled.reduce((sum, { contributions }) => sum + contributions.length, 0);
  });
}

type Mending = Pick<Finishing, "world" | "params" | "late" | "tally" | "machine" | "surely">;
type Settle = (settled: readonly Settlement[]) => Promise<void>;

/**
 * Gives up kept Partials whose files are damaged or missing: each file is kept as
 * `damaged/<name>.damaged`, and what no model holds of it expires under a rule that names the file. A
 * file that the disk cannot read at all is a failure.
 */
async function giveUpDamaged(
  { disk, store, events }: SessionWorld,
  session: string,
  late: LatePartials,
  settle: Settle,
): Promise<void> {
  const damaged = await late.examine();
  if (damaged.length === 0) return;
  const waiting = await keptContributions({ store }, session);
  for (const held of late.list())
    if (!held.applied) for (const key of contributionKeys(held)) waiting.delete(nameOf(key));
  const settled: Settlement[] = [];
  for (const { path, row } of damaged) {
    const { gateway, incarnation, sequence, outcome } = row;
    const aside = `${DAMAGED_FOLDER}/${path.slice(path.indexOf("/") + 1)}.damaged`;
    const there = await disk.exists(path);
    if (there) await disk.writeFileAtomic(aside, [await disk.readFile(path)]);
    const rule = there ? `${path} was damaged: see ${aside}` : `${path} was missing`;
    // Whose Partial of a gateway's a row belongs to no row says: what no other file holds is of these.
    const own = [...waiting.values()].filter((of) => outcome === "kept" && of.gateway === gateway);
    for (const { key } of own) waiting.delete(nameOf(key));
    const fate = outcome === "kept" ? ({ outcome: "expired", rule } as const) : null;
    const contributions = own.map(({ key }) => key);
    settled.push({ gateway, incarnation, sequence, fate, retained: false, contributions });
    events({
      level: "error",
      name: "kept-partial-damaged",
      session,
      partial: identityText(row),
      site: row.site ?? "",
      applied: outcome !== "kept",
      contributors: row.contributors,
      rule,
    });
  }
  await settle(settled);
  late.doubt();
  await late.renew();
  for (const { path } of damaged) await disk.remove(path).catch(() => undefined);
}

/** Contributions on record that wait for a model, by name, each with the gateway that brought it. */
async function keptContributions({ store }: Pick<SessionWorld, "store">, session: string) {
  const found = new Map<string, { readonly key: ContributionKey; readonly gateway: string }>();
  for (let after: readonly [number, number, string] | undefined; ; ) {
    const filter = { session, outcome: "kept" } as const;
    const slice = await store.listContributions(filter, { after, limit: SLICE });
    for (const { round, stretch, device, gateway } of slice.items) {
      const key = { round, stretch, device };
      found.set(nameOf(key), { key, gateway });
    }
    after = slice.next;
    if (after === undefined) return found;
  }
}

function nameOf({ round, stretch, device }: ContributionKey): string {
  return `${round} ${stretch} ${device}`;
}
