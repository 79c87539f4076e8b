import type { KeyObject, X509Certificate } from "node:crypto";
import { judgeChain, judgeDates } from "../identity/certificate.js";
import type { IsVoid } from "../identity/denylist.js";
import { refuse, type Verdict } from "../wire/verdict.js";

/** What one side of the tier link shows, and checks the other by. Read anew for each connection. */
export type TierIdentity = {
  readonly fleet: string;
  readonly key: KeyObject;
  /** PEM: its own certificate, then what stands between it and the anchors. */
  readonly certificate: string;
  readonly anchors: readonly X509Certificate[];
  /** Whether what somebody was given at a time is void. */
  readonly isVoid: IsVoid;
  /** Calls back after any of it has changed. Returns how to stop that. */
  onChange(listener: () => void): () => void;
};

/** A gateway that attaches, by its certificate. */
export type Peer = {
  readonly name: string;
  readonly site: string;
  /** Start of the certificate's validity, in seconds since 1970. */
  readonly from: number;
};

/**
 * Judges who attaches: only a gateway of this fleet whose certificate is valid and not void. Refusals:
 * those of `judgeChain` and `judgeDates`; `certificate-subject` for other kinds, `certificate-revoked`.
 * @param dates false where they were judged before: a connection may outlive its certificate.
 */
export function judgePeer(
  shown: readonly X509Certificate[],
  { fleet, anchors, isVoid }: Pick<TierIdentity, "fleet" | "anchors" | "isVoid">,
  nowMs: number,
  dates = true,
): Verdict<{ readonly peer: Peer }> {
  const judged = judgeChain(shown, { anchors, fleet, use: "client", nowMs });
  if (!judged.ok) return judged;
  const { certified } = judged;
  const { subject, fromMs } = certified;
  const outside = dates ? judgeDates(certified, nowMs) : undefined;
  if (outside !== undefined) return outside;
  if (subject.kind !== "gateway")
    return refuse("certificate-subject", `the certificate is a ${subject.kind}'s, not a gateway's`);
  const { name, site } = subject;
  const from = fromMs / 1000;
  if (isVoid("gateway", name, from))
    return refuse("certificate-revoked", `the certificate of ${name} was revoked`);
  return { ok: true, peer: { name, site, from } };
}
