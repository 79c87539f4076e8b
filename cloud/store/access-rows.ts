import type { Grant, Role } from "../access/permissions.js";

/** A token of this fleet's issuer; the token itself is not kept. */
export type TokenRow = {
  /** Its `jti`. */
  readonly id: string;
  /** `user:` and its `sub`. */
  readonly subject: string;
  readonly name: string;
  readonly roles: readonly Grant[];
  readonly state: "active" | "revoked";
  /** Subject of who made it. */
  readonly createdBy: string;
  readonly createdAtMs: number;
  readonly expiresAtMs: number;
};

export type ProjectRow = {
  readonly id: string;
  readonly name: string;
  readonly createdAtMs: number;
};

/** A site that was given to a project; others belong to `default`. */
export type SiteRow = { readonly site: string; readonly project: string };

/** Somebody's role in a project, or under `*` in all. */
export type MemberRow = {
  readonly project: string;
  readonly subject: string;
  readonly name: string;
  readonly role: Role;
  readonly addedBy: string;
  readonly addedAtMs: number;
};

export type InvitationRow = {
  readonly id: string;
  /** SHA-256 of the secret, which is not kept. */
  readonly secretDigest: string;
  readonly project: string;
  readonly role: Role;
  readonly state: "open" | "accepted" | "revoked";
  readonly invitedBy: string;
  readonly acceptedBy: string | null;
  readonly createdAtMs: number;
  readonly expiresAtMs: number;
};
