import { writeFile } from "node:fs/promises";
import { setTimeout as wait } from "node:timers/promises";
import type { GatewayListView, SpreadView } from "@tributary/cloud/denylist.js";
import { exitCodes } from "@tributary/proto/host/process.js";
import type { Denial } from "@tributary/proto/identity/denylist.js";
import { Argument, type Command } from "commander";
import type { Api } from "./api.js";
import { lifetime } from "./arguments.js";
import { CommandFailure, reasonOf } from "./failure.js";
import { cliLimits } from "./limits.js";
import { type Column, table } from "./text/table.js";
import { count, time } from "./text/words.js";
import { apiOf, type GlobalOptions, show, type World } from "./world.js";

type RevokeOptions = GlobalOptions & { readonly wait?: number };

/** Adds `revoke`: shuts a gateway or a device out. */
export function addRevoke(program: Command, world: World): void {
  program
    .command("revoke")
    .description("shut a gateway or a device out: void all that it was given")
    .addArgument(new Argument("<kind>", "who it is").choices(["gateway", "device"]))
    .argument("<name>", "its name")
    .option("--wait <time>", "for gateways that are attached to take it; default: 10s", lifetime)
    .addHelpText(
      "after",
      `
It gets in again by a new claim and with a new key. Gateways that are away get
the denylist when they come back, from a device that comes by with it, or by
hand: \`tributary denylist --out FILE\`, then there
\`tributary gateway import FILE\`.`,
    )
    .action(async (kind: string, name: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<RevokeOptions>();
      const api = apiOf(world, options);
      const denylist = await api.revoke(kind, name);
      const { sequence } = denylist;
      const spread = await settled(api, sequence, options.wait ?? cliLimits.revokeWaitMs);
      show(world, options, { ...denylist, spread: spread.gateways }, () =>
        [`${kind} ${name} is shut out: denylist ${sequence}\n`, describe(spread, world)].join(""),
      );
    });
}

type DenylistOptions = GlobalOptions & { readonly out?: string };

/** Adds `denylist`: who is shut out, where that is in effect, and the list as a file. */
export function addDenylist(program: Command, world: World): void {
  program
    .command("denylist")
    .description("show who is shut out, and which gateways know; or write the list to a file")
    .option("--out <file>", "write the signed list there, for `tributary gateway import`")
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<DenylistOptions>();
      const api = apiOf(world, options);
      const denylist = await api.denylist();
      const { sequence, issuedAtMs, entries } = denylist;
      if (options.out !== undefined) {
        await write(options.out, denylist.text);
        return show(
          world,
          options,
          { file: options.out, sequence },
          () => `denylist ${sequence}: ${options.out}\n`,
        );
      }
      const spread = await api.denylistSpread();
      show(world, options, { ...denylist, spread: spread.gateways }, () => {
        if (entries.length === 0) return "nobody is shut out\n";
        const head = `denylist ${sequence} of ${time(issuedAtMs)}\n\n`;
        return `${head}${table(entryColumns, entries, world.stdout.width)}\n${describe(spread, world)}`;
      });
    });
}

/** Waits until every gateway that is attached holds the list, for a time. */
async function settled(api: Api, sequence: number, waitMs: number): Promise<SpreadView> {
  for (const endMs = performance.now() + waitMs; ; ) {
    const spread = await api.denylistSpread();
    const late = spread.gateways.some((one) => one.attached && !one.inEffect);
    if (spread.sequence < sequence || !late || performance.now() >= endMs) return spread;
    await wait(cliLimits.revokeLookMs);
  }
}

async function write(file: string, text: string): Promise<void> {
  await writeFile(file, `${text}\n`).catch((cause: unknown) => {
    const message = `cannot write ${file}: ${reasonOf(cause)}`;
    throw new CommandFailure("cannot-write", message, exitCodes.cannotWrite, cause);
  });
}

const entryColumns: readonly Column<Denial>[] = [
  { title: "KIND", cell: ({ kind }) => kind },
  { title: "NAME", cell: ({ name }) => name },
  { title: "VOID BEFORE", cell: ({ before }) => time(before * 1000) },
];

const spreadColumns: readonly Column<GatewayListView>[] = [
  { title: "GATEWAY", cell: ({ gateway }) => gateway },
  {
    title: "HOLDS",
    cell: ({ sequence }) => (sequence === 0 ? "none" : count(sequence ?? undefined)),
  },
  { title: "IN EFFECT", cell: inEffect },
  { title: "CUT OFF", cell: ({ cut }) => count(cut ?? undefined), align: "right" },
];

function inEffect({ afterMs, attached, shutOut, sequence }: GatewayListView): string {
  if (afterMs !== null) return `after ${(afterMs / 1000).toFixed(1)} s`;
  if (shutOut) return "shut out itself";
  if (attached) return "not yet";
  return sequence === null ? "away, not heard of" : "away";
}

function describe({ gateways }: SpreadView, { stdout }: World): string {
  if (gateways.length === 0) return "no gateway is known\n";
  const open = gateways.filter((one) => !one.shutOut);
  const holding = open.filter((one) => one.inEffect).length;
  return `${table(spreadColumns, gateways, stdout.width)}\nin effect at ${holding} of ${open.length} gateways\n`;
}
