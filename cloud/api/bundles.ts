import { bundleSchema } from "@tributary/proto/identity/bundle.js";
import { jwksSchema } from "@tributary/proto/identity/keyring.js";
import type { FastifyReply } from "fastify";
import { z } from "zod";
import type { Api, ApiPorts } from "./ports.js";
import { problem, problemResponses, sendProblem } from "./problem.js";

/** What machines of the fleet trust, and the signature of what they run. */
export function bundleRoutes(api: Api, { authority }: ApiPorts): void {
  api.get(
    "/trust",
    {
      config: { permission: "public" },
      schema: {
        tags: ["identity"],
        summary: "What a machine of the fleet is given to trust",
        response: {
          200: z.object({
            fleet: z.string(),
            jwks: jwksSchema,
            anchors: z.array(z.string()).readonly(),
          }),
          ...problemResponses,
        },
      },
    },
    async (_request, reply) => (await authority?.trust()) ?? none(reply),
  );

  api.post(
    "/bundles/signatures",
    {
      config: {
        permission: "bundles.sign",
        noted: ["version", "minimumVersion", "arch", "for"],
      },
      schema: {
        tags: ["updates"],
        summary: "Sign the manifest of a software bundle with the fleet's key",
        body: bundleSchema,
        response: { 201: z.object({ manifest: z.string() }), ...problemResponses },
      },
    },
    async ({ body }, reply) => {
      if (authority === undefined) return none(reply);
      const { fleet } = await authority.trust();
      if (body.fleet !== fleet)
        return sendProblem(reply, problem("invalid-request", `this is the fleet ${fleet}`));
      return reply.code(201).send({ manifest: await authority.signBundle(body) });
    },
  );
}

function none(reply: FastifyReply): FastifyReply {
  const detail =
    "this cloud has no authority; make one with `tributary cloud init`, and start it again";
  return sendProblem(reply, problem("no-authority", detail));
}
