import type { SessionParams } from "./params.js";
import type { SessionWorld } from "./session-world.js";

type World = Pick<SessionWorld, "projects" | "gateways" | "devices">;
type Of = Pick<SessionParams, "project">;

/** Whether a site is one of a session's project: others' devices take no part in it. */
export function isOwnSite(
  { projects }: Pick<World, "projects">,
  { project }: Of,
  site: string | undefined,
): boolean {
  return projects === undefined || (site !== undefined && projects.ofSite(site) === project);
}

/** Devices connected at a gateway, or below it, that are at sites of the session's project. */
export function ownDevicesAt(world: World, params: Of, gateway: string): readonly string[] {
  const { devices } = world;
  return devices
    .connectedAt(gateway)
    .filter((device) => isOwnSite(world, params, devices.siteOf(device)));
}

/** Whether a gateway is of the session's project, itself or by a site below it. */
export function servesProject(world: World, params: Of, gateway: string): boolean {
  const { gateways, devices } = world;
  if (isOwnSite(world, params, gateways.siteOf(gateway))) return true;
  return [...devices.sitesAt(gateway).keys()].some((site) => isOwnSite(world, params, site));
}
