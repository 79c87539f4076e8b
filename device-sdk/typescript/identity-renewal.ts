import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { jitteredBackoff, type Random } from "@tributary/proto/host/random.js";
import type { Down } from "@tributary/proto/wire/device-link.js";
import { requestOf } from "./enrol.js";
import type { DeviceEvent } from "./events.js";
import type { DeviceGrant, DeviceIdentity } from "./identity.js";
import { limits } from "./limits.js";
import type { Send } from "./link.js";

/**
 * Gets the next certificate, over the link, at two thirds of the life of the one before, and asks again
 * as long as none came. The one before stays valid, and the connection made with it stays up.
 */
export type Renewal = {
  setOnline(online: boolean): void;
  enrolled(grant: DeviceGrant): void;
  refused(refusal: Down<"refusal">): void;
  /** Resolves when what came is kept. */
  settled(): Promise<void>;
  close(): void;
};

export type RenewalOptions = {
  readonly identity: DeviceIdentity;
  readonly send: Send;
  readonly clock: Clock;
  readonly random: Random;
  readonly report: (event: DeviceEvent) => void;
};

export function createRenewal(options: RenewalOptions): Renewal {
  const { identity, send, clock, random, report } = options;
  let timer: Timer | undefined;
  let online = false;
  let attempt = 0;
  /** Whether an answer is awaited: what comes unasked is not taken. */
  let asked = false;
  let keeping: Promise<void> = Promise.resolve();

  const dueMs = () => identity.fromMs + ((identity.toMs - identity.fromMs) * 2) / 3;

  function arm(waitMs: number): void {
    timer?.cancel();
    // The clock may be set meanwhile: looked at again, now and then.
    if (online) timer = clock.setTimer(Math.min(waitMs, limits.renewalLookMs), look);
  }

  function look(): void {
    const leftMs = dueMs() - clock.nowMs();
    if (leftMs > 0) return arm(leftMs);
    asked = true;
    void requestOf(identity, identity.key, { renew: identity.serial }, random, clock).then(
      (request) => send("renew", { request }),
    );
    arm(jitteredBackoff(random, attempt++, limits.renewalBackoff));
  }

  function failed(code: string, message: string): void {
    report({ level: "warn", name: "renewal-failed", code, message, endsMs: identity.toMs });
  }

  return {
    setOnline(now) {
      online = now;
      timer?.cancel();
      if (online) look();
    },
    enrolled(grant) {
      if (!asked) return;
      asked = false;
      keeping = keeping
        .then(() => identity.take(grant))
        .then(
          () => {
            attempt = 0;
            report({ level: "info", name: "renewed", endsMs: identity.toMs });
            // Not at once again, whatever the certificate says of its life.
            arm(Math.max(limits.renewalBackoff.baseMs, dueMs() - clock.nowMs()));
          },
          (cause: unknown) =>
            failed("grant-malformed", cause instanceof Error ? cause.message : String(cause)),
        );
    },
    refused: ({ code, message }) => failed(code, message),
    settled: () => keeping,
    close() {
      online = false;
      timer?.cancel();
    },
  };
}
