import { limits as cloudLimits } from "@tributary/cloud/limits.js";
import { limits as deviceLimits } from "@tributary/device-sdk/limits.js";
import { limits as gatewayLimits } from "@tributary/gateway/limits.js";
import type { MemoryDisk } from "@tributary/proto/host/memory-disk.js";
import { cloudRound } from "@tributary/proto/wire/ids.js";
import type { Cast, GatewayPart } from "./world.js";

/** What is past its bound now, in words; undefined when nothing is. */
export async function checkLimits(cast: Cast): Promise<string | undefined> {
  for (const gateway of cast.gateways) {
    const past = (await gatewayFiles(gateway)) ?? (await gatewayIndex(gateway)) ?? status(gateway);
    if (past !== undefined) return `${gateway.actor.name} ${past}`;
  }
  for (const { actor, program } of cast.devices) {
    if (program.disk === undefined) continue;
    const models = await countFiles(program.disk, ".", ".safetensors");
    // A file is removed after its successor is written.
    if (models > deviceLimits.models + 2) return `${actor.name} keeps ${models} models`;
  }
  const past = await cloudFiles(cast.cloud.program.disk);
  return past === undefined ? undefined : `the cloud ${past}`;
}

async function gatewayFiles({ program }: GatewayPart): Promise<string | undefined> {
  const { disk } = program.rack.now;
  const rounds = await countFiles(disk, "rounds");
  // One that has sealed is removed behind the durable end of its round.
  if (rounds > 2 * gatewayLimits.openRounds) return `keeps ${rounds} journals`;
  const outbox = await countFiles(disk, "outbox");
  if (outbox > gatewayLimits.outboxPartials) return `keeps ${outbox} Partials`;
  return undefined;
}

/** Records by their kind, and records of what is over, which nobody would remove. */
async function gatewayIndex({ program }: GatewayPart): Promise<string | undefined> {
  const database = program.rack.now.index.database("");
  await database.open();
  const keys = (await database.keys({ gte: "", lt: "\u007f" }).all()).map((key) => key.split("!"));
  const namesOf = (kind: string) =>
    keys.flatMap(([of, name]) => (of === kind && name ? [name] : []));
  const bounds = {
    entry: gatewayLimits.outboxPartials,
    expiry: gatewayLimits.expiries,
    sealed: 2 * gatewayLimits.ledgerRounds,
    branch: gatewayLimits.ledgerRounds,
    published: gatewayLimits.publishedSessions,
  };
  for (const [kind, most] of Object.entries(bounds)) {
    const count = namesOf(kind).length;
    if (count > most) return `keeps ${count} records of kind ${kind}`;
  }
  const received = new Map<string, number>();
  for (const below of namesOf("received")) received.set(below, (received.get(below) ?? 0) + 1);
  for (const [below, count] of received)
    if (count > gatewayLimits.receivedPartials) return `knows ${count} Partials of ${below}`;
  // Whom a round asked goes with its end, or, noted behind that, with the round itself.
  for (const [kind, ...of] of [
    ["ask", "round", "sealed"],
    ["taking", "branch"],
    ["ledger", "sealed"],
  ] as const) {
    const known = new Set(of.flatMap(namesOf));
    const stray = namesOf(kind).find((name) => !known.has(name) && !known.has(cloudRound(name)));
    if (stray !== undefined) return `keeps records of kind ${kind} of ${stray}, which is forgotten`;
  }
  return undefined;
}

/** What the gateway says of its own buffers. */
function status({ actor }: GatewayPart): string | undefined {
  const said = actor.running?.status();
  if (said === undefined) return undefined;
  for (const { name, bytes, budgetBytes } of said.waiting.classes)
    if (bytes > budgetBytes) return `keeps ${bytes} bytes of ${name}, of ${budgetBytes}`;
  if (said.budget.usedBytes > said.budget.bytes) return `keeps ${said.budget.usedBytes} bytes`;
  return undefined;
}

async function cloudFiles(disk: MemoryDisk): Promise<string | undefined> {
  for (const session of await disk.list("optimizers")) {
    const states = await countFiles(disk, `optimizers/${session}`);
    // Beside the newest: those of the head and of the candidate, and the one being made.
    if (states > cloudLimits.optimizerStates + 3) return `keeps ${states} optimiser states`;
  }
  const journals = await countFiles(disk, "rounds");
  // One session has a round at a time; the journal of the last goes behind the end of its round.
  if (journals > 2) return `keeps ${journals} journals`;
  const late = await countFiles(disk, "late");
  if (late > cloudLimits.latePartials) return `keeps ${late} late Partials`;
  return undefined;
}

async function countFiles(disk: MemoryDisk, folder: string, ending = ""): Promise<number> {
  return (await disk.list(folder)).filter((name) => name.endsWith(ending)).length;
}
