import { z } from "zod";
import { digestSchema, idSchema } from "../wire/ids.js";
import { refuse, type Verdict } from "../wire/verdict.js";
import { openJws, signJws } from "./jws.js";
import type { Keyring } from "./keyring.js";
import { identityLimits } from "./limits.js";
import type { SigningKey } from "./tokens.js";

/** Machines that a bundle can be made for, by the words of `uname -m` that they give. */
export const bundleArchs = ["x64", "arm64", "armv7"] as const;
export type BundleArch = (typeof bundleArchs)[number];

/** `major.minor.patch`, and a release before it as `-word`. */
const versionPattern =
  /^(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})(-[0-9A-Za-z-]{1,32})?$/;
const versionSchema = z.string().regex(versionPattern, { message: "must be a version as 1.2.3" });

/** Which of two versions is newer: negative, 0 or positive. A release before `x` is older than `x`. */
export function compareVersions(a: string, b: string): number {
  const [, ...left] = versionPattern.exec(a) ?? [];
  const [, ...right] = versionPattern.exec(b) ?? [];
  for (const at of [0, 1, 2]) {
    const difference = Number(left[at]) - Number(right[at]);
    if (difference !== 0) return difference;
  }
  const [before = "", other = ""] = [left[3], right[3]];
  if (before === other) return 0;
  if (before === "" || other === "") return before === "" ? 1 : -1;
  return before < other ? -1 : 1;
}

/** A path inside of a bundle: nothing that leaves it, nothing hidden. */
const pathSchema = z
  .string()
  .max(200)
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]*(\/[A-Za-z0-9][A-Za-z0-9._-]*)*$/);

const fileSchema = z.strictObject({
  path: pathSchema,
  mode: z.literal([0o600, 0o644, 0o755]),
  bytes: z.number().int().min(0).max(identityLimits.bundleBytes),
  sha256: digestSchema,
});
export type BundleFile = z.infer<typeof fileSchema>;

export const bundleSchema = z
  .strictObject({
    fleet: idSchema,
    /** Of the software. */
    version: versionSchema,
    /** Once it runs, nothing older than this is installed any more. */
    minimumVersion: versionSchema,
    arch: z.enum(bundleArchs),
    /** Of the Node runtime in it. */
    node: versionSchema,
    /** Whose config and claim it holds; null for one that only updates. */
    for: z.strictObject({ site: idSchema, gateway: idSchema }).nullable(),
    files: z.array(fileSchema).min(1).max(identityLimits.bundleFiles),
  })
  .refine(
    ({ files }) => files.every(({ path }, at) => at === 0 || path > (files[at - 1]?.path ?? "")),
    {
      message: "files must be sorted by path, each once",
    },
  )
  .refine(({ files }) => sizeOf(files) <= identityLimits.bundleBytes, {
    message: `files have more than ${identityLimits.bundleBytes} bytes together`,
  })
  .refine(({ version, minimumVersion }) => compareVersions(version, minimumVersion) >= 0, {
    message: "is older than its own minimum version",
  });

/** What a bundle of software is: every file of it with its digest. */
export type Bundle = z.infer<typeof bundleSchema>;

export type BundleCode =
  | "bundle-malformed"
  | "bundle-signature"
  | "bundle-digest"
  | "bundle-other"
  | "bundle-older"
  | "update-busy";

function sizeOf(files: readonly BundleFile[]): number {
  return files.reduce((sum, { bytes }) => sum + bytes, 0);
}

const TYP = "tributary-bundle+jwt";

/** Signs a manifest with the fleet's signing key. The same manifest and key give the same text. */
export function signBundle(bundle: Bundle, { kid, key }: SigningKey): Promise<string> {
  return signJws(bundle, { typ: TYP, kid }, { key, algorithm: "EdDSA" });
}

/** Opens a manifest. Refusals: `bundle-malformed`; `bundle-signature`, of another fleet's too. */
export async function readBundle(
  text: string,
  { fleet, keyring }: { readonly fleet: string; readonly keyring: Keyring },
): Promise<Verdict<{ readonly bundle: Bundle }, BundleCode>> {
  const charsMax = identityLimits.bundleManifestChars;
  const opened = await openJws(text, { typ: TYP, charsMax, keyOf: keyring });
  if (!opened.ok) {
    const code = opened.fault === "signature" ? "bundle-signature" : "bundle-malformed";
    return refuse(code, `the bundle's manifest: ${opened.message}`);
  }
  const read = bundleSchema.safeParse(opened.payload);
  if (!read.success) {
    const [issue] = read.error.issues;
    return refuse(
      "bundle-malformed",
      `the bundle's manifest: ${issue?.path.join(".")}: ${issue?.message}`,
    );
  }
  if (read.data.fleet !== fleet)
    return refuse(
      "bundle-signature",
      `the bundle is of the fleet ${read.data.fleet}, not ${fleet}`,
    );
  return { ok: true, bundle: read.data };
}
