import type { KeyObject } from "node:crypto";
import { CompactSign, compactVerify, decodeProtectedHeader } from "jose";
import { z } from "zod";
import { idSchema } from "../wire/ids.js";
import { type Algorithm, type PublicJwk, publicJwkSchema } from "./keys.js";

/** What a signed text says of itself. Nothing else is let through: no `crit`, no key by URL. */
const headerSchema = z.strictObject({
  alg: z.string(),
  typ: z.string(),
  kid: idSchema.optional(),
  jwk: publicJwkSchema.optional(),
});
export type Header = z.infer<typeof headerSchema>;

/** A key, and the one algorithm that it signs with: the text does not choose it. */
export type VerifyingKey = { readonly key: KeyObject; readonly algorithm: Algorithm };

type Fault = {
  readonly ok: false;
  readonly fault: "malformed" | "kind" | "signature";
  readonly message: string;
};

export type JwsSource = {
  /** The only `typ` that is taken: no text passes for another kind (RFC 8725, 3.11). */
  readonly typ: string;
  readonly charsMax: number;
  /** The key that must have signed; undefined for none that is trusted. */
  readonly keyOf: (header: Header) => VerifyingKey | undefined;
};

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** Opens a compact JWS (RFC 7515). The payload is any JSON: whoever reads it checks its shape. */
export async function openJws(
  text: string,
  { typ, charsMax, keyOf }: JwsSource,
): Promise<{ readonly ok: true; readonly header: Header; readonly payload: unknown } | Fault> {
  if (text.length > charsMax) return fault("malformed", `longer than ${charsMax} characters`);
  const header = headerOf(text);
  if (header === undefined) return fault("malformed", "not a compact JWS with a header of ours");
  if (header.typ !== typ) return fault("kind", `of the kind ${header.typ}, not ${typ}`);
  const known = keyOf(header);
  if (known === undefined) return fault("signature", "no trusted key signed it");
  if (header.alg !== known.algorithm)
    return fault("signature", `its key signs with ${known.algorithm}, not ${header.alg}`);
  let payload: Uint8Array;
  try {
    ({ payload } = await compactVerify(text, known.key, { algorithms: [known.algorithm] }));
  } catch {
    return fault("signature", "the signature is not its key's");
  }
  try {
    return { ok: true, header, payload: JSON.parse(utf8.decode(payload)) };
  } catch {
    return fault("malformed", "the payload is no JSON");
  }
}

function headerOf(text: string): Header | undefined {
  if (!/^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*$/.test(text)) return undefined;
  try {
    return headerSchema.safeParse(decodeProtectedHeader(text)).data;
  } catch {
    return undefined;
  }
}

function fault(what: Fault["fault"], message: string): Fault {
  return { ok: false, fault: what, message };
}

/** Signs JSON as a compact JWS. */
export function signJws(
  payload: object,
  header: { readonly typ: string; readonly kid?: string; readonly jwk?: PublicJwk },
  { key, algorithm }: VerifyingKey,
): Promise<string> {
  return new CompactSign(new TextEncoder().encode(JSON.stringify(payload)))
    .setProtectedHeader({ alg: algorithm, ...header })
    .sign(key);
}
