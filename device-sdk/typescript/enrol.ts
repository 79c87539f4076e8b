import type { KeyObject } from "node:crypto";
import type { Clock } from "@tributary/proto/host/clock.js";
import { jitteredBackoff, type Random } from "@tributary/proto/host/random.js";
import { readClaim } from "@tributary/proto/identity/claim.js";
import { writeRequest } from "@tributary/proto/identity/request.js";
import { isCode, isRetryable } from "@tributary/proto/wire/codes.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { petition } from "./enrol-session.js";
import type { DeviceEvent } from "./events.js";
import {
  type DeviceIdentity,
  type IdentityPlace,
  keepIdentity,
  openIdentity,
  ownKey,
} from "./identity.js";
import { dialGateway, judgeFirst } from "./identity-gateway.js";
import { limits } from "./limits.js";

export type EnrolOptions = IdentityPlace & {
  /** mqtts://host:port */
  readonly gateway: string;
  /** The text of a claim for this device. */
  readonly claim: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly signal: AbortSignal;
  readonly report: (event: DeviceEvent) => void;
};

/**
 * Enrols a device at its gateway: the identity that it has already, or one that a claim gets it, however
 * long the gateway is away, its uplink is, or somebody has to accept it. To ask again, after an answer
 * that was lost, gets the same. Throws the code of a refusal that repetition cannot change;
 * `link-failed` when it was aborted.
 */
export async function enrolDevice(options: EnrolOptions): Promise<DeviceIdentity> {
  const { clock, random, signal, report } = options;
  for (let attempt = 0; ; attempt++) {
    const known = await openIdentity(options);
    if (known !== undefined) return known;
    try {
      const identity = await enrolOnce(options);
      const { fleet, toMs: endsMs } = identity;
      report({ level: "info", name: "enrolled", fleet, endsMs });
      return identity;
    } catch (cause) {
      const failure = cause instanceof TributaryError ? cause : undefined;
      if (signal.aborted || !failure?.retryable) throw cause;
      const { code, message } = failure;
      const retryMs = Math.round(jitteredBackoff(random, attempt, limits.enrolBackoff));
      report({ level: "warn", name: "enrolment-waits", code, message, retryMs });
      await pause(clock, retryMs, signal);
    }
  }
}

/** Resolves at the end of the wait, or when it is aborted. */
function pause(clock: Clock, waitMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = clock.setTimer(waitMs, resolve);
    const abort = (): void => {
      timer.cancel();
      resolve();
    };
    if (signal.aborted) abort();
    else signal.addEventListener("abort", abort, { once: true });
  });
}

async function enrolOnce(options: EnrolOptions): Promise<DeviceIdentity> {
  const { device, site, gateway: url, clock, random, signal } = options;
  const text = options.claim.trim();
  const claim = readClaim(text);
  if (claim === undefined)
    throw new TributaryError(
      "claim-malformed",
      "this is no claim: one looks like tc1.<id>.<secret>.<anchor>",
    );
  const key = await ownKey(options.dir);
  const request = await requestOf(options, key, { claim: claim.id }, random, clock);
  let fleet = "";
  const stream = await dialGateway({
    ...{ url, signal },
    judge(shown) {
      const judged = judgeFirst(shown, { anchor: claim.anchor, site, nowMs: clock.nowMs() });
      if (judged.ok) ({ fleet } = judged);
      return judged;
    },
  });
  const login = { username: "enrol", password: text };
  const answer = await petition({ stream, site, device, login, asks: "enrol", request, clock });
  if (!answer.ok) throw refused(answer.code, answer.message);
  return keepIdentity(options, fleet, key, answer.grant);
}

function refused(code: string, message: string): TributaryError {
  return new TributaryError(code, message, { retryable: isCode(code) && isRetryable(code) });
}

/** A signing request of the device's, fresh each time. */
export function requestOf(
  { device: name, site }: Pick<IdentityPlace, "device" | "site">,
  key: KeyObject,
  about: { readonly claim: string } | { readonly renew: string },
  random: Random,
  clock: Pick<Clock, "nowMs">,
): Promise<string> {
  const nonce = Buffer.from(random.bytes(24)).toString("base64url");
  const iat = Math.max(0, Math.floor(clock.nowMs() / 1000));
  return writeRequest({ kind: "device", name, site, nonce, iat, ...about }, key);
}
