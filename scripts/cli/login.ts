import { readSecretFile } from "@tributary/proto/identity/secret-file.js";
import type { Command } from "commander";
import { createApi } from "./api.js";
import { credentialsFor, keepCredentials, readAnchors } from "./credentials.js";
import { usageFailure } from "./failure.js";
import { type GlobalOptions, show, urlOf, type World } from "./world.js";

type LoginOptions = GlobalOptions & { readonly tokenFile?: string; readonly anchors?: string };

/** Adds `login` and `logout`: the token that other commands show to a cloud. */
export function addLogin(program: Command, world: World): void {
  program
    .command("login")
    .description("keep a token for a cloud, which other commands then show")
    .option("--token-file <file>", "holds the token; default: TRIBUTARY_TOKEN")
    .option("--anchors <file>", "the fleet's authority, where the cloud has none of the web")
    .addHelpText(
      "after",
      `
The first owner's token and the authority's certificate are where
\`tributary cloud init\` put them. The token is kept, for this URL, in
tributary/credentials.json of XDG_CONFIG_HOME, or of ~/.config, mode 0600.
TRIBUTARY_TOKEN and TRIBUTARY_ANCHORS count instead where they are set.`,
    )
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<LoginOptions>();
      const url = urlOf(world, options);
      const given = await credentialsFor(world.env, url);
      const token =
        options.tokenFile === undefined
          ? world.env.TRIBUTARY_TOKEN
          : (await readSecretFile(options.tokenFile)).split(/\r?\n/)[0];
      if (token === undefined || token === "")
        throw usageFailure("give a token by --token-file or TRIBUTARY_TOKEN");
      const anchors =
        options.anchors === undefined ? given.anchors : await readAnchors(options.anchors);
      const credentials = { token, ...(anchors && { anchors }) };
      const who = await createApi({ url, credentials: async () => credentials }).whoami();
      const file = await keepCredentials(world.env, url, credentials);
      show(world, options, { ...who, url, file }, () => {
        const roles = who.roles.map(({ project, role }) => `${role} of ${project}`).join(", ");
        return `${url}: ${who.subject} (${who.name}), ${roles === "" ? "no role yet" : roles}\nkept in ${file}\n`;
      });
    });
  program
    .command("logout")
    .description("forget the token that is kept for a cloud; it stays good elsewhere")
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const url = urlOf(world, options);
      const file = await keepCredentials(world.env, url, undefined);
      show(world, options, { url, file }, () => `${url}: forgotten\n`);
    });
}
