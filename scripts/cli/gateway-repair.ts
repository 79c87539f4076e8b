import type { FileFindings, RepairReport } from "@tributary/gateway/repair.js";
import { exitCodes } from "@tributary/proto/host/process.js";
import type { Command } from "commander";
import { CommandFailure } from "./failure.js";
import { bytes } from "./text/words.js";
import { type GlobalOptions, show, type World } from "./world.js";

type RepairOptions = GlobalOptions & { readonly config: string; readonly dryRun?: boolean };

const namesMax = 20;

/** Adds `repair`: makes a damaged data directory usable again, and says what it cost. */
export function addGatewayRepair(gateway: Command, world: World): void {
  gateway
    .command("repair")
    .description("find damage in a stopped gateway's data directory, and mend what can be")
    .requiredOption("--config <file>", "the gateway's config, which names the directory")
    .option("--dry-run", "look, and change nothing; ends with 1 when there is damage")
    .addHelpText(
      "after",
      `
What can be read is kept; damaged originals go to damaged/ in the directory.
While a gateway runs on the directory this is refused, with 73.`,
    )
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<RepairOptions>();
      const { readGatewayConfig } = await import("@tributary/gateway/main.js");
      const { repairGateway } = await import("@tributary/gateway/repair.js");
      const { dataDir } = await readGatewayConfig({ file: options.config, env: world.env });
      const dryRun = options.dryRun === true;
      const report = await repairGateway({ dataDir, dryRun });
      show(world, options, report, () => describeRepair(report));
      if (dryRun && isDamaged(report)) {
        const message = "there is damage; without --dry-run it is mended";
        throw new CommandFailure("damaged", message, exitCodes.refused);
      }
    });
}

function isDamaged({ index, files }: RepairReport): boolean {
  return (
    index.state !== "whole" || files.some(({ state }) => state === "damaged" || state === "missing")
  );
}

function describeRepair({ dataDir, index, files }: RepairReport): string {
  const lines = [`${dataDir}/index  ${index.state}`];
  if (index.message !== null) lines.push(`  ${index.message}`);
  if (index.aside !== null) lines.push(`  the original: ${dataDir}/${index.aside}`);
  if (index.state === "missing") {
    lines.push("  a gateway that starts here takes every file for a left-over, and removes it");
  }
  for (const file of files) lines.push(...describeFile(dataDir, file));
  if (files.length === 0) lines.push("no journals, states or results are there");
  return `${lines.join("\n")}\n`;
}

function describeFile(dataDir: string, found: FileFindings): string[] {
  const { file, state, kept, lost, unaccounted, gaps, aside } = found;
  const lines = [`${dataDir}/${file}  ${state}, ${bytes(found.bytes)}`];
  if (state === "whole") return lines;
  if (state === "adopted") {
    lines.push(
      `  the index had lost it; it is sent again: ${named(kept.map(({ device }) => device))}`,
    );
    return lines;
  }
  if (state === "missing" || state === "given-up") {
    lines[0] = `${dataDir}/${file}  gone, and the index knows of it`;
    if (state === "given-up") lines.push("  what it was for is over, on record");
  }
  for (const gap of gaps.slice(0, namesMax)) {
    lines.push(`  cannot be read: ${gap.bytes} bytes at byte ${gap.offset}`);
  }
  if (state === "torn") {
    lines.push(
      "  ends in the middle of a record: the gateway cuts it there. A power cut leaves it so,",
    );
    lines.push("  and then nothing receipted is lost; damage to the last record looks the same");
    return lines;
  }
  if (found.kind === "journal" && (state === "mended" || state === "damaged")) {
    lines.push(`  kept: ${kept.length} contributions`);
  }
  lines.push(`  lost, as far as known: ${named(lost.map(({ device }) => device))}`);
  if (unaccounted.length > 0) {
    const how = found.kind === "partial" ? "contributed to its rounds" : "asked, and in no record";
    lines.push(`  ${how}: ${named(unaccounted)}`);
  }
  if (aside !== null) lines.push(`  the original: ${dataDir}/${aside}`);
  return lines;
}

function named(names: readonly string[]): string {
  if (names.length === 0) return "nobody that a name can still be read of";
  const more = names.length > namesMax ? ` and ${names.length - namesMax} more` : "";
  return `${names.slice(0, namesMax).join(", ")}${more}`;
}
