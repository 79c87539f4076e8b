import { limits as cloudLimits } from "@tributary/cloud/limits.js";
import { limits as deviceLimits } from "@tributary/device-sdk/limits.js";
import { limits as gatewayLimits } from "@tributary/gateway/limits.js";
import type { MemoryDisk } from "@tributary/proto/host/memory-disk.js";
import type { Cast } from "./world.js";

/** What is past its bound now, in words; undefined when nothing is. */
export async function checkLimits(cast: Cast): Promise<string | undefined> {
  for (const { actor, program } of cast.gateways) {
    const { disk } = program.rack.now;
    const rounds = await disk.list("rounds");
    // One that has sealed is removed behind the durable end of its round.
    if (rounds.length > 2 * gatewayLimits.openRounds)
      return `${actor.name} keeps ${rounds.length} journals`;
    const outbox = await disk.list("outbox");
    if (outbox.length > gatewayLimits.outboxPartials)
      return `${actor.name} keeps ${outbox.length} Partials`;
  }
  for (const { actor, program } of cast.devices) {
    if (program.disk === undefined) continue;
    const models = await countFiles(program.disk, ".", ".safetensors");
    // A file is removed after its successor is written.
    if (models > deviceLimits.models + 2) return `${actor.name} keeps ${models} models`;
  }
  const { disk } = cast.cloud.program;
  for (const session of await disk.list("optimizers")) {
    const states = await countFiles(disk, `optimizers/${session}`, "");
    // Beside the newest: those of the head and of the candidate, and the one being made.
    if (states > cloudLimits.optimizerStates + 3)
      return `the cloud keeps ${states} optimiser states`;
  }
  return undefined;
}

async function countFiles(disk: MemoryDisk, folder: string, ending: string): Promise<number> {
  return (await disk.list(folder)).filter((name) => name.endsWith(ending)).length;
}
