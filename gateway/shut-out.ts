import type { Clock } from "@tributary/proto/host/clock.js";
import type { DeviceLink } from "./broker.js";
import { type DenylistHolder, openDenylist } from "./denylist.js";
import { createCarriers, type DenylistCarriers } from "./denylist-carriers.js";
import { openImports } from "./denylist-import.js";
import type { Downstream } from "./downstream.js";
import type { GatewayEvents } from "./events.js";
import type { GatewayIdentity } from "./identity.js";
import type { Replies } from "./replies.js";
import type { SiteTime } from "./site-time.js";
import type { Store } from "./store.js";

/** Who is shut out here, whichever way word of that comes: from the upstream, a device or a file. */
export type ShutOut = {
  readonly denylist: DenylistHolder;
  readonly carriers: DenylistCarriers;
  close(): Promise<void>;
};

export type ShutOutOptions = {
  readonly identity: GatewayIdentity;
  /** Where lists are laid that come as files; undefined where none do. */
  readonly dataDir: string | undefined;
  readonly store: Store;
  readonly time: SiteTime;
  readonly link: DeviceLink;
  readonly replies: Replies;
  /** Made later, if at all. */
  readonly downstream: () => Downstream | undefined;
  /** What the upstream is to know of it has changed. */
  readonly onHeld: () => void;
  readonly events: GatewayEvents;
  readonly clock: Clock;
};

export async function openShutOut(options: ShutOutOptions): Promise<ShutOut> {
  const { identity, dataDir, store, time, link, replies, downstream, events, clock } = options;
  const denylist = await openDenylist({
    identity,
    store,
    time,
    cut(isVoid) {
      const isCut = (device: string, givenAt: number) => isVoid("device", device, givenAt);
      return (link.cut?.(isCut) ?? 0) + (downstream()?.cut(isVoid) ?? 0);
    },
    onNewer(list) {
      carriers.broadcast(list);
      downstream()?.denylist(list);
    },
    onHeld: options.onHeld,
    below: () => downstream()?.roll.names() ?? [],
    events,
  });
  const carriers = createCarriers({ holder: denylist, link, replies });
  const imports =
    dataDir === undefined
      ? undefined
      : await openImports({ dataDir, holder: denylist, clock, events });
  return {
    denylist,
    carriers,
    async close() {
      await imports?.close();
      await denylist.close();
    },
  };
}
