import { dirname, join } from "node:path";
import type { KeyView } from "@tributary/cloud/authority/keys.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { readSecretFile, writeSecretFile } from "@tributary/proto/identity/secret-file.js";
import { isId } from "@tributary/proto/wire/ids.js";
import type { Command } from "commander";
import { lifetime } from "./arguments.js";
import { usageFailure } from "./failure.js";
import { type Column, table } from "./text/table.js";
import { duration, time } from "./text/words.js";
import { type GlobalOptions, show, type World } from "./world.js";

/** Loaded when such a command runs: what it brings along, the others do without. */
const loadKeys = () => import("@tributary/cloud/authority/keys.js");

type PlaceOptions = GlobalOptions & { readonly data?: string; readonly config?: string };

/** Options that say which cloud's data directory is meant. */
function withPlace(command: Command): Command {
  return command
    .option("--data <dir>", "the cloud's data directory")
    .option("--config <file>", "the cloud's config, which names the directory");
}

async function dataDirOf({ env }: World, { data, config }: PlaceOptions): Promise<string> {
  if (data !== undefined && config !== undefined)
    throw usageFailure("name the directory by --data or by --config, not by both");
  if (data !== undefined) return data;
  const { readCloudConfig } = await import("@tributary/cloud/main.js");
  return (await readCloudConfig({ file: config, env })).dataDir;
}

/** Adds `init`: makes a fleet's authority in a cloud's data directory. */
export function addCloudInit(cloud: Command, world: World): void {
  withPlace(cloud.command("init"))
    .description("make the fleet's authority: its certificate authority and signing key")
    .option("--fleet <name>", "the fleet's name; default: one made up")
    .addHelpText(
      "after",
      `
Without --data and --config the directory is TRIBUTARY_CLOUD_DATA_DIR.
The keys are in authority/ there; keep a backup: tributary keys backup.
From then on callers need a token. The first owner's is in the same place:
  tributary login --token-file DIR/authority/owner.token \\
    --anchors DIR/authority/anchors.pem
and then \`tributary token create\` or \`project invite\` for everybody else.
A cloud that runs there already must be started again.`,
    )
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<PlaceOptions & { fleet?: string }>();
      const random = systemRandom();
      const fleet = options.fleet ?? `fleet-${random.id(8)}`;
      if (!isId(fleet))
        throw usageFailure(`"${fleet}" is no name: letters, digits, - and _, at most 64`);
      const { anchorsOf, authorityFile, keepAuthority, makeAuthorityKeys } = await loadKeys();
      const { anchorOf } = await import("@tributary/proto/identity/claim.js");
      const dataDir = await dataDirOf(world, options);
      const nowMs = world.nowMs();
      const keys = await makeAuthorityKeys(fleet, nowMs, random);
      await keepAuthority(dataDir, keys);
      const certificates = anchorsOf(keys, nowMs);
      const anchor = anchorOf(certificates[0] ?? "");
      const file = authorityFile(dataDir);
      const anchors = join(dirname(file), "anchors.pem");
      await writeSecretFile(anchors, certificates.join("\n"), { replace: true });
      const { ownerToken } = await import("@tributary/cloud/access/owner-token.js");
      const { accessLimits } = await import("@tributary/cloud/access/limits.js");
      const owner = join(dirname(file), "owner.token");
      const lifeMs = accessLimits.ownerTokenMs;
      const token = await ownerToken(keys, { nowMs, lifeMs, random });
      await writeSecretFile(owner, `${token}\n`, { replace: true });
      show(
        world,
        options,
        { fleet, anchor, file, anchors, owner },
        () =>
          `fleet ${fleet}: ${file}\nanchor ${anchor}\nits certificate: ${anchors}\n` +
          `the first owner's token, good for ${duration(lifeMs)}: ${owner}\n`,
      );
    });
}

const keyColumns: readonly Column<KeyView>[] = [
  { title: "KEY", cell: ({ what }) => what },
  { title: "ID", cell: ({ id }) => id },
  { title: "STATE", cell: ({ state }) => state },
  { title: "MADE", cell: ({ createdAtMs }) => time(createdAtMs) },
  { title: "ENDS", cell: ({ endsAtMs }) => time(endsAtMs) },
];

