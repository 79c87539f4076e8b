import { readFile, stat } from "node:fs/promises";
import { exitCodes } from "@tributary/proto/host/process.js";
import { type BundleArch, bundleArchs } from "@tributary/proto/identity/bundle.js";
import { readClaim } from "@tributary/proto/identity/claim.js";
import { thumbprint } from "@tributary/proto/identity/keys.js";
import { readSecretFile } from "@tributary/proto/identity/secret-file.js";
import { isId } from "@tributary/proto/wire/ids.js";
import { type Command, Option } from "commander";
import { parse } from "yaml";
import type { BundleInputs, Setup, Sign } from "../flash/bundle.js";
import { lifetime } from "./arguments.js";
import { CommandFailure, reasonOf, usageFailure } from "./failure.js";
import { apiOf, type GlobalOptions, show, type World } from "./world.js";

type FlashOptions = GlobalOptions & {
  readonly site?: string;
  readonly name?: string;
  readonly update?: boolean;
  readonly out?: string;
  readonly root?: string;
  readonly arch?: BundleArch;
  readonly runtime?: string;
  readonly deviceSdk?: boolean;
  readonly minimumVersion?: string;
  readonly upstream?: string;
  readonly authority?: string;
  readonly gatewayConfig?: string;
  readonly claim?: string;
  readonly expires?: number;
  readonly data?: string;
};

/** Adds `flash`: makes all that a machine needs to be a gateway of the fleet. */
export function addFlash(program: Command, world: World, version: string): void {
  program
    .command("flash")
    .description("make a bundle that sets a gateway up, or one that updates gateways")
    .option("--site <id>", "the gateway's site")
    .option("--name <id>", "the gateway's name")
    .option("--update", "for gateways that are set up already: no config, no claim")
    .option("--out <file>", "where to: a .tar.gz, or a new folder")
    .option("--root <folder>", "a mounted image that it is installed into at once")
    .addOption(
      new Option("--arch <kind>", "the machine; default: this one's").choices([...bundleArchs]),
    )
    .option("--runtime <file>", "the Node to run on; default: the one that runs this")
    .option("--device-sdk", "with the device SDK's command: release/app/bin/device.mjs")
    .option("--minimum-version <version>", "once it runs, nothing older is taken any more")
    .option("--upstream <address>", "host:port of the cloud, or of the gateway above")
    .option("--authority <url>", "where it enrols, as https://host:port; default: upstream's 7480")
    .option("--gateway-config <file>", "settings for the gateway's config: listeners, proxy, ...")
    .option("--claim <file>", "a claim to enrol with; default: one is asked of the cloud")
    .option("--expires <time>", "how long that one is good, as 7d; default: 7d", lifetime)
    .option("--data <dir>", "sign with the authority of this cloud's data directory")
    .addHelpText(
      "after",
      `
Without --data the cloud signs, by its REST API.
The same inputs, claim and runtime among them, give the same bytes.
It prints the signing key's thumbprint: install.sh --key refuses any other.`,
    )
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<FlashOptions>();
      if (options.out === undefined && options.root === undefined)
        throw usageFailure("say where to: --out, --root, or both");
      await checkRoot(options.root);
      const authority = await authorityOf(world, options);
      const setup = await setupOf(world, options, authority.anchors);
      const { archHere } = await import("../flash/runtime.js");
      const arch = options.arch ?? archHere();
      if (arch === undefined) throw usageFailure("say for which machine it is: --arch");
      const inputs: BundleInputs = {
        fleet: authority.fleet,
        jwks: authority.jwks,
        version,
        minimumVersion: options.minimumVersion ?? version,
        arch,
        runtime: options.runtime,
        deviceSdk: options.deviceSdk === true,
        setup,
      };
      await flash(world, options, inputs, authority.sign);
    });
}

async function checkRoot(root: string | undefined): Promise<void> {
  if (root === undefined) return;
  const found = await stat(root).catch(() => undefined);
  if (found?.isDirectory() !== true) throw usageFailure(`${root} is no folder`);
}

async function flash(
  world: World,
  options: FlashOptions,
  inputs: BundleInputs,
  sign: Sign,
): Promise<void> {
  const { makeBundle } = await import("../flash/bundle.js");
  const { installInto, writeBundle } = await import("../flash/flash.js");
  const made = await makeBundle(inputs, sign);
  if (options.out !== undefined) await writeBundle(made, options.out);
  const { out, root } = options;
  if (root !== undefined) {
    const installed = await installInto(made, root);
    if (!installed.ok)
      throw new CommandFailure(installed.code, installed.message, exitCodes.refused);
  }
  const { version, minimumVersion, arch, node, files } = made.bundle;
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const key = await signerOf(made.manifest, inputs);
  const said = { version, minimumVersion, arch, node, files: files.length, bytes, key, out, root };
  show(
    world,
    options,
    said,
    () =>
      `tributary ${version} for ${arch}, on Node ${node}: ${out ?? root}\n` +
      `${files.length} files, ${(bytes / 1e6).toFixed(1)} MB unpacked; signed by ${key}\n`,
  );
}

