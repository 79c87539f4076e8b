import { z } from "zod";
import type { Api, ApiPorts } from "./ports.js";
import { problemResponses } from "./problem.js";
import { eventSchema } from "./schemas.js";

const timeMs = z.number().describe("milliseconds since 1970");
const alarmSchema = z.object({
  name: z.string().describe("of the event that raised it"),
  about: z.string().nullable().describe("the gateway, the session or the part that it is about"),
  firstAtMs: timeMs,
  lastAtMs: timeMs,
  times: z.number().describe("how often it was raised since the first time"),
  fields: eventSchema.shape.fields,
});

export function alarmRoutes(api: Api, { alarms }: ApiPorts): void {
  api.get(
    "/alarms",
    {
      config: { permission: "events.read" },
      schema: {
        tags: ["events"],
        summary: "What somebody should look at now, the newest first",
        response: {
          200: z.object({ items: z.array(alarmSchema).readonly() }),
          ...problemResponses,
        },
      },
    },
    async () => ({ items: alarms?.list() ?? [] }),
  );
}
