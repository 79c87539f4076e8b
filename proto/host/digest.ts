import { createHash } from "node:crypto";

type Hashable = Uint8Array | string;

/** SHA-256 fed piece by piece; text counts as its UTF-8 bytes. */
export type Hasher = {
  update(piece: Hashable): Hasher;
  /** The digest in lower-case hexadecimal. Ends the hasher. */
  digest(): string;
};

export function createHasher(): Hasher {
  const hash = createHash("sha256");
  const hasher: Hasher = {
    update(piece) {
      hash.update(piece);
      return hasher;
    },
    digest: () => hash.digest("hex"),
  };
  return hasher;
}

/** SHA-256 of some bytes, or of several pieces as if joined, in lower-case hexadecimal. */
export function sha256(pieces: Hashable | readonly Hashable[]): string {
  const hasher = createHasher();
  if (typeof pieces === "string" || pieces instanceof Uint8Array) hasher.update(pieces);
  else for (const piece of pieces) hasher.update(piece);
  return hasher.digest();
}
