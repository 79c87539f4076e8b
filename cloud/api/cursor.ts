import { z } from "zod";
import { apiLimits } from "./limits.js";

/** Where a list goes on: opaque to callers, the JSON of the store's key in base64url within. */
export function encodeCursor(key: unknown): string {
  return Buffer.from(JSON.stringify(key)).toString("base64url");
}

/** `cursor` and `limit` of a list whose keys have `keySchema`. */
export function pageQuery<S extends z.ZodType>(keySchema: S) {
  return {
    cursor: z
      .string()
      .max(apiLimits.cursorChars)
      .transform((text, context): z.infer<S> => {
        const key = keySchema.safeParse(parsed(text));
        if (key.success) return key.data;
        context.addIssue({ code: "custom", message: "must be the `next` of an earlier answer" });
        return z.NEVER;
      })
      .optional()
      .describe("`next` of the answer before"),
    limit: z.coerce
      .number()
      .int()
      .min(1)
      .max(apiLimits.pageItems)
      .default(apiLimits.pageItemsDefault),
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(Buffer.from(text, "base64url").toString("utf8"));
  } catch {
    return undefined;
  }
}

/** A part of a list; `next` is null at its end. */
export function sliceSchema<S extends z.ZodType>(item: S) {
  return z.object({ items: z.array(item), next: z.string().nullable() });
}

export function toAnswer<T, K>(slice: {
  readonly items: readonly T[];
  readonly next?: K;
}): {
  items: T[];
  next: string | null;
} {
  return {
    items: [...slice.items],
    next: slice.next === undefined ? null : encodeCursor(slice.next),
  };
}
