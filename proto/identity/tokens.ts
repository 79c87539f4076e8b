import type { KeyObject } from "node:crypto";
import { decodeJwt } from "jose";
import { z } from "zod";
import type { Code } from "../wire/codes.js";
import { idSchema } from "../wire/ids.js";
import { type Refusal, refuse, type Verdict } from "../wire/verdict.js";
import { openJws, signJws } from "./jws.js";
import type { Keyring } from "./keyring.js";
import { ed25519JwkSchema } from "./keys.js";
import { identityLimits } from "./limits.js";

/** The key that a fleet's issuer signs with, an Ed25519 one, and the name that verifiers find it by. */
export type SigningKey = { readonly kid: string; readonly key: KeyObject };

/** Seconds since 1970. */
const instant = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

const shared = {
  iss: z.string().max(128),
  iat: instant,
  nbf: instant,
  exp: instant,
  jti: idSchema,
};

const deviceSchema = z.object({
  ...shared,
  sub: idSchema,
  site: idSchema,
  aud: z.string().max(128),
  /** The device's own key (RFC 7800): whoever passes its updates on can check its signatures. */
  cnf: z.object({ jwk: ed25519JwkSchema }),
});
/** What a device shows in place of a certificate. */
export type DeviceToken = z.infer<typeof deviceSchema>;

export const roles = ["owner", "operator", "trainer", "viewer", "auditor", "steward"] as const;

const userSchema = z.object({
  ...shared,
  sub: idSchema,
  name: z.string().max(identityLimits.displayNameChars),
  aud: z.string().max(128),
  roles: z
    .array(z.object({ project: z.union([idSchema, z.literal("*")]), role: z.enum(roles) }))
    .max(identityLimits.roles),
});
/** What a person or a program shows to the REST API. */
export type UserToken = z.infer<typeof userSchema>;

const DEVICE = { typ: "tributary-device+jwt", audience: "mqtt" } as const;
/** RFC 9068, 2.1. */
const USER = { typ: "at+jwt", audience: "api" } as const;

export function issuerOf(fleet: string): string {
  return `tributary:${fleet}`;
}

type Unissued<T> = Omit<T, "iss" | "aud" | "nbf">;

/** Signs a device's token, valid from `iat`. */
export function signDeviceToken(
  fleet: string,
  token: Unissued<DeviceToken>,
  signing: SigningKey,
): Promise<string> {
  return sign(DEVICE, fleet, token, signing);
}

/** Signs a person's or a program's token, valid from `iat`. */
export function signUserToken(
  fleet: string,
  token: Unissued<UserToken>,
  signing: SigningKey,
): Promise<string> {
  return sign(USER, fleet, token, signing);
}

function sign(
  { typ, audience }: { readonly typ: string; readonly audience: string },
  fleet: string,
  token: { readonly iat: number },
  { kid, key }: SigningKey,
): Promise<string> {
  const payload = { iss: issuerOf(fleet), aud: audience, nbf: token.iat, ...token };
  return signJws(payload, { typ, kid }, { key, algorithm: "EdDSA" });
}

export type TokenRules = {
  readonly fleet: string;
  readonly keyring: Keyring;
  /** Wall-clock time in milliseconds since 1970. */
  readonly nowMs: number;
};

export type DeviceTokenRules = TokenRules & {
  /** Who shows it, and where. A token of another device or site is `token-subject`. */
  readonly device: string;
  readonly site: string;
  /** Whether what a device was given at a time, in seconds since 1970, is void by now. */
  readonly isVoid: (device: string, issuedAt: number) => boolean;
};

/**
 * Judges a device's token. Refusals, the first that holds: `token-malformed`, `token-kind`,
 * `token-signature`, `token-issuer`, `token-audience`, `token-not-yet-valid`, `token-expired`,
 * `token-subject`, `token-revoked`.
 */
export async function verifyDeviceToken(
  text: string,
  rules: DeviceTokenRules,
): Promise<Verdict<{ readonly token: DeviceToken }>> {
  const judged = await verify(text, DEVICE, deviceSchema, rules);
  if (!judged.ok) return judged;
  const { token } = judged;
  if (token.sub !== rules.device) return refuse("token-subject", "the token is another device's");
  if (token.site !== rules.site)
    return refuse("token-subject", `the token is for the site ${token.site}`);
  if (rules.isVoid(token.sub, token.iat))
    return refuse("token-revoked", "the device was revoked after it got this token");
  return judged;
}

/**
 * When a token ends by its own word, in milliseconds since 1970; 0 where it says nothing of it. Judged at
 * that time, one that has ended is judged by all the rest, its signature included.
 */
export function tokenEndMs(text: string): number {
  try {
    return (decodeJwt(text).exp ?? 0) * 1000;
  } catch {
    return 0;
  }
}

export type UserTokenRules = TokenRules & {
  /** Whether the token with that `jti` was revoked. */
  readonly isRevoked: (id: string) => boolean;
};

/** Judges a person's or a program's token; refusals as for a device's, but `token-subject`. */
export async function verifyUserToken(
  text: string,
  rules: UserTokenRules,
): Promise<Verdict<{ readonly token: UserToken }>> {
  const judged = await verify(text, USER, userSchema, rules);
  if (judged.ok && rules.isRevoked(judged.token.jti))
    return refuse("token-revoked", "the token was revoked");
  return judged;
}

type Claims = Pick<DeviceToken, "iss" | "aud" | "nbf" | "exp">;

async function verify<T extends Claims>(
  text: string,
  { typ, audience }: { readonly typ: string; readonly audience: string },
  schema: z.ZodType<T>,
  { fleet, keyring, nowMs }: TokenRules,
): Promise<Verdict<{ readonly token: T }>> {
  const charsMax = identityLimits.tokenChars;
  const opened = await openJws(text, { typ, charsMax, keyOf: keyring });
  if (!opened.ok) return refuse(faultCodes[opened.fault], `the token is ${opened.message}`);
  const token = schema.safeParse(opened.payload).data;
  if (token === undefined) return refuse("token-malformed", "the token's fields are wrong");
  return judge(token, audience, fleet, nowMs / 1000) ?? { ok: true, token };
}

const faultCodes = {
  malformed: "token-malformed",
  kind: "token-kind",
  signature: "token-signature",
} as const satisfies Record<string, Code>;

function judge(
  { iss, aud, nbf, exp }: Claims,
  audience: string,
  fleet: string,
  now: number,
): Refusal | undefined {
  const { leewaySeconds } = identityLimits;
  if (iss !== issuerOf(fleet)) return refuse("token-issuer", "the token is another fleet's");
  if (aud !== audience) return refuse("token-audience", `the token is not for ${audience}`);
  if (now < nbf - leewaySeconds)
    return refuse("token-not-yet-valid", "the token is not valid yet; is the clock right?");
  if (now >= exp + leewaySeconds) return refuse("token-expired", "the token has ended");
  return undefined;
}
