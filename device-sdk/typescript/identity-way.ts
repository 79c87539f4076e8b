import type { TLSSocket } from "node:tls";
import type { Clock } from "@tributary/proto/host/clock.js";
import type { Random } from "@tributary/proto/host/random.js";
import type { IsVoid } from "@tributary/proto/identity/denylist.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { requestOf } from "./enrol.js";
import { type Login, petition } from "./enrol-session.js";
import type { DeviceEvent } from "./events.js";
import type { DeviceIdentity } from "./identity.js";
import { dialGateway, judgeGateway } from "./identity-gateway.js";

/** A connection to a gateway that was judged, and what to say of oneself on it. */
export type Way = {
  readonly stream: TLSSocket;
  readonly login: Login;
  /** The gateway lets the device ask for a certificate, and no more: what it showed has ended. */
  late(): void;
};

export type OpenWay = (signal: AbortSignal) => Promise<Way>;

export type WayOptions = {
  /** mqtts://host:port */
  readonly url: string;
  readonly identity: DeviceIdentity;
  /** What the device shows: its certificate, or a token, for which TLS needs none. */
  readonly credential: "certificate" | "token";
  readonly isVoid: IsVoid;
  readonly clock: Clock;
  readonly random: Random;
  readonly report: (event: DeviceEvent) => void;
};

/** The way of an enrolled device to its gateway: renewed first, where it came too late. */
export function createWay(options: WayOptions): OpenWay {
  const { url, identity, credential, isVoid, clock, random, report } = options;
  const { device, site } = identity;
  let isLate = false;

  const login = (): Login =>
    credential === "token" ? { username: device, password: identity.token } : {};

  const dial = (signal: AbortSignal): Promise<TLSSocket> =>
    dialGateway({
      ...{ url, signal },
      show: credential === "certificate" ? identity : undefined,
      judge: (shown) => {
        const { fleet, anchors } = identity;
        return judgeGateway(shown, { fleet, site, anchors, isVoid, nowMs: clock.nowMs() });
      },
    });

  async function renew(signal: AbortSignal): Promise<void> {
    const { key, serial } = identity;
    const request = await requestOf(identity, key, { renew: serial }, random, clock);
    const stream = await dial(signal);
    const answer = await petition({
      ...{ stream, site, device, login: login(), asks: "renew", request, clock },
    });
    if (!answer.ok) throw new TributaryError(answer.code, answer.message, { retryable: true });
    await identity.take(answer.grant);
    report({ level: "info", name: "renewed", endsMs: identity.toMs });
  }

  return async (signal) => {
    if (isLate) {
      isLate = false;
      await renew(signal);
    }
    const stream = await dial(signal);
    return {
      stream,
      login: login(),
      late() {
        isLate = true;
      },
    };
  };
}
