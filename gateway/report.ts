import type { Heartbeat } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Outbox } from "./outbox.js";
import type { ReplyCounts } from "./replies.js";
import type { Storage } from "./storage.js";
import type { Sample } from "./telemetry.js";

export type ReportSources = {
  readonly budgetBytes: number;
  readonly storage: Pick<Storage, "refresh" | "freeBytes" | "classes" | "state">;
  readonly outbox: Pick<Outbox, "count" | "bytes" | "oldestAgeMs">;
  /** Here and below. */
  readonly connectedDevices: () => number;
  readonly replies: () => ReplyCounts;
  readonly attached: () => boolean;
  readonly roundTripMs: () => number | undefined;
  readonly clockOffsetMs: () => number;
};

/** What the gateway says of itself: to its upstream with every beat, and to its own metrics. */
export type Report = {
  heartbeat(): Omit<Heartbeat, "sequence">;
  /** Counts of refusals and duplicates are since the sample before. */
  sample(): Sample;
};

export function createReport(sources: ReportSources): Report {
  const { storage, outbox } = sources;
  let refusedBefore = 0;
  let duplicatesBefore = 0;
  return {
    heartbeat() {
      void storage.refresh();
      const { refusals, duplicates } = sources.replies();
      return {
        connectedDevices: sources.connectedDevices(),
        outboxPartials: outbox.count,
        outboxBytes: BigInt(outbox.bytes),
        oldestAgeMs: BigInt(Math.round(outbox.oldestAgeMs())),
        freeDiskBytes: BigInt(storage.freeBytes),
        refusals: Object.fromEntries([...refusals].map(([code, n]) => [code, BigInt(n)])),
        duplicatesDropped: BigInt(duplicates),
        budgetBytes: BigInt(sources.budgetBytes),
        classes: storage.classes().map(({ name, bytes, budgetBytes, evicted }) => ({
          name,
          bytes: BigInt(bytes),
          budgetBytes: BigInt(budgetBytes),
          evicted: BigInt(evicted),
        })),
        roundTripMs: Math.round(sources.roundTripMs() ?? 0),
        clockOffsetMs: BigInt(Math.round(sources.clockOffsetMs())),
      };
    },
    sample() {
      void storage.refresh();
      const { refusals, duplicates } = sources.replies();
      const refused = [...refusals.values()].reduce((sum, n) => sum + n, 0);
      const use = Object.fromEntries(
        storage.classes().flatMap(({ name, bytes, evicted }) => [
          [`${name}Bytes`, bytes],
          [`${name}Evicted`, evicted],
        ]),
      );
      const sample: Sample = {
        ...use,
        outboxPartials: outbox.count,
        outboxBytes: outbox.bytes,
        oldestAgeMs: Math.round(outbox.oldestAgeMs()),
        connectedDevices: sources.connectedDevices(),
        refusals: refused - refusedBefore,
        duplicates: duplicates - duplicatesBefore,
        attached: sources.attached(),
        storageOk: storage.state === "ok",
        freeDiskBytes: storage.freeBytes,
        roundTripMs: Math.round(sources.roundTripMs() ?? 0),
      };
      refusedBefore = refused;
      duplicatesBefore = duplicates;
      return sample;
    },
  };
}
