import type { RoundProgress } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import type { Random } from "@tributary/proto/host/random.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import type { DeviceLink } from "./broker.js";
import type { GatewayEvents } from "./events.js";
import type { Models } from "./models.js";
import type { Outbox } from "./outbox.js";
import type { SiteTime } from "./site-time.js";
import type { Store } from "./store.js";

/** What a gateway's rounds are run with. */
export type RoundWorld = {
  readonly gateway: string;
  readonly site: string;
  /** How long a round waits for roster devices that were not there when it opened. */
  readonly absentGraceMs: number;
  readonly disk: Disk;
  readonly store: Store;
  readonly kernel: Kernel;
  readonly outbox: Pick<Outbox, "add" | "handOver">;
  readonly models: Pick<
    Models,
    "want" | "pin" | "unpin" | "put" | "drop" | "made" | "available" | "read"
  >;
  readonly link: Pick<DeviceLink, "send">;
  /** Devices that are connected and have said hello. */
  readonly present: () => Iterable<string>;
  readonly uploading: () => number;
  /** Whether the uplink is there. */
  readonly attached: () => boolean;
  /** The round takes no more updates. */
  readonly onSealing: (round: string) => void;
  readonly onProgress: (progress: RoundProgress) => void;
  readonly onPartial: () => void;
  readonly events: GatewayEvents;
  readonly clock: Clock;
  readonly time: Pick<SiteTime, "logicalMs">;
  readonly random: Random;
};

export const JOURNALS = "rounds";
export const journalOf = (round: string) => `${JOURNALS}/${round}.journal`;
