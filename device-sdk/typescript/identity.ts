import { createPublicKey, type KeyObject, type X509Certificate } from "node:crypto";
import { join } from "node:path";
import { judgeChain, readCertificates } from "@tributary/proto/identity/certificate.js";
import { type Jwks, jwksSchema } from "@tributary/proto/identity/keyring.js";
import { loadKey, makeKey, saveKey } from "@tributary/proto/identity/keys.js";
import { readSecretFile, writeSecretFile } from "@tributary/proto/identity/secret-file.js";
import type { Down } from "@tributary/proto/wire/device-link.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { idSchema } from "@tributary/proto/wire/ids.js";
import { z } from "zod";

/** What the authority gives a device. */
export type DeviceGrant = Down<"enrolled">;

/**
 * Who a device is, what it shows to prove it, and whom it trusts. A renewal changes it: read it anew for
 * each use.
 */
export type DeviceIdentity = {
  readonly fleet: string;
  readonly site: string;
  readonly device: string;
  /** Private, Ed25519: for TLS, for requests, and to sign updates. */
  readonly key: KeyObject;
  /** PEM as TLS sends it: the own certificate first, then what stands between it and the anchors. */
  readonly certificate: string;
  readonly serial: string;
  /** When the certificate, and the token with it, begins and ends, in milliseconds since 1970. */
  readonly fromMs: number;
  readonly toMs: number;
  /** The authorities that are trusted. */
  readonly anchors: readonly X509Certificate[];
  /** What stands for the certificate where TLS cannot show one. */
  readonly token: string;
  /** The issuer's public keys. */
  readonly jwks: Jwks;
  /** Keeps what a renewal brought, durably. Throws `grant-malformed` for what is not this device's. */
  take(grant: DeviceGrant): Promise<void>;
};

/** Whose identity it is, and the folder that it is kept in. */
export type IdentityPlace = {
  readonly dir: string;
  readonly device: string;
  readonly site: string;
};

const files = {
  key: "key.pem",
  certificate: "certificate.pem",
  anchors: "anchors.pem",
  token: "token.jwt",
  fleet: "fleet.json",
} as const;

const fleetSchema = z.strictObject({ version: z.literal(1), fleet: idSchema, jwks: jwksSchema });

/** The device's key: made here, once, and never moved. */
export async function ownKey(dir: string): Promise<KeyObject> {
  const file = join(dir, files.key);
  const found = await present(loadKey(file));
  if (found !== undefined) return found;
  const key = makeKey("EdDSA");
  await saveKey(file, key);
  return key;
}

/**
 * Reads the identity that a folder holds; undefined where nobody enrolled. Failures: those of secret
 * files; `grant-malformed` for another device's.
 */
export async function openIdentity(place: IdentityPlace): Promise<DeviceIdentity | undefined> {
  const read = (file: string) => readSecretFile(join(place.dir, file));
  // Written last: with it the rest is there.
  const certificate = await present(read(files.certificate));
  if (certificate === undefined) return undefined;
  const key = await loadKey(join(place.dir, files.key));
  const { fleet, jwks } = fleetOf(await read(files.fleet), join(place.dir, files.fleet));
  const held = { certificate, anchors: await read(files.anchors), token: await read(files.token) };
  return createIdentity(place, fleet, key, { ...held, jwks });
}

/** Makes the identity of a device that has just enrolled, and keeps it durably. */
export async function keepIdentity(
  place: IdentityPlace,
  fleet: string,
  key: KeyObject,
  grant: DeviceGrant,
): Promise<DeviceIdentity> {
  const identity = createIdentity(place, fleet, key, heldOf(grant));
  await identity.take(grant);
  return identity;
}

/** Texts as they lie in the folder. */
type Held = {
  readonly certificate: string;
  readonly anchors: string;
  readonly token: string;
  readonly jwks: Jwks;
};

function heldOf({ certificate, chain, anchors, token, jwks }: DeviceGrant): Held {
  return { certificate: [certificate, ...chain].join(""), anchors: anchors.join(""), token, jwks };
}

function createIdentity(
  place: IdentityPlace,
  fleet: string,
  key: KeyObject,
  first: Held,
): DeviceIdentity {
  const { device, site, dir } = place;
  const stateOf = (held: Held) => ({ ...held, ...ownOf(held, place, fleet, key) });
  let state = stateOf(first);
  const write = (file: string, text: string) =>
    writeSecretFile(join(dir, file), text, { replace: true });
  return {
    ...{ fleet, device, site, key },
    get certificate() {
      return state.certificate;
    },
    get serial() {
      return state.serial;
    },
    get fromMs() {
      return state.fromMs;
    },
    get toMs() {
      return state.toMs;
    },
    get anchors() {
      return state.trusted;
    },
    get token() {
      return state.token;
    },
    get jwks() {
      return state.jwks;
    },
    async take(grant) {
      const next = stateOf(heldOf(grant));
      // Each of them is good with any of the others, so that an end in between does no harm.
      await write(files.anchors, next.anchors);
      await write(files.fleet, `${JSON.stringify({ version: 1, fleet, jwks: next.jwks })}\n`);
      await write(files.token, next.token);
      await write(files.certificate, next.certificate);
      state = next;
    },
  };
}

function ownOf(
  { certificate, anchors }: Held,
  { device, site }: IdentityPlace,
  fleet: string,
  key: KeyObject,
) {
  const trusted = readCertificates(anchors);
  const shown = readCertificates(certificate);
  const nowMs = Date.parse(shown[0]?.validFrom ?? "");
  const judged = judgeChain(shown, { anchors: trusted, fleet, use: "client", nowMs });
  if (!judged.ok) throw malformed(judged.message);
  const { subject, serial, fromMs, toMs, key: certified } = judged.certified;
  if (subject.kind !== "device" || subject.name !== device || subject.site !== site)
    throw malformed(`it is for the ${subject.kind} ${subject.name}`);
  if (!certified.equals(createPublicKey(key))) throw malformed("it is for another key");
  return { trusted, serial, fromMs, toMs };
}

function malformed(why: string): TributaryError {
  return new TributaryError("grant-malformed", `the certificate is not this device's: ${why}`);
}

function fleetOf(text: string, path: string): z.infer<typeof fleetSchema> {
  try {
    return fleetSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new TributaryError("secret-malformed", `${path} is not what a device wrote`, { cause });
  }
}

/** Undefined for a file that is not there. */
function present<T>(reading: Promise<T>): Promise<T | undefined> {
  return reading.catch((cause: unknown) => {
    if (cause instanceof TributaryError && cause.code === "secret-missing") return undefined;
    throw cause;
  });
}
