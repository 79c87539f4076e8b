import type { DevicesChanged } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import { decodeCbor } from "@tributary/proto/wire/cbor.js";
import { type Attributes, attributesSchema } from "@tributary/proto/wire/device-link.js";
import { isId } from "@tributary/proto/wire/ids.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { limits } from "./limits.js";
import type { DeviceRow } from "./store/rows.js";

/**
 * The devices the cloud knows, each bound to the gateway that reported it last. That binding is
 * what makes the rosters of a round disjoint.
 */
export type Devices = {
  /** Takes a gateway's report, as a whole or not at all. `dropped` counts devices past the bound. */
  change(
    gateway: string,
    site: string,
    report: DevicesChanged,
  ): Verdict<{ readonly dropped: number }, "malformed">;
  /** Devices connected at a gateway and bound to it, in ascending order. */
  connectedAt(gateway: string): string[];
  countAt(gateway: string): number;
  rows(): DeviceRow[];
  /** Rows changed since the last call. */
  takeChanged(): DeviceRow[];
};

type Joined = { readonly device: string; readonly sdk: string; readonly attributes: Attributes };

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
  const join = (gateway: string, site: string, { device, sdk, attributes }: Joined): boolean => {
    const before = rows.get(device);
    if (before === undefined && rows.size >= limits.devices) return false;
    if (before !== undefined) bound.get(before.gateway)?.delete(device);
    const nowMs = clock.nowMs();
    rows.set(device, {
      id: device,
      site,
      gateway,
      sdk,
      attributes,
      connected: true,
      firstSeenMs: before?.firstSeenMs ?? nowMs,
      lastSeenMs: nowMs,
    });
    setOf(gateway).add(device);
    changed.add(device);
    return true;
  };

  return {
    change(gateway, site, report) {
      const read = readReport(report);
      if (!read.ok) return read;
      if (report.all) {
        const present = new Set(read.joined.map(({ device }) => device));
        for (const device of [...setOf(gateway)]) if (!present.has(device)) leave(gateway, device);
      }
      for (const device of read.left) leave(gateway, device);
      const dropped = read.joined.filter((joined) => !join(gateway, site, joined)).length;
      return { ok: true, dropped };
    },
    connectedAt: (gateway) => [...(bound.get(gateway) ?? [])].sort(),
    countAt: (gateway) => bound.get(gateway)?.size ?? 0,
    rows: () => [...rows.values()],
    takeChanged() {
      const taken = [...changed].map((id) => rows.get(id)).filter((row) => row !== undefined);
      changed.clear();
      return taken;
    },
  };
}

function readReport(
  report: DevicesChanged,
): Verdict<{ readonly joined: Joined[]; readonly left: readonly string[] }, "malformed"> {
  const { joined, left } = report;
  const most = Math.max(joined.length, left.length);
  if (most > limits.devicesPerMessage) return refuse("malformed", `${most} devices in one message`);
  if (!left.every(isId)) return refuse("malformed", "a device id that is none");
  const read: Joined[] = [];
  for (const { device, sdk, attributes } of joined) {
    if (!isId(device)) return refuse("malformed", "a device id that is none");
    if (sdk.length > wireLimits.attributeChars)
      return refuse("malformed", `${device}: its sdk's name is too long`);
    const decoded = readAttributes(attributes);
    if (decoded === undefined) return refuse("malformed", `${device}: unreadable attributes`);
    read.push({ device, sdk, attributes: decoded });
  }
  return { ok: true, joined: read, left };
}

function readAttributes(bytes: Uint8Array): Attributes | undefined {
  if (bytes.length === 0) return {};
  const cbor = decodeCbor(bytes, { depth: 2, items: 4 * wireLimits.attributes });
  if (!cbor.ok) return undefined;
  const attributes = attributesSchema.safeParse(cbor.value);
  return attributes.success ? attributes.data : undefined;
}
