import { systemClock } from "@tributary/proto/host/clock.js";
import { exitCodeOf, exitCodes } from "@tributary/proto/host/process.js";
import { readSecretFile } from "@tributary/proto/identity/secret-file.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { Command } from "commander";
import { CommandFailure, usageFailure } from "./failure.js";
import { time } from "./text/words.js";
import { type GlobalOptions, show, type World } from "./world.js";

type EnrolOptions = GlobalOptions & { readonly config?: string; readonly claim?: string };

/** Adds `enrol`: has a gateway join its fleet now, before it is started. */
export function addGatewayEnrol(gateway: Command, world: World): void {
  gateway
    .command("enrol")
    .description("join the fleet with a claim: make the gateway's key, and get its certificate")
    .option("--config <file>", "the gateway's config")
    .option("--claim <file>", "holds the claim; default: identity/claim in the data directory")
    .addHelpText(
      "after",
      `
A gateway that starts with a claim in its data directory does this by itself,
and waits for the cloud as long as it takes. The cloud is the one whose
authority the claim names, at the config's "authority"; by default at the
upstream's host, port 7480. Run it as the gateway's own user: the key never
leaves the machine.`,
    )
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<EnrolOptions>();
      const { readGatewayConfig } = await import("@tributary/gateway/main.js");
      const { enrolNow } = await import("@tributary/gateway/enrol.js");
      const config = await readGatewayConfig({ file: options.config, env: world.env });
      const claim = options.claim === undefined ? undefined : await claimIn(options.claim);
      const enrolled = await enrolNow(config, claim, systemClock()).catch((cause: unknown) => {
        if (!(cause instanceof TributaryError)) throw cause;
        const { code, message } = cause;
        const way = code === "claim-missing" ? exitCodes.usage : exitCodeOf(cause);
        throw new CommandFailure(code, message, way, cause);
      });
      const { fleet, name, site, toMs: endsMs, news } = enrolled;
      show(
        world,
        options,
        { fleet, gateway: name, site, endsMs, news },
        () =>
          `gateway ${name} of ${site} ${news ? "has joined" : "is in"} the fleet ${fleet}; its certificate ends ${time(endsMs)}\n`,
      );
    });
}

async function claimIn(file: string): Promise<string> {
  return readSecretFile(file).catch((cause: unknown) => {
    throw usageFailure(cause instanceof Error ? cause.message : String(cause));
  });
}
