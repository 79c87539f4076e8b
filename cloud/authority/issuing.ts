import type { Random } from "@tributary/proto/host/random.js";
import type { Grant } from "@tributary/proto/identity/grant.js";
import type { PublicJwk } from "@tributary/proto/identity/keys.js";
import type { Identity } from "@tributary/proto/identity/names.js";
import { signDeviceToken } from "@tributary/proto/identity/tokens.js";
import type { IdentityRows } from "../store/identities.js";
import type { CertificateRow } from "../store/identity-rows.js";
import { leafCertificate } from "./certificates.js";
import { type AuthorityKeys, anchorsOf, chainOf, jwksOf, signerOf, tokenKey } from "./keys.js";
import { authorityLimits } from "./limits.js";

/** What an operator may set of what is issued. */
export type IssuingRules = {
  /** Life of a certificate, and of the token that comes with it. */
  readonly certificateDays: number;
  /** How long after its end a certificate still serves to ask for the next one. */
  readonly graceDays: number;
};

/** The authority at one moment: what a transaction issues with. */
export type Issuer = {
  readonly keys: AuthorityKeys;
  readonly rules: IssuingRules;
  readonly nowMs: number;
  readonly random: Random;
};

export const DAY_SECONDS = 86_400;

/**
 * Issues a certificate and puts it on record. One that follows a revocation begins no earlier than what
 * that voids, so that it is not void itself.
 */
export async function issue(
  rows: IdentityRows,
  whose: Identity & { readonly jwk: PublicJwk; readonly thumbprint: string },
  { keys, rules, nowMs, random }: Issuer,
): Promise<CertificateRow> {
  const { kind, name, site, jwk, thumbprint } = whose;
  const voidBefore = (await rows.denial(kind, name))?.before ?? 0;
  const now = Math.max(Math.floor(nowMs / 1000), voidBefore);
  const from = Math.max(now - authorityLimits.backdateSeconds, voidBefore);
  const to = now + rules.certificateDays * DAY_SECONDS;
  const { certificate, serial, validity } = await leafCertificate(
    { fleet: keys.fleet, kind, name, site, jwk },
    signerOf(keys),
    { from, to },
    random,
  );
  const row = {
    kind,
    name,
    site,
    serial,
    thumbprint,
    certificate,
    notBeforeMs: validity.from * 1000,
    notAfterMs: validity.to * 1000,
    issuedAtMs: now * 1000,
  };
  await rows.addCertificate(row, nowMs - rules.graceDays * DAY_SECONDS * 1000);
  return row;
}

/** What goes to the holder of a certificate; a device's token ends with it. */
export async function grantOf(
  { certificate, serial, notAfterMs, kind, name, site, issuedAtMs }: CertificateRow,
  jwk: PublicJwk,
  denylist: string,
  { keys, nowMs, random }: Issuer,
): Promise<Grant> {
  const iat = issuedAtMs / 1000;
  const exp = notAfterMs / 1000;
  const token =
    kind === "device" && jwk.kty === "OKP"
      ? await signDeviceToken(
          keys.fleet,
          { sub: name, site, cnf: { jwk }, iat, exp, jti: random.id(16) },
          tokenKey(keys),
        )
      : null;
  return {
    certificate,
    serial,
    notAfterMs,
    chain: chainOf(keys, nowMs),
    anchors: anchorsOf(keys, nowMs),
    token,
    jwks: jwksOf(keys, nowMs),
    denylist,
  };
}
