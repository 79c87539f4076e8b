import { X509Certificate } from "node:crypto";
import type { DetailedPeerCertificate, TLSSocket } from "node:tls";

/** The certificates that the other side of a connection showed: its own, then those it sent along. */
export function shownCertificates(socket: TLSSocket): X509Certificate[] {
  const shown: X509Certificate[] = [];
  const seen = new Set<string>();
  let next: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
  // A self-signed one names itself as its issuer.
  while (next?.raw !== undefined && !seen.has(next.fingerprint256)) {
    seen.add(next.fingerprint256);
    shown.push(new X509Certificate(next.raw));
    next = next.issuerCertificate;
  }
  return shown;
}
