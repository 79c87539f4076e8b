import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { GATEWAY, SITE } from "./plan.js";
import type { Stage } from "./stage.js";

/** What a process full of devices is told to do; see `fleet-worker.ts`. */
export type FleetCommand =
  | {
      readonly do: "connect";
      readonly port: number;
      readonly site: string;
      readonly names: readonly string[];
      /** Whether there is a gateway that welcomes, and not a bare broker. */
      readonly hello: boolean;
      readonly together: number;
    }
  | { readonly do: "prepare"; readonly plan: string; readonly gateway: string }
  | { readonly do: "finish" }
  | { readonly do: "push"; readonly parameters: number };

/** Devices in a process of their own. */
export type Fleet = {
  readonly names: readonly string[];
  /** Makes the updates for a plan and waits for its offer. */
  prepare(plan: Plan): Promise<void>;
  /** Milliseconds from the first begin to the last receipt. */
  finish(): Promise<number>;
  /** Milliseconds to send an update from each device to a broker that only acknowledges. */
  push(parameters: number): Promise<number>;
};

export type FleetOptions = {
  readonly port: number;
  readonly devices: number;
  /** Before each name, to tell several fleets of one gateway apart. */
  readonly prefix?: string;
  readonly hello?: boolean;
};

const CONNECTING_TOGETHER = 32;

/** Resolves once all devices are connected and welcomed. */
export async function connectFleet(
  stage: Stage,
  { port, devices, prefix = "dev", hello = true }: FleetOptions,
): Promise<Fleet> {
  const worker = stage.worker("./fleet-worker.js");
  const ask = (command: FleetCommand) => worker.ask(command);
  const names = Array.from({ length: devices }, (_, i) => `${prefix}-${i}`);
  await ask({ do: "connect", port, site: SITE, names, hello, together: CONNECTING_TOGETHER });
  return {
    names,
    async prepare(plan) {
      const bytes = Buffer.from(encodeCbor(plan)).toString("base64");
      await ask({ do: "prepare", plan: bytes, gateway: GATEWAY });
    },
    finish: async () => Number((await ask({ do: "finish" })).tookMs),
    push: async (parameters) => Number((await ask({ do: "push", parameters })).tookMs),
  };
}
