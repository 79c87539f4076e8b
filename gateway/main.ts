import { systemClock } from "@tributary/proto/host/clock.js";
import { loadConfig } from "@tributary/proto/host/config.js";
import { type EventSink, eventLog } from "@tributary/proto/host/events.js";
import { buildDateMs } from "./build-date.js";
import { configSchema, type GatewayConfig } from "./config.js";
import { createGateway, type Gateway } from "./gateway.js";
import type { SiteTime } from "./site-time.js";

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
  return createGateway({
    config,
    softwareVersion,
    onTime(opened) {
      time = opened;
    },
    events(event) {
      log(event);
      options.onEvent?.(event);
    },
  });
}
