import { lstat, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { sha256 } from "@tributary/proto/host/digest.js";
import { numberedId } from "@tributary/proto/wire/ids.js";
import {
  isPackagePath,
  type PackageStatement,
  packageStatementSchema,
} from "@tributary/proto/wire/package.js";
import { pack } from "tar-stream";
import { z } from "zod";
import { reasonOf, usageFailure } from "./failure.js";

/** What a package's directory says of it. */
export const DESCRIPTION = "tributary-package.json";

const { entryPoints, environment, memoryBytes, timeMs } = packageStatementSchema.shape;

const descriptionSchema = z.strictObject({
  name: z.string(),
  version: z.number().int().min(0),
  entryPoints,
  environment: environment.default({}),
  memoryBytes: memoryBytes.default(512 * 1024 * 1024),
  timeMs: timeMs.default(60 * 60 * 1000),
});

export type BuiltPackage = { readonly statement: PackageStatement; readonly archive: Uint8Array };

/**
 * Builds a package from a directory: all plain files in it but the description. The same files give
 * the same bytes, whoever owns them and whenever they were written (and the same zlib).
 */
export async function buildPackage(dir: string): Promise<BuiltPackage> {
  const { name, version, ...described } = await readDescription(dir);
  const files = await filesIn(dir, "");
  let unpackedBytes = 0;
  const tar = pack();
  // In the order of the code units of their paths.
  for (const path of files.sort((a, b) => (a < b ? -1 : 1))) {
    const content = await readFile(join(dir, path));
    const { mode } = await lstat(join(dir, path));
    unpackedBytes += content.length;
    const plain = { mode: (mode & 0o100) === 0 ? 0o644 : 0o755, uid: 0, gid: 0 };
    tar.entry({ name: path, ...plain, mtime: new Date(0) }, content);
  }
  tar.finalize();
  const pieces: Uint8Array[] = [];
  for await (const piece of tar as AsyncIterable<Uint8Array>) pieces.push(piece);
  const archive = new Uint8Array(gzipSync(Buffer.concat(pieces), { level: 9 }));
  // The system that wrote it (RFC 1952, 2.3.1): unknown, wherever that was.
  archive[9] = 255;
  const statement = packageStatementSchema.safeParse({
    package: numberedId(name, version),
    digest: sha256(archive),
    bytes: archive.length,
    files: files.length,
    unpackedBytes,
    ...described,
  });
  if (!statement.success) throw wrong(dir, statement.error);
  return { statement: statement.data, archive };
}

async function readDescription(dir: string): Promise<z.infer<typeof descriptionSchema>> {
  const path = join(dir, DESCRIPTION);
  let read: unknown;
  try {
    read = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    throw usageFailure(`cannot read ${path} as JSON: ${reasonOf(error)}`);
  }
  const description = descriptionSchema.safeParse(read);
  if (!description.success) throw wrong(path, description.error);
  return description.data;
}

function wrong(where: string, error: z.ZodError) {
  const issue = error.issues[0];
  return usageFailure(`${where}: ${issue?.path.join(".")}: ${issue?.message}`);
}

async function filesIn(dir: string, below: string): Promise<string[]> {
  const files: string[] = [];
  for (const entry of await readdir(join(dir, below), { withFileTypes: true })) {
    const path = below === "" ? entry.name : `${below}/${entry.name}`;
    if (path === DESCRIPTION) continue;
    if (!isPackagePath(path))
      throw usageFailure(`${join(dir, path)}: a package has no file of that name`);
    if (entry.isDirectory()) files.push(...(await filesIn(dir, path)));
    else if (entry.isFile()) files.push(path);
    else throw usageFailure(`${join(dir, path)} is no plain file: a package has no links`);
  }
  return files;
}
