/** Bounds of identities and what proves them, with what happens at them. */
export const identityLimits = {
  /** Characters of a token. `token-malformed`. */
  tokenChars: 8 * 1024,
  /** Characters of a signing request. `request-malformed`. */
  requestChars: 8 * 1024,
  /** Characters of a claim. `request-malformed`. */
  claimChars: 256,
  /** Characters of a denylist. `denylist-malformed`. */
  denylistChars: 2 * 1024 * 1024,
  /** Entries of a denylist. `denylist-malformed`; who signs one refuses the entry before. */
  denylistEntries: 10_000,
  /** Public keys that a fleet shows at a time. More are not read. */
  publicKeys: 16,
  /** Roles that one token names. `token-malformed`. */
  roles: 64,
  /** Characters of a person's or a program's name. `token-malformed`. */
  displayNameChars: 128,
  /** Clocks of two parts may differ by so much, in seconds, where a time in a token is judged. */
  leewaySeconds: 60,
  /** Characters of a challenge's warrant. `warrant-invalid`. */
  warrantChars: 1024,
  /** A file that holds a secret, in bytes. A longer one is not read: `secret-malformed`. */
  secretFileBytes: 256 * 1024,
  /** Characters of a software bundle's manifest. `bundle-malformed`. */
  bundleManifestChars: 128 * 1024,
  /** Files of a software bundle. `bundle-malformed`. */
  bundleFiles: 256,
  /** Bytes of a software bundle's files, unpacked. `bundle-malformed`. */
  bundleBytes: 512 * 1024 * 1024,
} as const;
