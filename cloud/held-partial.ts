import type { Contributor, Partial as Sum } from "@tributary/proto/algebra/partial.js";
import type { PartialIdentity } from "@tributary/proto/tier/identity.js";
import type { Announcement } from "@tributary/proto/tier/inbox.js";

/** A Partial that is durable, without its values. */
export type HeldPartial = {
  readonly identity: PartialIdentity;
  readonly digest: string;
  readonly bytes: number;
  /** The site of all its contributors; null when they are of several. */
  readonly site: string | null;
  /** The model that its deltas are on, and the SHA-256 of its file. */
  readonly base: string;
  readonly baseDigest: string;
  readonly samples: number;
  readonly contributors: readonly Contributor[];
  /** By the wall clock. */
  readonly receivedAtMs: number;
};

export function heldFrom(
  { identity, digest, totalBytes }: Pick<Announcement, "identity" | "digest" | "totalBytes">,
  { site, base, baseDigest, contributors, weight }: Sum,
  receivedAtMs: number,
): HeldPartial {
  const origin = { site, base, baseDigest };
  const sum = { samples: Number(weight), contributors };
  return { identity, digest, bytes: totalBytes, ...origin, ...sum, receivedAtMs };
}
