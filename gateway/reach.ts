import { type ChannelCredentials, Client, credentials } from "@grpc/grpc-js";
import { type GatewayConfig, upstreamHostOf } from "./config.js";
import { openIdentity } from "./identity-store.js";
import { upstreamCredentials } from "./upstream-credentials.js";

/**
 * Why a gateway of this config does not get through to its upstream; undefined where it does. Nothing is
 * called there, so the upstream takes no note of it. Failures: those of `openIdentity`.
 */
export async function tryUpstream(
  config: Pick<GatewayConfig, "dataDir" | "gateway" | "site" | "upstream" | "upstreamName">,
  nowMs: number,
  deadlineMs: number,
): Promise<string | undefined> {
  const { upstream, upstreamName } = config;
  const identity = await openIdentity(config);
  if (identity === undefined)
    return (await isReady(upstream, deadlineMs, credentials.createInsecure()))
      ? undefined
      : "what answers speaks no gRPC in the clear, and this gateway has no identity for TLS";
  const host = upstreamHostOf(config);
  const own = upstreamCredentials(identity, upstreamName, host, () => nowMs);
  return (await isReady(upstream, deadlineMs, own))
    ? undefined
    : `what answers is not ${upstreamName} of the fleet ${identity.fleet}, or does not take this gateway`;
}

function isReady(address: string, deadlineMs: number, channel: ChannelCredentials) {
  const client = new Client(address, channel, {
    "grpc.enable_http_proxy": 0,
    "grpc.use_local_subchannel_pool": 1,
  });
  return new Promise<boolean>((resolve) => {
    client.waitForReady(Date.now() + deadlineMs, (error) => {
      client.close();
      resolve(error === undefined || error === null);
    });
  });
}
