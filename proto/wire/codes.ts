/**
 * The closed set of codes that a refusal carries on either link. `retryable` tells the sender
 * whether the same message can succeed later; where it cannot, the sender drops what it sent.
 */
export const codes = {
  // The message itself
  "protocol-version": { retryable: false, means: "a protocol version this side does not speak" },
  malformed: {
    retryable: false,
    means: "not an envelope, or fields missing, unknown or of a wrong type",
  },
  "too-large": { retryable: false, means: "past a bound of the protocol" },
  "too-deep": { retryable: false, means: "a header nested past the bound" },
  "unknown-kind": { retryable: false, means: "no message of that kind travels this way" },
  // Admission of an update
  "unknown-round": { retryable: false, means: "this gateway has no such round" },
  "round-closed": { retryable: false, means: "the round has sealed; the update came too late" },
  "not-offered": { retryable: false, means: "the round was not offered to this device" },
  "wrong-gateway": {
    retryable: false,
    means: "the update is bound to another gateway for this round",
  },
  "update-unsigned": { retryable: false, means: "this device must sign its updates" },
  "update-signature": {
    retryable: false,
    means: "the update is not signed by the key with which this device is enrolled",
  },
  "update-missing": {
    retryable: false,
    means: "an update that a challenge asked for did not come in time",
  },
  "sum-mismatch": {
    retryable: false,
    means: "the updates behind a Partial do not make its sum",
  },
  "warrant-invalid": { retryable: false, means: "not the fleet's word for what is asked" },
  "unknown-partial": { retryable: false, means: "no such Partial was received of late" },
  "wrong-base": { retryable: false, means: "trained from another model than the round's base" },
  "wrong-shape": { retryable: false, means: "the byte count does not match the layout" },
  "wrong-encoding": { retryable: false, means: "another encoding than the plan's" },
  "not-finite": { retryable: false, means: "a NaN or an infinity" },
  "out-of-range": { retryable: false, means: "a value outside the plan's range" },
  "off-grid": { retryable: false, means: "a value between two points of the plan's grid" },
  "bad-sample-count": {
    retryable: false,
    means: "a sample count that is not a whole number from 1 to nMax",
  },
  "total-overflow": { retryable: false, means: "the round's total weight would pass NMax" },
  conflict: { retryable: false, means: "the same identity was received with another digest" },
  "digest-mismatch": { retryable: true, means: "the bytes do not have the announced digest" },
  "not-granted": { retryable: true, means: "a chunk without a grant; begin again" },
  "chunk-out-of-order": { retryable: true, means: "a chunk at another offset than the next one" },
  busy: { retryable: true, means: "a bound of the gateway is reached for now" },
  "storage-full": { retryable: true, means: "the gateway cannot keep more; hold the update" },
  "storage-failed": { retryable: true, means: "the gateway could not write; hold the update" },
  // Model transfer
  "unknown-model": { retryable: true, means: "this side does not have that model (yet)" },
  "bad-offset": { retryable: false, means: "an offset or a length outside the file" },
  // Declines: a device says why it does not contribute
  "not-eligible": { retryable: false, means: "the device is not eligible now" },
  "train-failed": { retryable: false, means: "the trainer failed" },
  "too-late": { retryable: false, means: "the device cannot finish before the deadline" },
  // Plans and the tier link
  "plan-invalid": { retryable: false, means: "a plan that breaks the schema or its own rules" },
  "plan-headroom": {
    retryable: false,
    means: "the plan's grid, range and counts could overflow the exact sum",
  },
  "not-in-roster": {
    retryable: false,
    means: "a contributor that the round did not assign to this gateway",
  },
  "site-mismatch": {
    retryable: false,
    means: "a Partial of another site than one of its contributors",
  },
  overlap: { retryable: false, means: "two Partials name the same contributor" },
  "base-mismatch": {
    retryable: false,
    means: "Partials of different bases or rounds cannot merge",
  },
  "grid-mismatch": {
    retryable: false,
    means: "Partials of different grids or layouts cannot merge",
  },
  "model-malformed": { retryable: false, means: "not a safetensors file of float32 tensors" },
  "partial-malformed": { retryable: false, means: "not a Partial" },
  "partial-conflict": { retryable: false, means: "the same Partial identity with another digest" },
  "gateway-loop": {
    retryable: false,
    means: "a gateway that is, or would be, above itself",
  },
  "id-in-use": { retryable: true, means: "another live connection holds this identity" },
  // Compute packages
  "package-malformed": { retryable: false, means: "not a compute package, or fields are wrong" },
  "package-signature": {
    retryable: false,
    means: "the package's statement is not signed by the key that it names",
  },
  "package-refused": {
    retryable: false,
    means: "the device does not run it: no pinned signer signed it, or it asks for too much",
  },
  // Identity: claims and certificates
  "claim-malformed": { retryable: false, means: "not a claim" },
  "claim-unknown": { retryable: false, means: "no such claim, or another secret" },
  "claim-expired": { retryable: false, means: "the claim has ended" },
  "claim-used": { retryable: false, means: "the claim was used, with another key" },
  "claim-scope": { retryable: false, means: "the claim is for another kind, name or site" },
  "claim-revoked": { retryable: false, means: "the claim was taken back" },
  "claim-rejected": { retryable: false, means: "somebody decided against this enrolment" },
  "claim-pending": { retryable: true, means: "somebody must accept this enrolment first" },
  "request-malformed": { retryable: false, means: "not a signing request, or fields are wrong" },
  "request-signature": {
    retryable: false,
    means: "the request is not signed by the key that must sign it",
  },
  "request-subject": { retryable: false, means: "the request asks for another name than it may" },
  "identity-taken": { retryable: false, means: "the name is another key's; revoke that one first" },
  "identity-unknown": { retryable: false, means: "nobody of that name is enrolled" },
  "identity-revoked": { retryable: false, means: "the identity was revoked; it must enrol anew" },
  "too-many-attempts": { retryable: true, means: "too many attempts to enrol have failed" },
  "grace-ended": { retryable: false, means: "the certificate ended too long ago; enrol anew" },
  "uplink-away": {
    retryable: true,
    means: "who could answer is beyond an uplink that is away; ask again later",
  },
  "certificate-missing": { retryable: false, means: "no certificate, and no token, was shown" },
  "certificate-untrusted": {
    retryable: false,
    means: "not a certificate of this fleet's, or one for another use",
  },
  "certificate-not-yet-valid": { retryable: false, means: "the certificate begins later" },
  "certificate-expired": { retryable: false, means: "the certificate has ended" },
  "certificate-subject": {
    retryable: false,
    means: "the certificate is somebody else's, another site's, or of another kind",
  },
  "certificate-revoked": { retryable: false, means: "the certificate was revoked" },
  // Identity: tokens and denylists
  "token-malformed": { retryable: false, means: "not a token, or fields are wrong" },
  "token-kind": { retryable: false, means: "a token of another kind" },
  "token-signature": { retryable: false, means: "no key of this fleet signed the token" },
  "token-issuer": { retryable: false, means: "a token of another fleet" },
  "token-audience": { retryable: false, means: "a token for another part" },
  "token-not-yet-valid": { retryable: false, means: "the token begins later" },
  "token-expired": { retryable: false, means: "the token has ended" },
  "token-subject": { retryable: false, means: "the token is somebody else's, or another site's" },
  "token-revoked": { retryable: false, means: "the token was revoked" },
  "denylist-malformed": { retryable: false, means: "not a denylist, or fields are wrong" },
  "denylist-signature": { retryable: false, means: "no key of this fleet signed the denylist" },
  "denylist-old": { retryable: false, means: "a newer denylist is known" },
  "denylist-full": { retryable: false, means: "the denylist has no room for a further entry" },
} as const;

export type Code = keyof typeof codes;

export function isCode(value: unknown): value is Code {
  return typeof value === "string" && Object.hasOwn(codes, value);
}

export function isRetryable(code: Code): boolean {
  return codes[code].retryable;
}
