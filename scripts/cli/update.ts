import { exitCodes } from "@tributary/proto/host/process.js";
import type { Command } from "commander";
import { CommandFailure } from "./failure.js";
import { type GlobalOptions, show, type World } from "./world.js";

const loadInstall = () => import("../flash/install.js");

/** Where `launch` keeps an installation, unless it is told otherwise. */
const HOME = "/var/lib/tributary";

type InstallOptions = GlobalOptions & {
  readonly root?: string;
  readonly key?: string;
  readonly allowOlder?: boolean;
};

/** Adds `install`: sets a machine, or an image of one, up from a bundle. */
export function addGatewayInstall(gateway: Command, world: World): void {
  gateway
    .command("install")
    .description("set this machine, or an image of one, up from a bundle of `tributary flash`")
    .argument("<folder>", "the bundle's folder")
    .option("--root <folder>", "a mounted image, in place of this machine")
    .option("--key <thumbprint>", "the one key that may have signed it, as flash printed it")
    .option("--allow-older", "also a version older than the one that is there")
    .addHelpText(
      "after",
      "\nInstalls what the signed manifest lists and nothing else; run again, it changes\n" +
        "only what differs. Its service is started by install.sh, or at the next boot.",
    )
    .action(async (source: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<InstallOptions>();
      const { install } = await loadInstall();
      const { root = "/", key, allowOlder } = options;
      const done = await install({
        source,
        root,
        key,
        ...(allowOlder === undefined ? {} : { allowOlder }),
      });
      if (!done.ok) throw new CommandFailure(done.code, done.message, exitCodes.refused);
      show(world, options, done, () => {
        const { changed, installed, written } = done;
        const what = `tributary ${installed.version} for ${installed.arch}`;
        const first = changed ? `${what} is installed\n` : `${what} is there already\n`;
        return first + written.map((path) => `wrote ${path}\n`).join("");
      });
    });
}

type UpdateOptions = GlobalOptions & {
  readonly home?: string;
  readonly config?: string;
  readonly allowOlder?: boolean;
};

/** Adds `update`: the next software, from a file, for the next start. */
export function addGatewayUpdate(gateway: Command, world: World): void {
  gateway
    .command("update")
    .description("install newer software from a bundle: by USB, offline too")
    .argument("<file>", "the bundle, a .tar.gz or a folder")
    .option("--home <folder>", `the installation; TRIBUTARY_HOME; default: ${HOME}`)
    .option("--config <file>", "the gateway's config: a bundle for another gateway is refused")
    .option("--allow-older", "also a version older than the one that runs")
    .addHelpText(
      "after",
      "\nThe bundle is checked against the keys that the installation trusts. It\n" +
        "runs from the next start on, and is kept once its health check passes; after\n" +
        "three starts without, the software before it runs again.",
    )
    .action(async (file: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<UpdateOptions>();
      const { installationTrust, ownedAsHome } = await loadInstall();
      const { installBundle, machineArch } = await import("@tributary/gateway/update.js");
      const { openSlots } = await import("@tributary/gateway/update-slots.js");
      const { createKeyring } = await import("@tributary/proto/identity/keyring.js");
      const home = options.home ?? world.env.TRIBUTARY_HOME ?? HOME;
      const trust = await installationTrust(home);
      if (trust === undefined)
        throw new CommandFailure(
          "not-installed",
          `${home} is no installation; set one up with the bundle's install.sh`,
          exitCodes.config,
        );
      const done = await installBundle(file, {
        slots: openSlots(home),
        trust: { fleet: trust.fleet, keyring: createKeyring(trust.jwks) },
        gateway: await gatewayOf(world, options.config),
        arch: machineArch(),
        ...(options.allowOlder === undefined ? {} : { allowOlder: options.allowOlder }),
      });
      await ownedAsHome(home);
      if (!done.ok) throw new CommandFailure(done.code, done.message, exitCodes.refused);
      const { changed, installed } = done;
      show(world, options, done, () =>
        changed
          ? `tributary ${installed.version} runs from the next start on\n`
          : `tributary ${installed.version} of this very bundle is there already\n`,
      );
    });
}

async function gatewayOf(world: World, config: string | undefined) {
  if (config === undefined) return undefined;
  const { readGatewayConfig } = await import("@tributary/gateway/main.js");
  const { site, gateway } = await readGatewayConfig({ file: config, env: world.env });
  return { site, gateway };
}
