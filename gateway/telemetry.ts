import type { Telemetry as Message } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import type { BufferBudgets } from "./budgets.js";
import type { GatewayEvent } from "./events.js";
import { limits } from "./limits.js";
import type { Rate } from "./rate.js";
import type { ClassUse } from "./storage.js";
import { createTelemetryBelow, type TelemetryBelow } from "./telemetry-below.js";
import {
  openTelemetryBuffer,
  type TelemetryBuffer,
  type TelemetryBufferOptions,
} from "./telemetry-buffer.js";

/** What a gateway reports of itself once a minute: whole numbers, but for flags. */
export type Sample = Readonly<Record<string, number | boolean>>;

/**
 * What the gateway notes of itself and the cloud stores: a sample of its state every minute
 * (`metrics`), and its own events at info and above (`logs`). Both wait here while the uplink is
 * away, and are let go only when the upstream says that they are durable there.
 */
export type Telemetry = {
  note(event: GatewayEvent): void;
  /** The link is up: what was under way is asked for anew. */
  attached(): void;
  receipted(receipt: { readonly class: string; readonly sequence: bigint }): void;
  /** What gateways below noted. */
  readonly below: TelemetryBelow;
  use(): Omit<ClassUse, "budgetBytes">[];
  /** Gives up logs, then metrics, the oldest first, until so many bytes are free or none is left. */
  makeRoom(bytes: number): void;
  close(): Promise<void>;
};

export type TelemetryOptions = Omit<TelemetryBufferOptions, "name" | "budgetBytes"> & {
  readonly budgets: Pick<BufferBudgets, "metrics" | "logs">;
  /** Hands a message to the link; false when it takes none now. */
  readonly send: (message: Message) => boolean;
  readonly sample: () => Sample;
  /** Whether the disk takes anything but results and control now. */
  readonly writable: () => boolean;
  readonly rate: Pick<Rate, "pieceBytes" | "take">;
  readonly clock: Clock;
  /** Wall-clock time for stamps. */
  readonly nowMs: () => number;
};

type Class = {
  readonly name: "metrics" | "logs";
  readonly buffer: TelemetryBuffer;
  /** The upstream has all up to here. */
  receiptedTo: number;
  /** Set while a message is on its way: one at a time. */
  sending: Timer | undefined;
  busy: boolean;
};

/** Opens what a run before left, too. Never rejects for a disk that cannot be written. */
export async function openTelemetry(options: TelemetryOptions): Promise<Telemetry> {
  const { disk, store, random, budgets, clock, rate, nowMs } = options;
  const open = async (name: Class["name"]): Promise<Class> => {
    const budgetBytes = budgets[name];
    const buffer = await openTelemetryBuffer({ disk, store, random, name, budgetBytes });
    return { name, buffer, receiptedTo: 0, sending: undefined, busy: false };
  };
  const metrics = await open("metrics");
  const logs = await open("logs");
  const classes = [metrics, logs];
  let minuteTimer: Timer | undefined;
  let sendTimer: Timer | undefined;
  let notedThisMinute = 0;
  let suppressed = 0;
  let room: Promise<void> | undefined;
  let closed = false;

  /** New entries of one moment travel together. */
  function sendSoon(): void {
    if (closed) return;
    sendTimer ??= clock.setTimer(limits.telemetryDelayMs, () => {
      sendTimer = undefined;
      for (const each of classes) void forward(each);
    });
  }

  async function forward(each: Class): Promise<void> {
    if (closed || each.busy || each.sending !== undefined) return;
    each.busy = true;
    try {
      const stretch = await each.buffer.read(each.receiptedTo);
      if (stretch === undefined) return;
      const { sequence, entries } = stretch;
      let left = entries.reduce((sum, { length }) => sum + length, 0);
      for (; left > 0; left -= rate.pieceBytes) await rate.take(Math.min(left, rate.pieceBytes));
      const message = {
        class: each.name,
        sequence: BigInt(sequence),
        entries: entries.map(({ buffer, byteOffset, length }) =>
          Buffer.from(buffer, byteOffset, length),
        ),
      };
      if (!options.send(message)) return;
      // An upstream that could not store them says nothing.
      each.sending = clock.setTimer(limits.telemetryRetryMs, () => {
        each.sending = undefined;
        void forward(each);
      });
    } catch {
      // The next entry, or the next attachment, tries again.
    } finally {
      each.busy = false;
    }
  }

  function note(fields: Readonly<Record<string, unknown>>): void {
    const cut = Object.entries(fields)
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => [
        name,
        typeof value === "string" ? value.slice(0, wire.messageChars) : value,
      ]);
    logs.buffer.add(encodeCbor({ atMs: Math.round(nowMs()), ...Object.fromEntries(cut) }));
    sendSoon();
  }

  function everyMinute(): void {
    minuteTimer = clock.setTimer(limits.sampleMs, everyMinute);
    if (suppressed > 0) {
      note({ level: "warn", name: "events-suppressed", count: suppressed });
      suppressed = 0;
    }
    notedThisMinute = 0;
    metrics.buffer.add(encodeCbor({ atMs: Math.round(nowMs()), ...options.sample() }));
    sendSoon();
    // What the upstream has taken by now never touches the disk.
    if (options.writable()) for (const { buffer } of classes) void buffer.flush();
  }

  async function giveUp(bytes: number): Promise<void> {
    let freed = 0;
    for (const { buffer } of [logs, metrics]) {
      while (freed < bytes) {
        const got = await buffer.evict();
        if (got === 0) break;
        freed += got;
      }
    }
  }

  minuteTimer = clock.setTimer(limits.sampleMs, everyMinute);
  return {
    below: createTelemetryBelow({
      buffers: { metrics: metrics.buffer, logs: logs.buffer },
      writable: () => !closed && options.writable(),
      onKept: sendSoon,
    }),
    note(event) {
      if (closed || event.level === "debug") return;
      if (notedThisMinute >= limits.logsPerMinute) {
        suppressed++;
        return;
      }
      notedThisMinute++;
      note(event);
    },
    attached() {
      for (const each of classes) {
        each.sending?.cancel();
        each.sending = undefined;
        void forward(each);
      }
    },
    receipted({ class: name, sequence }) {
      const each = classes.find((known) => known.name === name);
      if (each === undefined) return;
      each.receiptedTo = Math.max(each.receiptedTo, Number(sequence));
      each.sending?.cancel();
      each.sending = undefined;
      void each.buffer
        .forget(each.receiptedTo)
        .then(() => forward(each))
        .catch(() => {});
    },
    use: () => classes.map(({ name, buffer: { bytes, evicted } }) => ({ name, bytes, evicted })),
    makeRoom(bytes) {
      room ??= giveUp(bytes).finally(() => {
        room = undefined;
      });
    },
    async close() {
      closed = true;
      minuteTimer?.cancel();
      sendTimer?.cancel();
      for (const each of classes) each.sending?.cancel();
      await room;
      for (const { buffer } of classes) await buffer.close();
    },
  };
}
