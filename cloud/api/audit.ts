import { z } from "zod";
import { projectsWith } from "../access/permissions.js";
import { auditLineSchema } from "../audit/chain.js";
import { pageQuery, sliceSchema, toAnswer } from "./cursor.js";
import type { Api, ApiPorts } from "./ports.js";
import { problem, problemResponses, sendProblem } from "./problem.js";

const timeMs = z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const text = z.string().max(200);

/** Who did what, and who was refused what. */
export function auditRoutes(api: Api, { audit }: ApiPorts): void {
  api.get(
    "/audit",
    {
      config: { permission: "audit.read", scope: "any" },
      schema: {
        tags: ["audit"],
        summary: "The audit log, oldest first; all of it is a chain of hashes",
        description:
          "hash = SHA-256 over the line without its hash, as JSON with sorted names and no white space; prev is the hash of the line before, of the first line 64 zeros.",
        querystring: z.strictObject({
          actor: text.optional(),
          action: text.optional().describe("actions that begin so, such as `POST /sessions`"),
          outcome: text.optional().describe("`done`, or a code"),
          project: text.optional(),
          since: timeMs.optional(),
          until: timeMs.optional(),
          ...pageQuery(z.number().int().min(0)),
        }),
        response: { 200: sliceSchema(auditLineSchema), ...problemResponses },
      },
    },
    async ({ caller, query }, reply) => {
      if (audit === undefined)
        return sendProblem(reply, problem("no-access", "this cloud's store keeps no audit log"));
      const { actor, action, outcome, project, since: sinceMs, until: untilMs } = query;
      const seen = projectsWith(caller, "audit.read");
      const wanted = project === undefined ? seen : [project];
      const projects = wanted?.filter((one) => seen?.includes(one) ?? true);
      const filter = { actor, action, outcome, projects, sinceMs, untilMs };
      return toAnswer(await audit.list(filter, { after: query.cursor, limit: query.limit }));
    },
  );
}
