import { type Clock, systemClock } from "@tributary/proto/host/clock.js";
import { loadConfig } from "@tributary/proto/host/config.js";
import { type EventSink, eventLog } from "@tributary/proto/host/events.js";
import { buildDateMs } from "./build-date.js";
import { configSchema, type GatewayConfig } from "./config.js";
import type { GatewayEvent, GatewayEvents } from "./events.js";
import { createGateway, type Gateway } from "./gateway.js";
import type { SiteTime } from "./site-time.js";
import { beginTrial } from "./trial.js";
import { openSlots } from "./update-slots.js";

export type RunOptions = {
  /** YAML or JSON; without one the environment alone counts. */
  readonly file?: string | undefined;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly softwareVersion: string;
  /** Takes one event a line. */
  readonly write: (line: string) => void;
  /** Besides the written events. */
  readonly onEvent?: EventSink;
};

const ENV_PREFIX = "TRIBUTARY_GATEWAY_";

/** Reads the config as `tributary gateway start` and `--print-config` do. Nothing in it is secret yet. */
export function readGatewayConfig(
  source: Pick<RunOptions, "file" | "env">,
): Promise<GatewayConfig> {
  return loadConfig({ ...source, envPrefix: ENV_PREFIX, schema: configSchema });
}

/** Starts a gateway; resolves once its broker listens. The caller closes it. */
export async function runGateway(options: RunOptions): Promise<Gateway> {
  const config = await readGatewayConfig(options);
  const clock = systemClock();
  let time: Pick<SiteTime, "nowMs"> = { nowMs: () => Math.max(clock.nowMs(), buildDateMs) };
  // What is logged is never stamped before the floor of the site's time.
  const log = eventLog(config.log, { ...clock, nowMs: () => time.nowMs() }, options.write);
  const { softwareVersion } = options;
  const events = (event: GatewayEvent): void => {
    log(event);
    options.onEvent?.(event);
  };
  const gateway = await createGateway({
    config,
    softwareVersion,
    onTime(opened) {
      time = opened;
    },
    events,
  });
  return withTrial(gateway, options, { clock, events });
}

/** In an installation with slots, as `launch` says by the environment, new software proves itself first. */
async function withTrial(
  gateway: Gateway,
  { env, softwareVersion }: RunOptions,
  ports: { readonly clock: Clock; readonly events: GatewayEvents },
): Promise<Gateway> {
  const home = env.TRIBUTARY_HOME;
  if (home === undefined) return gateway;
  const trial = await beginTrial({
    slots: openSlots(home),
    health: gateway.health,
    softwareVersion,
    ...ports,
  }).catch(async (cause: unknown) => {
    await gateway.close();
    throw cause;
  });
  const failed = Promise.race([gateway.failed, trial.failed]);
  failed.catch(() => {});
  return {
    ...gateway,
    failed,
    close() {
      trial.close();
      return gateway.close();
    },
  };
}
