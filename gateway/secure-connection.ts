import type { X509Certificate } from "node:crypto";
import { request } from "node:http";
import { connect as connectTcp, isIP, type Socket } from "node:net";
import { connect as connectTls, type TLSSocket } from "node:tls";
import {
  type Certified,
  judgeChain,
  judgeDates,
  subjectOf,
} from "@tributary/proto/identity/certificate.js";
import { anchorOf } from "@tributary/proto/identity/claim.js";
import { denials } from "@tributary/proto/identity/denylist.js";
import { keyToPem } from "@tributary/proto/identity/keys.js";
import type { Subject } from "@tributary/proto/identity/names.js";
import { shownCertificates } from "@tributary/proto/identity/shown.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { GatewayIdentity } from "./identity.js";
import { limits } from "./limits.js";

/** Decides about a server by the certificates that it shows. */
export type ServerCheck = (shown: readonly X509Certificate[]) => Refusal | undefined;

/** The cloud is called so; any other name is a gateway's. */
export const CLOUD = "cloud";

/** Who may be at the other end: `cloud`, or the gateway of that name. */
export type Expected = typeof CLOUD | (string & {});

/**
 * Judges a server by what this gateway trusts: of the fleet, valid, not void, and who is meant. A
 * certificate that begins later than the time here tells that this clock is behind, and counts as its time.
 */
export function checkServer(
  { fleet, anchors, denylist }: Pick<GatewayIdentity, "fleet" | "anchors" | "denylist">,
  expected: Expected,
  nowMs: () => number,
): ServerCheck {
  return (shown) => {
    const judged = judgeServer(shown, fleet, anchors, nowMs());
    if (!judged.ok) return judged;
    const { subject, fromMs } = judged.certified;
    if (!isMeant(subject, expected))
      return refuse("certificate-subject", `the server is the ${subject.kind} ${subject.name}`);
    const isVoid = denials({ entries: denylist?.entries ?? [] });
    return subject.kind === "gateway" && isVoid("gateway", subject.name, fromMs / 1000)
      ? refuse("certificate-revoked", `the certificate of ${subject.name} was revoked`)
      : undefined;
  };
}

function isMeant(subject: Subject, expected: Expected): boolean {
  return expected === CLOUD
    ? subject.kind === "cloud"
    : subject.kind === "gateway" && subject.name === expected;
}

/**
 * Judges the cloud at first contact, when all that is known is the digest of its authority's key, from a
 * claim. `onFleet` hears which fleet it is of.
 */
export function checkFirst(
  anchor: string,
  nowMs: () => number,
  onFleet: (fleet: string) => void,
): ServerCheck {
  return (shown) => {
    const [leaf] = shown;
    const fleet = (leaf && subjectOf(leaf)?.fleet) ?? "";
    const anchors = shown.filter((one) => one.ca && anchorOf(one.toString()) === anchor);
    const judged = judgeServer(shown, fleet, anchors, nowMs());
    if (!judged.ok) return judged;
    const { subject } = judged.certified;
    if (subject.kind !== "cloud")
      return refuse("certificate-subject", `the server is the ${subject.kind} ${subject.name}`);
    onFleet(fleet);
    return undefined;
  };
}

function judgeServer(
  shown: readonly X509Certificate[],
  fleet: string,
  anchors: readonly X509Certificate[],
  clockMs: number,
): Verdict<{ readonly certified: Certified }> {
  const fromMs = Date.parse(shown[0]?.validFrom ?? "");
  const nowMs = Number.isNaN(fromMs) ? clockMs : Math.max(clockMs, fromMs);
  const judged = judgeChain(shown, { anchors, fleet, use: "server", nowMs });
  if (!judged.ok) return judged;
  return judgeDates(judged.certified, nowMs) ?? judged;
}

export type Place = { readonly host: string; readonly port: number };

export type SecureOptions = {
  readonly check: ServerCheck;
  /** What this side shows; nothing where it is not asked to. */
  readonly show?: Pick<GatewayIdentity, "key" | "certificate"> | undefined;
  readonly protocol?: string;
};

/**
 * TLS 1.3 over a connection; what the server shows is judged before anything is sent. Failure:
 * the refusal's code, or `link-failed` (retryable).
 */
export function secure(
  socket: Socket,
  host: string,
  { check, show, protocol }: SecureOptions,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const tls = connectTls({
      socket,
      // By `check`, by the site's time.
      rejectUnauthorized: false,
      minVersion: "TLSv1.3",
      ...(isIP(host) === 0 && { servername: host }),
      ...(protocol !== undefined && { ALPNProtocols: [protocol] }),
      ...(show && { key: keyToPem(show.key), cert: show.certificate }),
    });
    const failed = (cause: Error) => reject(linkFailed(cause.message, cause));
    tls.setTimeout(limits.connectMs, () => tls.destroy(new Error("the server does not answer")));
    tls.once("error", failed);
    tls.once("close", () => reject(linkFailed("the server closed the connection")));
    tls.once("secureConnect", () => {
      tls.setTimeout(0);
      const refusal = judged(tls, check);
      if (refusal === undefined) return resolve(tls);
      tls.destroy();
      const { code, message } = refusal;
      reject(new TributaryError(code, message, { retryable: true }));
    });
  });
}

function judged(tls: TLSSocket, check: ServerCheck): Refusal | undefined {
  try {
    return check(shownCertificates(tls));
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    return refuse("certificate-untrusted", `the server's certificate cannot be read: ${why}`);
  }
}

/** Opens a connection to a place, through an HTTP proxy where there is one (RFC 9110, 9.3.6). */
export function open(place: Place, proxy: Place | undefined): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const failed = (cause: Error) => reject(linkFailed(cause.message, cause));
    if (proxy === undefined) {
      const socket = connectTcp(place.port, place.host, () => {
        socket.setTimeout(0);
        socket.off("error", failed);
        resolve(socket);
      });
      socket.setTimeout(limits.connectMs, () => socket.destroy(new Error("no connection in time")));
      socket.once("error", failed);
      return;
    }
    const host = place.host.includes(":") ? `[${place.host}]` : place.host;
    const path = `${host}:${place.port}`;
    const tunnel = request({ ...proxy, method: "CONNECT", path, timeout: limits.connectMs });
    tunnel.once("timeout", () => tunnel.destroy(new Error("the proxy does not answer")));
    tunnel.once("error", failed);
    tunnel.once("response", ({ statusCode }) =>
      failed(new Error(`the proxy answers ${statusCode}`)),
    );
    tunnel.once("connect", ({ statusCode }, socket) => {
      if (statusCode === 200) return resolve(socket);
      socket.destroy();
      failed(new Error(`the proxy answers ${statusCode}`));
    });
    tunnel.end();
  });
}

function linkFailed(message: string, cause?: unknown): TributaryError {
  return new TributaryError("link-failed", message, { retryable: true, cause });
}
