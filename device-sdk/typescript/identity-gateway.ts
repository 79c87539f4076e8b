import type { X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import { connect, type TLSSocket } from "node:tls";
import { judgeChain } from "@tributary/proto/identity/certificate.js";
import { anchorOf } from "@tributary/proto/identity/claim.js";
import type { IsVoid } from "@tributary/proto/identity/denylist.js";
import { keyToPem } from "@tributary/proto/identity/keys.js";
import { readSubjectUri } from "@tributary/proto/identity/names.js";
import { shownCertificates } from "@tributary/proto/identity/shown.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { DeviceIdentity } from "./identity.js";
import { limits } from "./limits.js";

/** Whom a device takes for its gateway. */
export type GatewayRules = {
  readonly fleet: string;
  readonly site: string;
  readonly anchors: readonly X509Certificate[];
  readonly isVoid: IsVoid;
  readonly nowMs: number;
};

/**
 * Judges what shows itself as the gateway: one of the fleet, at the device's site, not revoked. One that
 * ended is taken for `limits.gatewayGraceMs`: at a site that is cut off nobody can renew it. One that
 * begins later than now tells that this clock is behind. Refusals: `certificate-...`.
 */
export function judgeGateway(
  shown: readonly X509Certificate[],
  { fleet, site, anchors, isVoid, nowMs: clockMs }: GatewayRules,
): Verdict<{ readonly gateway: string }> {
  const beginsMs = Date.parse(shown[0]?.validFrom ?? "");
  const nowMs = Number.isNaN(beginsMs) ? clockMs : Math.max(clockMs, beginsMs);
  const judged = judgeChain(shown, { anchors, fleet, use: "server", nowMs });
  if (!judged.ok) return judged;
  const { subject, fromMs, toMs } = judged.certified;
  if (subject.kind !== "gateway" || subject.site !== site)
    return refuse(
      "certificate-subject",
      `that is the ${subject.kind} ${subject.name}, not a gateway of ${site}`,
    );
  if (isVoid("gateway", subject.name, fromMs / 1000))
    return refuse("certificate-revoked", `the gateway ${subject.name} was revoked`);
  if (nowMs >= toMs + limits.gatewayGraceMs)
    return refuse("certificate-expired", `the certificate of ${subject.name} ended too long ago`);
  return { ok: true, gateway: subject.name };
}

/**
 * Judges a gateway at first contact, when all that is known is the digest of the authority's key, from a
 * claim. Says which fleet it is of.
 */
export function judgeFirst(
  shown: readonly X509Certificate[],
  {
    anchor,
    site,
    nowMs,
  }: { readonly anchor: string; readonly site: string; readonly nowMs: number },
): Verdict<{ readonly fleet: string }> {
  const [, uri = ""] = /^URI:([^\s,"]+)/.exec(shown[0]?.subjectAltName ?? "") ?? [];
  const fleet = readSubjectUri(uri)?.fleet ?? "";
  const anchors = shown.filter((one) => one.ca && anchorOf(one.raw) === anchor);
  const judged = judgeGateway(shown, { fleet, site, anchors, nowMs, isVoid: () => false });
  return judged.ok ? { ok: true, fleet } : judged;
}

/** What cannot be read is refused like what is not trusted: nobody who answers ends the process. */
function judgeShown(socket: TLSSocket, judge: DialOptions["judge"]): Verdict<object> {
  try {
    return judge(shownCertificates(socket));
  } catch {
    return refuse("certificate-untrusted", "the gateway's certificate cannot be read");
  }
}

export type DialOptions = {
  /** mqtts://host:port */
  readonly url: string;
  readonly judge: (shown: readonly X509Certificate[]) => Verdict<object>;
  readonly show?: Pick<DeviceIdentity, "key" | "certificate"> | undefined;
  readonly signal: AbortSignal;
};

/**
 * Opens TLS to a gateway, and says nothing before it was judged: not even who is there. Throws the
 * refusal's code, or `link-failed`.
 */
export function dialGateway({ url, judge, show, signal }: DialOptions): Promise<TLSSocket> {
  const { hostname, port } = new URL(url);
  const host = hostname.replace(/^\[|\]$/g, "");
  return new Promise((resolve, reject) => {
    const socket = connect({
      ...{ host, port: Number(port), minVersion: "TLSv1.3" },
      // By `judge`, which knows the fleet's names and graces.
      rejectUnauthorized: false,
      ...(isIP(host) === 0 && { servername: host }),
      ...(show && { key: keyToPem(show.key), cert: show.certificate }),
    });
    const fail = (message: string, code = "link-failed", cause?: unknown): void => {
      signal.removeEventListener("abort", abort);
      socket.destroy();
      reject(new TributaryError(code, message, { retryable: true, cause }));
    };
    const abort = (): void => fail("given up");
    if (signal.aborted) return abort();
    signal.addEventListener("abort", abort, { once: true });
    // Kept after the end: an error event that nobody listens to would end the process.
    socket.on("error", (cause) => fail(cause.message || "connection refused", undefined, cause));
    socket.setTimeout(limits.connectMs, () => fail("the gateway does not answer"));
    socket.once("close", () => fail("the gateway closed the connection"));
    socket.once("secureConnect", () => {
      const judged = judgeShown(socket, judge);
      if (!judged.ok) return fail(judged.message, judged.code);
      socket.setTimeout(0);
      signal.removeEventListener("abort", abort);
      resolve(socket);
    });
  });
}
