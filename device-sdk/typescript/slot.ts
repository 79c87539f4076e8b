import { sha256 } from "@tributary/proto/host/digest.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { decodeCbor, encodeCbor } from "@tributary/proto/wire/cbor.js";
import { beginSchema } from "@tributary/proto/wire/device-link.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { type Refusal, refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { z } from "zod";
import { type Update, updateDigest } from "./update.js";

/**
 * The one update a device holds: the device's only queue. Written whole, durably and atomically
 * before the first `begin`, so that after a crash it is either the update or nothing.
 *
 *     bytes 0-31   SHA-256 of all that follows
 *     bytes 32-35  header length in bytes, unsigned, big-endian
 *     header       CBOR: version, device, task, begin, fractionBits, lengths
 *     payload      the bytes of the update's chunks
 *
 * The checksum comes first and stays where it is in every version: damage anywhere, in the version
 * too, is told from a file of a newer version. A file without the checksum, as earlier releases
 * wrote it, is read all the same: a device that is upgraded keeps the update that it holds.
 */
export type Slot = {
  /**
   * The held update; a refusal when the file is damaged, another device's, or of a newer version. A
   * damaged one is removed, since nobody would take it.
   */
  read(): Promise<Verdict<{ readonly update: Update | undefined }, "storage-failed">>;
  /** Resolves when the update is durable. Rejects when the disk does not take it. */
  write(update: Update): Promise<void>;
  /**
   * Empties the slot of this update. By then it may hold the next one, which stays; without a disk
   * there is nothing to do.
   */
  clear(update: Update): Promise<void>;
  /** Resolves when nothing is being written or cleared. */
  settled(): Promise<void>;
};

const VERSION = 1;
const CHECKSUM_BYTES = 32;
const LENGTH_BYTES = 4;
const FILE = "slot";

const headerSchema = z.strictObject({
  version: z.literal(VERSION),
  device: z.string(),
  task: z.enum(["train", "evaluate"]),
  begin: beginSchema,
  fractionBits: z.array(z.number()),
  lengths: z.array(z.number()),
});

/** Without a disk the slot holds nothing by itself: the update lives in memory, as long as the process. */
export function openSlot(disk: Disk | undefined, device: string): Slot {
  /** Digest of the update in the file. */
  let held: string | undefined;
  let last: Promise<unknown> = Promise.resolve();
  /** One at a time, in order: a clear must not overtake the write of the next update. */
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const turn = last.then(work, work);
    last = turn.catch(() => {});
    return turn;
  };

  return {
    async read() {
      if (disk === undefined || !(await disk.exists(FILE))) return { ok: true, update: undefined };
      const read = decodeSlot(device, await disk.readFile(FILE));
      // Where it cannot be removed now, the next update takes its place.
      if (!read.ok && read.damaged) await disk.remove(FILE).catch(() => {});
      if (read.ok) held = read.update.begin.digest;
      return read;
    },
    write: (update) =>
      inTurn(async () => {
        await disk?.writeFileAtomic(FILE, encodeSlot(device, update));
        held = update.begin.digest;
      }),
    clear: ({ begin }) =>
      inTurn(async () => {
        if (held !== begin.digest) return;
        await disk?.remove(FILE);
        held = undefined;
      }),
    settled: () => inTurn(() => Promise.resolve()),
  };
}

function encodeSlot(device: string, update: Update): readonly Uint8Array[] {
  const { task, begin, fractionBits, lengths, payload } = update;
  const header = encodeCbor({ version: VERSION, device, task, begin, fractionBits, lengths });
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, header.length);
  const checksum = Buffer.from(sha256([length, header, payload]), "hex");
  return [checksum, length, header, payload];
}

/** Going on would write over an update that a newer version still owes to its gateway. */
function refuseNewer(header: unknown): void {
  const version = (header as { version?: unknown } | null)?.version;
  if (typeof version !== "number" || version <= VERSION) return;
  throw new TributaryError(
    "store-version",
    `the file ${FILE} is of slot version ${version}; this program reads up to version ${VERSION}. Run the version that wrote it.`,
  );
}

type Unread = Refusal<"storage-failed"> & { readonly damaged: boolean };
type Read = { readonly ok: true; readonly update: Update } | Unread;

const unread = (what: string, damaged: boolean): Unread => ({
  ...refuse("storage-failed", `the file ${FILE} ${what}`),
  damaged,
});
const damage = (what: string) => unread(what, true);
const foreign = (what: string) => unread(what, false);

function decodeSlot(device: string, bytes: Uint8Array): Read {
  if (bytes.length < LENGTH_BYTES) return damage("is cut short");
  const checksum = Buffer.from(bytes.subarray(0, CHECKSUM_BYTES)).toString("hex");
  const rest = bytes.subarray(CHECKSUM_BYTES);
  if (rest.length >= LENGTH_BYTES && sha256(rest) === checksum) {
    const header = headerOf(rest);
    if (!header.ok) return header;
    refuseNewer(header.value);
    return decodeBody(device, rest, header);
  }
  // Without a checksum the update's own digest is what says that the file is whole.
  const header = headerOf(bytes);
  const earlier = header.ok ? decodeBody(device, bytes, header) : header;
  return earlier.ok || !earlier.damaged
    ? earlier
    : damage("is damaged: its bytes do not have its checksum");
}

type Header = { readonly ok: true; readonly value: unknown; readonly end: number };

/** The CBOR header behind its length at the start of `bytes`, and where it ends. */
function headerOf(bytes: Uint8Array): Header | Unread {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const end = LENGTH_BYTES + view.getUint32(0);
  const cbor = decodeCbor(bytes.subarray(LENGTH_BYTES, end), {
    depth: wire.headerDepth,
    items: wire.headerItems,
  });
  return cbor.ok ? { ok: true, value: cbor.value, end } : damage(`is damaged: ${cbor.message}`);
}

function decodeBody(device: string, bytes: Uint8Array, { value, end }: Header): Read {
  const header = headerSchema.safeParse(value);
  if (!header.success) return damage("has a header that this version does not read");
  if (header.data.device !== device) return foreign(`holds an update of ${header.data.device}`);
  const { task, begin, fractionBits, lengths } = header.data;
  const payload = bytes.subarray(end);
  if (payload.length !== begin.bytes || updateDigest(device, begin, payload) !== begin.digest)
    return damage("is damaged: its update does not have its digest");
  return { ok: true, update: { task, begin, fractionBits, lengths, payload } };
}