/** Adds the commands that keep a fleet's keys: they work on the directory, whether the cloud runs or not. */
export function addKeyCommands(keys: Command, world: World): void {
  withPlace(keys.command("list"))
    .description("show the authority's keys, without their secrets")
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<PlaceOptions>();
      const { authorityFile, keyViews, readAuthorityKeys } = await loadKeys();
      const found = await readAuthorityKeys(authorityFile(await dataDirOf(world, options)));
      const views = keyViews(found, world.nowMs());
      show(world, options, views, () => table(keyColumns, views, world.stdout.width));
    });
  addRotate(keys, world);
  addBackup(keys, world);
  addRestore(keys, world);
}

function addRotate(keys: Command, world: World): void {
  withPlace(keys.command("rotate"))
    .description("put a new signing key in the place of the one in use")
    .option("--authority", "the certificate authority, not the signing key")
    .option("--overlap <time>", "how long the old one stays valid, as 7d; default: 35d", lifetime)
    .addHelpText(
      "after",
      `
What the old key signed is good until the overlap ends: tokens and
certificates that live longer end then, unless they are renewed before.
With --overlap 0s the old key is gone at once, as after a theft.
A cloud that runs takes the new key up by itself.`,
    )
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<
        PlaceOptions & { authority?: boolean; overlap?: number }
      >();
      const { changeAuthority, keyViews, rotate } = await loadKeys();
      const { authorityLimits } = await import("@tributary/cloud/authority/limits.js");
      const overlapMs = options.overlap ?? authorityLimits.overlapMs;
      if (overlapMs > authorityLimits.overlapMsMax)
        throw usageFailure(`an overlap is at most ${duration(authorityLimits.overlapMsMax)}`);
      const of = options.authority === true ? "roots" : "signing";
      const change = { nowMs: world.nowMs(), overlapMs, random: systemRandom() };
      const rotated = await changeAuthority(await dataDirOf(world, options), (found) =>
        rotate(found, of, change),
      );
      const views = keyViews(rotated, world.nowMs());
      show(world, options, views, () => table(keyColumns, views, world.stdout.width));
    });
}

type BackupOptions = PlaceOptions & { readonly passphraseFile?: string };

const passphraseHelp = `
The passphrase is the first line of --passphrase-file, which only its owner
may be able to read, or TRIBUTARY_PASSPHRASE; at least 12 characters.`;

async function passphraseOf({ env }: World, { passphraseFile }: BackupOptions): Promise<string> {
  const given =
    passphraseFile === undefined
      ? env.TRIBUTARY_PASSPHRASE
      : (await readSecretFile(passphraseFile)).split(/\r?\n/)[0];
  if (given === undefined || given === "")
    throw usageFailure("give a passphrase by --passphrase-file or TRIBUTARY_PASSPHRASE");
  return given;
}

function addBackup(keys: Command, world: World): void {
  withPlace(keys.command("backup"))
    .description("write the authority's keys to a file, encrypted under a passphrase")
    .requiredOption("--out <file>", "where to; a file that exists is never replaced")
    .option("--passphrase-file <file>", "holds the passphrase")
    .addHelpText("after", passphraseHelp)
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<BackupOptions & { out: string }>();
      const { authorityFile, readAuthorityKeys } = await loadKeys();
      const { sealBackup } = await import("@tributary/cloud/authority/backup.js");
      const found = await readAuthorityKeys(authorityFile(await dataDirOf(world, options)));
      const sealed = sealBackup(found, await passphraseOf(world, options));
      await writeSecretFile(options.out, sealed, { replace: false });
      const { fleet } = found;
      const file = options.out;
      show(world, options, { fleet, file }, () => `fleet ${fleet}: ${file}\n`);
    });
}

function addRestore(keys: Command, world: World): void {
  withPlace(keys.command("restore"))
    .description("put the keys of a backup into a data directory that has none")
    .argument("<file>", "the backup")
    .option("--passphrase-file <file>", "holds the passphrase")
    .addHelpText("after", passphraseHelp)
    .action(async (file: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<BackupOptions>();
      const { keepAuthority } = await loadKeys();
      const { openBackup } = await import("@tributary/cloud/authority/backup.js");
      const opened = openBackup(await readSecretFile(file), await passphraseOf(world, options));
      const dataDir = await dataDirOf(world, options);
      await keepAuthority(dataDir, opened);
      const { fleet } = opened;
      show(world, options, { fleet, dataDir }, () => `fleet ${fleet}: ${dataDir}\n`);
    });
}
