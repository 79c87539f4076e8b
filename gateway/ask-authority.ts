import { isRetryable } from "@tributary/proto/wire/codes.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { refuse } from "@tributary/proto/wire/verdict.js";
import { type AuthorityPlace, askOverHttps } from "./authority-client.js";
import type { AskAuthority } from "./device-enrol.js";
import type { GatewayIdentity } from "./identity.js";
import { CLOUD, checkServer } from "./secure-connection.js";
import type { Upstream } from "./upstream.js";

/**
 * Passes signing requests on to the upstream, as long as it is attached: of devices, and of gateways
 * below. `uplink-away` when it is not, and when the answer did not come.
 */
export function askUpstream(
  upstream: Pick<Upstream, "enrol">,
  attached: () => boolean,
): AskAuthority {
  return async (claim, request) => {
    if (!attached() || upstream.enrol === undefined)
      return refuse("uplink-away", "the uplink is away; ask again later");
    try {
      return await upstream.enrol(claim, request);
    } catch (cause) {
      if (!(cause instanceof TributaryError) || cause.code === "grant-malformed") throw cause;
      return refuse("uplink-away", `the authority's answer did not come: ${cause.message}`);
    }
  };
}

/**
 * Asks for this gateway itself: by the uplink, or, where that is away or this gateway's certificate has
 * ended and the uplink with it, by HTTPS, for which nothing but the request's signature is needed.
 */
export function askEitherWay(
  byUplink: AskAuthority,
  place: AuthorityPlace,
  identity: GatewayIdentity,
  nowMs: () => number,
): AskAuthority {
  return async (claim, request) => {
    const answer = await byUplink(claim, request);
    if (answer.ok || !isRetryable(answer.code)) return answer;
    const check = checkServer(identity, CLOUD, nowMs);
    return askOverHttps(place, check, claim === "" ? undefined : claim, request);
  };
}
