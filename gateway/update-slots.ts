import { mkdir, open, readFile, readlink, rename, rm, symlink } from "node:fs/promises";
import { join } from "node:path";
import { bundleArchs } from "@tributary/proto/identity/bundle.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { digestSchema } from "@tributary/proto/wire/ids.js";
import { z } from "zod";
import { syncFolder } from "./update-bundle.js";

/**
 * The two places that software runs from, under an installation's home, which `launch` reads too:
 *
 *     slots/a, slots/b   a release each, with `installed.json` saying which
 *     current            a link to the one that runs
 *     trial              while it proves itself: starts so far, and the slot before it
 *     went-back          what was a trial, after it failed
 *     minimum-version    nothing older is installed any more
 */
export type SlotName = "a" | "b";

const installedSchema = z.object({
  version: z.string(),
  node: z.string(),
  arch: z.enum(bundleArchs),
  /** Of the signed manifest. */
  digest: digestSchema,
  minimumVersion: z.string(),
});
export type Installed = z.infer<typeof installedSchema>;

export type Trial = { readonly starts: number; readonly previous: SlotName };

const INSTALLED = "installed.json";
const slotOf = (name: SlotName) => join("slots", name);

export type Slots = {
  readonly home: string;
  /** The slot that runs; undefined before the first installation. */
  current(): Promise<{ readonly slot: SlotName; readonly installed: Installed } | undefined>;
  trial(): Promise<Trial | undefined>;
  minimumVersion(): Promise<string | undefined>;
  /** Empties the slot that does not run, and says where it is. */
  clear(): Promise<{ readonly slot: SlotName; readonly folder: string }>;
  /** Lets a slot that was filled run from the next start on; on trial where one runs already. */
  promote(slot: SlotName, installed: Installed): Promise<void>;
  /** Ends the trial: the slot that runs stays. */
  keep(): Promise<void>;
  /** Goes back to the slot before, at the next start. */
  goBack(): Promise<void>;
  /** Whether the slot before this one was given up; said once. */
  takeWentBack(): Promise<boolean>;
};

export function openSlots(home: string): Slots {
  const at = (path: string) => join(home, path);
  const textOf = (path: string) => readFile(at(path), "utf8").catch(absent);

  async function currentSlot(): Promise<SlotName | undefined> {
    const target = await readlink(at("current")).catch(absent);
    if (target === undefined) return undefined;
    const name = target.split("/").at(-1);
    if (name === "a" || name === "b") return name;
    throw new TributaryError(
      "update-broken",
      `${at("current")} leads to ${target}, which is no slot`,
    );
  }
  async function installedIn(slot: SlotName): Promise<Installed> {
    const path = join(slotOf(slot), INSTALLED);
    const text = await textOf(path);
    const read = installedSchema.safeParse(text === undefined ? undefined : parsed(text));
    if (read.success) return read.data;
    throw new TributaryError("update-broken", `${at(path)} does not say what is installed there`);
  }
  async function pointTo(slot: SlotName): Promise<void> {
    await rm(at("current.new"), { force: true });
    await symlink(slotOf(slot), at("current.new"));
    await rename(at("current.new"), at("current"));
    await syncFolder(home);
  }
  async function trial(): Promise<Trial | undefined> {
    const [, starts, previous] = /^(\d) ([ab])\n$/.exec((await textOf("trial")) ?? "") ?? [];
    return starts === undefined
      ? undefined
      : { starts: Number(starts), previous: previous as SlotName };
  }

  return {
    home,
    async current() {
      const slot = await currentSlot();
      return slot === undefined ? undefined : { slot, installed: await installedIn(slot) };
    },
    trial,
    minimumVersion: async () => (await textOf("minimum-version"))?.trim(),
    async clear() {
      const slot = (await currentSlot()) === "a" ? "b" : "a";
      const folder = at(slotOf(slot));
      await rm(folder, { recursive: true, force: true });
      await mkdir(folder, { recursive: true, mode: 0o755 });
      return { slot, folder };
    },
    async promote(slot, installed) {
      await writeDurably(join(at(slotOf(slot)), INSTALLED), `${JSON.stringify(installed)}\n`);
      await syncFolder(at("slots"));
      const previous = await currentSlot();
      if (previous !== undefined) await writeDurably(at("trial"), `0 ${previous}\n`);
      await rm(at("went-back"), { force: true });
      await pointTo(slot);
      if (previous === undefined)
        await writeDurably(at("minimum-version"), `${installed.minimumVersion}\n`);
    },
    async keep() {
      const running = await currentSlot();
      if (running === undefined) return;
      const { minimumVersion } = await installedIn(running);
      await writeDurably(at("minimum-version"), `${minimumVersion}\n`);
      await rm(at("trial"), { force: true });
      await syncFolder(home);
    },
    async goBack() {
      const on = await trial();
      if (on === undefined) return;
      await pointTo(on.previous);
      await rename(at("trial"), at("went-back"));
      await syncFolder(home);
    },
    async takeWentBack() {
      const text = await textOf("went-back");
      if (text === undefined) return false;
      await rm(at("went-back"), { force: true });
      return true;
    },
  };
}

function absent(cause: NodeJS.ErrnoException): undefined {
  if (cause.code === "ENOENT") return undefined;
  throw new TributaryError("disk-failed", cause.message, { cause });
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Replaces a small file as a whole. */
export async function writeDurably(path: string, text: string): Promise<void> {
  const temporary = `${path}.new`;
  const handle = await open(temporary, "w", 0o644);
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, path);
}