/** Thumbprint of the key that signed a manifest. */
async function signerOf(manifest: string, { jwks }: BundleInputs): Promise<string> {
  const [head = ""] = manifest.split(".");
  const { kid } = JSON.parse(Buffer.from(head, "base64url").toString()) as { kid?: string };
  const jwk = jwks.keys.find((key) => key.kid === kid);
  if (jwk === undefined) throw new Error("the manifest is signed by one of the fleet's keys");
  const { kty, crv, x } = jwk;
  return thumbprint({ kty, crv, x });
}

type FlashAuthority = Pick<BundleInputs, "fleet" | "jwks"> & {
  readonly anchors: readonly string[];
  readonly sign: Sign;
};

/** Whose signature it is: of a data directory's keys, or of the cloud that answers. */
async function authorityOf(world: World, options: FlashOptions): Promise<FlashAuthority> {
  if (options.data === undefined) {
    const api = apiOf(world, options);
    const { fleet, jwks, anchors } = await api.fleetTrust();
    return {
      fleet,
      jwks,
      anchors,
      sign: async (bundle) => (await api.signBundle(bundle)).manifest,
    };
  }
  const keys = await import("@tributary/cloud/authority/keys.js");
  const { signBundle } = await import("@tributary/proto/identity/bundle.js");
  const found = await keys.readAuthorityKeys(keys.authorityFile(options.data));
  const nowMs = world.nowMs();
  return {
    fleet: found.fleet,
    jwks: keys.jwksOf(found, nowMs),
    anchors: keys.anchorsOf(found, nowMs),
    sign: (bundle) => signBundle(bundle, keys.listKey(found, nowMs)),
  };
}

/** What sets the machine up; undefined for an update. */
async function setupOf(
  world: World,
  options: FlashOptions,
  anchors: readonly string[],
): Promise<Setup | undefined> {
  const { site, name: gateway, update, upstream } = options;
  if (update === true) {
    if (site !== undefined || gateway !== undefined || options.root !== undefined)
      throw usageFailure("an update is for every gateway: leave --site, --name and --root out");
    return undefined;
  }
  if (site === undefined || gateway === undefined)
    throw usageFailure("name the gateway: --site and --name; or make an update with --update");
  for (const id of [site, gateway])
    if (!isId(id)) throw usageFailure(`"${id}" is no name: letters, digits, - and _, at most 64`);
  const { places } = await import("../flash/install.js");
  const config = {
    ...(await settingsOf(options.gatewayConfig)),
    site,
    gateway,
    dataDir: `/${places.data}`,
    ...(upstream === undefined ? {} : { upstream }),
    ...(options.authority === undefined ? {} : { authority: options.authority }),
  };
  const { configSchema } = await import("@tributary/gateway/config.js");
  const checked = configSchema.safeParse(config);
  if (!checked.success) {
    const [issue] = checked.error.issues;
    throw usageFailure(
      `the gateway's config cannot be used: ${issue?.path.join(".")}: ${issue?.message}; see --upstream and --gateway-config`,
    );
  }
  return { site, gateway, config, claim: await claimOf(world, options, site, gateway), anchors };
}

async function settingsOf(file: string | undefined): Promise<object> {
  if (file === undefined) return {};
  const read: unknown = await readFile(file, "utf8").then(
    (text) => parse(text) as unknown,
    (cause: unknown) => {
      throw usageFailure(`cannot read ${file}: ${reasonOf(cause)}`);
    },
  );
  if (typeof read === "object" && read !== null && !Array.isArray(read)) return read;
  throw usageFailure(`${file} holds no settings`);
}

const CLAIM_MS = 7 * 86_400_000;

async function claimOf(
  world: World,
  options: FlashOptions,
  site: string,
  name: string,
): Promise<string> {
  if (options.claim !== undefined) {
    const text = (await readSecretFile(options.claim)).trim();
    if (readClaim(text) === undefined) throw usageFailure(`${options.claim} holds no claim`);
    return text;
  }
  const lifeMs = options.expires ?? CLAIM_MS;
  const scope = { kind: "gateway", name, site, lifeMs };
  return (await apiOf(world, options).createClaim(scope)).text;
}
