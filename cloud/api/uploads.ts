import type { Readable } from "node:stream";
import type { FastifyReply } from "fastify";
import { type ProblemCode, problem, sendProblem } from "./problem.js";

/** What was not read of the body is not read to its end for the connection's sake. */
export function refuseUpload(
  reply: FastifyReply,
  body: Readable,
  code: ProblemCode,
  message: string,
): FastifyReply {
  if (!body.readableEnded) reply.header("connection", "close");
  return sendProblem(reply, problem(code, message));
}
