import type { KeyObject, X509Certificate } from "node:crypto";
import type { Denylist } from "@tributary/proto/identity/denylist.js";
import type { Jwks } from "@tributary/proto/identity/keyring.js";
import type { Verdict } from "@tributary/proto/wire/verdict.js";

/**
 * Who a gateway is, what it shows to prove it, and what it checks others by; kept in
 * `<dataDir>/identity/`. What is renewed while the process runs changes here: read it anew for each use.
 */
export type GatewayIdentity = {
  readonly fleet: string;
  readonly name: string;
  readonly site: string;
  /** Private, on P-256. */
  readonly key: KeyObject;
  /** PEM as TLS sends it: the own certificate first, then what stands between it and the anchors. */
  readonly certificate: string;
  /** When the own certificate begins and ends, in milliseconds since 1970. */
  readonly fromMs: number;
  readonly toMs: number;
  /** The authorities that are trusted. */
  readonly anchors: readonly X509Certificate[];
  /** The issuer's public keys, which tokens and denylists are checked with. */
  readonly jwks: Jwks;
  /** The newest list that is known. */
  readonly denylist: Denylist | undefined;
  /** It as it travels, signed. */
  readonly denylistText: string | undefined;
  /**
   * Takes a list from whatever way it came: checks it, and keeps a newer one durably. `news` is false
   * for the one that is held. Refusals: `denylist-malformed`, `denylist-signature`, `denylist-old`.
   */
  takeDenylist(text: string): Promise<Verdict<{ readonly news: boolean }>>;
  /** Calls back after anything of it has changed. Returns how to stop that. */
  onChange(listener: () => void): () => void;
};
