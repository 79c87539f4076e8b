import type { KeyObject, X509Certificate } from "node:crypto";
import { judgeChain, judgeDates } from "@tributary/proto/identity/certificate.js";
import { anchorOf, readClaim } from "@tributary/proto/identity/claim.js";
import { type Denylist, denials, type IsVoid } from "@tributary/proto/identity/denylist.js";
import { createKeyring } from "@tributary/proto/identity/keyring.js";
import { publicKey } from "@tributary/proto/identity/keys.js";
import { identityLimits } from "@tributary/proto/identity/limits.js";
import { tokenEndMs, verifyDeviceToken } from "@tributary/proto/identity/tokens.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { GatewayIdentity } from "./identity.js";

/** What a device has shown, and what it is bound to. */
export type Credential = {
  readonly by: "certificate" | "token";
  /** The device's public key, which it also signs its updates with. */
  readonly key: KeyObject;
  /** In seconds since 1970: what a denylist compares. */
  readonly givenAt: number;
  readonly endsAtMs: number;
};

/** What somebody may be here for. */
export type Standing =
  /** Whoever it says it is: nothing here can be checked against anything. */
  | { readonly as: "anybody" }
  | { readonly as: "device"; readonly credential: Credential }
  /** To ask for a first certificate. Nothing is proven: not even the name. */
  | { readonly as: "newcomer"; readonly claim: string }
  /** To ask for the next certificate: that which it showed has ended. */
  | { readonly as: "late"; readonly credential: Credential };

/** What a CONNECT says of who comes. */
export type Introduction = {
  /** The client id. */
  readonly device: string;
  readonly username: string | undefined;
  readonly password: string | undefined;
  /** What was shown in the TLS handshake, the own certificate first. */
  readonly certificates: readonly X509Certificate[];
};

/** Decides who may connect, and as what, from what the gateway has: no one else is asked. */
export type DeviceAccess = {
  /**
   * Refusals: `claim-malformed`, `claim-unknown` (of another fleet); `certificate-...`; `token-...`.
   */
  admit(introduction: Introduction): Promise<Verdict<{ readonly standing: Standing }>>;
  /** Why a connection may not go on, of what was admitted before; undefined when it may. */
  objection(device: string, standing: Standing): Refusal | undefined;
};

export type DeviceAccessOptions = {
  readonly identity: Pick<GatewayIdentity, "fleet" | "site" | "anchors" | "jwks" | "denylist">;
  /** The site's time. */
  readonly nowMs: () => number;
  /** Whether what ended at a time is taken all the same, for it could not be renewed. */
  readonly spares: (endedAtMs: number) => boolean;
};

/** The user name of a newcomer, whose password is a claim. A token comes with any other. */
const NEWCOMER = "enrol";

export function createDeviceAccess({ identity, nowMs, spares }: DeviceAccessOptions): DeviceAccess {
  let read: { readonly list: Denylist | undefined; readonly isVoid: IsVoid } | undefined;
  const isVoid: IsVoid = (kind, name, givenAt) => {
    const { denylist: list } = identity;
    if (read === undefined || read.list !== list)
      read = { list, isVoid: denials(list ?? { entries: [] }) };
    return read.isVoid(kind, name, givenAt);
  };

  function admitClaim(text: string): Verdict<{ readonly standing: Standing }> {
    const claim = readClaim(text);
    if (claim === undefined) return refuse("claim-malformed", "the password is no claim");
    if (!identity.anchors.some((anchor) => anchorOf(anchor.raw) === claim.anchor))
      return refuse("claim-unknown", "the claim is of another fleet's authority");
    return { ok: true, standing: { as: "newcomer", claim: text } };
  }

  /** A device whose proof of itself has ended may ask for the next one, and no more. */
  function standingOf(credential: Credential): Verdict<{ readonly standing: Standing }> {
    const leewayMs = identityLimits.leewaySeconds * 1000;
    const { endsAtMs } = credential;
    const counts = nowMs() < endsAtMs + leewayMs || spares(endsAtMs);
    return { ok: true, standing: { as: counts ? "device" : "late", credential } };
  }

  function admitCertificate(
    device: string,
    shown: readonly X509Certificate[],
  ): Verdict<{ readonly standing: Standing }> {
    const { fleet, site, anchors } = identity;
    const judged = judgeChain(shown, { anchors, fleet, use: "client", nowMs: nowMs() });
    if (!judged.ok) return judged;
    const { subject, key, fromMs, toMs } = judged.certified;
    if (subject.kind !== "device")
      return refuse("certificate-subject", `the certificate is a ${subject.kind}'s`);
    if (subject.name !== device)
      return refuse("certificate-subject", `the certificate is the device ${subject.name}'s`);
    if (subject.site !== site)
      return refuse("certificate-subject", `the certificate is for the site ${subject.site}`);
    const givenAt = fromMs / 1000;
    if (isVoid("device", device, givenAt))
      return refuse("certificate-revoked", "the device was revoked after it got this certificate");
    const dates = judgeDates({ fromMs, toMs }, nowMs());
    if (dates?.code === "certificate-not-yet-valid") return dates;
    return standingOf({ by: "certificate", key, givenAt, endsAtMs: toMs });
  }

  async function admitToken(
    device: string,
    text: string,
  ): Promise<Verdict<{ readonly standing: Standing }>> {
    const { fleet, site, jwks } = identity;
    const verify = (atMs: number) =>
      verifyDeviceToken(text, {
        ...{ fleet, keyring: createKeyring(jwks), nowMs: atMs, device, site },
        isVoid: (name, givenAt) => isVoid("device", name, givenAt),
      });
    let judged = await verify(nowMs());
    // Its end is what it says itself; whether that is true is judged with all the rest.
    if (!judged.ok && judged.code === "token-expired") judged = await verify(tokenEndMs(text));
    if (!judged.ok) return judged;
    const { cnf, iat, exp } = judged.token;
    const key = publicKey(cnf.jwk);
    return standingOf({ by: "token", key, givenAt: iat, endsAtMs: exp * 1000 });
  }

  return {
    async admit({ device, username, password, certificates }) {
      if (username === NEWCOMER) return admitClaim(password ?? "");
      if (certificates.length > 0) return admitCertificate(device, certificates);
      if (password !== undefined) return admitToken(device, password);
      return refuse("certificate-missing", "neither a certificate nor a token was shown");
    },
    objection(device, standing) {
      if (standing.as === "anybody" || standing.as === "newcomer") return undefined;
      const { by, givenAt } = standing.credential;
      if (isVoid("device", device, givenAt))
        return refuse(`${by}-revoked`, "the device was revoked");
      const now = standingOf(standing.credential);
      if (standing.as === "late" || (now.ok && now.standing.as === "device")) return undefined;
      return refuse(`${by}-expired`, `the ${by} has ended`);
    },
  };
}
