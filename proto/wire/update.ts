import type { Begin } from "./device-link.js";

/**
 * The text that, followed by the update's payload bytes, is hashed (SHA-256) into the update's
 * digest: identity, base, weight and metrics are bound to the values. UTF-8, `\n` after each line,
 * metrics in ascending order of their names' code units.
 */
export function updatePreimage(device: string, begin: Omit<Begin, "digest">): string {
  const metrics = Object.keys(begin.metrics)
    .sort()
    .map((name) => `metric ${name} ${begin.metrics[name]}`);
  const lines = [
    "tributary-update/1",
    `round ${begin.round}`,
    `device ${device}`,
    `gateway ${begin.gateway}`,
    `base ${begin.base} ${begin.baseDigest}`,
    `samples ${begin.samples}`,
    `encoding ${begin.encoding}`,
    `bytes ${begin.bytes}`,
    `saturated ${begin.saturated}`,
    ...metrics,
  ];
  return `${lines.join("\n")}\n`;
}
