import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { jitteredBackoff, type Random } from "@tributary/proto/host/random.js";
import { writeRequest } from "@tributary/proto/identity/request.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { AskAuthority } from "./device-enrol.js";
import type { GatewayEvents } from "./events.js";
import type { OwnIdentity } from "./identity-store.js";
import { limits } from "./limits.js";

export type Renewal = {
  /** The way to the authority is there, or the clock was set: looks at once. */
  kick(): void;
  close(): void;
};

export type RenewalOptions = {
  readonly identity: OwnIdentity;
  readonly ask: AskAuthority;
  /** The site's time. */
  readonly nowMs: () => number;
  readonly clock: Clock;
  readonly random: Random;
  readonly events: GatewayEvents;
};

/**
 * Gets the next certificate at two thirds of the life of the one before, and goes on trying; also after
 * its end, which the authority takes for as long as its grace lasts. The one before stays valid, and
 * connections made with it stay up.
 */
export function createRenewal(options: RenewalOptions): Renewal {
  const { identity, ask, nowMs, clock, random, events } = options;
  let timer: Timer | undefined;
  let failures = 0;
  let running = false;
  let closed = false;

  const dueMs = () => identity.fromMs + ((identity.toMs - identity.fromMs) * 2) / 3;

  function arm(waitMs: number): void {
    timer?.cancel();
    // The site's time may be set meanwhile: looked at again, now and then.
    if (!closed) timer = clock.setTimer(Math.min(waitMs, limits.renewalLookMs), look);
  }

  function look(): void {
    if (running || closed) return;
    const leftMs = dueMs() - nowMs();
    if (leftMs > 0) return arm(leftMs);
    running = true;
    void attempt().then((waitMs) => {
      running = false;
      arm(waitMs);
    });
  }

  /** Resolves with how long to wait for the next. */
  async function attempt(): Promise<number> {
    try {
      await renew();
      failures = 0;
      events({ level: "info", name: "certificate-renewed", endsMs: identity.toMs });
      return Math.max(limits.renewalPauseMs, dueMs() - nowMs());
    } catch (cause) {
      const waitMs = jitteredBackoff(random, failures++, limits.renewalBackoff);
      const code = cause instanceof TributaryError ? cause.code : "renewal-failed";
      const message = cause instanceof Error ? cause.message : String(cause);
      const [endsMs, retryMs] = [identity.toMs, Math.round(waitMs)];
      const name = "certificate-not-renewed";
      events({ level: "warn", name, code, message, endsMs, retryMs });
      return waitMs;
    }
  }

  async function renew(): Promise<void> {
    const { name, site, serial: renewed, key } = identity;
    const nonce = Buffer.from(random.bytes(24)).toString("base64url");
    const iat = Math.max(0, Math.floor(nowMs() / 1000));
    const payload = { kind: "gateway" as const, name, site, renew: renewed, nonce, iat };
    const answer = await ask("", await writeRequest(payload, key));
    if (!answer.ok) throw new TributaryError(answer.code, answer.message);
    await identity.takeGrant(answer.grant);
  }

  look();
  return {
    kick() {
      if (!running && dueMs() <= nowMs()) arm(0);
    },
    close() {
      closed = true;
      timer?.cancel();
    },
  };
}
