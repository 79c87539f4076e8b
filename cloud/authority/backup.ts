import { createCipheriv, createDecipheriv, randomBytes, scryptSync } from "node:crypto";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { z } from "zod";
import { type AuthorityKeys, parseAuthorityKeys } from "./keys.js";
import { authorityLimits } from "./limits.js";

const bytes = (length: number) =>
  z.base64url().refine((text) => Buffer.from(text, "base64url").length === length);

/** All of it but the last two members is bound by the tag. */
const backupSchema = z.strictObject({
  format: z.literal("tributary-authority-backup"),
  version: z.literal(1),
  fleet: z.string().max(64),
  /** RFC 7914. The bounds keep a made-up file from taking the machine's memory. */
  scrypt: z.strictObject({
    n: z.union([z.literal(2 ** 15), z.literal(2 ** 16), z.literal(2 ** 17)]),
    r: z.literal(8),
    p: z.literal(1),
    salt: bytes(16),
  }),
  cipher: z.literal("aes-256-gcm"),
  nonce: bytes(12),
  tag: bytes(16),
  data: z.base64url(),
});
type Backup = z.infer<typeof backupSchema>;

/** Encrypts an authority under a passphrase: scrypt, then AES-256-GCM. JSON text. */
export function sealBackup(keys: AuthorityKeys, passphrase: string): string {
  checkPassphrase(passphrase);
  const head = {
    format: "tributary-authority-backup" as const,
    version: 1 as const,
    fleet: keys.fleet,
    scrypt: { n: 2 ** 17, r: 8, p: 1, salt: randomBytes(16).toString("base64url") } as const,
    cipher: "aes-256-gcm" as const,
    nonce: randomBytes(12).toString("base64url"),
  };
  const key = keyOf(passphrase, head.scrypt);
  const cipher = createCipheriv("aes-256-gcm", key, Buffer.from(head.nonce, "base64url"));
  cipher.setAAD(boundOf(head));
  const data = Buffer.concat([cipher.update(JSON.stringify(keys), "utf8"), cipher.final()]);
  const backup: Backup = {
    ...head,
    tag: cipher.getAuthTag().toString("base64url"),
    data: data.toString("base64url"),
  };
  return `${JSON.stringify(backup, null, 2)}\n`;
}

/**
 * Opens a backup. Failures: `backup-malformed`; `backup-closed` for another passphrase, or for a file
 * that was changed: the two look the same.
 */
export function openBackup(text: string, passphrase: string): AuthorityKeys {
  const { tag, data, ...head } = parseBackup(text);
  const key = keyOf(passphrase, head.scrypt);
  const cipher = createDecipheriv("aes-256-gcm", key, Buffer.from(head.nonce, "base64url"));
  cipher.setAAD(boundOf(head));
  cipher.setAuthTag(Buffer.from(tag, "base64url"));
  let content: Buffer;
  try {
    content = Buffer.concat([cipher.update(Buffer.from(data, "base64url")), cipher.final()]);
  } catch (cause) {
    const message = "the passphrase is another, or the backup was changed";
    throw new TributaryError("backup-closed", message, { cause });
  }
  return parseAuthorityKeys(content.toString("utf8"), "the backup");
}

function parseBackup(text: string): Backup {
  try {
    return backupSchema.parse(JSON.parse(text));
  } catch (cause) {
    const message = "this is no backup of an authority that this build reads";
    throw new TributaryError("backup-malformed", message, { cause });
  }
}

function keyOf(passphrase: string, { n, r, p, salt }: Backup["scrypt"]): Buffer {
  // The algorithm takes 128 N r bytes.
  const options = { N: n, r, p, maxmem: 256 * n * r };
  const normal = passphrase.normalize("NFC");
  return scryptSync(normal, Buffer.from(salt, "base64url"), 32, options);
}

function boundOf(head: Omit<Backup, "tag" | "data">): Buffer {
  const { format, version, fleet, scrypt, cipher, nonce } = head;
  const { n, r, p, salt } = scrypt;
  return Buffer.from(JSON.stringify([format, version, fleet, n, r, p, salt, cipher, nonce]));
}

function checkPassphrase(passphrase: string): void {
  const { passphraseCharsMin: min, passphraseCharsMax: max } = authorityLimits;
  if (passphrase.length < min || passphrase.length > max)
    throw new TributaryError(
      "backup-passphrase",
      `the passphrase must have ${min} to ${max} characters`,
    );
}
