import { z } from "zod";
import { limits as wire } from "../wire/limits.js";
import { jwksSchema } from "./keyring.js";
import { identityLimits } from "./limits.js";
import { serialSchema } from "./request.js";

const pem = z
  .string()
  .max(wire.certificateChars)
  .regex(/^-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\s*$/);
const certificates = z.array(pem).max(wire.certificates);

/** What somebody who enrolled, or renewed, is given; as JSON the same on every way. */
export const grantSchema = z.object({
  /** PEM. */
  certificate: pem,
  serial: serialSchema,
  /** When the certificate ends, in milliseconds since 1970. */
  notAfterMs: z.number().int(),
  /** Certificates to send along with it, the nearest first. */
  chain: certificates.readonly(),
  /** The authorities to trust. */
  anchors: certificates.min(1).readonly(),
  /** A device's, to show in place of the certificate; null for others. */
  token: z.string().max(identityLimits.tokenChars).nullable(),
  jwks: jwksSchema,
  /** A compact JWS. */
  denylist: z.string().max(identityLimits.denylistChars),
});
export type Grant = z.infer<typeof grantSchema>;

/** Reads a grant's JSON; undefined for anything else. */
export function readGrant(text: string): Grant | undefined {
  try {
    return grantSchema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}
