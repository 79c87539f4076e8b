import type { KeyObject } from "node:crypto";
import { z } from "zod";
import { idSchema } from "../wire/ids.js";
import { refuse, type Verdict } from "../wire/verdict.js";
import { openJws, signJws } from "./jws.js";
import { algorithmOf, type PublicJwk, publicJwk, publicKey, thumbprint } from "./keys.js";
import { identityLimits } from "./limits.js";
import { identitySchema } from "./names.js";

/** A certificate's serial number: 20 octets at most (RFC 5280, 4.1.2.2), in hexadecimal. */
export const serialSchema = z.string().regex(/^[0-9a-f]{2,40}$/);

const shared = {
  ...identitySchema.shape,
  /** Fresh for each request. */
  nonce: z.string().regex(/^[A-Za-z0-9_-]{16,64}$/),
  /** When it was signed, in seconds since 1970, by a clock that may be wrong: shown, not judged. */
  iat: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER),
};

const payloadSchema = z.union([
  /** Asks for a first certificate; `claim` is the id of the claim that goes with it. */
  z.strictObject({ ...shared, claim: idSchema }),
  /** Asks for the next one; `renew` is the serial of the certificate before. */
  z.strictObject({ ...shared, renew: serialSchema, endorsement: z.string().optional() }),
]);
export type RequestPayload = z.infer<typeof payloadSchema>;

const endorsementSchema = z.strictObject({
  /** The thumbprint of the key that is to take the signing one's place. */
  key: z.string(),
  renew: serialSchema,
});

const REQUEST = "tributary-request+jwt";
const ENDORSEMENT = "tributary-endorsement+jwt";

/**
 * Signs a request for a certificate with the key that it is for. In a renewal with a new key, `former`
 * is the key of the certificate before, which signs for the new one: only its holder may hand on.
 */
export async function writeRequest(
  payload: RequestPayload,
  key: KeyObject,
  former?: KeyObject,
): Promise<string> {
  const jwk = publicJwk(key);
  const signing = { key, algorithm: algorithmOf(jwk) };
  if (former === undefined || !("renew" in payload))
    return signJws(payload, { typ: REQUEST, jwk }, signing);
  const before = publicJwk(former);
  const endorsement = await signJws(
    { key: await thumbprint(jwk), renew: payload.renew },
    { typ: ENDORSEMENT, jwk: before },
    { key: former, algorithm: algorithmOf(before) },
  );
  return signJws({ ...payload, endorsement }, { typ: REQUEST, jwk }, signing);
}

export type SigningRequest = {
  readonly payload: RequestPayload;
  /** The key that is to be certified; it signed the request. */
  readonly jwk: PublicJwk;
  readonly thumbprint: string;
  /** Of the key that signed for this one, where it is a new one. */
  readonly endorsedBy: string | undefined;
};

/** Reads a request. Refusals: `request-malformed`, `request-signature`. */
export async function readRequest(
  text: string,
): Promise<Verdict<{ readonly request: SigningRequest }>> {
  const opened = await openOwn(text, REQUEST);
  if (!opened.ok) return opened;
  const payload = payloadSchema.safeParse(opened.payload);
  if (!payload.success) return refuse("request-malformed", "the request's fields are wrong");
  const request = {
    payload: payload.data,
    jwk: opened.jwk,
    thumbprint: await thumbprint(opened.jwk),
    endorsedBy: undefined,
  };
  if (!("renew" in payload.data) || payload.data.endorsement === undefined)
    return { ok: true, request };
  const endorsement = await openOwn(payload.data.endorsement, ENDORSEMENT);
  if (!endorsement.ok) return endorsement;
  const named = endorsementSchema.safeParse(endorsement.payload).data;
  if (named?.key !== request.thumbprint || named.renew !== payload.data.renew)
    return refuse("request-signature", "the former key signed for another key or certificate");
  return { ok: true, request: { ...request, endorsedBy: await thumbprint(endorsement.jwk) } };
}

/** Opens what is signed by the key that its own header shows. */
async function openOwn(
  text: string,
  typ: string,
): Promise<Verdict<{ readonly payload: unknown; readonly jwk: PublicJwk }>> {
  const opened = await openJws(text, {
    typ,
    charsMax: identityLimits.requestChars,
    keyOf: ({ jwk }) =>
      jwk === undefined ? undefined : { key: publicKey(jwk), algorithm: algorithmOf(jwk) },
  });
  if (!opened.ok) {
    const code = opened.fault === "signature" ? "request-signature" : "request-malformed";
    return refuse(code, `the signing request is ${opened.message}`);
  }
  const { jwk } = opened.header;
  if (jwk === undefined) return refuse("request-malformed", "the signing request shows no key");
  return { ok: true, payload: opened.payload, jwk };
}
