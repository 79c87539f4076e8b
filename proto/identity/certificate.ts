import { type KeyObject, X509Certificate } from "node:crypto";
import { limits } from "../wire/limits.js";
import { type Refusal, refuse, type Verdict } from "../wire/verdict.js";
import { identityLimits } from "./limits.js";
import { readSubjectUri, type Subject } from "./names.js";

/** What a certificate of a fleet says, once it is known to be one. */
export type Certified = {
  readonly subject: Subject;
  readonly key: KeyObject;
  readonly serial: string;
  /** Whole seconds since 1970, as milliseconds. */
  readonly fromMs: number;
  readonly toMs: number;
};

export type CertificateRules = {
  /** The authorities that are trusted. */
  readonly anchors: readonly X509Certificate[];
  readonly fleet: string;
  /** At which side of TLS it is shown. */
  readonly use: "client" | "server";
  readonly nowMs: number;
};

/** Extended key usages by their numbers (RFC 5280, 4.2.1.12). */
const usages = { server: "1.3.6.1.5.5.7.3.1", client: "1.3.6.1.5.5.7.3.2" } as const;

const BEGIN = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** Reads the certificates of a PEM text, in their order. Throws for what is no certificate. */
export function readCertificates(pem: string): X509Certificate[] {
  return [...pem.matchAll(BEGIN)].map(([one]) => new X509Certificate(one));
}

/**
 * Judges what somebody showed in a TLS handshake, which has proven that the key of the first is
 * theirs: the leaf, then what may stand between it and an anchor. Dates of authorities are judged, those of
 * the leaf are not: `judgeDates` does. Unlike the TLS library this takes the time from the caller,
 * whose machine's clock may be wrong, and can accept a leaf that has ended. Refusals:
 * `certificate-missing`, `certificate-untrusted`, `certificate-subject` (another fleet's).
 */
export function judgeChain(
  shown: readonly X509Certificate[],
  { anchors, fleet, use, nowMs }: CertificateRules,
): Verdict<{ readonly certified: Certified }> {
  const [leaf, ...between] = shown;
  if (leaf === undefined) return refuse("certificate-missing", "no certificate was shown");
  if (leaf.ca || !(leaf.keyUsage ?? []).includes(usages[use]))
    return refuse("certificate-untrusted", `the certificate is not for a ${use}`);
  const usable = between.slice(0, limits.certificates);
  if (!isIssuedBy(leaf, usable, anchors, nowMs))
    return refuse("certificate-untrusted", "the certificate is not of a trusted authority");
  const subject = subjectOf(leaf);
  if (subject === undefined)
    return refuse("certificate-untrusted", "the certificate names nobody of a fleet");
  if (subject.fleet !== fleet)
    return refuse("certificate-subject", `the certificate is of the fleet ${subject.fleet}`);
  const serial = leaf.serialNumber.toLowerCase();
  return { ok: true, certified: { subject, key: leaf.publicKey, serial, ...datesOf(leaf) } };
}

/** What Node writes of a name that holds nothing which it would have to quote. */
const ALT_NAMES = /^(?:(?:URI|DNS|IP Address):[^\s,"]+(?:, |$))+$/;

/** Whom a certificate speaks for: its one URI. Names of hosts may stand beside it. */
export function subjectOf(leaf: X509Certificate): Subject | undefined {
  const names = leaf.subjectAltName ?? "";
  if (!ALT_NAMES.test(names)) return undefined;
  const [uri, ...more] = names.split(", ").filter((name) => name.startsWith("URI:"));
  return uri === undefined || more.length > 0
    ? undefined
    : readSubjectUri(uri.slice("URI:".length));
}

/** Whether a certificate is valid at a time; clocks may differ by a leeway. No date is no valid one. */
export function judgeDates(
  { fromMs, toMs }: Pick<Certified, "fromMs" | "toMs">,
  nowMs: number,
): Refusal<"certificate-not-yet-valid" | "certificate-expired"> | undefined {
  const leewayMs = identityLimits.leewaySeconds * 1000;
  if (!(nowMs >= fromMs - leewayMs))
    return refuse(
      "certificate-not-yet-valid",
      "the certificate is not valid yet; is the clock right?",
    );
  if (!(nowMs < toMs + leewayMs)) return refuse("certificate-expired", "the certificate has ended");
  return undefined;
}

/** Whether a path leads from a certificate over those in between to an anchor. Each is used once. */
function isIssuedBy(
  child: X509Certificate,
  between: readonly X509Certificate[],
  anchors: readonly X509Certificate[],
  nowMs: number,
): boolean {
  const issued = (issuer: X509Certificate): boolean =>
    issuer.ca && judgeDates(datesOf(issuer), nowMs) === undefined && isSignedBy(child, issuer);
  if (anchors.some(issued)) return true;
  return between.some(
    (next) =>
      issued(next) &&
      isIssuedBy(
        next,
        between.filter((other) => other !== next),
        anchors,
        nowMs,
      ),
  );
}

/** False also for keys that this side knows nothing of: whoever shows a certificate chose them. */
function isSignedBy(child: X509Certificate, issuer: X509Certificate): boolean {
  try {
    return child.checkIssued(issuer) && child.verify(issuer.publicKey);
  } catch {
    return false;
  }
}

function datesOf(certificate: X509Certificate) {
  return { fromMs: Date.parse(certificate.validFrom), toMs: Date.parse(certificate.validTo) };
}
