import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { createInterface } from "node:readline";
import {
  type AuditLine,
  auditLineSchema,
  type ChainHead,
  checkChain,
} from "@tributary/cloud/audit/chain.js";
import { exitCodes } from "@tributary/proto/host/process.js";
import { type Command, InvalidArgumentError } from "commander";
import { firstOf } from "./api.js";
import { wholeNumber } from "./arguments.js";
import { CommandFailure, reasonOf } from "./failure.js";
import { cliLimits } from "./limits.js";
import { type Column, table } from "./text/table.js";
import { time } from "./text/words.js";
import { apiOf, type GlobalOptions, show, type World } from "./world.js";

const columns: readonly Column<AuditLine>[] = [
  { title: "LINE", cell: ({ sequence }) => String(sequence), align: "right" },
  { title: "AT", cell: ({ atMs }) => time(atMs) },
  { title: "WHO", cell: ({ actor }) => actor },
  { title: "WHAT", cell: whatOf },
  { title: "OUTCOME", cell: ({ outcome }) => outcome },
];

/** A request as it was sent, without its query. */
function whatOf({ action, target }: AuditLine): string {
  const [, method] = /^([A-Z]+) \//.exec(action) ?? [];
  return method === undefined ? action : `${method} ${target}`;
}

type FilterOptions = GlobalOptions & {
  readonly actor?: string;
  readonly action?: string;
  readonly outcome?: string;
  readonly project?: string;
  readonly since?: number;
  readonly until?: number;
};

function withFilter(command: Command): Command {
  return command
    .option("--actor <who>", "of one actor, as user:ID")
    .option("--action <text>", "actions that begin so, as 'POST /sessions'")
    .option("--outcome <code>", "done, or the code of a refusal")
    .option("--project <id>", "of one project")
    .option("--since <time>", "from then on, as 2026-07-01 or 2026-07-01T12:00:00Z", instant)
    .option("--until <time>", "before then", instant);
}

function instant(value: string): number {
  const atMs = Date.parse(value);
  if (!/^\d{4}-\d\d-\d\d/.test(value) || Number.isNaN(atMs))
    throw new InvalidArgumentError("It must be a time, as 2026-07-01 or 2026-07-01T12:00:00Z.");
  return atMs;
}

function filterOf({ actor, action, outcome, project, since, until }: FilterOptions) {
  const given = { actor, action, outcome, project, since, until };
  return Object.fromEntries(
    Object.entries(given).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, String(value)]],
    ),
  );
}

/** Adds the commands for the audit log: who did what, and who was refused what. */
export function addAuditCommands(audit: Command, world: World): void {
  withFilter(audit.command("list"))
    .description("show the audit log, oldest first")
    .option("--limit <n>", "lines at most; default: 1000", wholeNumber)
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<FilterOptions & { limit?: number }>();
      const lines = apiOf(world, options).audit(filterOf(options));
      const shown = await firstOf(lines, options.limit ?? 1_000);
      show(world, options, shown, () => table(columns, shown, world.stdout.width));
    });
  withFilter(audit.command("export"))
    .description("write the audit log to a file, a line of JSON each")
    .requiredOption("--out <file>", "where to; a file that exists is never replaced")
    .addHelpText("after", "\nOnly an export without a filter can be verified as a whole.")
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<FilterOptions & { out: string }>();
      const file = await open(options.out, "wx", 0o600).catch((error: unknown) => {
        const message = `cannot write ${options.out}: ${reasonOf(error)}`;
        throw new CommandFailure("cannot-write", message, exitCodes.cannotWrite, error);
      });
      let lines = 0;
      try {
        for await (const line of apiOf(world, options).audit(filterOf(options))) {
          await file.write(`${JSON.stringify(line)}\n`);
          lines++;
        }
        await file.sync();
      } finally {
        await file.close();
      }
      show(world, options, { file: options.out, lines }, () => `${options.out}: ${lines} lines\n`);
    });
  addVerify(audit, world);
}

function addVerify(audit: Command, world: World): void {
  audit
    .command("verify")
    .description("check that no line of the audit log was changed, moved or taken out")
    .argument("[file]", "an export of the whole log; without one, the cloud's own")
    .option("--known <line>", "LINE:HASH that an earlier look ended with", knownHead)
    .addHelpText(
      "after",
      `
Each line holds the hash of the line before. Who can write the cloud's
database could make all of them anew, or leave the last ones out: keep what
this prints elsewhere, and give it as --known the next time.`,
    )
    .action(async (file: string | undefined, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions & { known?: ChainHead }>();
      const lines = file === undefined ? await wholeLog(world, options) : linesOf(file);
      const check = checkChain(options.known);
      let fault: ReturnType<typeof check.end>;
      for await (const given of lines) {
        const line = auditLineSchema.safeParse(given);
        if (!line.success) {
          fault = { sequence: check.head().sequence + 1, fault: "altered" };
          break;
        }
        fault = check.take(line.data);
        if (fault !== undefined) break;
      }
      fault ??= check.end();
      if (fault !== undefined)
        throw new CommandFailure(
          "audit-broken",
          `line ${fault.sequence} of the audit log is ${fault.fault}; the ${fault.sequence - 1} before it hold`,
          exitCodes.refused,
        );
      const head = check.head();
      const known = `${head.sequence}:${head.hash}`;
      show(world, options, { ...head, known }, () => `${head.sequence} lines hold\n${known}\n`);
    });
}

/** Who may read the lines of some projects alone sees a chain with gaps. */
async function wholeLog(world: World, options: GlobalOptions): Promise<AsyncGenerator<AuditLine>> {
  const api = apiOf(world, options);
  const { roles } = await api.whoami();
  if (roles.some(({ project }) => project === "*")) return api.audit({});
  const message = "verifying takes the whole log, and so a role in all projects (*)";
  throw new CommandFailure("forbidden", message, exitCodes.refused);
}

function knownHead(value: string): ChainHead {
  const [, sequence, hash] = /^(\d{1,15}):([0-9a-f]{64})$/.exec(value) ?? [];
  if (sequence === undefined || hash === undefined)
    throw new InvalidArgumentError("It must be LINE:HASH, as an earlier `audit verify` printed.");
  return { sequence: Number(sequence), hash };
}

async function* linesOf(file: string): AsyncGenerator<unknown> {
  const source = createReadStream(file, "utf8");
  try {
    for await (const text of createInterface({
      input: source,
      crlfDelay: Number.POSITIVE_INFINITY,
    })) {
      if (text.length > cliLimits.auditLineCharsMax) yield undefined;
      else yield parsed(text);
    }
  } catch (error) {
    throw new CommandFailure("usage", `cannot read ${file}: ${reasonOf(error)}`, exitCodes.usage);
  } finally {
    source.destroy();
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
