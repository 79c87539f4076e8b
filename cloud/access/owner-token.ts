import type { Random } from "@tributary/proto/host/random.js";
import { signUserToken } from "@tributary/proto/identity/tokens.js";
import { type AuthorityKeys, tokenKey } from "../authority/keys.js";
import { FLEET } from "./permissions.js";

/**
 * A token of an owner of all, made by who holds the authority's keys: for the first owner, and when every
 * other token is lost. It comes on record when it is first shown.
 */
export function ownerToken(
  keys: AuthorityKeys,
  { nowMs, lifeMs, random }: { nowMs: number; lifeMs: number; random: Random },
): Promise<string> {
  const iat = Math.floor(nowMs / 1000);
  const exp = iat + Math.floor(lifeMs / 1000);
  const roles = [{ project: FLEET, role: "owner" as const }];
  const who = { sub: `owner-${random.id(8)}`, name: "owner", jti: random.id(16) };
  return signUserToken(keys.fleet, { ...who, roles, iat, exp }, tokenKey(keys));
}
