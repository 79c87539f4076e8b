import { sha256 } from "@tributary/proto/host/digest.js";
import type { Disk, ReadFile } from "@tributary/proto/host/disk.js";
import { openPackage } from "@tributary/proto/identity/package.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import {
  decodePackageFile,
  PACKAGE_FILE_BYTES_MAX,
  type PackageStatement,
} from "@tributary/proto/wire/package.js";
import type { PlanPackage } from "@tributary/proto/wire/plan.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { storeLimits } from "../store/limits.js";
import type { PackageRow, PackageStore } from "../store/packages.js";

type UploadCode =
  | "package-malformed"
  | "package-signature"
  | "package-exists"
  | "too-large"
  | "busy";

export type PlannedPackage = {
  readonly offered: PlanPackage;
  readonly says: PackageStatement;
  readonly project: string;
};

/**
 * Compute packages: uploaded once, under an id that stays theirs; archives as files named by their
 * digest. The cloud checks that a package is signed by the key that it names, not who that is: whom
 * to trust is each device's to say.
 */
export type Packages = {
  /** Takes a package's file. Durable when it resolves; the same package again is as good as new. */
  upload(
    pieces: AsyncIterable<Uint8Array>,
    project: string,
    nowMs: number,
  ): Promise<Verdict<{ readonly package: PackageRow }, UploadCode>>;
  /** Forgets a package, and its archive where no other has it; undefined when there is none. */
  remove(id: string): Promise<PackageRow | undefined>;
  /** A package as plans name it; undefined when there is none. */
  planned(id: string): Promise<PlannedPackage | undefined>;
  /** The archive of a package with that digest; the caller closes it. */
  open(id: string, digest: string): Promise<ReadFile | undefined>;
  /** Removes archives that no package has. */
  sweep(): Promise<void>;
};

const FOLDER = "packages";
const SUFFIX = ".tar.gz";
const pathOf = (digest: string) => `${FOLDER}/${digest}${SUFFIX}`;

export function createPackages(disk: Disk, store: PackageStore): Packages {
  /** What was planned last: a session asks for the same one round after round. */
  let last: { readonly row: PackageRow; readonly offered: PlanPackage } | undefined;
  /** Uploads are held in memory whole, so there is one at a time. */
  let uploading = false;
  /** What a file becomes and what a row says change together, one change after the other. */
  let turn: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(run: () => Promise<T>): Promise<T> => {
    const mine = turn.then(run);
    turn = mine.catch(() => undefined);
    return mine;
  };

  const take = async (
    bytes: Uint8Array,
    project: string,
    nowMs: number,
  ): Promise<Verdict<{ readonly package: PackageRow }, UploadCode>> => {
    const file = decodePackageFile(bytes);
    if (!file.ok) return file;
    if (!("statement" in file.head))
      return refuse("package-signature", "the package is not signed: `tributary package sign`");
    const { statement } = file.head;
    const opened = await openPackage(statement);
    if (!opened.ok) return opened;
    const { statement: says, signer } = opened;
    const { package: id, digest } = says;
    if (file.archive.length !== says.bytes || sha256(file.archive) !== digest)
      return refuse("package-malformed", `the archive is not the one that ${id}'s statement is of`);
    // The file is there before the row that names it; without a row it is swept.
    if (!(await disk.exists(pathOf(digest)))) {
      await disk.makeDir(FOLDER);
      await disk.writeFileAtomic(pathOf(digest), [file.archive]);
    }
    const row = { id, project, digest, bytes: says.bytes, signer, statement, uploadedAtMs: nowMs };
    return store.change(async (rows) => {
      const known = await rows.package(id);
      if (known !== undefined && (known.statement !== statement || known.project !== project))
        return exists(id);
      if (known !== undefined) return { ok: true, package: known };
      if ((await rows.count()) >= storeLimits.packages)
        return refuse("busy", `there are ${storeLimits.packages} packages; remove one first`);
      await rows.add(row);
      return { ok: true, package: row };
    });
  };

  return {
    async upload(pieces, project, nowMs) {
      if (uploading) return refuse("busy", "another package is being uploaded; try again later");
      uploading = true;
      try {
        const received = await receive(pieces);
        return received.ok ? await inTurn(() => take(received.bytes, project, nowMs)) : received;
      } finally {
        uploading = false;
      }
    },
    remove: (id) =>
      inTurn(async () => {
        const removed = await store.change(async (rows) => {
          const row = await rows.package(id);
          if (row === undefined) return false;
          await rows.remove(id);
          return row;
        });
        if (removed === false) return undefined;
        if (!(await store.packageDigests()).has(removed.digest))
          await disk.remove(pathOf(removed.digest));
        return removed;
      }),
    async planned(id) {
      const row = await store.package(id);
      if (row === undefined) return undefined;
      if (last?.row.statement !== row.statement) {
        const archive = await disk.readFile(pathOf(row.digest));
        const manifest = makeManifest(id, archive, sha256);
        last = { row, offered: { statement: row.statement, manifest } };
      }
      return { offered: last.offered, says: await statementOf(row), project: row.project };
    },
    async open(id, digest) {
      const row = await store.package(id);
      return row?.digest === digest ? disk.openRead(pathOf(digest)) : undefined;
    },
    async sweep() {
      const known = await store.packageDigests();
      for (const name of await disk.list(FOLDER))
        if (!known.has(name.slice(0, -SUFFIX.length))) await disk.remove(`${FOLDER}/${name}`);
    },
  };
}

function exists(id: string): Refusal<"package-exists"> {
  return refuse("package-exists", `another package ${id} exists; give this one a new version`);
}

/** What was checked when it came. */
async function statementOf({ id, statement }: PackageRow): Promise<PackageStatement> {
  const opened = await openPackage(statement);
  if (!opened.ok) throw new Error(`the stored statement of ${id}: ${opened.message}`);
  return opened.statement;
}

async function receive(
  pieces: AsyncIterable<Uint8Array>,
): Promise<Verdict<{ readonly bytes: Uint8Array }, "too-large">> {
  const kept: Uint8Array[] = [];
  let length = 0;
  for await (const piece of pieces) {
    length += piece.length;
    if (length > PACKAGE_FILE_BYTES_MAX)
      return refuse("too-large", `a package's file has at most ${PACKAGE_FILE_BYTES_MAX} bytes`);
    kept.push(piece);
  }
  return { ok: true, bytes: new Uint8Array(Buffer.concat(kept)) };
}
