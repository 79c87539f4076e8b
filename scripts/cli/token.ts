import type { Grant } from "@tributary/cloud/access/permissions.js";
import type { TokenRow } from "@tributary/cloud/store/access-rows.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import type { Command } from "commander";
import { firstOf } from "./api.js";
import { grants, lifetime } from "./arguments.js";
import { usageFailure } from "./failure.js";
import { type Column, table } from "./text/table.js";
import { time } from "./text/words.js";
import { apiOf, type GlobalOptions, show, type World } from "./world.js";

const columns = (nowMs: number): readonly Column<TokenRow>[] => [
  { title: "TOKEN", cell: ({ id }) => id },
  { title: "FOR", cell: ({ subject }) => subject },
  { title: "NAME", cell: ({ name }) => name },
  { title: "ROLES", cell: ({ roles }) => rolesText(roles) },
  {
    title: "STATE",
    cell: ({ state, expiresAtMs }) =>
      state === "revoked" ? "revoked" : expiresAtMs <= nowMs ? "ended" : "active",
  },
  { title: "ENDS", cell: ({ expiresAtMs }) => time(expiresAtMs) },
];

function rolesText(roles: readonly Grant[]): string {
  return roles.map(({ project, role }) => `${project}:${role}`).join(" ") || "-";
}

type CreateOptions = GlobalOptions & {
  readonly name?: string;
  readonly subject?: string;
  readonly role?: readonly Grant[];
  readonly expires?: number;
  readonly data?: string;
};

/** Adds the commands for tokens of people and programs. */
export function addTokenCommands(token: Command, world: World): void {
  addCreate(token, world);
  token
    .command("list")
    .description("show tokens: one's own, and those whose access one may see")
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const tokens = await firstOf(apiOf(world, options).tokens());
      show(world, options, tokens, () =>
        tokens.length === 0
          ? "no token yet; make one with `tributary token create`\n"
          : table(columns(world.nowMs()), tokens, world.stdout.width),
      );
    });
  token
    .command("revoke")
    .description("void a token at once")
    .argument("<id>", "the token's id, as `tributary token list` shows it")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const revoked = await apiOf(world, options).revokeToken(id);
      show(world, options, revoked, () => `token ${revoked.id} of ${revoked.subject}: revoked\n`);
    });
}

function addCreate(token: Command, world: World): void {
  token
    .command("create")
    .description("make a token for a person or a program")
    .option("--name <text>", "whom it is for, in words")
    .option("--subject <id>", "who it speaks for; default: somebody new")
    .option("--role <role>", "PROJECT:ROLE, or a role in all; can be repeated", grants)
    .option("--expires <time>", "how long it is good, as 24h; default: 30d", lifetime)
    .option("--data <dir>", "an owner's, from the keys in a cloud's data directory")
    .addHelpText(
      "after",
      `
Roles: owner, operator, trainer, viewer, auditor, steward.
The token is a secret, and is shown this once: it goes to stdout alone, what
else there is to say to stderr. Who can read the authority's keys makes an
owner's with --data, also when every other token is lost.`,
    )
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<CreateOptions>();
      const { name, subject, role, expires, data } = options;
      if (data !== undefined) return createByKeys(world, options, data);
      if (name === undefined) throw usageFailure("say whom the token is for: --name");
      const made = await apiOf(world, options).createToken({
        name,
        roles: role ?? [],
        ...(subject === undefined ? {} : { subject }),
        ...(expires === undefined ? {} : { lifeMs: expires }),
      });
      show(world, options, made, () => `${made.text}\n`);
      if (options.json === true) return;
      const { id, roles, expiresAtMs } = made.token;
      const what = `${made.token.subject} (${name}), ${rolesText(roles)}`;
      world.stderr.write(`token ${id}: ${what}, until ${time(expiresAtMs)}\n`);
    });
}

async function createByKeys(world: World, options: CreateOptions, data: string): Promise<void> {
  if (options.name !== undefined || options.subject !== undefined || options.role !== undefined)
    throw usageFailure("--data makes an owner's token: no --name, --subject or --role with it");
  const { authorityFile, readAuthorityKeys } = await import("@tributary/cloud/authority/keys.js");
  const { ownerToken } = await import("@tributary/cloud/access/owner-token.js");
  const { accessLimits } = await import("@tributary/cloud/access/limits.js");
  const keys = await readAuthorityKeys(authorityFile(data));
  const lifeMs = options.expires ?? accessLimits.ownerTokenMs;
  if (lifeMs > accessLimits.tokenMsMax) throw usageFailure("a token is good for 400d at most");
  const text = await ownerToken(keys, { nowMs: world.nowMs(), lifeMs, random: systemRandom() });
  show(world, options, { text }, () => `${text}\n`);
}
