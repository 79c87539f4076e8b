import { z } from "zod";
import { sessionParamsSchema } from "../params.js";

/** What the API shows, field by field as the cloud knows it (see store/rows.ts, session-view.ts). */

const timeMs = z.number().describe("milliseconds since 1970");
const metrics = z.record(z.string(), z.number());
const sessionState = z.enum(["running", "stopped", "finished", "failed"]);
const task = z.enum(["train", "evaluate"]);

const memberSchema = z.object({
  gateway: z.string(),
  site: z.string(),
  attached: z.boolean(),
  roster: z.number(),
  standing: z.enum(["waiting", "delivered", "empty", "refused", "gone"]),
  offered: z.number(),
  folded: z.number(),
  declined: z.number(),
  sealed: z.boolean(),
  delivered: z.number(),
});

export const sessionSchema = z.object({
  id: z.string(),
  name: z.string(),
  state: sessionState,
  activity: z.enum([
    "waiting",
    "training",
    "evaluating",
    "pausing",
    "stopped",
    "finished",
    "failed",
  ]),
  reason: z.string().nullable(),
  params: sessionParamsSchema,
  head: z.string(),
  round: z
    .object({
      id: z.string(),
      number: z.number(),
      task,
      base: z.string(),
      openedAtMs: timeMs,
      deadlineAtMs: timeMs,
      expected: z.number(),
      arrived: z.number(),
      gateways: z.array(memberSchema).readonly(),
    })
    .nullable(),
  kept: z.object({
    partials: z.number(),
    contributions: z.number(),
    bytes: z.number(),
    carried: z.number(),
  }),
  counts: z.object({
    models: z.number(),
    rounds: z.number(),
    failedRounds: z.number(),
    merged: z.number(),
    expired: z.number(),
  }),
  startedAtMs: timeMs,
  endedAtMs: timeMs.nullable(),
  metrics,
});

export const roundSchema = z.object({
  id: z.string(),
  session: z.string(),
  number: z.number(),
  task,
  base: z.string(),
  state: z.enum(["open", "committed", "failed", "held", "stopped", "kept"]),
  rule: z.string().nullable(),
  model: z.string().nullable(),
  sites: z.number(),
  roster: z.number(),
  partials: z.number(),
  merged: z.number().describe("contributions to it in a model, its own or a later one"),
  kept: z.number().describe("contributions to it that wait for a later model"),
  expired: z.number().describe("contributions to it that expired"),
  fromEarlier: z.number().describe("contributions to earlier rounds, first in its model"),
  openedAtMs: timeMs,
  closedAtMs: timeMs.nullable(),
});

export const outcomeSchema = z.enum(["model", "expired", "kept"]);

/** Of a page of contributions. */
export const contributionKeySchema = z.tuple([
  z.number().int().min(0),
  z.number().int().min(0),
  z.string().max(64),
]);

export const contributionSchema = z.object({
  session: z.string(),
  round: z.number(),
  /** 0, or the site round with which a later stretch of site rounds began. */
  stretch: z.number(),
  device: z.string(),
  gateway: z.string(),
  samples: z.number(),
  updates: z.number(),
  outcome: outcomeSchema,
  rule: z.string().nullable(),
  model: z.string().nullable(),
});

export const evaluationSchema = z.object({
  round: z.string(),
  session: z.string(),
  model: z.string(),
  against: z.string().nullable(),
  passed: z.boolean(),
  weight: z.number(),
  contributors: z.number(),
  metrics,
  atMs: timeMs,
});

export const modelStateSchema = z.enum(["candidate", "published", "held"]);

const groupSchema = z.object({
  base: z.string(),
  age: z.number(),
  site: z.string().nullable(),
  coefficient: z.number(),
  samples: z.number(),
  contributors: z.number(),
  carried: z.number(),
  sumDigest: z.string(),
});

export const modelSchema = z.object({
  id: z.string(),
  digest: z.string(),
  bytes: z.number(),
  parameters: z.number(),
  parent: z.string().nullable(),
  version: z.number(),
  session: z.string().nullable(),
  round: z.string().nullable(),
  state: modelStateSchema,
  weight: z.number(),
  contributors: z.number(),
  metrics,
  sumDigest: z.string().nullable(),
  groups: z.array(groupSchema).readonly().nullable(),
  fractionBits: z.array(z.number()).readonly().nullable(),
  createdAtMs: timeMs,
});

export const gatewaySchema = z.object({
  id: z.string(),
  site: z.string(),
  incarnation: z.string(),
  softwareVersion: z.string(),
  attached: z.boolean(),
  connectedDevices: z.number(),
  outboxPartials: z.number(),
  outboxBytes: z.number(),
  oldestAgeMs: z.number(),
  freeDiskBytes: z.number(),
  refusals: z.record(z.string(), z.number()),
  duplicatesDropped: z.number(),
  budgetBytes: z.number(),
  roundTripMs: z.number(),
  clockOffsetMs: z.number(),
  classes: z.record(
    z.string(),
    z.object({ bytes: z.number(), budgetBytes: z.number(), evicted: z.number() }),
  ),
  firstSeenMs: timeMs,
  lastSeenMs: timeMs,
});

export const deviceSchema = z.object({
  id: z.string(),
  site: z.string(),
  gateway: z.string(),
  via: z.string(),
  sdk: z.string(),
  attributes: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  connected: z.boolean(),
  firstSeenMs: timeMs,
  lastSeenMs: timeMs,
});

export const sampleSchema = z.object({
  sequence: z.number(),
  gateway: z.string(),
  atMs: timeMs,
  fields: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
});

export const eventSchema = z.object({
  sequence: z.number(),
  atMs: timeMs,
  level: z.enum(["debug", "info", "warn", "error"]),
  name: z.string(),
  fields: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
});
