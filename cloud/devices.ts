import type { DevicesChanged } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import { type ReportedDevice, readDeviceReport } from "@tributary/proto/tier/device-report.js";
import type { Verdict } from "@tributary/proto/wire/verdict.js";
import { limits } from "./limits.js";
import type { DeviceRow } from "./store/rows.js";

/**
 * The devices the cloud knows, each bound to the attached gateway that reported it last. That binding is
 * what makes the rosters of a round disjoint.
 */
export type Devices = {
  /**
   * Takes an attached gateway's report, of its own devices and of those below it, as a whole or not
   * at all. `dropped` counts devices past the bound.
   */
  change(
    gateway: string,
    site: string,
    report: DevicesChanged,
  ): Verdict<{ readonly dropped: number }, "malformed">;
  /** Devices connected at an attached gateway, or below it, and bound to it, in ascending order. */
  connectedAt(gateway: string): string[];
  /** How many of them are at each site. */
  sitesAt(gateway: string): ReadonlyMap<string, number>;
  /** Where a device was last connected. */
  siteOf(device: string): string | undefined;
  /** Registered devices of each site, connected or not. */
  populations(): ReadonlyMap<string, number>;
  rows(): DeviceRow[];
  /** Rows changed since the last call. */
  takeChanged(): DeviceRow[];
};

/** @param known rows of an earlier run; they start disconnected. */
export function createDevices(clock: Clock, known: readonly DeviceRow[]): Devices {
  const rows = new Map(known.map((row) => [row.id, { ...row, connected: false }]));
  const bound = new Map<string, Set<string>>();
  const changed = new Set<string>();

  const setOf = (gateway: string): Set<string> => {
    const set = bound.get(gateway) ?? new Set();
    bound.set(gateway, set);
    return set;
  };
  const leave = (gateway: string, device: string) => {
    const row = rows.get(device);
    if (row === undefined || !setOf(gateway).delete(device)) return;
    rows.set(device, { ...row, connected: false, lastSeenMs: clock.nowMs() });
    changed.add(device);
  };
  const join = (
    via: string,
    site: string,
    { device, sdk, attributes, at }: ReportedDevice,
  ): boolean => {
    const before = rows.get(device);
    if (before === undefined && rows.size >= limits.devices) return false;
    if (before !== undefined) bound.get(before.via)?.delete(device);
    const nowMs = clock.nowMs();
    rows.set(device, {
      id: device,
      ...(at ?? { site, gateway: via }),
      via,
      sdk,
      attributes,
      connected: true,
      firstSeenMs: before?.firstSeenMs ?? nowMs,
      lastSeenMs: nowMs,
    });
    setOf(via).add(device);
    changed.add(device);
    return true;
  };

  return {
    change(gateway, site, report) {
      const read = readDeviceReport(report);
      if (!read.ok) return read;
      const { all, joined, left } = read.report;
      if (all) {
        const present = new Set(joined.map(({ device }) => device));
        for (const device of [...setOf(gateway)]) if (!present.has(device)) leave(gateway, device);
      }
      for (const device of left) leave(gateway, device);
      const dropped = joined.filter((device) => !join(gateway, site, device)).length;
      return { ok: true, dropped };
    },
    connectedAt: (gateway) => [...(bound.get(gateway) ?? [])].sort(),
    sitesAt: (gateway) => countSites(bound.get(gateway) ?? [], (id) => rows.get(id)?.site),
    siteOf: (device) => rows.get(device)?.site,
    populations: () => countSites(rows.keys(), (id) => rows.get(id)?.site),
    rows: () => [...rows.values()],
    takeChanged() {
      const taken = [...changed].map((id) => rows.get(id)).filter((row) => row !== undefined);
      changed.clear();
      return taken;
    },
  };
}

function countSites(
  devices: Iterable<string>,
  siteOf: (device: string) => string | undefined,
): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const device of devices) {
    const site = siteOf(device);
    if (site !== undefined) counts.set(site, (counts.get(site) ?? 0) + 1);
  }
  return counts;
}
