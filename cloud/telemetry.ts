import type { Telemetry, TelemetryReceipt } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import { decodeCbor } from "@tributary/proto/wire/cbor.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import { type HandedEntry, readHanded } from "@tributary/proto/wire/telemetry.js";
import { z } from "zod";
import { limits } from "./limits.js";
import type { EventRow, Fields } from "./store/rows.js";
import type { Store } from "./store/store.js";

const flatSchema = z.record(
  z.string().max(64),
  z.union([z.string().max(wireLimits.telemetryEntryBytes), z.number().finite(), z.boolean()]),
);
const atMsSchema = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const noteSchema = z.object({
  level: z.enum(["debug", "info", "warn", "error"]),
  name: z.string().regex(/^[a-z][a-z0-9-]{0,63}$/),
});

/**
 * Takes what a gateway noted while it could not send it: samples of its state for the store, and its
 * own events, which stand among the cloud's with their gateway and the time that they had there.
 * What a gateway hands on for one below is that one's, under the sequence it had there.
 * Resolves, once they are durable, with the receipt; with none for a class that this side does not
 * know, which the gateway keeps. An entry that is unreadable is passed over.
 */
export async function takeTelemetry(
  store: Store,
  clock: Clock,
  gateway: string,
  incarnation: string,
  { class: name, sequence: first, entries }: Telemetry,
): Promise<TelemetryReceipt | undefined> {
  const sequence = Number(first);
  const last = sequence + entries.length - 1;
  if (entries.length === 0 || entries.length > wireLimits.telemetryEntries) return undefined;
  if (!Number.isSafeInteger(last)) return undefined;
  if (name !== "metrics" && name !== "logs") return undefined;
  const own: Source = { gateway, incarnation, last, entries: new Map() };
  const sources = new Map<string, Source>();
  for (const [i, bytes] of entries.entries()) {
    const handed = readHanded(bytes);
    if (handed === undefined) own.entries.set(sequence + i, bytes);
    else sourceOf(sources, handed).entries.set(handed.sequence, handed.entry);
  }
  for (const source of [...sources.values(), own]) await keep(store, clock, name, source);
  return { class: name, sequence: BigInt(last) };
}

/** Who noted some of the entries, with the sequences that they have there. */
type Source = {
  readonly gateway: string;
  readonly incarnation: string;
  last: number;
  readonly entries: Map<number, Uint8Array>;
};

function sourceOf(
  sources: Map<string, Source>,
  { gateway, incarnation, sequence }: HandedEntry,
): Source {
  const key = `${gateway}!${incarnation}`;
  const source = sources.get(key) ?? { gateway, incarnation, last: sequence, entries: new Map() };
  source.last = Math.max(source.last, sequence);
  sources.set(key, source);
  return source;
}

async function keep(
  store: Store,
  clock: Clock,
  name: "metrics" | "logs",
  { gateway, incarnation, last, entries }: Source,
): Promise<void> {
  const read = [...entries].flatMap(([sequence, bytes]) => {
    const entry = readEntry(bytes);
    return entry === undefined ? [] : [{ ...entry, sequence }];
  });
  const batch = { gateway, incarnation, last, atMs: clock.nowMs() };
  if (name === "metrics") return store.takeTelemetry({ ...batch, class: name, entries: read });
  const noted = read.flatMap((entry) => noteOf(gateway, entry));
  return store.takeTelemetry({ ...batch, class: name, entries: noted });
}

type Entry = { readonly atMs: number; readonly fields: Fields };

function readEntry(bytes: Uint8Array): Entry | undefined {
  if (bytes.length > wireLimits.telemetryEntryBytes) return undefined;
  const cbor = decodeCbor(bytes, { depth: 2, items: 4 * limits.telemetryFields });
  const flat = cbor.ok ? flatSchema.safeParse(cbor.value) : undefined;
  if (flat?.success !== true) return undefined;
  const { atMs, ...fields } = flat.data;
  const at = atMsSchema.safeParse(atMs);
  return at.success && Object.keys(fields).length <= limits.telemetryFields
    ? { atMs: at.data, fields }
    : undefined;
}

function noteOf(
  gateway: string,
  { atMs, fields, sequence }: Entry & { readonly sequence: number },
): EventRow[] {
  const { level, name, ...rest } = fields;
  const note = noteSchema.safeParse({ level, name });
  return note.success ? [{ ...note.data, atMs, sequence, fields: { ...rest, gateway } }] : [];
}
