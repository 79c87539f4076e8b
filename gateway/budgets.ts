import { z } from "zod";

const KIB = 1024;
const MIB = 1024 * KIB;

/**
 * What is buffered on the site's disk, most important first. `control`: the index, with its ledgers.
 * `results`: journals of open rounds, state of site rounds, Partials in the outbox. `metrics` and
 * `logs`: the gateway's own, for the cloud to read. Each has its own budget; where the disk itself
 * runs short, logs make way first, then metrics, the oldest first. Results and control never do.
 */
export const bufferClasses = ["control", "results", "metrics", "logs"] as const;
export type BufferClass = (typeof bufferClasses)[number];
export type BufferBudgets = Readonly<Record<BufferClass, number>>;

const shareSchema = z
  .number()
  .int()
  .min(64 * KIB);

/** Shares of `budgetBytes`; what is left is the results'. */
export const buffersSchema = z
  .strictObject({
    controlBytes: shareSchema.optional(),
    metricsBytes: shareSchema.optional(),
    logsBytes: shareSchema.optional(),
  })
  .prefault({});

type Shares = {
  readonly budgetBytes: number;
  readonly buffers: z.infer<typeof buffersSchema>;
};

/** A sixteenth of the budget each, up to what is enough for anybody, where nothing else is set. */
export function bufferBudgets({ budgetBytes, buffers }: Shares): BufferBudgets {
  const share = (mostBytes: number) => Math.min(mostBytes, Math.floor(budgetBytes / 16));
  const control = buffers.controlBytes ?? share(256 * MIB);
  const metrics = buffers.metricsBytes ?? share(32 * MIB);
  const logs = buffers.logsBytes ?? share(32 * MIB);
  return { control, results: budgetBytes - control - metrics - logs, metrics, logs };
}

/** At least half of the budget must be left to what devices have trained. */
export function leavesRoom(shares: Shares): boolean {
  return bufferBudgets(shares).results >= shares.budgetBytes / 2;
}
