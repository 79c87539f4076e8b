import { X509Certificate } from "node:crypto";
import { dirname, join } from "node:path";
import { acquireLock } from "@tributary/proto/host/lock.js";
import type { Random } from "@tributary/proto/host/random.js";
import type { Jwks } from "@tributary/proto/identity/keyring.js";
import { keyFromPem, keyToPem, makeKey, publicJwk } from "@tributary/proto/identity/keys.js";
import { readSecretFile, writeSecretFile } from "@tributary/proto/identity/secret-file.js";
import type { SigningKey } from "@tributary/proto/identity/tokens.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { idSchema } from "@tributary/proto/wire/ids.js";
import { z } from "zod";
import { crossCertificate, rootCertificate, type Signer } from "./certificates.js";
import { authorityLimits } from "./limits.js";

const pemKey = z.string().refine((pem) => keyFromPem(pem) !== undefined, {
  message: "must be a private key in PEM",
});
const pemCertificate = z.string().regex(/^-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END/);

const validity = {
  createdAtMs: z.number().int(),
  /** When a key that was rotated ends; null for the one in use. */
  endsAtMs: z.number().int().nullable(),
};

const rootSchema = z.strictObject({
  certificate: pemCertificate,
  key: pemKey,
  /** By the authority before, for those who trust that one alone; null for the first. */
  cross: pemCertificate.nullable(),
  ...validity,
});
const signingSchema = z.strictObject({ kid: idSchema, key: pemKey, ...validity });

/**
 * Everything secret that a fleet's authority consists of: its certificate authorities and the keys that
 * it signs tokens and lists with, oldest first; the last of each is the one in use.
 */
export const authorityKeysSchema = z.strictObject({
  version: z.literal(1),
  fleet: idSchema,
  roots: z.array(rootSchema).min(1).max(authorityLimits.keysAtOnce),
  signing: z.array(signingSchema).min(1).max(authorityLimits.keysAtOnce),
});
export type AuthorityKeys = z.infer<typeof authorityKeysSchema>;

/** Where a cloud's authority is kept: one file, so that a rotation happens as a whole or not at all. */
export function authorityFile(dataDir: string): string {
  return join(dataDir, "authority", "authority.json");
}

/** Makes a fleet's first keys. */
export async function makeAuthorityKeys(
  fleet: string,
  nowMs: number,
  random: Random,
): Promise<AuthorityKeys> {
  return {
    version: 1,
    fleet,
    roots: [await makeRoot(fleet, nowMs, random)],
    signing: [makeSigning(nowMs, random)],
  };
}

async function makeRoot(fleet: string, nowMs: number, random: Random) {
  const key = makeKey("ES256");
  const from = Math.floor(nowMs / 1000) - authorityLimits.backdateSeconds;
  const to = from + authorityLimits.authorityDays * 86_400;
  const certificate = await rootCertificate(fleet, key, { from, to }, random);
  return { certificate, key: keyToPem(key), cross: null, createdAtMs: nowMs, endsAtMs: null };
}

function makeSigning(nowMs: number, random: Random) {
  const key = keyToPem(makeKey("EdDSA"));
  return { kid: random.id(12), key, createdAtMs: nowMs, endsAtMs: null };
}

/** Which keys a rotation replaces. */
export type RotationOf = "signing" | "roots";

/**
 * Puts a new key in the place of the one in use, which stays valid for the overlap. What has ended by
 * now is left out. Throws `authority-busy` when too many are valid at a time.
 */
export async function rotate(
  keys: AuthorityKeys,
  of: RotationOf,
  { nowMs, overlapMs, random }: { nowMs: number; overlapMs: number; random: Random },
): Promise<AuthorityKeys> {
  const ending = <T extends { endsAtMs: number | null }>(all: readonly T[]): T[] =>
    valid(all, nowMs)
      .map((one) => ({ ...one, endsAtMs: one.endsAtMs ?? nowMs + overlapMs }))
      .filter(({ endsAtMs }) => endsAtMs > nowMs);
  const full = ending<{ endsAtMs: number | null }>(keys[of]).length >= authorityLimits.keysAtOnce;
  if (full)
    throw new TributaryError(
      "authority-busy",
      `${authorityLimits.keysAtOnce} keys are valid already; wait until one has ended`,
    );
  if (of === "signing")
    return { ...keys, signing: [...ending(keys.signing), makeSigning(nowMs, random)] };
  const next = await makeRoot(keys.fleet, nowMs, random);
  const cross = await crossCertificate(next.certificate, signerOf(keys), random);
  return { ...keys, roots: [...ending(keys.roots), { ...next, cross }] };
}

/** Reads an authority. Failures: `authority-missing`; those of secret files, of other content too. */
export async function readAuthorityKeys(file: string): Promise<AuthorityKeys> {
  const text = await readSecretFile(file).catch((cause: unknown) => {
    if (!(cause instanceof TributaryError) || cause.code !== "secret-missing") throw cause;
    const message = `there is no authority at ${file}; make one with \`tributary cloud init\``;
    throw new TributaryError("authority-missing", message, { cause });
  });
  return parseAuthorityKeys(text, file);
}

