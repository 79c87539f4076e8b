import type { Clock } from "@tributary/proto/host/clock.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import type { Random } from "@tributary/proto/host/random.js";
import type { Kernel } from "@tributary/proto/kernel/kernel.js";
import type { Links } from "@tributary/proto/tier/attach.js";
import type { Projects } from "./access/projects.js";
import type { ModelFiles } from "./candidate.js";
import type { Devices } from "./devices.js";
import type { CloudEvents } from "./events.js";
import type { Gateways } from "./gateways.js";
import type { Packages } from "./packages/packages.js";
import type { Store } from "./store/store.js";

/** The real parts that sessions run on. */
export type SessionWorld = {
  readonly clock: Clock;
  readonly random: Random;
  readonly disk: Disk;
  readonly kernel: Kernel;
  readonly store: Store;
  readonly models: ModelFiles;
  /** Undefined where none can be uploaded. */
  readonly packages?: Pick<Packages, "planned"> | undefined;
  readonly gateways: Gateways;
  readonly devices: Devices;
  /** Which project a site is in; undefined where there is but one. */
  readonly projects?: Pick<Projects, "ofSite"> | undefined;
  readonly links: Links;
  readonly events: CloudEvents;
};
