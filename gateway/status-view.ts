import { z } from "zod";
import { idleReasons } from "./idle.js";

/**
 * What a gateway says about itself, on its page, under `/status.json` and to `tributary gateway
 * status`. Sizes are bytes, times and ages milliseconds. Null means: not known. Nothing in it is
 * secret, and whoever reaches the listener may read it.
 */
const count = z.number().int().min(0);
const amount = z.number().min(0);

const classSchema = z.object({
  /** control, results, metrics or logs. */
  name: z.string(),
  bytes: amount,
  budgetBytes: amount,
  /** Entries given up for room since start. */
  evicted: count,
});

const roundSchema = z.object({
  round: z.string(),
  offered: count,
  folded: count,
  declined: count,
  /** It is over here: what came of it, if anything did, waits or is on its way. */
  sealed: z.boolean(),
  /** Gateways below that may be at work on it still; what they come to goes up by itself. */
  atWork: z.array(z.string()).default([]),
});

const endSchema = z.object({
  agoMs: amount,
  /** What the upstream answered: merged, kept, expired; or refused. */
  outcome: z.string(),
  /** The rule of an expiry, the code of a refusal; empty for the rest. */
  rule: z.string(),
  round: z.string(),
  bytes: amount.nullable(),
});

export const statusSchema = z.object({
  gateway: z.string(),
  site: z.string(),
  incarnation: z.string(),
  softwareVersion: z.string(),
  upMs: amount,
  link: z.object({
    attached: z.boolean(),
    /** For how long it has been so; since the start at most. */
    sinceMs: amount,
    /** Where it connects to. */
    address: z.string(),
    /** The upstream's own name; null before it was heard. */
    upstream: z.string().nullable(),
    /** Why it was lost last. */
    reason: z.string().nullable(),
    roundTripMs: amount.nullable(),
    /** Until the next uplink window opens; 0 while one is open, null where there are none. */
    nextWindowMs: amount.nullable(),
    /** While it is up: the gateway above that has no link further up, and for how long. */
    brokenAbove: z.object({ gateway: z.string(), sinceMs: amount }).nullable().default(null),
  }),
  /** Why no device is asked for anything, and the newest round that is known; null while some are. */
  idle: z
    .object({ why: z.enum(idleReasons), round: z.string().nullable() })
    .nullable()
    .default(null),
  waiting: z.object({
    partials: count,
    bytes: amount,
    oldestAgeMs: amount,
    classes: z.array(classSchema),
  }),
  budget: z.object({
    bytes: amount,
    usedBytes: amount,
    /** What open rounds will need once they are sealed. */
    promisedBytes: amount,
  }),
  /** At the rate of the last 24 hours; null before an hour was measured. */
  rate: z.object({
    measuredMs: amount,
    bytesPerHour: amount.nullable(),
    /** Null when it is not known, or nothing fills it. */
    hoursUntilFull: amount.nullable(),
  }),
  /** Of what waits, when the link is up. */
  drain: z.object({
    bytesPerSecond: amount.nullable(),
    basis: z.enum(["measured", "configured", "unknown"]),
    ms: amount.nullable(),
  }),
  rounds: z.array(roundSchema),
  devices: count,
  gatewaysBelow: z.array(z.string()),
  /** Since start, by code. */
  refusals: z.record(z.string(), count),
  duplicates: count,
  disk: z.object({ freeBytes: amount, reserveBytes: amount }),
  clock: z.object({
    trusted: z.boolean(),
    now: z.iso.datetime(),
    floor: z.iso.datetime(),
    offsetMs: z.number(),
  }),
  /** Of the fleet that it belongs to, if any; `ageMs`: since it took effect here. */
  denylist: z.object({ sequence: count, entries: count, ageMs: amount }).nullable().default(null),
  /** `plain`: on this machine alone. `insecure`: in the clear over a network, as it was told to. */
  security: z
    .object({
      mode: z.enum(["tls", "plain", "insecure"]),
      /** When the own certificate ends; null without one. */
      certificateEnds: z.iso.datetime().nullable(),
    })
    .default({ mode: "plain", certificateEnds: null }),
  /** The newest ends of Partials since start, newest first. */
  ends: z.array(endSchema),
});

export type StatusView = z.infer<typeof statusSchema>;
