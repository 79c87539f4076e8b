import { constants } from "node:fs";
import { mkdir, open, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "@tributary/proto/host/clock.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { EntryPointName, PackageStatement } from "@tributary/proto/wire/package.js";
import { decodeSafetensors, encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { z } from "zod";
import { limits } from "./limits.js";
import { unpackPackage } from "./package-archive.js";
import { runPackageCommand } from "./package-run.js";
import type { Model, Trainer } from "./trainer.js";

export type PackageTrainerOptions = {
  readonly statement: PackageStatement;
  /** The archive, its digest verified. */
  readonly archive: () => Promise<Uint8Array>;
  /** Makes a path for a directory of one run's own. */
  readonly workPath: () => string;
  /** What packages train on; told to them by its path. */
  readonly dataDir?: string | undefined;
  readonly timeMs: number;
  readonly clock: Clock;
};

const resultSchema = z.strictObject({
  samples: z.number(),
  metrics: z.record(z.string().max(64), z.number()).default({}),
});

const NO_TRAINER = "the device has no trainer of its own, and the session names no package";

const MODEL = "model.safetensors";
const TASK = "task.json";
const WEIGHTS = "weights.safetensors";
const RESULT = "result.json";
const INPUT = "input.json";
const OUTPUT = "output.json";

/**
 * A package as a trainer: each task unpacks it anew into a directory of its own, writes what the
 * command reads, runs it, reads what it wrote, and removes the directory. So nothing that a command
 * changes outlives its task, and what runs is what was signed.
 */
export function createPackageTrainer(options: PackageTrainerOptions): Trainer {
  const { statement } = options;

  type Files = Readonly<Record<string, Uint8Array | string>>;
  type Read = (name: string, bytesMax: number) => Promise<Uint8Array>;

  /** Runs one command; `take` reads its files before they are removed. */
  const run = async <T>(
    point: EntryPointName,
    files: Files,
    take: (read: Read) => Promise<T>,
    { timeMs, signal }: { readonly timeMs: number; readonly signal: AbortSignal },
  ): Promise<T> => {
    const words = statement.entryPoints[point];
    if (words === undefined) throw new Error(`${statement.package} has no ${point}`);
    const work = options.workPath();
    const at = (name: string) => join(work, name);
    try {
      for (const dir of ["package", "in", "out", "tmp"])
        await mkdir(at(dir), { recursive: true, mode: 0o700 });
      const unpacked = await unpackPackage(await options.archive(), statement, at("package"));
      if (!unpacked.ok) throw new Error(unpacked.message);
      for (const [name, content] of Object.entries(files))
        await writeFile(at(`in/${name}`), content);
      await runPackageCommand({
        words,
        dir: at("package"),
        environment: environmentOf(options, point, work),
        memoryBytes: statement.memoryBytes,
        timeMs: Math.min(options.timeMs, statement.timeMs, timeMs),
        clock: options.clock,
        signal,
      });
      return await take((name, bytesMax) => readOutput(at(`out/${name}`), name, bytesMax));
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  };

  return {
    async train(model, plan, signal) {
      const { round, session, training, remainingMs } = plan;
      const task = JSON.stringify({ model: model.id, round, session, training, remainingMs });
      const file = encodeModel(model);
      return run(
        "train",
        { [MODEL]: file, [TASK]: task },
        async (read) => {
          const result = readResult(await read(RESULT, limits.packageResultBytes));
          // As long as the model at most, but for the text of its header.
          const bytesMax = Math.min(wire.modelBytes, 2 * file.length + limits.packageResultBytes);
          const decoded = decodeSafetensors(await read(WEIGHTS, bytesMax));
          if (!decoded.ok) throw new Error(`${WEIGHTS}: ${decoded.message}`);
          return { ...result, weights: weightsOf(decoded) };
        },
        { timeMs: Math.max(1, remainingMs), signal },
      );
    },
    evaluate: (model, signal) =>
      run(
        "validate",
        { [MODEL]: encodeModel(model), [TASK]: JSON.stringify({ model: model.id }) },
        async (read) => readResult(await read(RESULT, limits.packageResultBytes)),
        { timeMs: options.timeMs, signal },
      ),
    predict: (model, input) =>
      run(
        "predict",
        {
          [MODEL]: encodeModel(model),
          [TASK]: JSON.stringify({ model: model.id }),
          [INPUT]: JSON.stringify(input) ?? "null",
        },
        async (read): Promise<unknown> =>
          readJson(OUTPUT, await read(OUTPUT, limits.packageOutputBytes)),
        { timeMs: options.timeMs, signal: new AbortController().signal },
      ),
  };
}

/** In the place of a trainer where a device has none of its own. */
export const packagesOnly: Trainer = {
  train: () => Promise.reject(new Error(NO_TRAINER)),
  evaluate: () => Promise.reject(new Error(NO_TRAINER)),
};

/** Of the device's own environment a command sees where programs are, and nothing else. */
function environmentOf(
  { statement, dataDir }: PackageTrainerOptions,
  point: EntryPointName,
  work: string,
): Record<string, string> {
  return {
    PATH: process.env.PATH ?? "/usr/bin:/bin",
    LANG: "C.UTF-8",
    HOME: join(work, "tmp"),
    TMPDIR: join(work, "tmp"),
    ...statement.environment,
    TRIBUTARY_TASK: point,
    TRIBUTARY_INPUT: join(work, "in"),
    TRIBUTARY_OUTPUT: join(work, "out"),
    ...(dataDir === undefined ? {} : { TRIBUTARY_DATA: dataDir }),
  };
}

function encodeModel({ tensors }: Model): Uint8Array {
  const layout = [...tensors].map(([name, { shape }]) => ({ name, shape }));
  const all = [...tensors.values()].map(({ values }) => values);
  const flat = new Float32Array(all.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const values of all) {
    flat.set(values, at);
    at += values.length;
  }
  return encodeSafetensors(layout, flat);
}

function weightsOf({
  layout,
  values,
}: Pick<Extract<ReturnType<typeof decodeSafetensors>, { ok: true }>, "layout" | "values">) {
  const weights = new Map<string, Float32Array>();
  let start = 0;
  for (const { name, shape } of layout) {
    const end = start + shape.reduce((product, size) => product * size, 1);
    weights.set(name, values.subarray(start, end));
    start = end;
  }
  return weights;
}

/** Reads a plain file; a link or a pipe in its place would lead elsewhere, or nowhere. */
async function readOutput(path: string, name: string, bytesMax: number): Promise<Uint8Array> {
  const file = await open(
    path,
    constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK,
  ).catch((cause: NodeJS.ErrnoException) => {
    throw new Error(`the command left no ${name} that can be read: ${cause.code}`);
  });
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw new Error(`${name} is no plain file`);
    if (stat.size > bytesMax)
      throw new Error(`${name} has ${stat.size} bytes; at most ${bytesMax}`);
    return new Uint8Array(await readFile(file));
  } finally {
    await file.close();
  }
}

function readResult(bytes: Uint8Array): z.infer<typeof resultSchema> {
  const result = resultSchema.safeParse(readJson(RESULT, bytes));
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new Error(`${RESULT}: ${issue?.path.join(".")}: ${issue?.message}`);
}

function readJson(name: string, bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new Error(`${name} is no JSON`);
  }
}
