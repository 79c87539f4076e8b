import { sha256 } from "@tributary/proto/host/digest.js";
import type { Disk } from "@tributary/proto/host/disk.js";
import { decodeCbor } from "@tributary/proto/wire/cbor.js";
import { idSchema } from "@tributary/proto/wire/ids.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { z } from "zod";
import type { Contribution } from "./repair-journal.js";

/** What can be said of a state of site rounds, see `site-state.ts`. */
export type StateFindings = {
  readonly whole: boolean;
  readonly bytes: number;
  /** Whom its header names, as far as that can be read. */
  readonly contributions: readonly Contribution[];
  /** The newest site round in it; 0 where that cannot be read. */
  readonly number: number;
};

const CHECKSUM_BYTES = 32;
const HEADER_AT = CHECKSUM_BYTES + 4;

const headerSchema = z.looseObject({
  number: z.number().int().min(0),
  devices: z.array(idSchema),
  samples: z.array(z.number()),
});

export async function examineState(disk: Disk, path: string): Promise<StateFindings> {
  const bytes = await disk.readFile(path);
  const checksum = Buffer.from(bytes.subarray(0, CHECKSUM_BYTES)).toString("hex");
  const whole = bytes.length >= HEADER_AT && sha256(bytes.subarray(CHECKSUM_BYTES)) === checksum;
  return { whole, bytes: bytes.length, ...headerOf(bytes) };
}

function headerOf(bytes: Uint8Array): Pick<StateFindings, "contributions" | "number"> {
  const nothing = { contributions: [], number: 0 };
  if (bytes.length < HEADER_AT) return nothing;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const header = bytes.subarray(HEADER_AT, HEADER_AT + view.getUint32(CHECKSUM_BYTES));
  const cbor = decodeCbor(header, { depth: wire.headerDepth, items: 8 * wire.roster });
  const read = headerSchema.safeParse(cbor.ok ? cbor.value : undefined);
  if (!read.success) return nothing;
  const { number, devices, samples } = read.data;
  const contributions = devices.map((device, i) => ({ device, samples: samples[i] ?? null }));
  return { contributions, number };
}
