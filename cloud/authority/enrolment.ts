import { type Claim, isSecret, matchesName } from "@tributary/proto/identity/claim.js";
import { algorithmOf, type PublicJwk } from "@tributary/proto/identity/keys.js";
import type { Identity } from "@tributary/proto/identity/names.js";
import type { SigningRequest } from "@tributary/proto/identity/request.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { IdentityRows } from "../store/identities.js";
import type {
  CertificateRow,
  ClaimRow,
  EnrolmentRow,
  IdentityRow,
} from "../store/identity-rows.js";
import { DAY_SECONDS, type Issuer, issue } from "./issuing.js";
import { authorityLimits } from "./limits.js";

/** A certificate, and the key that it is for. */
export type Issued = Verdict<{ readonly certificate: CertificateRow; readonly jwk: PublicJwk }>;

/** Devices sign their updates with Ed25519; a gateway's key must do for any TLS peer. */
const algorithms = { device: "EdDSA", gateway: "ES256" } as const;

/**
 * A first certificate for the holder of a claim, in one transaction with the use of the claim. The same
 * key may ask again, for its answer can be lost, and gets the same certificate.
 */
export async function enrol(
  rows: IdentityRows,
  given: Claim,
  request: SigningRequest,
  issuer: Issuer,
): Promise<Issued> {
  const claim = await rows.claim(given.id);
  if (claim === undefined || !isSecret(given.secret, claim.secretDigest)) return unknownClaim();
  const { payload, thumbprint } = request;
  if (!("claim" in payload) || payload.claim !== claim.id)
    return refuse("request-subject", "the signing request names another claim");
  const { kind, name, site } = payload;
  const before = await rows.enrolmentOf(claim.id, thumbprint);
  if (before !== undefined) return goOn(rows, claim, before, { kind, name, site }, request, issuer);
  const refused =
    refusalOf(claim, issuer.nowMs) ??
    scopeRefusal(claim, { kind, name, site }, request.jwk) ??
    (await takenRefusal(rows, { kind, name, site }, thumbprint));
  if (refused !== undefined) return refused;
  const enrolment: EnrolmentRow = {
    id: issuer.random.id(12),
    claim: claim.id,
    thumbprint,
    kind,
    name,
    site,
    state: claim.approval ? "pending" : "accepted",
    serial: null,
    requestedAtMs: issuer.nowMs,
    decidedAtMs: null,
  };
  await rows.saveClaim({ ...claim, used: claim.used + 1 });
  await rows.saveEnrolment(enrolment);
  if (enrolment.state === "pending") return pending(enrolment);
  return finish(rows, enrolment, request, issuer);
}

export function unknownClaim(): Refusal {
  // Of a wrong id and a wrong secret alike: nobody learns which claims there are.
  return refuse("claim-unknown", "there is no such claim");
}

function pending({ id }: EnrolmentRow): Refusal {
  return refuse("claim-pending", `the enrolment ${id} must be accepted first`);
}

function refusalOf(claim: ClaimRow, nowMs: number): Refusal | undefined {
  if (claim.state === "revoked") return refuse("claim-revoked", "the claim was taken back");
  if (nowMs >= claim.expiresAtMs) return refuse("claim-expired", "the claim has ended");
  if (claim.used >= claim.uses)
    return refuse("claim-used", "the claim was used, and not with this key");
  return undefined;
}

function scopeRefusal(claim: ClaimRow, wanted: Identity, jwk: PublicJwk): Refusal | undefined {
  if (wanted.kind !== claim.kind)
    return refuse("claim-scope", `the claim is for a ${claim.kind}, not for a ${wanted.kind}`);
  if (wanted.site !== claim.site)
    return refuse("claim-scope", `the claim is for the site ${claim.site}`);
  if (!matchesName(claim.name, wanted.name))
    return refuse("claim-scope", `the claim is for the name ${claim.name}`);
  if (algorithmOf(jwk) !== algorithms[wanted.kind])
    return refuse(
      "request-malformed",
      `the key of a ${wanted.kind} signs ${algorithms[wanted.kind]}`,
    );
  return undefined;
}

/** A name is given once; after a revocation to another key alone. */
export async function takenRefusal(
  rows: IdentityRows,
  { kind, name }: Identity,
  thumbprint: string,
): Promise<Refusal | undefined> {
  const holder = await rows.identity(kind, name);
  if (holder === undefined) return undefined;
  if (holder.state === "active")
    return refuse("identity-taken", `${kind} ${name} is enrolled; revoke it first`);
  return holder.thumbprint === thumbprint
    ? refuse("identity-revoked", `${kind} ${name} was revoked with this key; make a new one`)
    : undefined;
}

