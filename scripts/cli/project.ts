import type { InvitationView } from "@tributary/cloud/access/projects.js";
import type { MemberRow, ProjectRow } from "@tributary/cloud/store/access-rows.js";
import { roles } from "@tributary/proto/identity/tokens.js";
import { type Command, Option } from "commander";
import { firstOf } from "./api.js";
import { lifetime } from "./arguments.js";
import { type Column, table } from "./text/table.js";
import { time } from "./text/words.js";
import { apiOf, type GlobalOptions, show, type World } from "./world.js";

const projectColumns: readonly Column<ProjectRow>[] = [
  { title: "PROJECT", cell: ({ id }) => id },
  { title: "NAME", cell: ({ name }) => name },
  { title: "MADE", cell: ({ createdAtMs }) => (createdAtMs === 0 ? "-" : time(createdAtMs)) },
];

const memberColumns: readonly Column<MemberRow>[] = [
  { title: "MEMBER", cell: ({ subject }) => subject },
  { title: "NAME", cell: ({ name }) => name },
  { title: "ROLE", cell: ({ role }) => role },
  { title: "SINCE", cell: ({ addedAtMs }) => time(addedAtMs) },
  { title: "INVITED BY", cell: ({ addedBy }) => addedBy },
];

const invitationColumns = (nowMs: number): readonly Column<InvitationView>[] => [
  { title: "INVITATION", cell: ({ id }) => id },
  { title: "ROLE", cell: ({ role }) => role },
  {
    title: "STATE",
    cell: ({ state, acceptedBy, expiresAtMs }) => {
      if (state === "revoked") return "taken back";
      if (state === "accepted") return `accepted: ${acceptedBy}`;
      return expiresAtMs <= nowMs ? "ended" : "open";
    },
  },
  { title: "ENDS", cell: ({ expiresAtMs }) => time(expiresAtMs) },
];

/** Adds the commands for projects: workspaces with sites, sessions, models and members of their own. */
export function addProjectCommands(project: Command, world: World): void {
  project
    .command("create")
    .description("make a project")
    .argument("<id>", "its id")
    .option("--name <text>", "its name, in words")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions & { name?: string }>();
      const made = await apiOf(world, options).createProject(id, options.name);
      show(world, options, made, () => `project ${made.id}: made\n`);
    });
  project
    .command("list")
    .description("show the projects in which one has a role")
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const projects = await firstOf(apiOf(world, options).projects());
      show(world, options, projects, () => table(projectColumns, projects, world.stdout.width));
    });
  project
    .command("sites")
    .description("show the sites that a project was given, or give it one")
    .argument("<id>", "the project")
    .option("--add <site>", "a site, taken from the project that it is in")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions & { add?: string }>();
      const api = apiOf(world, options);
      if (options.add !== undefined) await api.giveSite(id, options.add);
      const { items } = await api.projectSites(id);
      show(world, options, items, () => items.map((site) => `${site}\n`).join(""));
    });
  addMembers(project, world);
  addInvite(project, world);
  addInvitations(project, world);
  project
    .command("join")
    .description("become a member with an invitation")
    .argument("<invitation>", "as whoever invites handed it over")
    .action(async (invitation: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const member = await apiOf(world, options).acceptInvitation(invitation);
      show(world, options, member, () => `${member.role} of ${member.project}\n`);
    });
}

function addMembers(project: Command, world: World): void {
  project
    .command("members")
    .description("show a project's members, or take one's role")
    .argument("<id>", "the project; * for members of all projects")
    .option("--remove <member>", "as the list shows it: user:ID or oidc:ID")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions & { remove?: string }>();
      const api = apiOf(world, options);
      if (options.remove !== undefined) {
        const removed = await api.removeMember(id, options.remove);
        return show(world, options, removed, () => `${removed.subject} left ${removed.project}\n`);
      }
      const members = await firstOf(api.members(id));
      show(world, options, members, () =>
        members.length === 0
          ? "no member yet; invite somebody with `tributary project invite`\n"
          : table(memberColumns, members, world.stdout.width),
      );
    });
}

function addInvite(project: Command, world: World): void {
  project
    .command("invite")
    .description("make an invitation, with which somebody joins")
    .argument("<id>", "the project; * for all projects")
    .addOption(new Option("--role <role>", "the role").choices([...roles]).makeOptionMandatory())
    .option("--expires <time>", "how long it is good, as 24h; default: 7d", lifetime)
    .addHelpText(
      "after",
      `
The invitation is a secret, and is shown this once, on stdout alone. Who joins
needs a token, the fleet's own or the provider's; one without roles will do.`,
    )
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions & { role: string; expires?: number }>();
      const { role, expires } = options;
      const made = await apiOf(world, options).invite(id, {
        role,
        ...(expires === undefined ? {} : { lifeMs: expires }),
      });
      show(world, options, made, () => `${made.text}\n`);
      if (options.json === true) return;
      const { id: invitation, expiresAtMs } = made.invitation;
      world.stderr.write(
        `invitation ${invitation}: ${role} of ${id}, until ${time(expiresAtMs)}\n`,
      );
    });
}

function addInvitations(project: Command, world: World): void {
  project
    .command("invitations")
    .description("show a project's invitations, or take one back")
    .argument("<id>", "the project; * for all projects")
    .option("--revoke <invitation>", "one that nobody accepted yet")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions & { revoke?: string }>();
      const api = apiOf(world, options);
      if (options.revoke !== undefined) {
        const revoked = await api.revokeInvitation(id, options.revoke);
        return show(world, options, revoked, () => `invitation ${revoked.id}: taken back\n`);
      }
      const invitations = await firstOf(api.invitations(id));
      show(world, options, invitations, () =>
        invitations.length === 0
          ? "no invitation yet; make one with `tributary project invite`\n"
          : table(invitationColumns(world.nowMs()), invitations, world.stdout.width),
      );
    });
}
