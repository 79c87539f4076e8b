import type { Telemetry, TelemetryReceipt } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { encodeHanded, readHanded } from "@tributary/proto/wire/telemetry.js";
import type { TelemetryBuffer } from "./telemetry-buffer.js";

/** Telemetry of gateways below, on its way up among this gateway's own. */
export type TelemetryBelow = {
  /**
   * Resolves with the receipt once the entries are on disk here; without one where they are not,
   * and the gateway below keeps them.
   */
  take(
    gateway: string,
    incarnation: string,
    message: Telemetry,
  ): Promise<TelemetryReceipt | undefined>;
};

export type TelemetryBelowOptions = {
  readonly buffers: Readonly<Record<"metrics" | "logs", TelemetryBuffer>>;
  /** Whether the disk takes anything but results and control now. */
  readonly writable: () => boolean;
  readonly onKept: () => void;
};

/** What one gateway below has sent of a class: all up to here is kept. */
type Mark = { readonly incarnation: string; readonly last: number };

/**
 * An entry gets this gateway's next sequence and keeps the name of whoever noted it, with the
 * sequence that it had there: where it is stored in the end it counts once, also when a kill here
 * has it sent twice. What is in the buffer makes way for room as this gateway's own does.
 */
export function createTelemetryBelow(options: TelemetryBelowOptions): TelemetryBelow {
  const marks = new Map<string, Mark>();
  let queue: Promise<unknown> = Promise.resolve();

  async function keep(
    gateway: string,
    incarnation: string,
    { class: name, sequence, entries }: Telemetry,
  ): Promise<TelemetryReceipt | undefined> {
    const first = Number(sequence);
    const last = first + entries.length - 1;
    if (name !== "metrics" && name !== "logs") return undefined;
    if (entries.length === 0 || entries.length > wire.telemetryEntries) return undefined;
    if (!Number.isSafeInteger(last) || !options.writable()) return undefined;
    const key = `${gateway}!${name}`;
    const mark = marks.get(key);
    const taken = mark?.incarnation === incarnation ? mark.last : -1;
    const fresh = entries
      .map((entry, i) => ({ entry, sequence: first + i }))
      .filter((each) => each.sequence > taken)
      .map((each) =>
        readHanded(each.entry) === undefined
          ? encodeHanded({ gateway, incarnation, ...each })
          : each.entry,
      );
    if (!(await options.buffers[name].keep(fresh))) return undefined;
    marks.delete(key);
    marks.set(key, { incarnation, last: Math.max(taken, last) });
    const [oldest] = marks.keys();
    if (marks.size > 2 * wire.gatewaysBelow && oldest !== undefined) marks.delete(oldest);
    options.onKept();
    return { class: name, sequence: BigInt(last) };
  }

  return {
    take(gateway, incarnation, message) {
      const kept = queue.then(() => keep(gateway, incarnation, message));
      queue = kept.catch(() => {});
      return kept;
    },
  };
}
