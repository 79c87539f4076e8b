import { resolve } from "node:path";
import type { Clock } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { nodeDisk } from "@tributary/proto/host/disk.js";
import type { Random } from "@tributary/proto/host/random.js";
import {
  openPackage,
  openPlanPackage,
  type SignedPackage,
} from "@tributary/proto/identity/package.js";
import { digestSchema, idSchema } from "@tributary/proto/wire/ids.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { PackageStatement } from "@tributary/proto/wire/package.js";
import type { Manifest, PlanPackage } from "@tributary/proto/wire/plan.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { z } from "zod";
import { createDiskQueue, type HeldChunks, heldFile, openHeldChunks } from "./held.js";
import { limits } from "./limits.js";
import { createPackageTrainer } from "./package-trainer.js";
import type { Trainer } from "./trainer.js";

/** What a device grants the code that others ship to it. Nothing, unless it pins who may sign it. */
export const packageRulesSchema = z.strictObject({
  /** Thumbprints (RFC 7638) of the keys whose packages may run here; none: no package runs. */
  signers: z
    .array(z.string().regex(/^[A-Za-z0-9_-]{43}$/, { message: "must be a key's thumbprint" }))
    .max(limits.packageSigners)
    .default([]),
  /** Memory that a command may have, in bytes; a package that asks for more is refused. */
  memoryBytes: z
    .number()
    .int()
    .min(1)
    .default(1024 * 1024 * 1024),
  /** How long a command may take, in milliseconds, whatever the package asks for. */
  timeMs: z
    .number()
    .int()
    .min(1)
    .max(7 * 24 * 60 * 60 * 1000)
    .default(60 * 60 * 1000),
  /** What packages train on: its path is told to them. */
  dataDir: z.string().min(1).optional(),
});
export type PackageRules = z.infer<typeof packageRulesSchema>;

type Code = "package-refused" | "package-malformed" | "package-signature";

/**
 * The packages that a device keeps: archives in a folder, the newest few, each with the statement
 * under which it came. Whether it may run is asked again each time, by the rules of now.
 */
export type Packages = {
  /** Whether a plan's package may run here, before any of it is fetched. */
  admit(offered: PlanPackage): Promise<Verdict<object, Code>>;
  /** Whether its archive is here; noted as the session's when it is. */
  has(offered: PlanPackage, session: string): Promise<boolean>;
  openHeld(manifest: Manifest): Promise<HeldChunks>;
  /** Keeps an archive whose bytes are the manifest's. Rejects when the disk does not take it. */
  keep(offered: PlanPackage, session: string, bytes: Uint8Array): Promise<void>;
  /** The package of a plan, as a trainer. */
  trainer(offered: PlanPackage): Promise<Verdict<{ readonly trainer: Trainer }, Code>>;
  /** As a trainer: what a session's rounds ran here last, if that predicts and may run. */
  predictor(session: string): Promise<Trainer | undefined>;
  /** Removes what a task left behind when the process ended in the middle of it. */
  sweep(): Promise<void>;
  settled(): Promise<void>;
};

export type PackagesOptions = {
  readonly rules: PackageRules;
  /** A folder of their own; without one no package runs. */
  readonly dir: string | undefined;
  readonly clock: Clock;
  readonly random: Random;
  readonly onFailure: (what: string, message: string) => void;
};

const INDEX = "packages.json";
const WORK = "work-";

const indexSchema = z.strictObject({
  version: z.literal(1),
  /** Those used last come last. */
  packages: z
    .array(
      z.strictObject({
        digest: digestSchema,
        statement: z.string().max(wire.packageStatementChars),
        /** Sessions that ran it last. */
        sessions: z.array(idSchema).max(limits.packageSessions),
      }),
    )
    .max(limits.packages),
});
type Entry = z.infer<typeof indexSchema>["packages"][number];

const archiveFile = (digest: string) => `${digest}.tar.gz`;

