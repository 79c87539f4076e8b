import { dirname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { CreateTrainer, Trainer } from "./trainer.js";

/** Where a config's relative paths start: its own folder, or the working directory without a file. */
export function baseDirOf(file: string | undefined): string {
  return file === undefined ? process.cwd() : dirname(resolve(file));
}

/**
 * Loads an ES module that exports `createTrainer`. Throws `config-trainer` when it cannot be
 * loaded or exports none.
 */
export async function loadTrainerModule(path: string): Promise<CreateTrainer> {
  let module: { readonly createTrainer?: unknown };
  try {
    module = await import(pathToFileURL(path).href);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new TributaryError("config-trainer", `cannot load the trainer module ${path}: ${why}`, {
      cause,
    });
  }
  const { createTrainer } = module;
  if (typeof createTrainer !== "function")
    throw new TributaryError(
      "config-trainer",
      `the trainer module ${path} does not export a function createTrainer`,
    );
  return async (options) => checkTrainer(path, await createTrainer(options));
}

function checkTrainer(path: string, made: unknown): Trainer {
  const trainer = made as Partial<Trainer> | undefined;
  if (typeof trainer?.train !== "function" || typeof trainer.evaluate !== "function")
    throw new TributaryError(
      "config-trainer",
      `createTrainer of ${path} must return an object with train and evaluate`,
    );
  return trainer as Trainer;
}
