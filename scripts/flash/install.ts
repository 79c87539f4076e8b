import {
  chmod,
  lchown,
  mkdir,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import { installBundle, machineArch, type UpdateOutcome } from "@tributary/gateway/update.js";
import { openSlots } from "@tributary/gateway/update-slots.js";
import type { BundleCode } from "@tributary/proto/identity/bundle.js";
import { createKeyring, jwksSchema } from "@tributary/proto/identity/keyring.js";
import { thumbprint } from "@tributary/proto/identity/keys.js";
import { writeSecretFile } from "@tributary/proto/identity/secret-file.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { idSchema } from "@tributary/proto/wire/ids.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { z } from "zod";

/** Where things are on a machine; under its root. The unit and `launch` say the same. */
export const places = {
  home: "var/lib/tributary",
  data: "var/lib/tributary/data",
  config: "etc/tributary/gateway.yaml",
  launch: "opt/tributary/launch",
  unit: "etc/systemd/system/tributary-gateway.service",
  wanted: "etc/systemd/system/multi-user.target.wants/tributary-gateway.service",
  sysusers: "etc/sysusers.d/tributary.conf",
} as const;

const trustSchema = z.object({ fleet: idSchema, jwks: jwksSchema });
export type Trust = z.infer<typeof trustSchema>;

/** In a bundle, and in an installation's home: whose bundles are taken. */
const TRUST = "trust.json";

/** What an enrolled gateway keeps of its fleet, whose keys change with time; see gateway/README.md. */
const FLEET = "data/identity/fleet.json";

/** Whom a bundle names; undefined where it names nobody. */
function bundleTrust(folder: string): Promise<Trust | undefined> {
  return trustIn(join(folder, TRUST));
}

/**
 * Whom an installation trusts: as its gateway heard it last, else as it was set up. Undefined where
 * nothing is installed.
 */
export async function installationTrust(home: string): Promise<Trust | undefined> {
  return (await trustIn(join(home, FLEET))) ?? trustIn(join(home, TRUST));
}

async function trustIn(file: string): Promise<Trust | undefined> {
  const text = await readFile(file, "utf8").catch(absent);
  if (text === undefined) return undefined;
  const read = trustSchema.safeParse(parsed(text));
  if (read.success) return read.data;
  throw new TributaryError("bundle-malformed", `${file} does not name a fleet and its keys`);
}

/** The trust in one key alone, by its thumbprint (RFC 7638); undefined when it is not one of them. */
export async function narrowed(trust: Trust, key: string): Promise<Trust | undefined> {
  for (const jwk of trust.jwks.keys) {
    const { kty, crv, x } = jwk;
    if ((await thumbprint({ kty, crv, x })) === key) return { ...trust, jwks: { keys: [jwk] } };
  }
  return undefined;
}

export type InstallOptions = {
  /** The bundle's folder. */
  readonly source: string;
  /** The machine's root: `/`, or a mounted image. */
  readonly root: string;
  /** Thumbprint of the one key that may have signed. */
  readonly key?: string | undefined;
  readonly allowOlder?: boolean;
};

export type InstallOutcome = UpdateOutcome & {
  /** What was made or changed, under the root. */
  readonly written: readonly string[];
};

/**
 * Installs a bundle on a machine or into an image of one. Whom an earlier installation trusted is trusted,
 * else whom the bundle names: that says the bundle is whole, not who made it, unless a key is given.
 * Run again it changes only what differs. Refusals: those of `installBundle`.
 */
export async function install(
  options: InstallOptions,
): Promise<Verdict<InstallOutcome, BundleCode>> {
  const { source, root } = options;
  const home = join(root, places.home);
  let trust = (await installationTrust(home)) ?? (await bundleTrust(source));
  if (trust === undefined)
    throw new TributaryError("bundle-malformed", `${source} is no bundle: it has no ${TRUST}`);
  if (options.key !== undefined) trust = await narrowed(trust, options.key);
  if (trust === undefined)
    return refuse("bundle-signature", `the bundle is not signed by the key ${options.key}`);
  await mkdir(dirname(home), { recursive: true, mode: 0o755 });
  await mkdir(home, { recursive: true, mode: 0o700 });
  const setup = join(home, "setup.new");
  await rm(setup, { recursive: true, force: true });
  try {
    const installed = await installBundle(source, {
      slots: openSlots(home),
      trust: { fleet: trust.fleet, keyring: createKeyring(trust.jwks) },
      gateway: undefined,
      arch: root === "/" ? machineArch() : "any",
      setupFolder: setup,
      ...(options.allowOlder === undefined ? {} : { allowOlder: options.allowOlder }),
    });
    if (!installed.ok) return installed;
    const written = await setUp(setup, root);
    return { ...installed, written };
  } finally {
    await rm(setup, { recursive: true, force: true });
    await ownedAsHome(home);
  }
}

/** Puts checked files where they belong; returns what changed. */
async function setUp(setup: string, root: string): Promise<string[]> {
  const written: string[] = [];
  const contentOf = (path: string) => readFile(path, "utf8").catch(absent);
  const put = async (from: string, to: string, mode: number): Promise<void> => {
    const text = await contentOf(join(setup, from));
    if (text === undefined) return;
    const place = join(root, to);
    if ((await contentOf(place)) === text) return;
    await mkdir(dirname(place), { recursive: true, mode: 0o755 });
    await writeFile(place, text);
    await chmod(place, mode);
    written.push(to);
  };
  await put("system/launch", places.launch, 0o755);
  await put("system/tributary-gateway.service", places.unit, 0o644);
  await put("system/tributary.sysusers", places.sysusers, 0o644);
  const wanted = join(root, places.wanted);
  await mkdir(dirname(wanted), { recursive: true });
  await symlink("../tributary-gateway.service", wanted).then(
    () => written.push(places.wanted),
    (cause: NodeJS.ErrnoException) => {
      if (cause.code !== "EEXIST") throw cause;
    },
  );
  if ((await contentOf(join(root, places.home, TRUST))) === undefined)
    await put(TRUST, join(places.home, TRUST), 0o644);
  // A config that is there may have been changed by hand: it is kept, and the new one laid beside it.
  const config = await contentOf(join(root, places.config));
  const next = await contentOf(join(setup, "setup/gateway.yaml"));
  if (config === undefined) await put("setup/gateway.yaml", places.config, 0o644);
  else if (next !== undefined && next !== config)
    await put("setup/gateway.yaml", `${places.config}.new`, 0o644);
  await putClaim(setup, root, written);
  return written;
}

/** A claim is only for a machine that has not enrolled. */
async function putClaim(setup: string, root: string, written: string[]): Promise<void> {
  const claim = await readFile(join(setup, "setup/claim"), "utf8").catch(absent);
  const identity = join(root, places.data, "identity");
  const isEnrolled = (await stat(join(identity, "certificate.pem")).catch(absent)) !== undefined;
  if (claim === undefined || isEnrolled) return;
  const file = join(identity, "claim");
  if ((await readFile(file, "utf8").catch(absent)) === claim) return;
  await writeSecretFile(file, claim, { replace: true });
  written.push(join(places.data, "identity", "claim"));
}

/**
 * What root writes into a home is its owner's: the gateway updates itself there later. In an image its
 * owner is made at the first boot, when systemd hands it all of it.
 */
export async function ownedAsHome(home: string): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const { uid, gid } = await stat(home);
  if (uid === 0) return;
  for (const entry of await readdir(home, { recursive: true, withFileTypes: true }))
    await lchown(join(entry.parentPath, entry.name), uid, gid);
}

function absent(cause: NodeJS.ErrnoException): undefined {
  if (cause.code === "ENOENT") return undefined;
  throw new TributaryError("disk-failed", cause.message, { cause });
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
