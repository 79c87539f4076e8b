import type { AppendFile, Disk } from "@tributary/proto/host/disk.js";
import { decodeCbor, encodeCbor } from "@tributary/proto/wire/cbor.js";
import { type Begin, beginSchema } from "@tributary/proto/wire/device-link.js";
import { cloudRound, idSchema, splitNumberedId } from "@tributary/proto/wire/ids.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { z } from "zod";
import type { GatewayEvents } from "./events.js";
import { limits } from "./limits.js";

/**
 * Updates as their devices signed them, kept for a while so that the cloud can ask for some of those
 * behind a Partial. One file a round, `signed/<round>.updates`, of records one after the other:
 *
 *     bytes 0-3   header length in bytes, unsigned, big-endian
 *     header      CBOR: device, begin (with its signature), atMs
 *     payload     the update's bytes as they came
 *
 * A record is written before the update's receipt, and synced when its round seals. A power cut before
 * that can lose it: what is asked for then is not there, and the cloud says so.
 */
export type SignedUpdates = {
  /** Resolves when it is written, or there is no room for it; never rejects. Reads `payload` until then. */
  keep(device: string, begin: Begin, payload: Uint8Array): Promise<void>;
  /** The round takes no more. */
  sealed(round: string): void;
  /**
   * The newest update that a device gave to a round of the cloud's, or to a site round of it; undefined
   * when it is not kept (any more).
   */
  read(round: string, device: string): Promise<SignedUpdate | undefined>;
  /** What is on disk. */
  readonly bytes: number;
  /** Waits for writes, and closes the files. */
  close(): Promise<void>;
};

export type SignedUpdate = { readonly begin: Begin; readonly payload: Uint8Array };

export type SignedUpdatesOptions = {
  readonly disk: Disk;
  /** The most that they take up; then whole rounds go, the oldest first. */
  readonly budgetBytes: number;
  /** A round goes when its newest update is so old. */
  readonly keepMs: number;
  /** Whether so many bytes more leave the rest of the disk what is its own. */
  readonly fits: (bytes: number) => boolean;
  readonly logicalMs: () => number;
  readonly events: GatewayEvents;
};

const DIR = "signed";
const ENDING = ".updates";
const LENGTH_BYTES = 4;

const headerSchema = z.strictObject({
  device: idSchema,
  begin: beginSchema,
  atMs: z.number().min(0),
});
type Header = z.infer<typeof headerSchema>;
const bounds = { depth: wire.headerDepth, items: wire.headerItems };

type Place = { readonly at: number; readonly digest: string };
type Kept = {
  readonly round: string;
  readonly path: string;
  bytes: number;
  newestMs: number;
  readonly places: Map<string, Place>;
  file: AppendFile | undefined;
  /** Set once there was no room for one of it. */
  full: boolean;
};

