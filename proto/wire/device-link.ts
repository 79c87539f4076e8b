import { z } from "zod";
import { grantSchema } from "../identity/grant.js";
import { identityLimits } from "../identity/limits.js";
import { type Code, isCode } from "./codes.js";
import {
  attributeNameSchema,
  digestSchema,
  idSchema,
  metricNameSchema,
  modelIdSchema,
  roundIdSchema,
} from "./ids.js";
import { limits } from "./limits.js";
import { encodingSchema, layoutSchema, manifestSchema, planSchema } from "./plan.js";
import { type AllKind, type DownKind, type UpKind, upKinds } from "./topics.js";

/** Headers of the messages between a device and its gateway, by the kind in the topic. */

const codeSchema = z.custom<Code>(isCode, { message: "must be a known code" });
const messageSchema = z.string().max(limits.messageChars);
const byteCount = z.number().int().min(0).max(limits.modelBytes);

export const attributesSchema = z
  .record(
    attributeNameSchema,
    z.union([z.string().max(limits.attributeChars), z.number(), z.boolean()]),
  )
  .refine((a) => Object.keys(a).length <= limits.attributes, {
    message: `at most ${limits.attributes} attributes`,
  });
export type Attributes = z.infer<typeof attributesSchema>;

/** Metric values on the metric grid: round(value * 2^20), ties to even, by name. */
export const metricsSchema = z
  .record(metricNameSchema, z.number().int().min(-limits.metricFixedMax).max(limits.metricFixedMax))
  .refine((m) => Object.keys(m).length <= limits.metrics, {
    message: `at most ${limits.metrics} metrics`,
  });

/** What identifies and describes one update; `digest` covers all of it and the payload (see update.ts). */
export const beginSchema = z.strictObject({
  round: roundIdSchema,
  /** The gateway whose offer the device took; another gateway refuses with `wrong-gateway`. */
  gateway: idSchema,
  base: modelIdSchema,
  baseDigest: digestSchema,
  /** Any number: whether it is whole and in range is admission's to judge, with its own code. */
  samples: z.number(),
  encoding: encodingSchema,
  /** Bytes of the payload that the chunks carry; 0 for an evaluation. */
  bytes: z.number().int().min(0),
  /** Values clamped to the plan's range. */
  saturated: z.number().int().min(0),
  metrics: metricsSchema,
  digest: digestSchema,
  /**
   * The device's statement for the update (`identity/statement.ts`), Ed25519; left out by a device
   * without a key. It is no part of what the digest covers.
   */
  signature: z
    .custom<Uint8Array>((value) => value instanceof Uint8Array && value.length === 64, {
      message: "must be 64 bytes",
    })
    .optional(),
});
export type Begin = z.infer<typeof beginSchema>;

/** A signing request (`identity/request.ts`). */
const petitionSchema = z.strictObject({ request: z.string().max(identityLimits.requestChars) });

/** What a device is given. Its denylist comes to it as to everybody else. */
const deviceGrantSchema = z.strictObject({
  ...grantSchema.omit({ denylist: true }).shape,
  token: z.string().max(identityLimits.tokenChars),
});

/** Of a denylist; 0 for none. */
const sequenceSchema = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

/** A piece of a denylist; payload: bytes of its text from `offset`, of which there are `bytes`. */
const listPartSchema = z.strictObject({
  sequence: sequenceSchema.min(1),
  offset: z.number().int().min(0).max(identityLimits.denylistChars),
  bytes: z.number().int().min(1).max(identityLimits.denylistChars),
});

export const upSchemas = {
  /** First message after connecting, and again whenever attributes change. */
  hello: z.strictObject({
    sdk: z.string().max(limits.attributeChars),
    attributes: attributesSchema,
    /** Of the denylist that the device holds; left out by one that takes none. */
    denylist: sequenceSchema.optional(),
  }),
  /** Asks for `length` bytes of a model from `offset`, which is a multiple of the chunk size. */
  fetch: z.strictObject({
    model: modelIdSchema,
    digest: digestSchema,
    offset: byteCount,
    length: z.number().int().min(1).max(limits.chunkBytes),
  }),
  /** Announces an update. Nothing is sent until the gateway grants it. Safe to repeat. */
  begin: beginSchema,
  /** Payload: bytes of the update from `offset`. */
  chunk: z.strictObject({ round: roundIdSchema, offset: byteCount }),
  /** The device will not contribute to the round. */
  decline: z.strictObject({ round: roundIdSchema, code: codeSchema, message: messageSchema }),
  /** Asks for a first certificate; the claim is the connection's password. Safe to repeat. */
  enrol: petitionSchema,
  /** Asks for the next certificate. Safe to repeat. */
  renew: petitionSchema,
  /** A newer denylist than the gateway's, as welcome tells it. Safe to repeat. */
  denylist: listPartSchema,
} as const satisfies Record<UpKind, z.ZodType>;

export const downSchemas = {
  /** Answers hello. */
  welcome: z.strictObject({
    gateway: idSchema,
    site: idSchema,
    incarnation: idSchema,
    /** Of the denylist that the gateway holds: to a device whose hello names its own. */
    denylist: sequenceSchema.optional(),
  }),
  /** Offers a round. `remainingMs` counts from the message's arrival. Safe to repeat. */
  offer: z.strictObject({
    gateway: idSchema,
    plan: planSchema,
    remainingMs: z.number().int().min(0),
  }),
  /** Payload: bytes of the model from `offset`. */
  part: z.strictObject({ model: modelIdSchema, digest: digestSchema, offset: byteCount }),
  /** The device may send the update's bytes from `offset`, at most `windowBytes` unacknowledged (PUBACK). */
  grant: z.strictObject({
    round: roundIdSchema,
    offset: byteCount,
    windowBytes: z.number().int().min(1),
  }),
  /** The update with this digest is durable at the gateway. The device may forget it. */
  receipt: z.strictObject({ round: roundIdSchema, digest: digestSchema }),
  /** A refusal of the message of kind `about`. State is unchanged unless the code says otherwise. */
  refusal: z.strictObject({
    about: z.enum([...upKinds, "unknown"]),
    round: roundIdSchema.optional(),
    code: codeSchema,
    message: messageSchema,
    /** Set when the code is retryable: wait at least so long. */
    retryAfterMs: z.number().int().min(0).optional(),
    /** With `chunk-out-of-order`: the offset the gateway waits for. */
    expectedOffset: byteCount.optional(),
  }),
  /** The round is over for this device: stop training for it. A pending update is no longer wanted. */
  closed: z.strictObject({ round: roundIdSchema }),
  /** Answers enrol and renew: what the device shows from now on, and whom it trusts. */
  enrolled: deviceGrantSchema,
} as const satisfies Record<DownKind, z.ZodType>;

export const allSchemas = {
  /** A model passed its gate and is the newest good one of its session. */
  published: z.strictObject({ session: idSchema, manifest: manifestSchema, layout: layoutSchema }),
  /** The denylist has changed, or the device that has connected holds an older one. */
  denylist: listPartSchema,
} as const satisfies Record<AllKind, z.ZodType>;

export type Up<K extends UpKind> = z.infer<(typeof upSchemas)[K]>;
export type Down<K extends DownKind> = z.infer<(typeof downSchemas)[K]>;
export type All<K extends AllKind> = z.infer<(typeof allSchemas)[K]>;
