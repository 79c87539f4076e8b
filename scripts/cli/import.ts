import { readFile } from "node:fs/promises";
import { exitCodes } from "@tributary/proto/host/process.js";
import type { Command } from "commander";
import { lifetime } from "./arguments.js";
import { CommandFailure, reasonOf, usageFailure } from "./failure.js";
import { cliLimits } from "./limits.js";
import { type GlobalOptions, show, type World } from "./world.js";

type ImportOptions = GlobalOptions & { readonly config?: string; readonly wait?: number };

/** Adds `import`: hands a gateway the fleet's denylist from a file, without any link. */
export function addGatewayImport(gateway: Command, world: World): void {
  gateway
    .command("import")
    .description("hand a gateway on this machine the denylist from a file, as off a USB stick")
    .argument("<file>", "the signed list, as `tributary denylist --out` writes it")
    .option("--config <file>", "the gateway's config, which names its data directory")
    .option("--wait <time>", "for the gateway to take it; default: 15s", lifetime)
    .addHelpText(
      "after",
      `
The gateway checks the signature and the sequence itself. One that runs takes it
at once; one that does not, when it starts.
Run it as the gateway's own user, or as root.`,
    )
    .action(async (file: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<ImportOptions>();
      const { readGatewayConfig } = await import("@tributary/gateway/main.js");
      const { importDenylist } = await import("@tributary/gateway/denylist-import.js");
      const { identityLimits } = await import("@tributary/proto/identity/limits.js");
      const text = (await readList(file)).trim();
      if (text.length > identityLimits.denylistChars || !/^[\w-]+\.[\w-]+\.[\w-]+$/.test(text))
        throw usageFailure(`${file} is no denylist; \`tributary denylist --out FILE\` writes one`);
      const { dataDir } = await readGatewayConfig({ file: options.config, env: world.env });
      const waitMs = options.wait ?? cliLimits.importWaitMs;
      const taken = await importDenylist(dataDir, text, waitMs).catch((cause: unknown) => {
        const message = `cannot write into ${dataDir}: ${reasonOf(cause)}`;
        throw new CommandFailure("cannot-write", message, exitCodes.cannotWrite, cause);
      });
      if (taken === undefined)
        return show(
          world,
          options,
          { taken: false },
          () => `the gateway does not answer: it takes the list when it starts\n`,
        );
      if (!taken.ok) throw new CommandFailure(taken.code, taken.message, exitCodes.refused);
      const { news, sequence } = taken;
      show(world, options, { taken: true, news, sequence }, () =>
        news ? `denylist ${sequence} is in effect\n` : `denylist ${sequence} was known already\n`,
      );
    });
}

async function readList(file: string): Promise<string> {
  return readFile(file, "utf8").catch((cause: unknown) => {
    throw usageFailure(`cannot read ${file}: ${reasonOf(cause)}`);
  });
}
