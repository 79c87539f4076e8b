import { STATUS_CODES } from "node:http";
import type { FastifyReply } from "fastify";
import { z } from "zod";
import { apiLimits } from "./limits.js";

/** Codes that a problem can have, with the HTTP status of each. The set is closed. */
const statuses = {
  "invalid-request": 400,
  "request-aborted": 400,
  "plan-invalid": 422,
  "plan-headroom": 422,
  "model-malformed": 422,
  "unknown-route": 404,
  "unknown-session": 404,
  "unknown-model": 404,
  "session-exists": 409,
  "model-exists": 409,
  "wrong-state": 409,
  "foreign-model": 409,
  "no-authority": 404,
  "unknown-claim": 404,
  "unknown-enrolment": 404,
  "claim-malformed": 400,
  "claim-unknown": 403,
  "claim-expired": 403,
  "claim-used": 409,
  "claim-scope": 403,
  "claim-revoked": 403,
  "claim-rejected": 403,
  "claim-pending": 409,
  "request-malformed": 400,
  "request-signature": 403,
  "request-subject": 403,
  "identity-taken": 409,
  "identity-unknown": 404,
  "identity-revoked": 403,
  "grace-ended": 403,
  "too-many-attempts": 429,
  "denylist-full": 409,
  unauthenticated: 401,
  "token-malformed": 401,
  "token-kind": 401,
  "token-signature": 401,
  "token-issuer": 401,
  "token-audience": 401,
  "token-not-yet-valid": 401,
  "token-expired": 401,
  "token-revoked": 401,
  forbidden: 403,
  "no-access": 404,
  "unknown-token": 404,
  "unknown-project": 404,
  "project-exists": 409,
  "unknown-member": 404,
  "member-exists": 409,
  "unknown-invitation": 404,
  "invitation-ended": 409,
  "unknown-partial": 404,
  "unknown-challenge": 404,
  "unknown-package": 404,
  "package-exists": 409,
  "package-in-use": 409,
  "package-malformed": 422,
  "package-signature": 422,
  "foreign-origin": 403,
  "foreign-host": 421,
  "too-large": 413,
  "unsupported-media-type": 415,
  "range-not-satisfiable": 416,
  busy: 503,
  unavailable: 503,
  internal: 500,
} as const;

export type ProblemCode = keyof typeof statuses;

export function isProblemCode(code: string): code is ProblemCode {
  return Object.hasOwn(statuses, code);
}

const issueSchema = z.object({ path: z.string(), message: z.string() });
export type Issue = z.infer<typeof issueSchema>;

/** RFC 9457, with the code and, for an invalid request, what is wrong where. */
export const problemSchema = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.number().int(),
    detail: z.string(),
    code: z.enum(Object.keys(statuses) as [ProblemCode, ...ProblemCode[]]),
    issues: z.array(issueSchema).optional(),
  })
  .describe("Problem details (RFC 9457)");
export type Problem = z.infer<typeof problemSchema>;

export function problem(code: ProblemCode, detail: string, issues?: readonly Issue[]): Problem {
  const status = statuses[code];
  return {
    type: `urn:tributary:problem:${code}`,
    title: STATUS_CODES[status] ?? code,
    status,
    detail: detail.slice(0, apiLimits.detailChars),
    code,
    ...(issues && { issues: [...issues] }),
  };
}

/** Seconds after which a caller may try again what failed for now (RFC 9110, 10.2.3). */
const RETRY_AFTER_SECONDS = 1;

/** Answers with a problem. Typed replies know only their own schemas, hence the wider type. */
export function sendProblem(reply: FastifyReply, answer: Problem): FastifyReply {
  reply.request.problem = answer.code;
  if (answer.status === 503) reply.header("retry-after", RETRY_AFTER_SECONDS);
  return reply
    .code(answer.status)
    .header("content-type", "application/problem+json")
    .serializer((body: unknown) => JSON.stringify(body))
    .send(answer);
}

/** The answers that any route may give beside its own, for the OpenAPI document. */
export const problemResponses = {
  "4xx": {
    description: "The request cannot be answered as it is",
    content: { "application/problem+json": { schema: problemSchema } },
  },
  "5xx": {
    description: "A failure on this side, or busy: 503 may be tried again",
    content: { "application/problem+json": { schema: problemSchema } },
  },
} as const;
