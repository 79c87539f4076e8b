import { chown, mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { systemRandom } from "@tributary/proto/host/random.js";
import { identityLimits } from "@tributary/proto/identity/limits.js";
import { isCode } from "@tributary/proto/wire/codes.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { z } from "zod";
import type { DenylistHolder } from "./denylist.js";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";

/**
 * Denylists from a file, as off a USB stick: laid into a folder of the gateway's data directory, which
 * the gateway looks into, and empties, as long as it runs, and first of all when it starts.
 */
const FOLDER = "import";
const LIST = ".denylist";
const ANSWER = ".answer";

type Taken = Verdict<{ readonly news: boolean; readonly sequence: number }>;

const answerSchema = z.union([
  z.object({ ok: z.literal(true), news: z.boolean(), sequence: z.number() }),
  z.object({ ok: z.literal(false), code: z.custom(isCode), message: z.string() }),
]);

export type Imports = { close(): Promise<void> };

export type ImportOptions = {
  readonly dataDir: string;
  readonly holder: Pick<DenylistHolder, "take" | "sequence">;
  readonly clock: Pick<Clock, "setTimer" | "monotonicMs">;
  readonly events: GatewayEvents;
};

/** Resolves once what was laid there before is taken. */
export async function openImports(options: ImportOptions): Promise<Imports> {
  const { clock } = options;
  const folder = join(options.dataDir, FOLDER);
  /** When they were written, the oldest first: whoever asked may be gone. */
  const answers = new Map<string, number>();
  let timer: Timer | undefined;
  let closed = false;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const name of await readdir(folder))
    if (!name.endsWith(LIST)) await rm(join(folder, name), { force: true, recursive: true });

  async function look(): Promise<void> {
    for (const [answer, atMs] of answers) {
      if (clock.monotonicMs() - atMs < limits.importAnswerMs) break;
      await rm(answer, { force: true });
      answers.delete(answer);
    }
    const names = (await readdir(folder)).filter((name) => name.endsWith(LIST));
    for (const name of names.sort()) {
      const answer = await takeFile(join(folder, name), options.holder);
      await rm(join(folder, name), { force: true });
      const path = join(folder, `${name}${ANSWER}`);
      await writeFile(path, JSON.stringify(answer));
      answers.set(path, clock.monotonicMs());
    }
  }

  async function tick(): Promise<void> {
    await look().catch((cause: unknown) => {
      const message = cause instanceof Error ? cause.message : String(cause);
      options.events({ level: "error", name: "storage-failed", what: "import", message });
    });
    if (closed) return;
    timer = clock.setTimer(limits.importLookMs, () => {
      looking = tick();
    });
  }

  let looking = tick();
  await looking;
  return {
    async close() {
      closed = true;
      timer?.cancel();
      await looking;
      timer?.cancel();
    },
  };
}

async function takeFile(
  file: string,
  holder: Pick<DenylistHolder, "take" | "sequence">,
): Promise<Taken> {
  const { size } = await stat(file);
  if (size > identityLimits.denylistChars) return refuse("denylist-malformed", "it is too long");
  const text = (await readFile(file, "utf8")).trim();
  const taken = await holder.take(text, "file");
  return taken.ok ? { ...taken, sequence: holder.sequence } : taken;
}

/**
 * Lays a list into a gateway's data directory, for the gateway to take. Resolves with what it answered, or
 * with nothing when it has not within the time: it is not running, and takes it when it starts.
 */
export async function importDenylist(
  dataDir: string,
  text: string,
  waitMs: number,
): Promise<Taken | undefined> {
  const folder = join(dataDir, FOLDER);
  const file = join(folder, `${systemRandom().id(12)}${LIST}`);
  const owner = await stat(dataDir);
  const isRoot = process.getuid?.() === 0;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await writeFile(`${file}.partial`, text, { mode: 0o600 });
  if (isRoot)
    for (const path of [folder, `${file}.partial`]) await chown(path, owner.uid, owner.gid);
  await rename(`${file}.partial`, file);
  for (const endMs = performance.now() + waitMs; performance.now() < endMs; ) {
    const answer = await readFile(`${file}${ANSWER}`, "utf8").catch(() => undefined);
    const read = answerSchema.safeParse(answer && parsed(answer));
    if (read.success) {
      await rm(`${file}${ANSWER}`, { force: true });
      return read.data as Taken;
    }
    await new Promise((resolve) => setTimeout(resolve, limits.importLookMs / 4));
  }
  return undefined;
}

/** It may be half written. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