async function goOn(
  rows: IdentityRows,
  claim: ClaimRow,
  enrolment: EnrolmentRow,
  wanted: Identity,
  request: SigningRequest,
  issuer: Issuer,
): Promise<Issued> {
  const { kind, name, site } = enrolment;
  if (wanted.kind !== kind || wanted.name !== name || wanted.site !== site)
    return refuse("request-subject", `this key asked for ${kind} ${name} of ${site} before`);
  switch (enrolment.state) {
    case "pending":
      return claim.state === "revoked"
        ? refuse("claim-revoked", "the claim was taken back")
        : pending(enrolment);
    case "rejected":
      return refuse("claim-rejected", "the enrolment was decided against");
    case "accepted":
      return finish(rows, enrolment, request, issuer);
    case "done":
      return repeat(rows, enrolment, request, issuer);
  }
}

async function finish(
  rows: IdentityRows,
  enrolment: EnrolmentRow,
  { jwk }: SigningRequest,
  issuer: Issuer,
): Promise<Issued> {
  const { kind, name, site, thumbprint, claim } = enrolment;
  const refused = await takenRefusal(rows, enrolment, thumbprint);
  if (refused !== undefined) return refused;
  const certificate = await issue(rows, { kind, name, site, jwk, thumbprint }, issuer);
  const nowMs = issuer.nowMs;
  const identity: IdentityRow = {
    kind,
    name,
    site,
    thumbprint,
    jwk,
    state: "active",
    claim,
    enrolledAtMs: nowMs,
    changedAtMs: nowMs,
  };
  await rows.saveIdentity(identity);
  await rows.saveEnrolment({
    ...enrolment,
    state: "done",
    serial: certificate.serial,
    decidedAtMs: enrolment.decidedAtMs ?? nowMs,
  });
  return { ok: true, certificate, jwk };
}

async function repeat(
  rows: IdentityRows,
  { kind, name, serial }: EnrolmentRow,
  request: SigningRequest,
  { nowMs }: Issuer,
): Promise<Issued> {
  const identity = await rows.identity(kind, name);
  if (identity === undefined || identity.thumbprint !== request.thumbprint)
    return refuse("identity-taken", `${kind} ${name} has another key by now`);
  if (identity.state === "revoked") return revoked(identity);
  const certificate = await rows.certificate(serial ?? "");
  if (certificate === undefined || certificate.notAfterMs <= nowMs)
    return refuse("claim-used", "the certificate of this claim has ended; renew it");
  return { ok: true, certificate, jwk: request.jwk };
}

function revoked({ kind, name }: Identity): Refusal {
  return refuse("identity-revoked", `${kind} ${name} was revoked; enrol it anew`);
}

/**
 * The next certificate for somebody enrolled, for the same key or, by its word, for a new one, which
 * then counts in its place. Also for a certificate that has ended, within the grace.
 */
export async function renew(
  rows: IdentityRows,
  { payload, jwk, thumbprint, endorsedBy }: SigningRequest,
  issuer: Issuer,
): Promise<Issued> {
  if (!("renew" in payload)) return refuse("request-malformed", "the request renews nothing");
  const held = await rows.certificate(payload.renew);
  const identity = held && (await rows.identity(held.kind, held.name));
  if (held === undefined || identity === undefined)
    return refuse("identity-unknown", "there is no such certificate");
  const { kind, name, site } = payload;
  if (kind !== identity.kind || name !== identity.name || site !== identity.site)
    return refuse("request-subject", "the certificate is for another name");
  // A new key that took over already may ask again: its answer was lost.
  const own = thumbprint === identity.thumbprint;
  const successor = endorsedBy === identity.thumbprint && held.thumbprint === endorsedBy;
  if (!own && !successor)
    return refuse("request-signature", `the request is not signed by the key of ${kind} ${name}`);
  if (identity.state === "revoked") return revoked(identity);
  const { nowMs, rules } = issuer;
  if (nowMs > held.notAfterMs + rules.graceDays * DAY_SECONDS * 1000)
    return refuse("grace-ended", `the certificate ended more than ${rules.graceDays} days ago`);
  if (algorithmOf(jwk) !== algorithms[kind])
    return refuse("request-malformed", `the key of a ${kind} signs ${algorithms[kind]}`);
  const newest = await rows.newestCertificate(kind, name);
  if (own && newest?.thumbprint === thumbprint && newest.serial !== payload.renew) {
    const ageMs = nowMs - newest.issuedAtMs;
    if (ageMs >= 0 && ageMs < authorityLimits.renewalAgainMs)
      return { ok: true, certificate: newest, jwk };
  }
  const certificate = await issue(rows, { kind, name, site, jwk, thumbprint }, issuer);
  if (!own) await rows.saveIdentity({ ...identity, thumbprint, jwk, changedAtMs: nowMs });
  return { ok: true, certificate, jwk };
}
