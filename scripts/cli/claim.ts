import type { ClaimView } from "@tributary/cloud/authority/authority.js";
import type { EnrolmentRow } from "@tributary/cloud/store/identity-rows.js";
import { type Command, Option } from "commander";
import { firstOf } from "./api.js";
import { lifetime, wholeNumber } from "./arguments.js";
import { type Column, table } from "./text/table.js";
import { ago, count, time } from "./text/words.js";
import { apiOf, type GlobalOptions, show, type World } from "./world.js";

const kinds = ["gateway", "device"] as const;

const claimColumns = (nowMs: number): readonly Column<ClaimView>[] => [
  { title: "CLAIM", cell: ({ id }) => id },
  { title: "KIND", cell: ({ kind }) => kind },
  { title: "NAME", cell: ({ name }) => name },
  { title: "SITE", cell: ({ site }) => site },
  { title: "USED", cell: ({ used, uses }) => `${count(used)} of ${count(uses)}`, align: "right" },
  { title: "STATE", cell: (claim) => stateOf(claim, nowMs) },
  { title: "ENDS", cell: ({ expiresAtMs }) => time(expiresAtMs) },
];

function stateOf({ state, expiresAtMs, used, uses, approval }: ClaimView, nowMs: number): string {
  if (state === "revoked") return "taken back";
  if (expiresAtMs <= nowMs) return "ended";
  if (used >= uses) return "used";
  return approval ? "open, asks" : "open";
}

const waitingColumns = (nowMs: number): readonly Column<EnrolmentRow>[] => [
  { title: "WAITS", cell: ({ id }) => id },
  { title: "KIND", cell: ({ kind }) => kind },
  { title: "NAME", cell: ({ name }) => name },
  { title: "SITE", cell: ({ site }) => site },
  { title: "ASKED", cell: ({ requestedAtMs }) => ago(requestedAtMs, nowMs) },
  { title: "KEY", cell: ({ thumbprint }) => thumbprint },
];

type CreateOptions = GlobalOptions & {
  readonly kind: string;
  readonly name: string;
  readonly site: string;
  readonly uses?: number;
  readonly expires?: number;
  readonly approval?: boolean;
};

export function addClaimCommands(claim: Command, world: World): void {
  addCreate(claim, world);
  claim
    .command("list")
    .description("show the claims, and who waits to be accepted")
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const api = apiOf(world, options);
      const claims = await firstOf(api.claims());
      const waiting = await firstOf(api.enrolments({ state: "pending" }));
      show(world, options, { claims, waiting }, () => {
        if (claims.length === 0) return "no claim yet; make one with `tributary claim create`\n";
        const { width } = world.stdout;
        const listed = table(claimColumns(world.nowMs()), claims, width);
        if (waiting.length === 0) return listed;
        return `${listed}\n${table(waitingColumns(world.nowMs()), waiting, width)}`;
      });
    });
  for (const action of ["accept", "reject"] as const)
    claim
      .command(action)
      .description(`${action} somebody who waits to enrol`)
      .argument("<id>", "the request's id, as `tributary claim list` shows it")
      .action(async (id: string, _options: unknown, command: Command) => {
        const options = command.optsWithGlobals<GlobalOptions>();
        const decided = await apiOf(world, options).decideEnrolment(id, action);
        show(world, options, decided, () => `${decided.kind} ${decided.name}: ${decided.state}\n`);
      });
  claim
    .command("revoke")
    .description("take a claim back; who enrolled with it stays")
    .argument("<id>", "the claim's id")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const revoked = await apiOf(world, options).revokeClaim(id);
      show(world, options, revoked, () => `claim ${revoked.id}: taken back\n`);
    });
}

function addCreate(claim: Command, world: World): void {
  claim
    .command("create")
    .description("make a claim, with which a newcomer enrols")
    .addOption(new Option("--kind <kind>", "who enrols").choices([...kinds]).makeOptionMandatory())
    .requiredOption("--name <name>", "its name; one * stands for any characters")
    .requiredOption("--site <id>", "its site")
    .option("--uses <n>", "how many may enrol with it; default: 1", wholeNumber)
    .option("--expires <time>", "how long it is good, as 24h; default: 24h", lifetime)
    .option("--approval", "each must be accepted: tributary claim accept")
    .addHelpText(
      "after",
      `
The claim is a secret, and is shown this once: it goes to stdout alone, what
else there is to say to stderr.`,
    )
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<CreateOptions>();
      const { kind, name, site, uses, expires, approval } = options;
      const made = await apiOf(world, options).createClaim({
        kind,
        name,
        site,
        ...(uses === undefined ? {} : { uses }),
        ...(expires === undefined ? {} : { lifeMs: expires }),
        ...(approval === undefined ? {} : { approval }),
      });
      show(world, options, made, () => `${made.text}\n`);
      if (options.json !== true)
        world.stderr.write(
          `claim ${made.claim.id}: ${kind} ${name} of ${site}, until ${time(made.claim.expiresAtMs)}\n`,
        );
    });
}
