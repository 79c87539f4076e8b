import { z } from "zod";
import type { Api, ApiPorts } from "./ports.js";
import { problem, problemResponses, sendProblem } from "./problem.js";

const spreadSchema = z.object({
  sequence: z.number(),
  issuedAtMs: z.number().describe("milliseconds since 1970"),
  gateways: z
    .array(
      z.object({
        gateway: z.string(),
        attached: z.boolean(),
        shutOut: z.boolean().describe("on the list itself, and not attached"),
        sequence: z
          .number()
          .nullable()
          .describe("of the list that it holds; null before it said so since the cloud started"),
        inEffect: z.boolean().describe("whether that is the newest"),
        afterMs: z
          .number()
          .nullable()
          .describe("from the list's issue until it took effect there, in milliseconds"),
        cut: z.number().nullable().describe("live connections that it ended there"),
      }),
    )
    .readonly(),
});

/** How far the denylist has come, and how long that took. */
export function denylistRoutes(api: Api, { denylist }: ApiPorts): void {
  api.get(
    "/denylist/spread",
    {
      config: { permission: "enrolment.read" },
      schema: {
        tags: ["identity"],
        summary: "Which gateways hold the newest denylist, and since when, by name",
        response: { 200: spreadSchema, ...problemResponses },
      },
    },
    async (_request, reply) =>
      denylist?.view() ??
      sendProblem(
        reply,
        problem(
          "no-authority",
          "this cloud has no authority; make one with `tributary cloud init`",
        ),
      ),
  );
}
