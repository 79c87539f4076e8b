import { z } from "zod";
import { idSchema } from "../wire/ids.js";
import type { Header, VerifyingKey } from "./jws.js";
import { ed25519JwkSchema, publicJwkSchema, publicKey } from "./keys.js";
import { identityLimits } from "./limits.js";

const signingJwkSchema = ed25519JwkSchema
  .extend({ kid: idSchema, alg: z.literal("EdDSA"), use: z.literal("sig") })
  .refine(({ kty, crv, x }) => publicJwkSchema.safeParse({ kty, crv, x }).success);

/** The public keys of a fleet's issuer (RFC 7517, 5): all Ed25519. */
export const jwksSchema = z.strictObject({
  keys: z
    .array(signingJwkSchema)
    .max(identityLimits.publicKeys)
    .refine((keys) => new Set(keys.map(({ kid }) => kid)).size === keys.length, {
      message: "must name each key once",
    }),
});
export type Jwks = z.infer<typeof jwksSchema>;

/** Finds the key that a header names. */
export type Keyring = (header: Pick<Header, "kid">) => VerifyingKey | undefined;

export function createKeyring({ keys }: Jwks): Keyring {
  const known = new Map(
    keys.map(({ kid, kty, crv, x }) => [
      kid,
      { key: publicKey({ kty, crv, x }), algorithm: "EdDSA" as const },
    ]),
  );
  return ({ kid }) => (kid === undefined ? undefined : known.get(kid));
}
