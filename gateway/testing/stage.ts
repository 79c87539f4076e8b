import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { configSchema } from "../config.js";
import type { GatewayEvent } from "../events.js";
import { createGateway, type Gateway, type GatewayParts } from "../gateway.js";
import { connectDevice, type TestDevice } from "./device.js";
import { openTestReducer, type TestReducer } from "./reducer.js";
import { sampleModel } from "./sample.js";
import { until } from "./wait.js";

export type StartedGateway = Gateway & { readonly events: readonly GatewayEvent[] };

/** What one test opens; all of it is closed in reverse by `close`. */
export type Stage = {
  dataDir(): Promise<string>;
  reducer(port?: number): Promise<TestReducer>;
  gateway(
    dir: string,
    upstream: string,
    settings?: object,
    parts?: Partial<GatewayParts>,
  ): Promise<StartedGateway>;
  /** A gateway as a process of its own, to be killed. */
  process(
    dir: string,
    upstream: string,
    settings?: object,
  ): Promise<{ mqttPort: number; kill(): Promise<void> }>;
  /** A connected device that has been welcomed. */
  device(gateway: { mqttPort: number }, name: string, site?: string): Promise<TestDevice>;
  close(): Promise<void>;
};

const settings = (dir: string, upstream: string) => ({
  site: "plant",
  gateway: "gw-1",
  dataDir: dir,
  listen: { port: 0 },
  status: { port: 0 },
  upstream,
  reconnect: { baseMs: 10, capMs: 50 },
  retryAfterMs: 10,
  ballastBytes: 64 * 1024,
});

export function createStage(): Stage {
  const opened: (() => unknown)[] = [];
  return {
    async dataDir() {
      const dir = await mkdtemp(join(tmpdir(), "gateway-"));
      opened.push(() => rm(dir, { recursive: true, force: true }));
      return dir;
    },
    async reducer(port) {
      const reducer = await openTestReducer(port);
      reducer.models.set("mnist.0", sampleModel);
      opened.push(() => reducer.close());
      return reducer;
    },
    async gateway(dir, upstream, changes = {}, parts = {}) {
      const events: GatewayEvent[] = [];
      const gateway = await createGateway({
        config: configSchema.parse({ ...settings(dir, upstream), ...changes }),
        softwareVersion: "0.0.0",
        events: (event) => events.push(event),
        parts,
      });
      opened.push(() => gateway.close());
      return Object.assign(gateway, { events });
    },
    async process(dir, upstream, changes = {}) {
      const file = join(dir, "gateway.json");
      const config = { ...settings(join(dir, "data"), upstream), ...changes };
      await writeFile(file, JSON.stringify(config));
      const script = fileURLToPath(new URL("./run.js", import.meta.url));
      const child = spawn(process.execPath, [script, file], {
        stdio: ["ignore", "pipe", "ignore"],
      });
      const kill = async () => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        const exited = once(child, "exit");
        child.kill("SIGKILL");
        await exited;
      };
      opened.push(kill);
      const ended = once(child, "exit").then(([code]) => {
        throw new Error(`the gateway's process ended with ${code} before it listened`);
      });
      const line = once(createInterface({ input: child.stdout }), "line");
      const [port] = await Promise.race([line, ended]);
      ended.catch(() => {});
      return { mqttPort: Number(port), kill };
    },
    async device(gateway, name, site = "plant") {
      const device = await connectDevice(gateway.mqttPort, name, { site });
      opened.push(() => device.close());
      await device.hello();
      return device;
    },
    async close() {
      for (const close of opened.splice(0).reverse()) await close();
    },
  };
}

/** Waits until the upstream knows of so many devices. */
export async function reported(reducer: TestReducer, devices: number): Promise<void> {
  await until("the devices are reported", () => {
    const changes = reducer.heard("devicesChanged");
    return new Set(changes.flatMap(({ joined }) => joined.map((d) => d.device))).size >= devices;
  });
}
