import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
} from "node:crypto";
import { calculateJwkThumbprint } from "jose";
import { z } from "zod";
import { TributaryError } from "../wire/errors.js";
import { readSecretFile, writeSecretFile } from "./secret-file.js";

/**
 * Keys: Ed25519 for devices and for what the cloud signs, ECDSA on P-256 for gateways. By the names
 * that JOSE gives their signatures (RFC 7518, 3.1; RFC 8037, 3.1).
 */
export type Algorithm = "EdDSA" | "ES256";

/** 32 bytes in base64url without padding. */
const coordinate = z.string().regex(/^[A-Za-z0-9_-]{43}$/);

export const ed25519JwkSchema = z.strictObject({
  kty: z.literal("OKP"),
  crv: z.literal("Ed25519"),
  x: coordinate,
});
const p256JwkSchema = z.strictObject({
  kty: z.literal("EC"),
  crv: z.literal("P-256"),
  x: coordinate,
  y: coordinate,
});

/**
 * A public key as a JWK (RFC 7517), with its required members and no other, written the one way that
 * gives a key one thumbprint.
 */
export const publicJwkSchema = z
  .union([ed25519JwkSchema, p256JwkSchema])
  .refine((jwk) => keyOrNone(jwk)?.x === jwk.x, { message: "must be a point of its curve" });
export type PublicJwk = z.infer<typeof publicJwkSchema>;

/** Makes a private key. */
export function makeKey(algorithm: Algorithm): KeyObject {
  return algorithm === "EdDSA"
    ? generateKeyPairSync("ed25519").privateKey
    : generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
}

/** A private key as PEM (PKCS#8). */
export function keyToPem(key: KeyObject): string {
  return key.export({ type: "pkcs8", format: "pem" }).toString();
}

/** Reads a private key; undefined when the text is none, or one of another kind. */
export function keyFromPem(pem: string): KeyObject | undefined {
  try {
    const key = createPrivateKey({ key: pem, format: "pem", type: "pkcs8" });
    return publicJwkSchema.safeParse(publicPart(key)).success ? key : undefined;
  } catch {
    return undefined;
  }
}

/** Writes a key where it lives. A file that is there is never replaced: `secret-exists`. */
export function saveKey(path: string, key: KeyObject): Promise<void> {
  return writeSecretFile(path, keyToPem(key), { replace: false });
}

/** Reads a key that `saveKey` wrote. Failures: those of secret files; `secret-malformed` for no key. */
export async function loadKey(path: string): Promise<KeyObject> {
  const key = keyFromPem(await readSecretFile(path));
  if (key === undefined)
    throw new TributaryError(
      "secret-malformed",
      `${path} holds no Ed25519 or P-256 private key in PEM (PKCS#8)`,
    );
  return key;
}

/** The public half of a key, private or public, as a JWK. */
export function publicJwk(key: KeyObject): PublicJwk {
  return publicJwkSchema.parse(publicPart(key));
}

/** The key that a JWK stands for. */
export function publicKey(jwk: PublicJwk): KeyObject {
  return createPublicKey({ key: jwk, format: "jwk" });
}

export function algorithmOf(jwk: PublicJwk): Algorithm {
  return jwk.kty === "OKP" ? "EdDSA" : "ES256";
}

/** SHA-256 thumbprint of a public key in base64url (RFC 7638): the name by which keys are told apart. */
export function thumbprint(jwk: PublicJwk): Promise<string> {
  return calculateJwkThumbprint(jwk, "sha256");
}

function publicPart(key: KeyObject): unknown {
  const open = key.type === "private" ? createPublicKey(key) : key;
  return open.export({ format: "jwk" });
}

/** The key as Node writes it again; undefined for what is no point of its curve. */
function keyOrNone(jwk: z.infer<typeof ed25519JwkSchema> | z.infer<typeof p256JwkSchema>) {
  try {
    return createPublicKey({ key: jwk, format: "jwk" }).export({ format: "jwk" });
  } catch {
    return undefined;
  }
}
