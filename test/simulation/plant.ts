import type { Store } from "@tributary/cloud/store/store.js";
import type { BrokerOptions, DeviceLink } from "@tributary/gateway/broker.js";
import type { Database } from "@tributary/gateway/store.js";
import type { Upstream } from "@tributary/gateway/upstream.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { loadKernel } from "@tributary/proto/host/wasm.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import type { Service } from "@tributary/proto/tier/service.js";

/**
 * Where a fault can be planted, to prove that the checkers see it: each is a part that is passed in,
 * and may be passed in wrong. The product has no flag for any of them.
 */
export type Plant = {
  clock(clock: Clock, tier: Tier): Clock;
  disk(disk: Disk, tier: Tier): Disk;
  database(database: Database): Database;
  cloudStore(store: Store): Store;
  kernel(): Kernel;
  upstream(upstream: Upstream): Upstream;
  service(service: Service): Service;
  broker(
    broker: (options: BrokerOptions) => Promise<DeviceLink>,
  ): (options: BrokerOptions) => Promise<DeviceLink>;
};

export type Tier = "cloud" | "gateway" | "device";

/** Nothing planted: every part is as it should be. */
export const nothingPlanted: Plant = {
  clock: (clock) => clock,
  disk: (disk) => disk,
  database: (database) => database,
  cloudStore: (store) => store,
  kernel: loadKernel,
  upstream: (upstream) => upstream,
  service: (service) => service,
  broker: (broker) => broker,
};
