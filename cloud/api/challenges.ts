import { digestSchema, idSchema, numberedIdSchema } from "@tributary/proto/wire/ids.js";
import type { FastifyReply } from "fastify";
import { z } from "zod";
import { challengeLimits } from "../challenge-limits.js";
import type { Api, ApiPorts } from "./ports.js";
import { isProblemCode, problem, problemResponses, sendProblem } from "./problem.js";

const challengeSchema = z.object({
  id: z.string(),
  by: z.enum(["chance", "demand"]),
  gateway: z.string(),
  incarnation: z.string(),
  sequence: z.number(),
  digest: z.string().describe("of the Partial, as it was received"),
  session: z.string(),
  round: z.string(),
  contributors: z.number().describe("behind the Partial"),
  asked: z.number().describe("updates that were asked for"),
  answered: z.number(),
  state: z.enum(["open", "passed", "failed"]),
  refolded: z
    .boolean()
    .nullable()
    .describe("whether the sum was made again to the bit; null where that was not tried"),
  faults: z
    .array(
      z.object({
        round: z.string().nullable(),
        device: z.string().nullable().describe("null where it is about the sum"),
        code: z.string(),
        message: z.string(),
      }),
    )
    .readonly()
    .describe(`at most ${challengeLimits.faults}`),
  faultCount: z.number(),
  askedAtMs: z.number().describe("milliseconds since 1970"),
  endedAtMs: z.number().nullable(),
});

const id = z.object({ id: idSchema });

/** Has gateways prove that devices stand behind their Partials. */
export function challengeRoutes(api: Api, { challenges }: ApiPorts): void {
  api.get(
    "/challenges",
    {
      config: { permission: "challenges.read" },
      schema: {
        tags: ["challenges"],
        summary: "Challenges since the cloud started, the newest first",
        response: {
          200: z.object({ items: z.array(challengeSchema).readonly(), next: z.null() }),
          ...problemResponses,
        },
      },
    },
    async (_request, reply) =>
      challenges === undefined ? unfounded(reply) : { items: challenges.list(), next: null },
  );

  api.get(
    "/challenges/:id",
    {
      config: { permission: "challenges.read" },
      schema: {
        tags: ["challenges"],
        summary: "A challenge, and what came of it",
        params: id,
        response: { 200: challengeSchema, ...problemResponses },
      },
    },
    async ({ params }, reply) => {
      if (challenges === undefined) return unfounded(reply);
      const unknown = () => problem("unknown-challenge", `no challenge ${params.id}`);
      return challenges.get(params.id) ?? sendProblem(reply, unknown());
    },
  );

  api.post(
    "/challenges",
    {
      config: {
        permission: "challenges.run",
        noted: ["gateway", "round", "digest", "updates"],
      },
      schema: {
        tags: ["challenges"],
        summary: "Asks a gateway for signed updates behind the newest Partial that it fits",
        body: z.strictObject({
          gateway: idSchema.optional(),
          round: numberedIdSchema.optional(),
          digest: digestSchema.optional(),
          updates: z
            .union([z.literal("all"), z.number().int().min(1).max(challengeLimits.updates)])
            .default("all")
            .describe("how many, drawn by chance; of all of them the sum is made again"),
        }),
        response: { 201: challengeSchema, ...problemResponses },
      },
    },
    async ({ body }, reply) => {
      if (challenges === undefined) return unfounded(reply);
      const begun = challenges.challenge(body);
      if (begun.ok) return reply.code(201).send(begun.challenge);
      return sendProblem(
        reply,
        problem(isProblemCode(begun.code) ? begun.code : "unavailable", begun.message),
      );
    },
  );
}

function unfounded(reply: FastifyReply) {
  const message = "without an authority no device signs; make one with `tributary cloud init`";
  return sendProblem(reply, problem("no-authority", message));
}
