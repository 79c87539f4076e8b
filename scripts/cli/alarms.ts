import type { Alarm } from "@tributary/cloud/alarms.js";
import type { Command } from "commander";
import { type Column, table } from "./text/table.js";
import { ago, count, text } from "./text/words.js";
import { apiOf, type GlobalOptions, show, type World } from "./world.js";

const columns = (nowMs: number): readonly Column<Alarm>[] => [
  { title: "ALARM", cell: ({ name }) => name },
  { title: "ABOUT", cell: ({ about }) => text(about) },
  { title: "TIMES", cell: ({ times }) => count(times), align: "right" },
  { title: "FIRST", cell: ({ firstAtMs }) => ago(firstAtMs, nowMs) },
  { title: "LAST", cell: ({ lastAtMs }) => ago(lastAtMs, nowMs) },
  { title: "WHAT IT SAYS", cell: saying },
];

function saying({ about, fields }: Alarm): string {
  const { message, reason, ...others } = fields;
  const said = message ?? reason;
  if (said !== undefined) return String(said);
  return Object.entries(others)
    .filter(([, value]) => String(value) !== about)
    .map(([name, value]) => `${name} ${value}`)
    .join(", ");
}

/** Adds `alarms`: what somebody should look at now. */
export function addAlarms(program: Command, world: World): void {
  program
    .command("alarms")
    .description("show what somebody should look at: errors that last, gateways that are away")
    .addHelpText(
      "after",
      "\nAn alarm ends when what it says is over, or a day after it was raised last.",
    )
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const alarms = await apiOf(world, options).alarms();
      show(world, options, alarms, () =>
        alarms.length === 0
          ? "no alarm\n"
          : table(columns(world.nowMs()), alarms, world.stdout.width),
      );
    });
}
