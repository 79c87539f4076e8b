import { TributaryError } from "@tributary/proto/wire/errors.js";
import type { FastifyError, FastifyReply, FastifyRequest } from "fastify";
import { hasZodFastifySchemaValidationErrors } from "fastify-type-provider-zod";
import type { CloudEvents } from "../events.js";
import { apiLimits } from "./limits.js";
import { type Problem, type ProblemCode, problem, sendProblem } from "./problem.js";

/** Turns whatever a route threw into a problem; only what is nobody's fault but ours is a 500. */
export function createErrorHandler(events: CloudEvents) {
  return (error: FastifyError, request: FastifyRequest, reply: FastifyReply): FastifyReply => {
    const answer = problemOf(error);
    if (answer.status >= 500)
      events({
        level: "error",
        name: "call-failed",
        call: `${request.method} ${request.routeOptions.url ?? "?"}`,
        message: error.message,
      });
    return sendProblem(reply, answer);
  };
}

const byFrameworkCode: Readonly<Record<string, ProblemCode>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: "too-large",
  FST_ERR_CTP_INVALID_MEDIA_TYPE: "unsupported-media-type",
  ECONNRESET: "request-aborted",
  ABORT_ERR: "request-aborted",
  ERR_STREAM_PREMATURE_CLOSE: "request-aborted",
};

export function problemOf(error: FastifyError): Problem {
  if (hasZodFastifySchemaValidationErrors(error)) return invalid(error.validation, error.message);
  if (error instanceof TributaryError)
    return error.retryable || error.code === "disk-full"
      ? problem("unavailable", `cannot do this for now (${error.code})`)
      : problem("internal", `a failure on this side (${error.code}); the log says more`);
  const known = byFrameworkCode[error.code];
  if (known !== undefined) return problem(known, error.message);
  const status = error.statusCode ?? 500;
  if (status >= 400 && status < 500) return problem("invalid-request", error.message);
  return problem("internal", "a failure on this side; the log says more");
}

type Validation = NonNullable<FastifyError["validation"]>;

function invalid(validation: Validation, detail: string): Problem {
  const issues = validation.slice(0, apiLimits.issuesShown).map((issue) => ({
    path: issue.instancePath.split("/").filter(Boolean).join("."),
    message: issue.message ?? "invalid",
  }));
  const headroom = validation.some((issue) => codeOf(issue.params) === "plan-headroom");
  const shown = issues.map(({ path, message }) => (path ? `${path}: ${message}` : message));
  return problem(
    headroom ? "plan-headroom" : "invalid-request",
    shown.join("; ") || detail,
    issues,
  );
}

/** A schema's own code for an issue, as `params.ts` sets it. */
function codeOf(params: unknown): unknown {
  const inner = (params as { params?: { code?: unknown } } | undefined)?.params;
  return inner?.code ?? (params as { code?: unknown } | undefined)?.code;
}
