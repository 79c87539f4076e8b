import type { Clock } from "@tributary/proto/host/clock.js";
import type { Random } from "@tributary/proto/host/random.js";
import { buildDateMs } from "./build-date.js";
import {
  authorityPlaceOf,
  type GatewayConfig,
  plainOverNetwork,
  proxyPlaceOf,
  upstreamHostOf,
} from "./config.js";
import { startingIdentity } from "./enrol.js";
import type { GatewayEvents } from "./events.js";
import type { GatewayIdentity } from "./identity.js";
import type { OwnIdentity } from "./identity-store.js";
import type { SiteTime } from "./site-time.js";
import type { StatusView } from "./status-view.js";
import type { UpstreamWay } from "./upstream.js";
import { upstreamCredentials } from "./upstream-credentials.js";

type World = { readonly clock: Clock; readonly random: Random; readonly events: GatewayEvents };

/**
 * The identity that a gateway starts with, from its data directory: the one that it has, or one by the
 * claim that lies there.
 */
export function ownIdentity(
  config: GatewayConfig,
  { clock, random, events }: World,
): Promise<OwnIdentity | undefined> {
  return startingIdentity(config, {
    place: authorityPlaceOf(config),
    nowMs: () => Math.max(clock.nowMs(), buildDateMs),
    random,
    clock,
    events,
  });
}

/** How this gateway is secured, as its status says it; tells of what is in the clear over a network. */
export function openSecurity(
  config: GatewayConfig,
  identity: GatewayIdentity | undefined,
  events: GatewayEvents,
): () => StatusView["security"] {
  const open = identity === undefined ? plainOverNetwork(config) : [];
  if (open.length > 0) {
    const message = `in the clear, for anybody on the network to read and change: ${open.join(", ")}`;
    events({ level: "warn", name: "insecure", message });
  }
  return () =>
    identity === undefined
      ? { mode: open.length > 0 ? "insecure" : "plain", certificateEnds: null }
      : { mode: "tls", certificateEnds: new Date(identity.toMs).toISOString() };
}

/** How the upstream is reached: over TLS where this gateway has an identity. */
export function wayUp(
  config: GatewayConfig,
  identity: GatewayIdentity | undefined,
  { nowMs }: SiteTime,
): UpstreamWay {
  const { upstreamName } = config;
  const proxy = proxyPlaceOf(config);
  return {
    credentials:
      identity && upstreamCredentials(identity, upstreamName, upstreamHostOf(config), nowMs),
    proxy: proxy && `${proxy.host.includes(":") ? `[${proxy.host}]` : proxy.host}:${proxy.port}`,
  };
}
