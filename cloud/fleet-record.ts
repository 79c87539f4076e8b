import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import type { Devices } from "./devices.js";
import type { CloudEvent, CloudEvents } from "./events.js";
import type { Gateways } from "./gateways.js";
import { limits } from "./limits.js";
import type { DeviceRow, EventRow, GatewayRow } from "./store/rows.js";
import type { Store } from "./store/store.js";

/** Writes the fleet and the events into the store behind what goes on, in bounded batches. */
export type FleetRecord = {
  /** Takes an event for the store; past the backlog it is left out of it. */
  record(event: CloudEvent): void;
  /** Writes what is left, and stops. */
  close(): Promise<void>;
};

export function createFleetRecord(
  store: Store,
  clock: Clock,
  gateways: Gateways,
  devices: Devices,
  report: CloudEvents,
): FleetRecord {
  let backlog: Omit<EventRow, "sequence">[] = [];
  let timer: Timer | undefined;
  let writing: Promise<void> = Promise.resolve();

  const write = async () => {
    const [events, changedGateways, changedDevices] = [
      backlog,
      gateways.takeChanged(),
      devices.takeChanged(),
    ];
    backlog = [];
    try {
      if (events.length > 0) await store.appendEvents(events);
      if (changedGateways.length > 0) await store.saveGateways(changedGateways);
      for (let at = 0; at < changedDevices.length; at += BATCH)
        await store.saveDevices(changedDevices.slice(at, at + BATCH));
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      const retryMs = limits.fleetSaveMs;
      // Lists show the newest state again as soon as it changes; nothing depends on them.
      report({ level: "error", name: "storage-failed", what: "fleet", message, retryMs });
    }
  };
  const schedule = () => {
    timer = clock.setTimer(limits.fleetSaveMs, () => {
      writing = write().then(schedule);
    });
  };
  schedule();

  return {
    record({ level, name, ...fields }) {
      if (backlog.length >= limits.eventBacklog || level === "debug") return;
      const shown: Record<string, string | number | boolean> = {};
      for (const [field, value] of Object.entries(fields))
        if (value !== undefined) shown[field] = value;
      backlog.push({ atMs: clock.nowMs(), level, name, fields: shown });
    },
    async close() {
      timer?.cancel();
      await writing;
      timer?.cancel();
      await write();
    },
  };
}

const BATCH = 500;

/** The fleet of an earlier run. */
export async function loadFleet(
  store: Store,
): Promise<{ readonly gateways: GatewayRow[]; readonly devices: DeviceRow[] }> {
  await store.detachAll();
  const gateways: GatewayRow[] = [];
  for (let after: string | undefined; ; ) {
    const slice = await store.listGateways({ after, limit: BATCH });
    gateways.push(...slice.items);
    after = slice.next;
    if (after === undefined) break;
  }
  const devices: DeviceRow[] = [];
  for (let after: string | undefined; ; ) {
    const slice = await store.listDevices({}, { after, limit: BATCH });
    devices.push(...slice.items);
    after = slice.next;
    if (after === undefined) break;
  }
  return { gateways, devices };
}
