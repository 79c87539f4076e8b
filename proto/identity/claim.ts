import { createHash, timingSafeEqual, X509Certificate } from "node:crypto";
import { z } from "zod";
import type { Random } from "../host/random.js";
import { limits } from "../wire/limits.js";

/**
 * What a newcomer is handed to enrol with, once: `tc1.<id>.<secret>.<anchor>`. The secret is 32 random
 * bytes, the anchor the SHA-256 of the fleet authority's public key (SubjectPublicKeyInfo), by which a
 * newcomer knows the right cloud at first contact; both in base64url.
 */
export type Claim = { readonly id: string; readonly secret: string; readonly anchor: string };

const claimPattern = /^tc1\.([a-z2-7]{12})\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})$/;

export function makeClaim(random: Random, anchor: string): Claim {
  return { id: random.id(12), secret: Buffer.from(random.bytes(32)).toString("base64url"), anchor };
}

export function claimText({ id, secret, anchor }: Claim): string {
  return `tc1.${id}.${secret}.${anchor}`;
}

/** Reads a claim; undefined when the text is none. */
export function readClaim(text: string): Claim | undefined {
  const [, id, secret, anchor] = claimPattern.exec(text) ?? [];
  if (id === undefined || secret === undefined || anchor === undefined) return undefined;
  return { id, secret, anchor };
}

/** What the cloud keeps of a secret: the SHA-256 of its text, in hexadecimal. */
export function secretDigest(secret: string): string {
  return createHash("sha256").update(secret).digest("hex");
}

/** Whether a secret is the one with that digest, in a time that tells nothing of either. */
export function isSecret(secret: string, digest: string): boolean {
  return timingSafeEqual(Buffer.from(secretDigest(secret), "hex"), Buffer.from(digest, "hex"));
}

/** A certificate's public key as claims name it. Throws for what is no certificate in PEM or DER. */
export function anchorOf(certificate: string | Uint8Array): string {
  const key = new X509Certificate(certificate).publicKey;
  return createHash("sha256")
    .update(key.export({ type: "spki", format: "der" }))
    .digest("base64url");
}

/** A name, or a pattern of names in which one `*` stands for any characters, or none. */
export const namePatternSchema = z
  .string()
  .max(limits.idChars)
  .regex(/^(?:[A-Za-z0-9][A-Za-z0-9_-]*\*?|\*)[A-Za-z0-9_-]*$/, {
    message: "must be a name, in which one * may stand for any characters",
  });

/** Whether a name, itself checked, is one of a pattern's. */
export function matchesName(pattern: string, name: string): boolean {
  const [head = "", tail] = pattern.split("*");
  if (tail === undefined) return pattern === name;
  return name.length >= head.length + tail.length && name.startsWith(head) && name.endsWith(tail);
}
