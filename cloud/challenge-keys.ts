import { type KeyObject, X509Certificate } from "node:crypto";
import { publicKey } from "@tributary/proto/identity/keys.js";
import type { IdentityStore } from "./store/identities.js";

/**
 * The keys that a device is enrolled with, or was with a certificate that is on record: what it signed
 * before it renewed, or before it was revoked, it did sign.
 */
export function deviceKeys(
  identities: Pick<IdentityStore, "holder">,
): (device: string) => Promise<readonly KeyObject[]> {
  return async (device) => {
    const holder = await identities.holder("device", device);
    if (holder === undefined) return [];
    const keys = [publicKey(holder.identity.jwk)];
    for (const { certificate } of holder.certificates) {
      const key = new X509Certificate(certificate).publicKey;
      if (!keys.some((one) => one.equals(key))) keys.push(key);
    }
    return keys;
  };
}
