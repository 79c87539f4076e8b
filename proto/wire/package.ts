import { z } from "zod";
import { decodeEnvelope, encodeEnvelope } from "./envelope.js";
import { digestSchema, isReservedName, numberedIdSchema } from "./ids.js";
import { limits } from "./limits.js";
import { refuse, type Verdict } from "./verdict.js";

/**
 * A compute package: training code for devices, as a gzipped tar archive and a statement that says
 * what it is and how it runs. Whoever made it signs the statement, which holds the archive's digest.
 */

/** The commands of a package, by what a device asks of it. */
export type EntryPointName = "train" | "validate" | "predict";

const noNul = (text: string): boolean => !text.includes("\0");
const notNul = { message: "must hold no NUL" };

/**
 * A path of a file in the archive: relative, `/` between its parts, none of which is `.` or `..` or
 * holds anything but letters, digits and `._+@-`.
 */
const PATH = /^(?!\.{1,2}(\/|$))[A-Za-z0-9._+@-]+(\/(?!\.{1,2}(\/|$))[A-Za-z0-9._+@-]+)*$/;

export function isPackagePath(path: string): boolean {
  return path.length <= limits.packagePathChars && PATH.test(path);
}

/**
 * The program of a command: `./` and a path in the package; `node` for the device's own runtime; or
 * the name of a program that the device finds on its PATH. A path elsewhere is refused.
 */
function isProgram(word: string): boolean {
  return word.startsWith("./")
    ? isPackagePath(word.slice(2))
    : !word.includes("/") && isPackagePath(word);
}

/** A program and its arguments; no shell reads them. It runs in the package's directory. */
const commandSchema = z
  .array(z.string().max(limits.packageWordChars).refine(noNul, notNul))
  .min(1)
  .max(limits.packageWords)
  .refine(([program]) => program !== undefined && isProgram(program), {
    message: "must begin with a program's name, or ./ and a path in the package",
  });

const entryPointsSchema = z
  .strictObject({
    train: commandSchema.optional(),
    validate: commandSchema.optional(),
    predict: commandSchema.optional(),
  })
  .refine((points) => Object.keys(points).length > 0, { message: "must name a command" });

/** Variables of the commands' environment. `TRIBUTARY_...` are the device's to set. */
const environmentSchema = z
  .record(
    z
      .string()
      .max(64)
      .regex(/^[A-Za-z_][A-Za-z0-9_]*$/, { message: "must be a variable's name" })
      .refine((name) => !isReservedName(name) && !name.startsWith("TRIBUTARY_"), {
        message: "must not be a reserved name",
      }),
    z.string().max(limits.packageWordChars).refine(noNul, notNul),
  )
  .refine((variables) => Object.keys(variables).length <= limits.packageVariables, {
    message: `at most ${limits.packageVariables} variables`,
  });

/** What its maker says of a package, with all that is to be known before the archive is fetched. */
export const packageStatementSchema = z.strictObject({
  /** `<name>.<version>`, the version in decimal. */
  package: numberedIdSchema,
  /** SHA-256 of the archive, and its bytes. */
  digest: digestSchema,
  bytes: z.number().int().min(1).max(limits.packageBytes),
  /** Files in the archive, and the bytes of all of them together: exactly so many. */
  files: z.number().int().min(1).max(limits.packageFiles),
  unpackedBytes: z.number().int().min(0).max(limits.packageUnpackedBytes),
  entryPoints: entryPointsSchema,
  environment: environmentSchema,
  /** What one run of a command may use. A device that grants less memory refuses; the shorter time holds. */
  memoryBytes: z
    .number()
    .int()
    .min(1024 * 1024)
    .max(2 ** 40),
  timeMs: z
    .number()
    .int()
    .min(1)
    .max(7 * 24 * 60 * 60 * 1000),
});
export type PackageStatement = z.infer<typeof packageStatementSchema>;

/** What stands before the archive in a package's file: the statement, signed (a compact JWS) or not yet. */
const fileHeadSchema = z.union([
  z.strictObject({ draft: packageStatementSchema }),
  z.strictObject({ statement: z.string().min(1).max(limits.packageStatementChars) }),
]);
export type PackageHead = z.infer<typeof fileHeadSchema>;

/** Bytes of a package's file. */
export const PACKAGE_FILE_BYTES_MAX = limits.packageBytes + limits.upHeaderBytes * 4;

/** A package's file: an envelope (see envelope.ts) whose payload is the archive. */
export function encodePackageFile(head: PackageHead, archive: Uint8Array): Uint8Array {
  return encodeEnvelope(head, archive);
}

/** Reads a package's file. The archive is a view of `bytes`, and is not judged here. */
export function decodePackageFile(
  bytes: Uint8Array,
): Verdict<{ readonly head: PackageHead; readonly archive: Uint8Array }, "package-malformed"> {
  const envelope = decodeEnvelope(fileHeadSchema, bytes, limits.upHeaderBytes * 4);
  if (!envelope.ok) return refuse("package-malformed", `not a package's file: ${envelope.message}`);
  return { ok: true, head: envelope.header, archive: envelope.payload };
}
