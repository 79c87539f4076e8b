import { z } from "zod";
import { idSchema, isId } from "../wire/ids.js";

/** Who can enrol. */
export const kindSchema = z.enum(["gateway", "device"]);
export type Kind = z.infer<typeof kindSchema>;

/** Who somebody is: a name is given once in a fleet for each kind, and bound to one site. */
export const identitySchema = z.strictObject({ kind: kindSchema, name: idSchema, site: idSchema });
export type Identity = z.infer<typeof identitySchema>;

/** Whom a certificate speaks for. */
export type Subject =
  | ({ readonly fleet: string } & Readonly<Identity>)
  | { readonly fleet: string; readonly kind: "cloud"; readonly name: string };

const SCHEME = "tributary:";

/**
 * A subject as the URI that stands in its certificate (subjectAltName, RFC 5280, 4.2.1.6):
 * `tributary:<fleet>/<kind>/<site>/<name>`, or `tributary:<fleet>/cloud/<name>`.
 */
export function subjectUri(subject: Subject): string {
  const { fleet, kind, name } = subject;
  return kind === "cloud"
    ? `${SCHEME}${fleet}/cloud/${name}`
    : `${SCHEME}${fleet}/${kind}/${subject.site}/${name}`;
}

/** Reads a subject's URI; undefined for anything that `subjectUri` does not write. */
export function readSubjectUri(uri: string): Subject | undefined {
  if (!uri.startsWith(SCHEME)) return undefined;
  const parts = uri.slice(SCHEME.length).split("/");
  if (!parts.every(isId)) return undefined;
  const [fleet = "", kind, ...rest] = parts;
  if (kind === "cloud" && rest.length === 1) return { fleet, kind, name: rest[0] ?? "" };
  const enrolled = kindSchema.safeParse(kind);
  if (!enrolled.success || rest.length !== 2) return undefined;
  const [site = "", name = ""] = rest;
  return { fleet, kind: enrolled.data, site, name };
}
