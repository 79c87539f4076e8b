import { isId } from "./ids.js";

/**
 * Topic grammar, version 1:
 *
 *     tributary/v1/<site>/up/<device>/<kind>     device to gateway
 *     tributary/v1/<site>/down/<device>/<kind>   gateway to one device
 *     tributary/v1/<site>/all/<kind>             gateway to every device of the site
 */
const ROOT = "tributary/v1";

export const upKinds = [
  "hello",
  "fetch",
  "begin",
  "chunk",
  "decline",
  "enrol",
  "renew",
  "denylist",
] as const;
export const downKinds = [
  "welcome",
  "offer",
  "part",
  "grant",
  "receipt",
  "refusal",
  "closed",
  "enrolled",
] as const;
export const allKinds = ["published", "denylist"] as const;

export type UpKind = (typeof upKinds)[number];
export type DownKind = (typeof downKinds)[number];
export type AllKind = (typeof allKinds)[number];

export type Topic =
  | { readonly way: "up"; readonly site: string; readonly device: string; readonly kind: UpKind }
  | {
      readonly way: "down";
      readonly site: string;
      readonly device: string;
      readonly kind: DownKind;
    }
  | { readonly way: "all"; readonly site: string; readonly kind: AllKind };

export function upTopic(site: string, device: string, kind: UpKind): string {
  return `${ROOT}/${site}/up/${device}/${kind}`;
}

export function downTopic(site: string, device: string, kind: DownKind): string {
  return `${ROOT}/${site}/down/${device}/${kind}`;
}

export function allTopic(site: string, kind: AllKind): string {
  return `${ROOT}/${site}/all/${kind}`;
}

/** The two filters a device subscribes to. */
export function deviceFilters(site: string, device: string): readonly [string, string] {
  return [`${ROOT}/${site}/down/${device}/+`, `${ROOT}/${site}/all/+`];
}

/** The two filters of a connection that is for an enrolment or a renewal alone. */
export function petitionFilters(site: string, device: string): readonly [string, string] {
  return [downTopic(site, device, "enrolled"), downTopic(site, device, "refusal")];
}

function oneOf<T extends string>(kinds: readonly T[], kind: string | undefined): T | undefined {
  return kinds.find((known) => known === kind);
}

/** Parses a topic; undefined for anything outside the grammar, whatever its length. */
export function parseTopic(topic: string): Topic | undefined {
  if (topic.length > 256 || !topic.startsWith(`${ROOT}/`)) return undefined;
  const [site, way, ...rest] = topic.slice(ROOT.length + 1).split("/");
  if (site === undefined || !isId(site)) return undefined;
  if (way === "all" && rest.length === 1) {
    const kind = oneOf(allKinds, rest[0]);
    return kind && { way, site, kind };
  }
  const [device, last] = rest;
  if (rest.length !== 2 || device === undefined || !isId(device)) return undefined;
  if (way === "up") {
    const kind = oneOf(upKinds, last);
    return kind && { way, site, device, kind };
  }
  if (way === "down") {
    const kind = oneOf(downKinds, last);
    return kind && { way, site, device, kind };
  }
  return undefined;
}
