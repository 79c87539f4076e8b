import { createPublicKey, type KeyObject } from "node:crypto";
import { systemRandom } from "@tributary/proto/host/random.js";
import { readCertificates } from "@tributary/proto/identity/certificate.js";
import { anchorOf, claimText, makeClaim } from "@tributary/proto/identity/claim.js";
import type { Denylist } from "@tributary/proto/identity/denylist.js";
import { keyToPem, makeKey, publicJwk } from "@tributary/proto/identity/keys.js";
import type { Kind } from "@tributary/proto/identity/names.js";
import { type DeviceToken, signDeviceToken } from "@tributary/proto/identity/tokens.js";
import { createTestAuthority, type LeafContents } from "@tributary/proto/vectors/authority.js";
import type { GatewayIdentity } from "../identity.js";

export const FLEET = "press-works";
export const SITE = "plant";

/** What a client shows in TLS. */
export type Shown = { readonly key: string; readonly cert: string; readonly public: KeyObject };

/** A fleet with an authority and an issuer in memory, and one gateway of it. */
export function createDeviceFleet() {
  const authority = createTestAuthority();
  const issuer = { kid: "k1", key: makeKey("EdDSA") };
  const key = makeKey("ES256");
  const jwk = publicJwk(issuer.key);
  if (jwk.kty !== "OKP") throw new Error("an Ed25519 key");
  const listeners = new Set<() => void>();
  let denylist: Denylist | undefined;
  let anchors = readCertificates(authority.certificate);
  let certificate = authority.certify(
    { fleet: FLEET, kind: "gateway", site: SITE, name: "gw-1" },
    key,
  );
  const identity: GatewayIdentity = {
    fleet: FLEET,
    name: "gw-1",
    site: SITE,
    key,
    get certificate() {
      return certificate;
    },
    fromMs: 0,
    toMs: Number.MAX_SAFE_INTEGER,
    get anchors() {
      return anchors;
    },
    jwks: { keys: [{ ...jwk, kid: issuer.kid, alg: "EdDSA", use: "sig" }] },
    get denylist() {
      return denylist;
    },
    denylistText: undefined,
    takeDenylist: () => Promise.reject(new Error("no lists here")),
    onChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };

  return {
    authority,
    identity,
    issuer,
    anchor: anchorOf(authority.certificate),
    claim: claimText(makeClaim(systemRandom(), anchorOf(authority.certificate))),
    certify(
      name: string,
      contents: Partial<LeafContents> & {
        readonly kind?: Kind;
        readonly site?: string;
        readonly fleet?: string;
      } = {},
    ): Shown {
      const { kind = "device", site = SITE, fleet = FLEET, ...leaf } = contents;
      const own = makeKey(kind === "device" ? "EdDSA" : "ES256");
      const cert = authority.certify({ fleet, kind, site, name }, own, leaf);
      return { key: keyToPem(own), cert, public: createPublicKey(own) };
    },
    token(name: string, changes: Partial<DeviceToken> = {}, signing = issuer): Promise<string> {
      const own = publicJwk(makeKey("EdDSA"));
      if (own.kty !== "OKP") throw new Error("an Ed25519 key");
      const iat = Math.floor(Date.now() / 1000) - 10;
      const token = { sub: name, site: SITE, cnf: { jwk: own }, iat, exp: iat + 3_600, jti: "t1" };
      return signDeviceToken(FLEET, { ...token, ...changes }, signing);
    },
    /** Voids what a device was given before a time, in seconds since 1970. */
    revoke(name: string, before: number): void {
      denylist = {
        fleet: FLEET,
        sequence: (denylist?.sequence ?? 0) + 1,
        issuedAt: before,
        entries: [...(denylist?.entries ?? []), { kind: "device", name, before }],
      };
      for (const listener of listeners) listener();
    },
    /** Has the gateway show another certificate from now on. */
    renewGateway(contents: Partial<LeafContents> = {}): void {
      const subject = { fleet: FLEET, kind: "gateway", site: SITE, name: "gw-1" } as const;
      certificate = authority.certify(subject, key, contents);
      for (const listener of listeners) listener();
    },
    /** A newer authority takes over: it is trusted beside the older one, which vouches for it. */
    rotate(): void {
      const newer = createTestAuthority("newer authority");
      anchors = [...readCertificates(newer.certificate), ...anchors];
      const subject = { fleet: FLEET, kind: "gateway", site: SITE, name: "gw-1" } as const;
      certificate = newer.certify(subject, key) + authority.cross(newer);
      for (const listener of listeners) listener();
    },
  };
}

export type DeviceFleet = ReturnType<typeof createDeviceFleet>;
