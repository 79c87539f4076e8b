import { z } from "zod";
import type { BufferEntry, BufferSample } from "./report/report.js";

/** The part of a gateway's status that is read here. */
const statusSchema = z.object({
  waiting: z.object({ partials: z.number(), bytes: z.number(), oldestAgeMs: z.number() }),
  budget: z.object({ usedBytes: z.number() }),
});

/** How often each gateway is asked. */
const SAMPLE_MS = 250;
/** A gateway that does not answer for so long is killed, or as good as that. */
const ANSWER_MS = 2_000;

/** A gateway that is asked for its status, wherever it listens by now. */
export type Watched = {
  readonly site: string;
  /** Undefined while it is down. */
  statusUrl(): string | undefined;
};

/** What waits at each site, as its gateway says it: over the run, and now. */
export type BufferWatch = {
  newest(site: string): BufferSample | undefined;
  entries(): BufferEntry[];
  stop(): void;
};

export type ReadStatus = (url: string, signal: AbortSignal) => Promise<BufferSample["is"]>;

/**
 * Asks every gateway over and over. A sample that says what the two before it said replaces the
 * newer of them, so that a buffer at rest costs two samples however long it rests.
 */
export function watchBuffers(
  sites: readonly Watched[],
  elapsedMs: () => number,
  read: ReadStatus = readStatus,
): BufferWatch {
  const stopped = new AbortController();
  const samples = new Map<string, BufferSample[]>(sites.map(({ site }) => [site, []]));
  const asking = new Set<string>();
  const ask = async ({ site, statusUrl }: Watched) => {
    if (asking.has(site)) return;
    asking.add(site);
    try {
      const url = statusUrl();
      const limit = AbortSignal.any([stopped.signal, AbortSignal.timeout(ANSWER_MS)]);
      const is = url === undefined ? undefined : await read(url, limit).catch(() => undefined);
      if (!stopped.signal.aborted) keep(samples.get(site) ?? [], { atMs: elapsedMs(), is });
    } finally {
      asking.delete(site);
    }
  };
  const timer = setInterval(() => {
    for (const site of sites) void ask(site);
  }, SAMPLE_MS);
  return {
    newest: (site) => samples.get(site)?.at(-1),
    entries: () => sites.map(({ site }) => ({ site, samples: samples.get(site) ?? [] })),
    stop() {
      clearInterval(timer);
      stopped.abort();
    },
  };
}

function keep(samples: BufferSample[], sample: BufferSample): void {
  const [before, last] = samples.slice(-2);
  if (before !== undefined && last !== undefined && same(before, last) && same(last, sample))
    samples[samples.length - 1] = sample;
  else samples.push(sample);
}

/** Whether two samples show one line: nothing waits in both, or the same and no older. */
function same({ is: a }: BufferSample, { is: b }: BufferSample): boolean {
  if (a === undefined || b === undefined) return a === b;
  return (
    a.bytes === b.bytes &&
    a.partials === b.partials &&
    a.oldestMs === b.oldestMs &&
    a.usedBytes === b.usedBytes
  );
}

/** What waits now. Rejects when the gateway gives no answer, or one that lacks these figures. */
async function readStatus(url: string, signal: AbortSignal): Promise<BufferSample["is"]> {
  const answer: unknown = await (await fetch(url, { signal })).json();
  const { waiting, budget } = statusSchema.parse(answer);
  return {
    bytes: waiting.bytes,
    partials: waiting.partials,
    oldestMs: waiting.oldestAgeMs,
    usedBytes: budget.usedBytes,
  };
}
