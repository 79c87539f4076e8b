import { readFile, rename, rm, writeFile } from "node:fs/promises";
import type { PackageRow } from "@tributary/cloud/store/packages.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { exitCodes } from "@tributary/proto/host/process.js";
import {
  loadKey,
  makeKey,
  publicJwk,
  saveKey,
  thumbprint,
} from "@tributary/proto/identity/keys.js";
import { openPackage, signPackage } from "@tributary/proto/identity/package.js";
import {
  decodePackageFile,
  encodePackageFile,
  type PackageStatement,
} from "@tributary/proto/wire/package.js";
import type { Command } from "commander";
import { firstOf } from "./api.js";
import { CommandFailure, reasonOf, usageFailure } from "./failure.js";
import { buildPackage, DESCRIPTION } from "./package-build.js";
import { type Column, fields, table } from "./text/table.js";
import { ago, bytes, duration } from "./text/words.js";
import { apiOf, type GlobalOptions, show, type World } from "./world.js";

const packageColumns = (nowMs: number): readonly Column<PackageRow>[] => [
  { title: "PACKAGE", cell: ({ id }) => id },
  { title: "PROJECT", cell: ({ project }) => project },
  { title: "SIZE", cell: (row) => bytes(row.bytes), align: "right" },
  { title: "SIGNER", cell: ({ signer }) => signer },
  { title: "UPLOADED", cell: ({ uploadedAtMs }) => ago(uploadedAtMs, nowMs) },
];

/** Adds the commands that make, sign and upload training code. */
export function addPackageCommands(group: Command, world: World): void {
  addKey(group, world);
  addBuild(group, world);
  addSign(group, world);
  group
    .command("show")
    .description("check a package's file, and show what it is and who signed it")
    .argument("<file>", "the package's file")
    .action(async (file: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const { statement, signer } = await readPackage(file);
      show(world, options, { ...statement, signer: signer ?? null }, () =>
        describe(statement, signer),
      );
    });
  group
    .command("upload")
    .description("give the cloud a signed package, for sessions to name by its id")
    .argument("<file>", "the package's file")
    .option("--project <id>", "the project that it belongs to; default: default")
    .action(async (file: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions & { project?: string }>();
      const { content, signer } = await readPackage(file);
      if (signer === undefined) throw unsigned(file);
      const row = await apiOf(world, options).uploadPackage(content, options.project);
      show(world, options, row, () => `package ${row.id}: ${bytes(row.bytes)}, by ${row.signer}\n`);
    });
  group
    .command("list")
    .description("show the packages that the cloud has")
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const packages = await firstOf(apiOf(world, options).packages());
      show(world, options, packages, () =>
        packages.length === 0
          ? "no package yet; make one with `tributary package build`\n"
          : table(packageColumns(world.nowMs()), packages, world.stdout.width),
      );
    });
  group
    .command("remove")
    .description("remove a package that no unfinished session runs")
    .argument("<id>", "the package's id, as steps.3")
    .action(async (id: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions>();
      const row = await apiOf(world, options).removePackage(id);
      show(world, options, row, () => `package ${row.id} is removed\n`);
    });
}

function addKey(group: Command, world: World): void {
  group
    .command("key")
    .description("make a key to sign packages with; devices pin its thumbprint")
    .requiredOption("--out <file>", "where to; a file that exists is never replaced")
    .addHelpText(
      "after",
      `
Keep the file where packages are made, and nowhere else: whoever has it can
have devices that pin it run anything. A device's config pins a key so:
  "packages": { "signers": ["<thumbprint>"] }`,
    )
    .action(async (_options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions & { out: string }>();
      const key = makeKey("EdDSA");
      await saveKey(options.out, key);
      const signer = await thumbprint(publicJwk(key));
      show(world, options, { file: options.out, signer }, () => `${options.out}: ${signer}\n`);
    });
}

