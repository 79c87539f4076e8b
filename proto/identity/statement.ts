import { type KeyObject, sign, verify } from "node:crypto";

/** What a device says of one of its updates; the digest covers all of the update (`wire/update.ts`). */
export type UpdateStatement = {
  readonly round: string;
  readonly device: string;
  readonly digest: string;
};

/**
 * The text that a device signs, UTF-8 with `\n` after each line. Its first line sets it apart from
 * whatever else the same key signs: a JWS has no line break, and TLS signs 64 spaces first.
 */
function statementText({ round, device, digest }: UpdateStatement): Uint8Array {
  return Buffer.from(
    `tributary-update-statement/1\nround ${round}\ndevice ${device}\ndigest ${digest}\n`,
  );
}

/** Signs for an update with the device's Ed25519 key: 64 bytes (RFC 8032). */
export function signUpdate(statement: UpdateStatement, key: KeyObject): Uint8Array {
  return new Uint8Array(sign(null, statementText(statement), key));
}

/** Whether the device with that public key signed for the update. */
export function verifyUpdate(
  statement: UpdateStatement,
  signature: Uint8Array,
  key: KeyObject,
): boolean {
  return (
    key.asymmetricKeyType === "ed25519" && verify(null, statementText(statement), key, signature)
  );
}
