import type { PublicJwk } from "@tributary/proto/identity/keys.js";
import type { Identity, Kind } from "@tributary/proto/identity/names.js";

/** What lets newcomers enrol. */
export type ClaimRow = {
  readonly id: string;
  /** SHA-256 of the secret, which is not kept. */
  readonly secretDigest: string;
  readonly kind: Kind;
  /** A name, or a pattern of names. */
  readonly name: string;
  readonly site: string;
  readonly uses: number;
  readonly used: number;
  readonly approval: boolean;
  readonly state: "open" | "revoked";
  readonly createdAtMs: number;
  readonly expiresAtMs: number;
};

/** One use of a claim by one key. */
export type EnrolmentRow = Identity & {
  readonly id: string;
  readonly claim: string;
  readonly thumbprint: string;
  readonly state: "pending" | "accepted" | "rejected" | "done";
  /** Of the certificate, once it is issued. */
  readonly serial: string | null;
  readonly requestedAtMs: number;
  readonly decidedAtMs: number | null;
};

/** Who is enrolled, with the one key that counts. */
export type IdentityRow = Identity & {
  readonly thumbprint: string;
  readonly jwk: PublicJwk;
  readonly state: "active" | "revoked";
  /** The claim that it enrolled with. */
  readonly claim: string;
  readonly enrolledAtMs: number;
  readonly changedAtMs: number;
};

export type CertificateRow = Identity & {
  readonly serial: string;
  readonly thumbprint: string;
  /** PEM. */
  readonly certificate: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  /** Also what a token given with it says, in milliseconds of whole seconds. */
  readonly issuedAtMs: number;
};

/** What an identity was given before `before`, in seconds since 1970, is void. */
export type DenialRow = {
  readonly kind: Kind;
  readonly name: string;
  readonly before: number;
  /** Of the denylist that it came with. */
  readonly sequence: number;
  readonly atMs: number;
};
