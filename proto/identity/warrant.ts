import { z } from "zod";
import { sha256 } from "../host/digest.js";
import { idSchema } from "../wire/ids.js";
import { refuse, type Verdict } from "../wire/verdict.js";
import { openJws, signJws } from "./jws.js";
import type { Keyring } from "./keyring.js";
import { identityLimits } from "./limits.js";
import type { SigningKey } from "./tokens.js";

/** What a challenge asks for: single devices' updates, which say more than a sum does. */
export type Asked = {
  readonly id: string;
  /** Of the Partial that they are behind. */
  readonly digest: string;
  readonly updates: readonly {
    readonly index: number;
    readonly round: string;
    readonly device: string;
  }[];
};

const warrantSchema = z.object({ fleet: idSchema, asked: z.string() });

const TYP = "tributary-challenge+jwt";

/** SHA-256 of all that is asked for, as UTF-8 lines. */
function askedDigest({ id, digest, updates }: Asked): string {
  const lines = updates.map(({ index, round, device }) => `${index} ${round} ${device}\n`);
  return sha256(Buffer.from([`${id} ${digest}\n`, ...lines].join("")));
}

/** The fleet's word that it is its cloud that asks, and not a gateway between. */
export function signWarrant(
  fleet: string,
  asked: Asked,
  { kid, key }: SigningKey,
): Promise<string> {
  const payload = { fleet, asked: askedDigest(asked) };
  return signJws(payload, { typ: TYP, kid }, { key, algorithm: "EdDSA" });
}

/** Whether the fleet asks for just this. Refusal: `warrant-invalid`. */
export async function verifyWarrant(
  text: string,
  asked: Asked,
  { fleet, keyring }: { readonly fleet: string; readonly keyring: Keyring },
): Promise<Verdict<object>> {
  const charsMax = identityLimits.warrantChars;
  const opened = await openJws(text, { typ: TYP, charsMax, keyOf: keyring });
  if (!opened.ok) return refuse("warrant-invalid", `the warrant is ${opened.message}`);
  const warrant = warrantSchema.safeParse(opened.payload).data;
  return warrant?.fleet === fleet && warrant.asked === askedDigest(asked)
    ? { ok: true }
    : refuse("warrant-invalid", "the warrant is for something else, or of another fleet");
}
