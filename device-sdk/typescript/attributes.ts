import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import type { Attributes } from "@tributary/proto/wire/device-link.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { cpu, mem, osInfo } from "systeminformation";
import { limits } from "./limits.js";

let measured: Promise<Attributes> | undefined;

/**
 * What this machine says of itself: `os`, `arch`, `memoryBytes`, `cpu`, `cores`. Measured once for
 * each process; what the system does not tell is left out.
 */
export function systemAttributes(): Promise<Attributes> {
  measured ??= measure();
  return measured;
}

async function measure(): Promise<Attributes> {
  const [os, memory, processor] = await Promise.allSettled([osInfo(), mem(), cpu()]);
  const attributes: Attributes = { arch: process.arch };
  if (os.status === "fulfilled") attributes.os = clip(`${os.value.distro} ${os.value.release}`);
  if (memory.status === "fulfilled") attributes.memoryBytes = memory.value.total;
  if (processor.status === "fulfilled") {
    attributes.cpu = clip(`${processor.value.manufacturer} ${processor.value.brand}`);
    attributes.cores = processor.value.cores;
  }
  return attributes;
}

function clip(text: string): string {
  return text.trim().slice(0, wire.attributeChars);
}

/** What a device announces: the configured attributes over the measured ones, if those come in time. */
export async function announcedAttributes(
  clock: Clock,
  measureSystem: () => Promise<Attributes>,
  configured: Attributes = {},
): Promise<Attributes> {
  let timer: Timer | undefined;
  const late = new Promise<Attributes>((resolve) => {
    timer = clock.setTimer(limits.attributesMs, () => resolve({}));
  });
  const measuredInTime = await Promise.race([measureSystem().catch(() => ({})), late]);
  timer?.cancel();
  // Configured ones come last, and stay when the bound cuts.
  const all = Object.entries({ ...measuredInTime, ...configured });
  return Object.fromEntries(all.slice(-wire.attributes));
}