function addBuild(group: Command, world: World): void {
  group
    .command("build")
    .description("make a package of a directory with training code")
    .argument("<dir>", `the directory, with ${DESCRIPTION} in it`)
    .option("--out <file>", "where to; default: <name>.<version>.package")
    .option("--key <file>", "sign it with this key at once")
    .addHelpText(
      "after",
      `
${DESCRIPTION}, for example:
  { "name": "steps", "version": 3,
    "entryPoints": { "train": ["python3", "train.py"],
                     "validate": ["./check"] },
    "environment": { "OMP_NUM_THREADS": "2" },
    "memoryBytes": 536870912, "timeMs": 600000 }
A command begins with a program's name on the device's PATH, with node for the
device's own runtime, or with ./ and a path in the package.`,
    )
    .action(async (dir: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions & { out?: string; key?: string }>();
      const { statement, archive } = await buildPackage(dir);
      const file = options.out ?? `${statement.package}.package`;
      const signed = options.key === undefined ? undefined : await sign(statement, options.key);
      await replaceFile(file, encodePackageFile(signed?.head ?? { draft: statement }, archive));
      const made = { file, ...statement, signer: signed?.signer ?? null };
      show(world, options, made, () => `${file}\n${describe(statement, signed?.signer)}`);
    });
}

function addSign(group: Command, world: World): void {
  group
    .command("sign")
    .description("sign a package's file, in place of whoever did before")
    .argument("<file>", "the package's file")
    .requiredOption("--key <file>", "the key of `tributary package key`")
    .action(async (file: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GlobalOptions & { key: string }>();
      const { statement, archive } = await readPackage(file);
      const { head, signer } = await sign(statement, options.key);
      await replaceFile(file, encodePackageFile(head, archive));
      show(world, options, { file, ...statement, signer }, () => describe(statement, signer));
    });
}

async function sign(statement: PackageStatement, keyFile: string) {
  const key = await loadKey(keyFile);
  try {
    const head = { statement: await signPackage(statement, key) };
    return { head, signer: await thumbprint(publicJwk(key)) };
  } catch (error) {
    if (error instanceof RangeError) throw usageFailure(`${keyFile}: ${error.message}`);
    throw error;
  }
}

/** Reads a package's file, and checks that its archive is the one that is stated. */
async function readPackage(file: string) {
  const content = await readFile(file).catch((error: unknown) => {
    throw usageFailure(`cannot read ${file}: ${reasonOf(error)}`);
  });
  const read = decodePackageFile(content);
  if (!read.ok) throw broken(file, read.code, read.message);
  const { head, archive } = read;
  const opened =
    "draft" in head
      ? { ok: true as const, statement: head.draft, signer: undefined }
      : await openPackage(head.statement);
  if (!opened.ok) throw broken(file, opened.code, opened.message);
  const { statement, signer } = opened;
  if (archive.length !== statement.bytes || sha256(archive) !== statement.digest)
    throw broken(file, "digest-mismatch", "the archive is not the one that its statement is of");
  return { content: new Uint8Array(content), statement, signer, archive };
}

function broken(file: string, code: string, message: string): CommandFailure {
  return new CommandFailure(code, `${file}: ${message}`, exitCodes.refused);
}

function unsigned(file: string): CommandFailure {
  return usageFailure(`${file} is not signed: tributary package sign ${file} --key FILE`);
}

/** Whole or not at all. */
async function replaceFile(file: string, content: Uint8Array): Promise<void> {
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    await writeFile(temporary, content);
    await rename(temporary, file);
  } finally {
    await rm(temporary, { force: true });
  }
}

function describe(statement: PackageStatement, signer: string | undefined): string {
  const { entryPoints, environment } = statement;
  return fields([
    ["package", statement.package],
    ["signer", signer ?? "nobody yet"],
    ["sha256", statement.digest],
    [
      "size",
      `${bytes(statement.bytes)}; ${statement.files} files of ${bytes(statement.unpackedBytes)}`,
    ],
    ...Object.entries(entryPoints).map(
      ([name, words]) => [name, words?.join(" ")] as [string, string | undefined],
    ),
    ...Object.entries(environment).map(
      ([name, value]) => ["variable", `${name}=${value}`] as [string, string],
    ),
    ["memory", bytes(statement.memoryBytes)],
    ["time", duration(statement.timeMs)],
  ]);
}
