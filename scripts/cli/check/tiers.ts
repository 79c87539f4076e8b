import { stat } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import type { CloudConfig } from "@tributary/cloud/config.js";
import type { DeviceConfig } from "@tributary/device-sdk/config.js";
import type { GatewayConfig } from "@tributary/gateway/config.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { reasonOf } from "../failure.js";
import { gatewayPageUrl, readStatus } from "../gateway-status.js";
import { type Finding, failure, fine, skipped, warning } from "./finding.js";
import { checkIdentities, checkOwnIdentity } from "./identities.js";
import { checkClock, checkDisk, checkPort, holderOf } from "./machine.js";
import { checkReach, placeOf, tryConnect, tryConnectTls } from "./network.js";

const MIB = 1024 * 1024;

export async function checkGateway(
  config: GatewayConfig,
  nowMs: number,
): Promise<readonly Finding[]> {
  const { dataDir, listen, status, downstream } = config;
  const view = status.enabled
    ? await readStatus(gatewayPageUrl(status)).catch(() => undefined)
    : undefined;
  const answers = view?.gateway === config.gateway && view.site === config.site;
  const holder = await holderOf(dataDir);
  const runs = answers || holder !== undefined;
  const { tryUpstream } = await import("@tributary/gateway/reach.js");
  const grpc = (_place: unknown, withinMs: number) =>
    tryUpstream(config, nowMs, withinMs).catch(reasonOf);
  return [
    checkClock(nowMs, answers ? view.clock.offsetMs : 0),
    ...(await checkDisk(dataDir, runs ? config.reserveDiskBytes : config.budgetBytes)),
    await checkPort("listen", listen, runs),
    ...(status.enabled ? [await checkPort("status", status, runs)] : []),
    ...(downstream === undefined
      ? []
      : [await checkPort("downstream.listen", downstream.listen, runs)]),
    runs
      ? await checkBroker(listen, await isEnrolled(dataDir))
      : skipped("broker", "the gateway does not run"),
    await checkStore(dataDir, answers, holder),
    ...(await checkOwnIdentity(config, nowMs)),
    ...(await checkReach("upstream", placeOf(config.upstream), "gRPC", grpc)),
  ];
}

async function isEnrolled(dataDir: string): Promise<boolean> {
  return stat(join(dataDir, "identity", "certificate.pem")).then(
    () => true,
    () => false,
  );
}

async function checkBroker(listen: GatewayConfig["listen"], secure: boolean): Promise<Finding> {
  if (listen.port === 0) return skipped("broker", "its port is not in the config");
  const host = /^(0\.0\.0\.0|::)$/.test(listen.host) ? "localhost" : listen.host;
  const wrong = await (secure ? tryConnectTls : tryConnect)({ ...listen, host }, 5_000);
  const at = `${listen.host}:${listen.port}`;
  return wrong === undefined
    ? fine("broker", `${at} answers a CONNECT`)
    : failure("broker", `${at}: ${wrong}`, "Restart the gateway, and read its log.");
}

/** The store of a gateway that runs is never opened: its page says how it is. */
async function checkStore(
  dataDir: string,
  answers: boolean,
  holder: number | undefined,
): Promise<Finding> {
  if (answers) return fine("store", "the gateway that runs on it answers on its status page");
  if (holder !== undefined) {
    return warning(
      "store",
      `in use by process ${holder}, whose status page does not answer`,
      "Is status.enabled set, and the config the one it was started with? Read its log.",
    );
  }
  if ((await stat(dataDir).catch(() => undefined)) === undefined) {
    return fine("store", "nothing is kept there yet");
  }
  try {
    const { repairGateway } = await import("@tributary/gateway/repair.js");
    const { index, files } = await repairGateway({ dataDir, dryRun: true });
    const damaged = files.filter(({ state }) => state === "damaged" || state === "missing").length;
    if (index.state === "missing" && files.length === 0) {
      return fine("store", "nothing is kept there yet");
    }
    if (index.state === "whole" && damaged === 0) return fine("store", "whole");
    const detail = `index ${index.state}, ${damaged} damaged or missing files`;
    return failure("store", detail, "Look with tributary gateway repair --dry-run.");
  } catch (error) {
    const code = error instanceof TributaryError ? error.code : "internal";
    return failure("store", `${code}: ${reasonOf(error)}`, "See disk write, then gateway repair.");
  }
}

export async function checkCloud(config: CloudConfig, nowMs: number): Promise<readonly Finding[]> {
  const holder = await holderOf(config.dataDir);
  const runs = holder !== undefined;
  return [
    checkClock(nowMs),
    ...(await checkDisk(config.dataDir, 1024 * MIB)),
    await checkPort("grpc", config.grpc, runs),
    await checkPort("http", config.http, runs),
    ...(config.store.url === undefined
      ? [
          runs
            ? fine("store", `in use by process ${holder}`)
            : skipped("store", "embedded, and only the cloud opens it"),
        ]
      : await checkServer(config.store.url)),
  ];
}

async function checkServer(url: string): Promise<readonly Finding[]> {
  const { hostname, port } = new URL(url);
  const place = { host: hostname.replace(/^\[|\]$/g, ""), port: Number(port || 5432) };
  // The login is the cloud's own to try: its failure is in the log of the start.
  return (await checkReach("store", place, "PostgreSQL", async () => undefined)).slice(0, 2);
}

export async function checkDevice(
  config: DeviceConfig,
  nowMs: number,
): Promise<readonly Finding[]> {
  // A device that runs packages alone has none.
  const module = config.trainer?.module;
  return [
    checkClock(nowMs),
    ...(config.dataDir === undefined
      ? [skipped("disk", "no dataDir: updates live in memory")]
      : await checkDisk(config.dataDir, 64 * MIB)),
    ...(module !== undefined &&
    isAbsolute(module) &&
    (await stat(module).catch(() => undefined)) === undefined
      ? [failure("trainer", `${module} is not there`, "Mend trainer.module in the config.")]
      : []),
    ...(await checkIdentities(config, nowMs)),
    ...(config.gateway.startsWith("mqtts:")
      ? await checkReach("gateway", placeOf(config.gateway), "MQTT over TLS", tryConnectTls)
      : await checkReach("gateway", placeOf(config.gateway), "MQTT", tryConnect)),
  ];
}
