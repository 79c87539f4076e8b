import { type Denylist, signDenylist } from "@tributary/proto/identity/denylist.js";
import { identityLimits } from "@tributary/proto/identity/limits.js";
import type { Kind } from "@tributary/proto/identity/names.js";
import { type Refusal, refuse } from "@tributary/proto/wire/verdict.js";
import type { IdentityRows } from "../store/identities.js";
import type { DenialRow } from "../store/identity-rows.js";
import { DAY_SECONDS, type Issuer } from "./issuing.js";
import { type AuthorityKeys, listKey } from "./keys.js";

/**
 * Voids what an identity was given until now, and puts it on a new denylist. To do it again voids what
 * was given since. Entries are left out once all that they voided has ended, the grace included.
 */
export async function revoke(
  rows: IdentityRows,
  kind: Kind,
  name: string,
  { nowMs, rules }: Issuer,
): Promise<Refusal | undefined> {
  const identity = await rows.identity(kind, name);
  if (identity === undefined) return refuse("identity-unknown", `no ${kind} ${name} is enrolled`);
  const denials = await rows.denials();
  const now = Math.floor(nowMs / 1000);
  const endedBefore = now - (rules.certificateDays + rules.graceDays) * DAY_SECONDS;
  const staying = denials.filter(
    (one) => one.before >= endedBefore && !(one.kind === kind && one.name === name),
  );
  if (staying.length >= identityLimits.denylistEntries)
    return refuse("denylist-full", "the denylist has no room for a further entry");
  const former = await rows.denial(kind, name);
  const newest = await rows.newestCertificate(kind, name);
  const lastGiven = Math.max(former?.before ?? 0, (newest?.issuedAtMs ?? 0) / 1000);
  // By the clock, too: a store that is made anew does not begin below what gateways know.
  const sequence = Math.max(now, ...denials.map((one) => one.sequence + 1));
  const before = Math.max(now, lastGiven) + 1;
  await rows.saveDenial({ kind, name, before, sequence, atMs: nowMs }, endedBefore);
  await rows.saveIdentity({ ...identity, state: "revoked", changedAtMs: nowMs });
  return undefined;
}

/** The list that denials make. */
export function denylistOf(fleet: string, denials: readonly DenialRow[]): Denylist {
  return {
    fleet,
    sequence: Math.max(0, ...denials.map(({ sequence }) => sequence)),
    issuedAt: Math.floor(Math.max(0, ...denials.map(({ atMs }) => atMs)) / 1000),
    entries: denials.map(({ kind, name, before }) => ({ kind, name, before })),
  };
}

export function signedDenylist(
  keys: AuthorityKeys,
  denials: readonly DenialRow[],
  nowMs: number,
): Promise<string> {
  return signDenylist(denylistOf(keys.fleet, denials), listKey(keys, nowMs));
}
