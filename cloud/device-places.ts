import type { DevicesChanged } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { DeviceRoll } from "@tributary/proto/tier/attach.js";
import type { CloudEvent, CloudEvents } from "./events.js";
import type { IdentityStore } from "./store/identities.js";

/** Where devices and gateways are enrolled, by kind and name. */
export type EnrolledPlaces = {
  siteOf(kind: "gateway" | "device", name: string): string | undefined;
  /** Hears who enrols. */
  note(event: CloudEvent): void;
};

const PAGE = 500;

export async function openEnrolledPlaces(
  store: Pick<IdentityStore, "listIdentities">,
): Promise<EnrolledPlaces> {
  const sites = new Map<string, string>();
  let after: Parameters<typeof store.listIdentities>[0]["after"];
  do {
    const { items, next } = await store.listIdentities({ after, limit: PAGE });
    for (const { kind, name, site } of items) sites.set(`${kind}/${name}`, site);
    after = next;
  } while (after !== undefined);
  return {
    siteOf: (kind, name) => sites.get(`${kind}/${name}`),
    note(event) {
      if (event.name === "enrolled") sites.set(`${event.kind}/${event.who}`, event.site);
    },
  };
}

/**
 * Takes of a gateway's report only devices that are enrolled at the site where it says that they are: no
 * gateway takes another site's devices to itself, or makes some up. Where it says that they are at a
 * gateway below it, that one must be of that site, too.
 */
export function placedDevices(
  devices: DeviceRoll,
  places: () => EnrolledPlaces | undefined,
  events: CloudEvents,
): DeviceRoll {
  return {
    change(gateway, site, report) {
      const known = places();
      if (known === undefined) return devices.change(gateway, site, report);
      const isPlaced = (one: DevicesChanged["joined"][number]) => {
        const place = one.site === "" ? site : one.site;
        const at = one.gateway === "" ? gateway : one.gateway;
        return (
          known.siteOf("device", one.device) === place && known.siteOf("gateway", at) === place
        );
      };
      const joined = report.joined.filter(isPlaced);
      const misplaced = report.joined.length - joined.length;
      if (misplaced > 0) {
        const device = report.joined.find((one) => !isPlaced(one))?.device.slice(0, 64) ?? "";
        events({ level: "warn", name: "devices-misplaced", gateway, misplaced, device });
      }
      return devices.change(gateway, site, { ...report, joined });
    },
  };
}