export function parseAuthorityKeys(text: string, what: string): AuthorityKeys {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  const parsed = authorityKeysSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  // Issues quote nothing of the content, which is secret.
  const where = parsed.error.issues.map(({ path }) => path.join(".") || "all of it");
  throw new TributaryError(
    "secret-malformed",
    `${what} holds no authority that this build reads; wrong: ${[...new Set(where)].join(", ")}`,
  );
}

/** Keeps a fleet's first keys, or those of a backup. Throws `authority-exists` where there are some. */
export async function keepAuthority(dataDir: string, keys: AuthorityKeys): Promise<void> {
  try {
    await writeSecretFile(authorityFile(dataDir), textOf(keys), { replace: false });
  } catch (cause) {
    if (!(cause instanceof TributaryError) || cause.code !== "secret-exists") throw cause;
    const message = `${dataDir} has an authority already; nothing was changed`;
    throw new TributaryError("authority-exists", message, { cause });
  }
}

/** Changes the keys that are there; one process at a time. */
export async function changeAuthority(
  dataDir: string,
  change: (found: AuthorityKeys) => Promise<AuthorityKeys>,
): Promise<AuthorityKeys> {
  const file = authorityFile(dataDir);
  // Before the lock, which would make the directory.
  await readAuthorityKeys(file);
  const lock = await acquireLock(dirname(file));
  try {
    const next = await change(await readAuthorityKeys(file));
    await writeSecretFile(file, textOf(next), { replace: true });
    return next;
  } finally {
    await lock.release();
  }
}

function textOf(keys: AuthorityKeys): string {
  return `${JSON.stringify(keys, null, 2)}\n`;
}

/** The authority that issues. */
export function signerOf({ roots }: AuthorityKeys): Signer {
  const last = roots.at(-1);
  const key = keyFromPem(last?.key ?? "");
  if (last === undefined || key === undefined) throw new Error("an authority has a root");
  return { certificate: last.certificate, key };
}

/** Certificates between one that is issued now and the anchors, the nearest first. */
export function chainOf({ roots }: AuthorityKeys, nowMs: number): string[] {
  // An older authority that is trusted no more needs no link to it.
  return valid(roots, nowMs)
    .slice(1)
    .flatMap(({ cross }) => cross ?? [])
    .reverse();
}

/** The authorities' certificates that are trusted now, the newest first. */
export function anchorsOf({ roots }: AuthorityKeys, nowMs: number): string[] {
  return valid(roots, nowMs)
    .map(({ certificate }) => certificate)
    .reverse();
}

/** The key that tokens are signed with. */
export function tokenKey({ signing }: AuthorityKeys): SigningKey {
  return signingKey(signing.at(-1));
}

/** The oldest key that is valid: who has not heard of the newest can still check what it signs. */
export function listKey({ signing }: AuthorityKeys, nowMs: number): SigningKey {
  return signingKey(valid(signing, nowMs)[0]);
}

function signingKey(found: AuthorityKeys["signing"][number] | undefined): SigningKey {
  const key = keyFromPem(found?.key ?? "");
  if (found === undefined || key === undefined) throw new Error("an authority has a signing key");
  return { kid: found.kid, key };
}

/** The public keys to check tokens and lists with. */
export function jwksOf({ signing }: AuthorityKeys, nowMs: number): Jwks {
  return {
    keys: valid(signing, nowMs).map((one) => {
      const jwk = publicJwk(signingKey(one).key);
      if (jwk.kty !== "OKP") throw new Error("signing keys are Ed25519");
      return { ...jwk, kid: one.kid, alg: "EdDSA", use: "sig" };
    }),
  };
}

function valid<T extends { readonly endsAtMs: number | null }>(all: readonly T[], nowMs: number) {
  return all.filter(({ endsAtMs }) => endsAtMs === null || endsAtMs > nowMs);
}

export type KeyView = {
  readonly what: "authority" | "signing";
  readonly id: string;
  readonly state: "current" | "retired" | "ended";
  readonly createdAtMs: number;
  readonly endsAtMs: number | null;
};

/** What may be shown of the keys, oldest first. */
export function keyViews({ roots, signing }: AuthorityKeys, nowMs: number): KeyView[] {
  const stateOf = (endsAtMs: number | null): KeyView["state"] =>
    endsAtMs === null ? "current" : endsAtMs > nowMs ? "retired" : "ended";
  return [
    ...roots.map(({ certificate, createdAtMs, endsAtMs }) => ({
      what: "authority" as const,
      id: new X509Certificate(certificate).serialNumber.toLowerCase(),
      state: stateOf(endsAtMs),
      createdAtMs,
      endsAtMs: endsAtMs ?? Date.parse(new X509Certificate(certificate).validTo),
    })),
    ...signing.map(({ kid, createdAtMs, endsAtMs }) => ({
      what: "signing" as const,
      id: kid,
      state: stateOf(endsAtMs),
      createdAtMs,
      endsAtMs,
    })),
  ];
}