/** Finds what an earlier run kept; what a crash cut off at a file's end goes. */
export async function openSignedUpdates(options: SignedUpdatesOptions): Promise<SignedUpdates> {
  const { disk, budgetBytes, keepMs, fits, logicalMs, events } = options;
  /** By round, the oldest first. */
  const rounds = new Map<string, Kept>();
  let bytes = 0;
  /** Files of sealed rounds that are being synced. */
  const syncs = new Set<Promise<void>>();
  /** Disk work, one thing after the other. */
  let work: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(task: () => Promise<T>): Promise<T> => {
    const turn = work.then(task);
    work = turn.catch(() => {});
    return turn;
  };

  const found: Kept[] = [];
  for (const name of await disk.list(DIR)) {
    const round = name.slice(0, -ENDING.length);
    const kept = splitNumberedId(round) && (await readRound(disk, round));
    if (kept === undefined) await disk.remove(`${DIR}/${name}`);
    else found.push(kept);
  }
  for (const kept of found.sort((a, b) => a.newestMs - b.newestMs)) {
    rounds.set(kept.round, kept);
    bytes += kept.bytes;
  }

  async function drop(kept: Kept, reason: "age" | "room"): Promise<void> {
    rounds.delete(kept.round);
    bytes -= kept.bytes;
    await kept.file?.close().catch(() => {});
    await disk.remove(kept.path);
    const { round, places } = kept;
    const updates = places.size;
    events({ level: "debug", name: "signed-updates-dropped", round, updates, reason });
  }

  /** Lets go of what is too old, and then of the oldest until `more` bytes fit. */
  async function makeRoom(more: number, current: string): Promise<boolean> {
    const oldest = logicalMs() - keepMs;
    for (const kept of [...rounds.values()])
      if (kept.newestMs < oldest && kept.round !== current) await drop(kept, "age");
    for (const kept of [...rounds.values()]) {
      const isFull = bytes + more > budgetBytes || rounds.size > limits.signedRounds;
      if (isFull && kept.round !== current) await drop(kept, "room");
    }
    return bytes + more <= budgetBytes && fits(more);
  }

  async function write(device: string, begin: Begin, payload: Uint8Array): Promise<void> {
    const { round, digest } = begin;
    if (rounds.get(round)?.places.get(device)?.digest === digest) return;
    const atMs = Math.max(0, Math.floor(logicalMs()));
    const head = encodeCbor({ device, begin, atMs } satisfies Header);
    const length = new Uint8Array(LENGTH_BYTES);
    new DataView(length.buffer).setUint32(0, head.length);
    const parts = [length, head, payload];
    const more = parts.reduce((sum, part) => sum + part.length, 0);
    const hasRoom = await makeRoom(more, round);
    const kept = rounds.get(round) ?? newRound(round, atMs);
    rounds.set(round, kept);
    if (!hasRoom) return noteFull(kept);
    kept.file ??= await disk.openAppend(kept.path);
    const { size: at } = kept.file;
    try {
      await kept.file.append(parts);
    } catch (cause) {
      await kept.file.truncate(at).catch(() => {});
      throw cause;
    }
    bytes += more;
    kept.bytes += more;
    kept.newestMs = atMs;
    kept.places.set(device, { at, digest });
  }

  function noteFull(kept: Kept): void {
    if (!kept.full) events({ level: "warn", name: "signed-updates-full", round: kept.round });
    kept.full = true;
  }

  function find(round: string, device: string): { kept: Kept; place: Place } | undefined {
    const cloud = cloudRound(round);
    const first = splitNumberedId(round)?.site ?? 0;
    let newest: { kept: Kept; place: Place } | undefined;
    let newestSite = -1;
    for (const kept of rounds.values()) {
      const place = kept.places.get(device);
      if (place === undefined || cloudRound(kept.round) !== cloud) continue;
      const site = splitNumberedId(kept.round)?.site ?? 0;
      if (site < first || site <= newestSite) continue;
      newest = { kept, place };
      newestSite = site;
    }
    return newest;
  }

  const report = (cause: unknown) => {
    const message = cause instanceof Error ? cause.message : String(cause);
    events({ level: "error", name: "storage-failed", what: "signed updates", message });
  };

  return {
    keep: (device, begin, payload) => inTurn(() => write(device, begin, payload)).catch(report),
    sealed(round) {
      inTurn(async () => {
        const kept = rounds.get(round);
        const file = kept?.file;
        if (kept === undefined || file === undefined) return;
        kept.file = undefined;
        // Not in turn: the next round's updates do not wait for the disk to take all of this one's.
        const syncing = endFile(file)
          .catch(report)
          .finally(() => syncs.delete(syncing));
        syncs.add(syncing);
      }).catch(report);
    },
    read: (round, device) =>
      inTurn(async () => {
        const found = find(round, device);
        if (found === undefined) return undefined;
        const { kept, place } = found;
        const file = await disk.openRead(kept.path);
        try {
          const record = await readRecord(file, place.at);
          if (record?.header.device !== device) return undefined;
          const { begin } = record.header;
          return { begin, payload: await file.read(record.payloadAt, begin.bytes) };
        } finally {
          await file.close();
        }
      }),
    get bytes() {
      return bytes;
    },
    close: () =>
      inTurn(async () => {
        for (const kept of rounds.values()) {
          const { file } = kept;
          kept.file = undefined;
          if (file !== undefined) await endFile(file).catch(report);
        }
        await Promise.all(syncs);
      }),
  };
}

async function endFile(file: AppendFile): Promise<void> {
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

function newRound(round: string, atMs: number): Kept {
  const path = `${DIR}/${round}${ENDING}`;
  return { round, path, bytes: 0, newestMs: atMs, places: new Map(), file: undefined, full: false };
}

type Reader = {
  readonly size: number;
  read(offset: number, length: number): Promise<Uint8Array>;
};

async function readRecord(
  file: Reader,
  at: number,
): Promise<
  { readonly header: Header; readonly payloadAt: number; readonly end: number } | undefined
> {
  if (at + LENGTH_BYTES > file.size) return undefined;
  const prefix = await file.read(at, LENGTH_BYTES);
  const length = new DataView(prefix.buffer, prefix.byteOffset, prefix.length).getUint32(0);
  const payloadAt = at + LENGTH_BYTES + length;
  if (length > wire.upHeaderBytes || payloadAt > file.size) return undefined;
  const cbor = decodeCbor(await file.read(at + LENGTH_BYTES, length), bounds);
  const header = headerSchema.safeParse(cbor.ok ? cbor.value : undefined);
  if (!header.success) return undefined;
  const end = payloadAt + header.data.begin.bytes;
  return end > file.size ? undefined : { header: header.data, payloadAt, end };
}

/** What is whole in a round's file; the rest is cut off. */
async function readRound(disk: Disk, round: string): Promise<Kept | undefined> {
  const kept = newRound(round, 0);
  const file = await disk.openRead(kept.path);
  try {
    for (let at = 0; ; ) {
      const record = await readRecord(file, at);
      if (record === undefined) break;
      const { device, begin, atMs } = record.header;
      kept.places.set(device, { at, digest: begin.digest });
      kept.newestMs = Math.max(kept.newestMs, atMs);
      at = record.end;
      kept.bytes = at;
    }
  } finally {
    await file.close();
  }
  if (kept.bytes < file.size) {
    const torn = await disk.openAppend(kept.path);
    try {
      await torn.truncate(kept.bytes);
    } finally {
      await torn.close();
    }
  }
  return kept.places.size > 0 ? kept : undefined;
}
