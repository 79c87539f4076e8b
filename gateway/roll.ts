import type {
  DevicesChanged,
  Heartbeat,
  Hello,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { DeviceRoll, GatewayRoll } from "@tributary/proto/tier/attach.js";
import { type ReportedDevice, readDeviceReport } from "@tributary/proto/tier/device-report.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { Verdict } from "@tributary/proto/wire/verdict.js";
import type { DeviceChange, DeviceRecord } from "./devices.js";
import { limits } from "./limits.js";

/** A gateway that is attached below this one. */
export type GatewayBelow = {
  readonly site: string;
  readonly incarnation: string;
  /** Gateways below it. */
  readonly below: readonly string[];
};

/**
 * Who is below: gateways that are attached, and the devices that they report, each bound to the
 * gateway that reported it last. That binding is what makes the rosters of a round disjoint. Nothing
 * of it outlives the process: who attaches says it anew.
 */
export type Roll = {
  readonly gateways: GatewayRoll;
  readonly devices: DeviceRoll;
  readonly deviceCount: number;
  gateway(name: string): GatewayBelow | undefined;
  /** Names of all that is below, at any depth. */
  names(): string[];
  /** The gateway, attached directly, through which a device is reached. */
  placeOf(device: string): string | undefined;
  list(): Iterable<readonly [string, DeviceRecord]>;
  /** The device has connected to this gateway itself. */
  arrivedHere(device: string): void;
};

type Entry = { readonly gateway: string; readonly record: DeviceRecord };

export function createRoll(onChange: (change: DeviceChange) => void): Roll {
  const gateways = new Map<string, GatewayBelow>();
  const entries = new Map<string, Entry>();

  function join(gateway: string, site: string, reported: ReportedDevice): boolean {
    const { device, sdk, attributes, at = { site, gateway } } = reported;
    if (!entries.has(device) && entries.size >= limits.devicesBelow) return false;
    const record = { sdk, attributes, at };
    entries.set(device, { gateway, record });
    onChange({ type: "joined", device, record });
    return true;
  }

  function leave(gateway: string, device: string): void {
    if (entries.get(device)?.gateway !== gateway) return; // it has moved since
    entries.delete(device);
    onChange({ type: "left", device });
  }

  function leaveAll(gateway: string, but: ReadonlySet<string>): void {
    for (const [device, entry] of [...entries]) {
      if (entry.gateway === gateway && !but.has(device)) leave(gateway, device);
    }
  }

  return {
    gateways: {
      attach({ gateway, site, incarnation, below }: Hello) {
        const others = [...gateways].filter(([name]) => name !== gateway);
        const known = others.reduce((sum, [, other]) => sum + 1 + other.below.length, 0);
        if (known + 1 + below.length > wire.gatewaysBelow) return false;
        gateways.set(gateway, { site, incarnation, below });
        return true;
      },
      detach(gateway) {
        gateways.delete(gateway);
        leaveAll(gateway, new Set());
      },
      seen() {},
      heartbeat(_gateway: string, _figures: Heartbeat) {},
    },
    devices: {
      change(gateway, site, message: DevicesChanged): Verdict<{ dropped: number }, "malformed"> {
        const read = readDeviceReport(message);
        if (!read.ok) return read;
        const { all, joined, left } = read.report;
        if (all) leaveAll(gateway, new Set(joined.map(({ device }) => device)));
        for (const device of left) leave(gateway, device);
        const dropped = joined.filter((device) => !join(gateway, site, device)).length;
        return { ok: true, dropped };
      },
    },
    get deviceCount() {
      return entries.size;
    },
    gateway: (name) => gateways.get(name),
    names: () => [...gateways].flatMap(([name, { below }]) => [name, ...below]),
    placeOf: (device) => entries.get(device)?.gateway,
    *list() {
      for (const [device, { record }] of entries) yield [device, record];
    },
    arrivedHere(device) {
      // Its own joining is reported; a leaving after it would take it away again.
      entries.delete(device);
    },
  };
}
