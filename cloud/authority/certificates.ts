import "reflect-metadata";
import { createPublicKey, type KeyObject, webcrypto } from "node:crypto";
import { isIP } from "node:net";
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  cryptoProvider,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PublicKey,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import type { Random } from "@tributary/proto/host/random.js";
import { type PublicJwk, publicKey } from "@tributary/proto/identity/keys.js";
import { type Identity, type Subject, subjectUri } from "@tributary/proto/identity/names.js";
import { authorityLimits } from "./limits.js";

cryptoProvider.set(webcrypto);

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

/** An authority that can sign: its certificate in PEM, and its P-256 key. */
export type Signer = { readonly certificate: string; readonly key: KeyObject };

/** From and to when a certificate is valid, in seconds since 1970. */
export type Validity = { readonly from: number; readonly to: number };

/** Makes the certificate of an authority, signed by its own key. Its name is one of its own. */
export function rootCertificate(
  fleet: string,
  key: KeyObject,
  validity: Validity,
  random: Random,
): Promise<string> {
  const name = `CN=Tributary ${fleet} ${random.id(8)}`;
  const path = authorityLimits.keysAtOnce;
  return generate({ subject: name, issuer: name, key, signer: key, validity, random, path });
}

/**
 * Certifies a newer authority by an older one: whoever trusts the older one alone accepts what the
 * newer one issues, with this certificate in between.
 */
export function crossCertificate(newer: string, older: Signer, random: Random): Promise<string> {
  const next = new X509Certificate(newer);
  const issuer = new X509Certificate(older.certificate);
  return generate({
    subject: next.subject,
    issuer: issuer.subject,
    key: createPublicKey(newer),
    signer: older.key,
    validity: {
      from: seconds(next.notBefore),
      to: seconds(earlier(next.notAfter, issuer.notAfter)),
    },
    random,
    path: authorityLimits.keysAtOnce - 1,
  });
}

/** Certifies a key of a gateway or device. */
export async function leafCertificate(
  whose: Identity & { readonly fleet: string; readonly jwk: PublicJwk },
  signer: Signer,
  validity: Validity,
  random: Random,
): Promise<{ readonly certificate: string; readonly serial: string; readonly validity: Validity }> {
  const within = endingWith(signer, validity);
  const usages =
    whose.kind === "device"
      ? [ExtendedKeyUsage.clientAuth]
      : [ExtendedKeyUsage.clientAuth, ExtendedKeyUsage.serverAuth];
  const leaf = { subject: whose, key: publicKey(whose.jwk), usages, hosts: [] };
  const certificate = await certify(leaf, signer, within, random);
  return { certificate, serial: serialOf(certificate), validity: within };
}

/** Certifies the key that a cloud serves with, under its own name and those of its hosts. */
export async function serverCertificate(
  whose: { readonly fleet: string; readonly name: string; readonly key: KeyObject },
  hosts: readonly string[],
  signer: Signer,
  validity: Validity,
  random: Random,
): Promise<{ readonly certificate: string; readonly validity: Validity }> {
  const within = endingWith(signer, validity);
  const { fleet, name, key } = whose;
  const subject = { fleet, kind: "cloud" as const, name };
  const leaf = { subject, key, usages: [ExtendedKeyUsage.serverAuth], hosts };
  return { certificate: await certify(leaf, signer, within, random), validity: within };
}

/** No certificate outlives its authority's. */
function endingWith({ certificate }: Signer, { from, to }: Validity): Validity {
  return { from, to: Math.min(to, seconds(new X509Certificate(certificate).notAfter)) };
}

type Leaf = {
  readonly subject: Subject;
  readonly key: KeyObject;
  readonly usages: ExtendedKeyUsage[];
  readonly hosts: readonly string[];
};

function certify(
  { subject, key, usages, hosts }: Leaf,
  signer: Signer,
  validity: Validity,
  random: Random,
): Promise<string> {
  return generate({
    subject: `CN=${subject.name}`,
    issuer: new X509Certificate(signer.certificate).subject,
    key,
    signer: signer.key,
    validity,
    random,
    extensions: [
      new ExtendedKeyUsageExtension(usages),
      new SubjectAlternativeNameExtension([
        { type: "url", value: subjectUri(subject) },
        ...hosts.map((value) => ({
          type: isIP(value) === 0 ? ("dns" as const) : ("ip" as const),
          value,
        })),
      ]),
    ],
  });
}

/** A certificate's serial number, in lower-case hexadecimal. */
function serialOf(certificate: string): string {
  return new X509Certificate(certificate).serialNumber.toLowerCase();
}

type Contents = {
  readonly subject: string;
  readonly issuer: string;
  readonly key: KeyObject;
  readonly signer: KeyObject;
  readonly validity: Validity;
  readonly random: Random;
  /** Authorities that may stand below it; undefined for a certificate that is none. */
  readonly path?: number;
  readonly extensions?: readonly Extension[];
};

async function generate(contents: Contents): Promise<string> {
  const { subject, issuer, validity, random, path, extensions = [] } = contents;
  const key = exported(contents.key);
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serial(random),
    subject,
    issuer,
    notBefore: new Date(validity.from * 1000),
    notAfter: new Date(validity.to * 1000),
    signingAlgorithm: algorithm,
    publicKey: key,
    signingKey: await imported(contents.signer),
    extensions: [
      new BasicConstraintsExtension(path !== undefined, path, true),
      new KeyUsagesExtension(
        path === undefined
          ? KeyUsageFlags.digitalSignature
          : KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign,
        true,
      ),
      await SubjectKeyIdentifierExtension.create(key),
      await AuthorityKeyIdentifierExtension.create(exported(contents.signer)),
      ...extensions,
    ],
  });
  return `${certificate.toString("pem")}\n`;
}

/** 16 random bytes, the first from 0x40 on: positive, and of one length (RFC 5280, 4.1.2.2). */
function serial(random: Random): string {
  const bytes = Buffer.from(random.bytes(16));
  bytes[0] = 0x40 | ((bytes[0] ?? 0) & 0x3f);
  return bytes.toString("hex");
}

function exported(key: KeyObject): PublicKey {
  const open = key.type === "private" ? createPublicKey(key) : key;
  return new PublicKey(open.export({ type: "spki", format: "der" }));
}

function imported(key: KeyObject): Promise<webcrypto.CryptoKey> {
  const der = key.export({ type: "pkcs8", format: "der" });
  return webcrypto.subtle.importKey("pkcs8", der, algorithm, false, ["sign"]);
}

function seconds(date: Date): number {
  return Math.floor(date.getTime() / 1000);
}

function earlier(a: Date, b: Date): Date {
  return a < b ? a : b;
}
