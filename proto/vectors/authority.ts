import { createPublicKey, type KeyObject, randomBytes, sign, X509Certificate } from "node:crypto";
import { makeKey } from "../identity/keys.js";
import { type Subject, subjectUri } from "../identity/names.js";

/**
 * An authority for tests: X.509 certificates written in DER (X.690) with nothing but `node:crypto`, so
 * that a tier's tests need no other tier, and can have certificates that no authority would give.
 */
export type TestAuthority = {
  readonly key: KeyObject;
  readonly certificate: string;
  /** PEM, for a key of a gateway or device. */
  certify(subject: Subject, key: KeyObject, contents?: Partial<LeafContents>): string;
  /** Certifies another authority's key. */
  cross(other: TestAuthority): string;
};

export type LeafContents = {
  readonly fromMs: number;
  readonly toMs: number;
  /** In place of the subject's own. */
  readonly uses: readonly ("client" | "server")[];
  /** In place of the subject's URI. */
  readonly uris: readonly string[];
  /** Says that it may issue others; false says nothing of what its key is for. */
  readonly issues: boolean;
};

const DAY_MS = 86_400_000;

export function createTestAuthority(name = "test authority"): TestAuthority {
  const key = makeKey("ES256");
  const nowMs = Date.now();
  const life = { fromMs: nowMs - DAY_MS, toMs: nowMs + 3_650 * DAY_MS };
  const write = (subject: string, of: KeyObject, dates: typeof life, more: readonly Buffer[]) =>
    certificate({ issuer: name, subject, key: of, signer: key, ...dates, extensions: more });
  return {
    key,
    certificate: write(name, key, life, authorityExtensions),
    certify(subject, of, contents = {}) {
      const own = subject.kind === "device" ? ["client" as const] : ["client", "server"] as const;
      const { fromMs = nowMs - 300_000, toMs = nowMs + 30 * DAY_MS } = contents;
      const { uses = own, uris = [subjectUri(subject)] } = contents;
      const { issues } = contents;
      const names = uris.map((uri) => der(0x86, Buffer.from(uri)));
      return write(subject.name, of, { fromMs, toMs }, [
        ...(issues ? authorityExtensions : []),
        ...(issues === undefined ? [extension("551d0f", bits(0x80, 7), true)] : []),
        extension("551d25", sequence(...uses.map((use) => oid(usageOids[use])))),
        ...(names.length === 0 ? [] : [extension("551d11", sequence(...names))]),
      ]);
    },
    cross(other) {
      const { subject } = new X509Certificate(other.certificate);
      return write(subject.replace("CN=", ""), other.key, life, authorityExtensions);
    },
  };
}

/** The numbers of RFC 5280, as the bytes that stand in a certificate. */
const usageOids = { server: "2b06010505070301", client: "2b06010505070302" } as const;
const ecdsaWithSha256 = () => sequence(oid("2a8648ce3d040302"));

function der(tag: number, ...parts: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(parts);
  const { length } = body;
  const size =
    length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255];
  return Buffer.concat([Uint8Array.from([tag, ...size]), body]);
}

const sequence = (...parts: readonly Uint8Array[]) => der(0x30, ...parts);
const oid = (hex: string) => der(0x06, Buffer.from(hex, "hex"));
const bits = (byte: number, unused: number) => der(0x03, Uint8Array.of(unused, byte));
const named = (name: string) =>
  sequence(der(0x31, sequence(oid("550403"), der(0x0c, Buffer.from(name)))));

function extension(id: string, value: Buffer, critical = false): Buffer {
  const flag = critical ? [der(0x01, Uint8Array.of(0xff))] : [];
  return sequence(oid(id), ...flag, der(0x04, value));
}

/** Basic constraints: an authority. Key usage: certificates and lists. */
const authorityExtensions = [
  extension("551d13", sequence(der(0x01, Uint8Array.of(0xff))), true),
  extension("551d0f", bits(0x06, 1), true),
];

/** GeneralizedTime, to the second. */
function time(ms: number): Buffer {
  const digits = new Date(ms).toISOString().replace(/\.\d+/, "").replace(/[-:T]/g, "");
  return der(0x18, Buffer.from(digits));
}

type Contents = {
  readonly issuer: string;
  readonly subject: string;
  readonly key: KeyObject;
  readonly signer: KeyObject;
  readonly fromMs: number;
  readonly toMs: number;
  readonly extensions: readonly Buffer[];
};

function certificate({ issuer, subject, key, signer, fromMs, toMs, extensions }: Contents): string {
  const open = key.type === "private" ? createPublicKey(key) : key;
  const serial = randomBytes(16);
  serial[0] = 0x40 | ((serial[0] ?? 0) & 0x3f);
  const body = sequence(
    der(0xa0, der(0x02, Uint8Array.of(2))),
    der(0x02, serial),
    ecdsaWithSha256(),
    named(issuer),
    sequence(time(fromMs), time(toMs)),
    named(subject),
    open.export({ type: "spki", format: "der" }),
    der(0xa3, sequence(...extensions)),
  );
  const signature = der(0x03, Uint8Array.of(0), sign("sha256", body, signer));
  const bytes = sequence(body, ecdsaWithSha256(), signature).toString("base64");
  const lines = bytes.match(/.{1,64}/g)?.join("\n");
  return `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`;
}
