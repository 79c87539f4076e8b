import { TributaryError } from "@tributary/proto/wire/errors.js";
import { type Command, Option } from "commander";
import { type Finding, failure, fine } from "./check/finding.js";
import { CommandFailure } from "./failure.js";
import { wrapped } from "./text/wrap.js";
import { type GlobalOptions, show, type World } from "./world.js";

export const tiers = ["gateway", "cloud", "device"] as const;
export type TierName = (typeof tiers)[number];

type CheckOptions = GlobalOptions & { readonly config?: string; readonly tier: TierName };

/** Adds `check`: what on this machine would keep a tier from working, and what to do about it. */
export function addCheck(program: Command, world: World): void {
  program
    .command("check")
    .description("look at this machine: clock, disk, ports, DNS, links, broker and store")
    .option("--config <file>", "YAML or JSON; without it the environment alone counts")
    .addOption(new Option("--tier <name>", "whose config it is").choices(tiers).default("gateway"))
    .addHelpText(
      "after",
      `
It changes nothing, and may run beside the tier that it looks at.
Exit codes here: 0 all is well, 1 warnings only, 2 errors.`,
    )
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<CheckOptions>();
      const findings = await examine(world, options);
      const count = (outcome: Finding["outcome"]) =>
        findings.filter((finding) => finding.outcome === outcome).length;
      const errors = count("error");
      const warnings = count("warning");
      const result = { tier: options.tier, errors, warnings, findings };
      show(world, options, result, () => describe(findings, errors, warnings, world.stdout.width));
      if (errors > 0) {
        throw new CommandFailure("check-errors", "what is marked error must be mended", 2);
      }
      if (warnings > 0) {
        throw new CommandFailure("check-warnings", "there are warnings, and no errors", 1);
      }
    });
}

/** Looks at all that there is to look at for a tier. */
export async function examine(
  world: World,
  { config: file, tier }: Pick<CheckOptions, "config" | "tier">,
): Promise<Finding[]> {
  const source = { file, env: world.env };
  const nowMs = world.nowMs();
  const { checkCloud, checkDevice, checkGateway } = await import("./check/tiers.js");
  const good = fine("config", file ?? "from the environment");
  try {
    switch (tier) {
      case "gateway": {
        const { readGatewayConfig } = await import("@tributary/gateway/main.js");
        return [good, ...(await checkGateway(await readGatewayConfig(source), nowMs))];
      }
      case "cloud": {
        const { readCloudConfig } = await import("@tributary/cloud/main.js");
        return [good, ...(await checkCloud(await readCloudConfig(source), nowMs))];
      }
      case "device": {
        const { loadDeviceConfig } = await import("@tributary/device-sdk/main.js");
        return [good, ...(await checkDevice(await loadDeviceConfig(source), nowMs))];
      }
    }
  } catch (error) {
    if (!(error instanceof TributaryError) || !error.code.startsWith("config-")) throw error;
    return [failure("config", error.message, `Mend it; is it a ${tier}'s config (--tier)?`)];
  }
}

function describe(
  findings: readonly Finding[],
  errors: number,
  warnings: number,
  width: number,
): string {
  const nameWidth = Math.max(...findings.map(({ name }) => name.length));
  const indent = " ".repeat(9 + nameWidth + 2);
  const lines = findings.flatMap(({ name, outcome, detail, advice }) => {
    const text = [...detail.split("\n"), ...(advice === null ? [] : [`-> ${advice}`])].flatMap(
      (line) => wrapped(line.trim(), Math.max(20, width - indent.length)),
    );
    return text.map((line, at) =>
      at === 0 ? `${outcome.padEnd(9)}${name.padEnd(nameWidth)}  ${line}` : `${indent}${line}`,
    );
  });
  return `${lines.join("\n")}\n\nerrors ${errors}, warnings ${warnings}\n`;
}
