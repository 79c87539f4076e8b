import { z } from "zod";
import { idSchema } from "../wire/ids.js";
import { refuse, type Verdict } from "../wire/verdict.js";
import { openJws, signJws } from "./jws.js";
import type { Keyring } from "./keyring.js";
import { identityLimits } from "./limits.js";
import { type Kind, kindSchema } from "./names.js";
import type { SigningKey } from "./tokens.js";

const instant = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

const denialSchema = z.object({
  kind: kindSchema,
  name: idSchema,
  /** Certificates and tokens given before it, in seconds since 1970, are void. */
  before: instant,
});
export type Denial = z.infer<typeof denialSchema>;

const denylistSchema = z.object({
  fleet: idSchema,
  /** Grows with each change, and never goes back. */
  sequence: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER),
  /** In seconds since 1970. */
  issuedAt: instant,
  entries: z.array(denialSchema).max(identityLimits.denylistEntries),
});
/** Whose certificates and tokens are void, as a whole: a newer list takes the place of an older one. */
export type Denylist = z.infer<typeof denylistSchema>;

const TYP = "tributary-denylist+jwt";

export function signDenylist(list: Denylist, { kid, key }: SigningKey): Promise<string> {
  return signJws(list, { typ: TYP, kid }, { key, algorithm: "EdDSA" });
}

/**
 * Reads a list, from whatever way it came. Refusals: `denylist-malformed`, `denylist-signature` (also
 * of another fleet).
 */
export async function readDenylist(
  text: string,
  { fleet, keyring }: { readonly fleet: string; readonly keyring: Keyring },
): Promise<Verdict<{ readonly list: Denylist }>> {
  const charsMax = identityLimits.denylistChars;
  const opened = await openJws(text, { typ: TYP, charsMax, keyOf: keyring });
  if (!opened.ok) {
    const code = opened.fault === "signature" ? "denylist-signature" : "denylist-malformed";
    return refuse(code, `the denylist is ${opened.message}`);
  }
  const list = denylistSchema.safeParse(opened.payload).data;
  if (list === undefined) return refuse("denylist-malformed", "the denylist's fields are wrong");
  if (list.fleet !== fleet)
    return refuse("denylist-signature", `the denylist is of the fleet ${list.fleet}`);
  return { ok: true, list };
}

/**
 * Whether a list takes the place of the one that is held: `news` is false for the same one again. An
 * older one is refused with `denylist-old`: whoever can replay a list must not bring anybody back.
 */
export function judgeDenylist(
  held: Pick<Denylist, "sequence"> | undefined,
  next: Pick<Denylist, "sequence">,
): Verdict<{ readonly news: boolean }> {
  if (held === undefined || next.sequence > held.sequence) return { ok: true, news: true };
  if (next.sequence === held.sequence) return { ok: true, news: false };
  return refuse(
    "denylist-old",
    `the denylist has the sequence ${next.sequence}; ${held.sequence} is known already`,
  );
}

/** Whether what somebody was given at a time, in seconds since 1970, is void. */
export type IsVoid = (kind: Kind, name: string, issuedAt: number) => boolean;

export function denials({ entries }: { readonly entries: readonly Denial[] }): IsVoid {
  const before = new Map<string, number>();
  for (const entry of entries) {
    const key = `${entry.kind}/${entry.name}`;
    before.set(key, Math.max(entry.before, before.get(key) ?? 0));
  }
  return (kind, name, issuedAt) => issuedAt < (before.get(`${kind}/${name}`) ?? 0);
}
