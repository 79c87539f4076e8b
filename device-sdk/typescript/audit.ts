import type { Disk } from "@tributary/proto/host/disk.js";
import type { Code } from "@tributary/proto/wire/codes.js";
import type { Update } from "./update.js";

/**
 * A record for an independent checker: JSON lines in `<device>.jsonl`, appended only.
 *
 *     {"type":"sent", round, task, device, gateway, base, samples, fractionBits, lengths, encoding,
 *      digest, values, metrics}    before the update's first byte leaves; once for each update.
 *                                  values: base64 of the bytes as sent; metrics: on the metric
 *                                  grid, value 2^20; fractionBits and lengths: for each tensor
 *     {"type":"receipt", round, digest}    repeated when the device stops before it forgets
 *     {"type":"refused", round, code}      `round-closed` when the round closed
 */
export type Audit = {
  /** Resolves when the line is written. `restored`: it may have been written before a restart. */
  sent(update: Update, restored?: boolean): Promise<void>;
  receipt(round: string, digest: string): Promise<void>;
  refused(round: string, code: Code): Promise<void>;
};

const silent: Audit = {
  sent: () => Promise.resolve(),
  receipt: () => Promise.resolve(),
  refused: () => Promise.resolve(),
};

export function openAudit(disk: Disk | undefined, device: string): Audit {
  if (disk === undefined) return silent;
  const path = `${device}.jsonl`;
  let last: Promise<unknown> = Promise.resolve();

  const append = (line: object): Promise<void> => {
    const turn = last.then(async () => {
      const file = await disk.openAppend(path);
      try {
        await file.append([new TextEncoder().encode(`${JSON.stringify(line)}\n`)]);
        await file.sync();
      } finally {
        await file.close();
      }
    });
    last = turn.catch(() => {});
    return turn;
  };
  const has = async (digest: string): Promise<boolean> => {
    if (!(await disk.exists(path))) return false;
    const text = new TextDecoder().decode(await disk.readFile(path));
    return text.includes(`"digest":"${digest}"`);
  };

  return {
    async sent({ begin, task, fractionBits, lengths, payload }, restored = false) {
      const { round, gateway, base, samples, encoding, digest, metrics } = begin;
      if (restored && (await has(digest))) return;
      const bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
      const values = bytes.toString("base64");
      const what = { type: "sent", round, task, device, gateway, base, samples };
      await append({ ...what, fractionBits, lengths, encoding, digest, values, metrics });
    },
    receipt: (round, digest) => append({ type: "receipt", round, digest }),
    refused: (round, code) => append({ type: "refused", round, code }),
  };
}
