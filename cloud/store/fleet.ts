import { storeLimits } from "./limits.js";
import type { DeviceRow, EventRow, GatewayRow } from "./rows.js";
import { askFor, sliceOf } from "./slice.js";
import type { Query, Sql } from "./sql.js";
import type { Store } from "./store.js";
import { columnsOf, fromRow, insertRows, replacing } from "./tables.js";
import { sweepEvents } from "./telemetry.js";

const gatewayColumns = columnsOf("gateways");
/** A device that is connected was seen when its gateway was: it is not written for each heartbeat. */
const deviceColumns = `${columnsOf("devices", ["lastSeenMs"])}, seen AS "lastSeenMs"`;
const eventColumns = `sequence, ${columnsOf("events")}`;

type FleetQueries = Pick<
  Store,
  | "saveGateways"
  | "listGateways"
  | "saveDevices"
  | "listDevices"
  | "detachAll"
  | "appendEvents"
  | "listEvents"
>;

/** What the fleet reports of itself: bounded, and written lazily. */
export function fleetQueries(sql: Sql): FleetQueries {
  const { read, write } = sql;
  const sweepDue = everySo(storeLimits.fleetWritesPerSweep);
  return {
    saveGateways: (gateways) =>
      write("lazy", async (query) => {
        await insertRows(
          query,
          "gateways",
          newestById(gateways),
          replacing("gateways", "id", ["firstSeenMs"]),
        );
        if (sweepDue()) await sweep(query, "gateways", "attached", storeLimits.gatewaysKept);
      }),
    async listGateways({ after, limit }) {
      const rows = await read(
        `SELECT ${gatewayColumns} FROM gateways WHERE $1::text IS NULL OR id > $1
         ORDER BY id LIMIT $2`,
        [after ?? null, askFor(limit)],
      );
      return sliceOf(
        rows.map(fromRow<GatewayRow>),
        limit,
        ({ id }) => id,
        (row) => row,
      );
    },
    saveDevices: (devices) =>
      write("lazy", async (query) => {
        await insertRows(
          query,
          "devices",
          newestById(devices),
          replacing("devices", "id", ["firstSeenMs"]),
        );
        if (sweepDue()) await sweep(query, "devices", "connected", storeLimits.devicesKept);
      }),
    async listDevices({ site, gateway }, { after, limit }) {
      const rows = await read(
        `SELECT ${deviceColumns} FROM (
           SELECT d.*, greatest(d.last_seen_ms, g.last_seen_ms) AS seen FROM devices d
           LEFT JOIN gateways g ON g.id = d.via AND d.connected) AS devices
         WHERE ($1::text IS NULL OR site = $1) AND ($2::text IS NULL OR gateway = $2)
           AND ($3::text IS NULL OR id > $3)
         ORDER BY id LIMIT $4`,
        [site ?? null, gateway ?? null, after ?? null, askFor(limit)],
      );
      return sliceOf(
        rows.map(fromRow<DeviceRow>),
        limit,
        ({ id }) => id,
        (row) => row,
      );
    },
    detachAll: () =>
      write("lazy", async (query) => {
        await query("UPDATE gateways SET attached = false WHERE attached");
        await query("UPDATE devices SET connected = false WHERE connected");
      }),
    appendEvents: (events) =>
      write("lazy", async (query) => {
        await insertRows(query, "events", events);
        await sweepEvents(query);
      }),
    async listEvents({ after, limit }) {
      if (after === undefined) {
        const newest = await read(
          `SELECT ${eventColumns} FROM events ORDER BY sequence DESC LIMIT $1`,
          [askFor(limit) - 1],
        );
        return { items: newest.reverse().map(fromRow<EventRow>), next: undefined };
      }
      const rows = await read(
        `SELECT ${eventColumns} FROM events WHERE sequence > $1 ORDER BY sequence LIMIT $2`,
        [after, askFor(limit)],
      );
      return sliceOf(
        rows.map(fromRow<EventRow>),
        limit,
        ({ sequence }) => sequence,
        (row) => row,
      );
    },
  };
}

/** One statement may replace a row once: of several with one id, the last counts. */
function newestById<T extends { readonly id: string }>(rows: readonly T[]): T[] {
  return [...new Map(rows.map((row) => [row.id, row])).values()];
}

function everySo(calls: number): () => boolean {
  let count = 0;
  return () => {
    count = (count + 1) % calls;
    return count === 0;
  };
}

/** Removes those past the bound that are not connected, unseen longest first. */
async function sweep(
  query: Query,
  table: "gateways" | "devices",
  live: "attached" | "connected",
  kept: number,
): Promise<void> {
  await query(
    `DELETE FROM ${table} WHERE id IN (
       SELECT id FROM ${table} WHERE NOT ${live} ORDER BY last_seen_ms
       LIMIT greatest(0, (SELECT count(*) FROM ${table}) - $1))`,
    [kept],
  );
}
