import { systemClock } from "@tributary/proto/host/clock.js";
import { loadConfig } from "@tributary/proto/host/config.js";
import { type EventSink, eventLog } from "@tributary/proto/host/events.js";
import { type Cloud, createCloud } from "./cloud.js";
import { type CloudConfig, configSchema } from "./config.js";

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

const ENV_PREFIX = "TRIBUTARY_CLOUD_";

/** Reads the config as `tributary cloud start` and `--print-config` do. */
export function readCloudConfig(source: Pick<RunOptions, "file" | "env">): Promise<CloudConfig> {
  return loadConfig({ ...source, envPrefix: ENV_PREFIX, schema: configSchema });
}

/** Starts a cloud; resolves once both of its listeners are up. The caller closes it. */
export async function runCloud(options: RunOptions): Promise<Cloud> {
  const config = await readCloudConfig(options);
  const log = eventLog(config.log, systemClock(), options.write);
  const { softwareVersion } = options;
  return createCloud({
    config,
    softwareVersion,
    events(event) {
      log(event);
      options.onEvent?.(event);
    },
  });
}
