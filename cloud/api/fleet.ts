import { idSchema } from "@tributary/proto/wire/ids.js";
import { z } from "zod";
import { filteredSlice } from "../access/filtered-slice.js";
import { type Caller, DEFAULT_PROJECT, projectsWith } from "../access/permissions.js";
import { pageQuery, sliceSchema, toAnswer } from "./cursor.js";
import type { Api, ApiPorts } from "./ports.js";
import { problemResponses } from "./problem.js";
import { deviceSchema, eventSchema, gatewaySchema, sampleSchema } from "./schemas.js";

export function fleetRoutes(api: Api, { store, clock, version, access }: ApiPorts): void {
  const startedAtMs = clock.nowMs();
  /** Whether a site is one of the projects whose fleet somebody may see. */
  const seenBy = (caller: Caller) => {
    const seen = projectsWith(caller, "fleet.read");
    return ({ site }: { readonly site: string }): boolean =>
      seen?.includes(access.projects?.ofSite(site) ?? DEFAULT_PROJECT) ?? true;
  };

  api.get(
    "/health",
    {
      config: { permission: "public" },
      schema: {
        tags: ["health"],
        summary: "Whether the cloud and its store answer",
        response: {
          200: z.object({
            status: z.literal("ok"),
            version: z.string(),
            uptimeMs: z.number(),
            access: z.enum(["open", "tokens"]).describe("whether callers must show a token"),
          }),
          ...problemResponses,
        },
      },
    },
    async () => {
      await store.ping();
      return {
        status: "ok" as const,
        version,
        uptimeMs: clock.nowMs() - startedAtMs,
        access: access.secured === undefined ? ("open" as const) : ("tokens" as const),
      };
    },
  );

  api.get(
    "/gateways",
    {
      config: { permission: "fleet.read", scope: "any" },
      schema: {
        tags: ["fleet"],
        summary: "Gateways by id",
        querystring: z.strictObject(pageQuery(idSchema)),
        response: { 200: sliceSchema(gatewaySchema), ...problemResponses },
      },
    },
    async ({ caller, query: { cursor, limit } }) =>
      toAnswer(
        await filteredSlice(
          (page) => store.listGateways(page),
          seenBy(caller),
          ({ id }) => id,
          { after: cursor, limit },
        ),
      ),
  );

  api.get(
    "/gateways/:id/samples",
    {
      config: { permission: "fleet.read", scope: "gateway" },
      schema: {
        tags: ["fleet"],
        summary: "What a gateway measured of itself, also while it was away; newest first",
        params: z.object({ id: idSchema }),
        querystring: z.strictObject(pageQuery(z.number().int().min(0))),
        response: { 200: sliceSchema(sampleSchema), ...problemResponses },
      },
    },
    async ({ params: { id }, query: { cursor, limit } }) =>
      toAnswer(await store.listSamples(id, { after: cursor, limit })),
  );

  api.get(
    "/devices",
    {
      config: { permission: "fleet.read", scope: "any" },
      schema: {
        tags: ["fleet"],
        summary: "Devices by id",
        querystring: z.strictObject({
          site: idSchema.optional(),
          gateway: idSchema.optional(),
          ...pageQuery(idSchema),
        }),
        response: { 200: sliceSchema(deviceSchema), ...problemResponses },
      },
    },
    async ({ caller, query: { site, gateway, cursor, limit } }) =>
      toAnswer(
        await filteredSlice(
          (page) => store.listDevices({ site, gateway }, page),
          seenBy(caller),
          ({ id }) => id,
          { after: cursor, limit },
        ),
      ),
  );

  api.get(
    "/events",
    {
      config: { permission: "events.read" },
      schema: {
        tags: ["events"],
        summary: "Events after a sequence, oldest first; without one, the newest",
        querystring: z.strictObject({
          after: z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER).optional(),
          limit: pageQuery(z.number()).limit,
        }),
        response: {
          200: z.object({
            items: z.array(eventSchema),
            /** Also at the end: ask again with it for what comes later. */
            after: z.number(),
          }),
          ...problemResponses,
        },
      },
    },
    async ({ query: { after, limit } }) => {
      const { items } = await store.listEvents({ after, limit });
      return { items: [...items], after: items.at(-1)?.sequence ?? after ?? 0 };
    },
  );
}