export async function openPackages(options: PackagesOptions): Promise<Packages> {
  const { rules, clock, random, onFailure } = options;
  const dir = options.dir === undefined ? undefined : resolve(options.dir);
  const disk = dir === undefined ? undefined : nodeDisk(dir);
  const { onDisk, settled } = createDiskQueue(disk, onFailure);
  let entries: readonly Entry[] = [];
  await onDisk("package index", async (from) => {
    if (!(await from.exists(INDEX))) return;
    const read = indexSchema.safeParse(parse(await from.readFile(INDEX)));
    if (read.success) entries = read.data.packages;
    else onFailure("package index", `${INDEX} is damaged or newer; packages are fetched anew`);
  });

  const judge = ({ statement, signer }: SignedPackage): Verdict<object, Code> => {
    const { package: id, memoryBytes } = statement;
    const no = (why: string): Refusal<Code> => refuse("package-refused", `${id}: ${why}`);
    if (rules.signers.length === 0) return no("this device pins no signer, so it runs no package");
    if (!rules.signers.includes(signer)) return no(`its signer ${signer} is not pinned here`);
    if (dir === undefined) return no("this device has no data directory to keep it in");
    if (memoryBytes > rules.memoryBytes)
      return no(
        `it asks for ${memoryBytes} bytes of memory; this device grants ${rules.memoryBytes}`,
      );
    return { ok: true };
  };

  const archiveOf = async (digest: string): Promise<Uint8Array> => {
    const bytes = await disk?.readFile(archiveFile(digest));
    if (bytes === undefined || sha256(bytes) !== digest)
      throw new Error("the package's archive is damaged; it is fetched anew for the next round");
    return bytes;
  };

  const trainerOf = (statement: PackageStatement): Trainer =>
    createPackageTrainer({
      statement,
      archive: () => archiveOf(statement.digest),
      workPath: () => `${dir}/${WORK}${random.id(16)}`,
      dataDir: rules.dataDir,
      timeMs: rules.timeMs,
      clock,
    });

  /** Puts an entry last; what goes over the bound goes, the file with it. */
  const note = async (statement: string, digest: string, session: string): Promise<void> => {
    // Two statements may be of one archive, with other commands.
    const others = entries.filter((entry) => entry.statement !== statement);
    const known = entries.find((entry) => entry.statement === statement)?.sessions ?? [];
    const sessions = [...known.filter((name) => name !== session), session];
    const entry = { digest, statement, sessions: sessions.slice(-limits.packageSessions) };
    const before = JSON.stringify(entries);
    entries = [
      ...others.map((other) => ({
        ...other,
        sessions: other.sessions.filter((name) => name !== session),
      })),
      entry,
    ].slice(-limits.packages);
    if (disk === undefined || JSON.stringify(entries) === before) return;
    const text = JSON.stringify({ version: 1, packages: entries });
    await disk.writeFileAtomic(INDEX, [new TextEncoder().encode(`${text}\n`)]);
    const named = new Set(entries.map((kept) => archiveFile(kept.digest)));
    for (const name of await disk.list("."))
      if (name.endsWith(".tar.gz") && !named.has(name)) await disk.remove(name);
  };

  return {
    async admit(offered) {
      const opened = await openPlanPackage(offered);
      return opened.ok ? judge(opened) : opened;
    },
    async has({ statement, manifest: { digest } }, session) {
      if (disk === undefined || !entries.some((entry) => entry.digest === digest)) return false;
      const intact = await archiveOf(digest).then(
        () => true,
        () => false,
      );
      if (intact) await note(statement, digest, session);
      return intact;
    },
    openHeld: (manifest) => openHeldChunks(onDisk, manifest),
    async keep({ statement, manifest: { digest } }, session, bytes) {
      if (disk === undefined) return;
      await settled();
      await disk.writeFileAtomic(archiveFile(digest), [bytes]);
      await note(statement, digest, session);
      if (await disk.exists(heldFile(digest))) await disk.remove(heldFile(digest));
    },
    async trainer(offered) {
      const opened = await openPlanPackage(offered);
      if (!opened.ok) return opened;
      const judged = judge(opened);
      return judged.ok ? { ok: true, trainer: trainerOf(opened.statement) } : judged;
    },
    async predictor(session) {
      const entry = entries.find(({ sessions }) => sessions.includes(session));
      const opened = entry && (await openPackage(entry.statement));
      if (!opened?.ok || opened.statement.digest !== entry?.digest) return undefined;
      const { entryPoints } = opened.statement;
      return judge(opened).ok && entryPoints.predict !== undefined
        ? trainerOf(opened.statement)
        : undefined;
    },
    async sweep() {
      await onDisk("packages", async (on) => {
        for (const name of await on.list(".")) if (name.startsWith(WORK)) await on.remove(name);
      });
    },
    settled,
  };
}

function parse(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return undefined;
  }
}
