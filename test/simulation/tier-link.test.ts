import { createUpstream } from "@tributary/gateway/upstream.js";
import { systemClock } from "@tributary/proto/host/clock.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { listenGrpc } from "@tributary/proto/tier/grpc-server.js";
import { openProxy } from "../floor/proxy.js";
import { until } from "../floor/until.js";
import { createLinksStage } from "./links-stage.js";
import { type TierLinkStage, tierLinkContract } from "./tier-link.contract.js";
import { serveTier, simulatedUpstream } from "./tier-link.js";

/** The production links: a gRPC server and clients on this machine, through a proxy. */
async function openReal(): Promise<TierLinkStage> {
  const ends: (() => unknown)[] = [];
  // Nobody listens at port 1 of a machine: before there is a server a connection ends at once.
  const proxy = await openProxy(1);
  const clock = systemClock();
  return {
    async serve(service) {
      const server = await listenGrpc(service, { host: "127.0.0.1", port: 0 }, clock, () => {});
      proxy.target = server.port;
      ends.push(() => server.close());
    },
    upstream() {
      const upstream = createUpstream(`127.0.0.1:${proxy.port}`, clock);
      ends.push(() => upstream.close());
      return upstream;
    },
    cut() {
      proxy.cut();
      proxy.restore();
    },
    freeze: () => proxy.freeze(),
    until,
    async close() {
      await proxy.close();
      for (const end of ends.reverse()) await end();
    },
  };
}

async function openSimulated(): Promise<TierLinkStage> {
  const { network, machine, until } = createLinksStage();
  const [above, below] = [machine("above"), machine("below")];
  return {
    async serve(service) {
      await serveTier(network, above.life, seededRandom("above"))(service);
    },
    upstream: () =>
      simulatedUpstream(network, below.life, "above", below.clock, seededRandom("below")),
    cut: () => network.cut("above", "below"),
    freeze() {
      network.clog("above", "below");
      network.clog("below", "above");
    },
    until,
    async close() {},
  };
}

tierLinkContract("gRPC", openReal);
tierLinkContract("the simulated tier link", openSimulated);
