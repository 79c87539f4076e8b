import { exitCodes } from "@tributary/proto/host/process.js";
import { z } from "zod";
import { CommandFailure } from "./failure.js";

const listedMax = 20;

/** A problem document (RFC 9457), with the cloud's own members `code` and `issues`. */
const problemSchema = z.looseObject({
  title: z.string().optional(),
  detail: z.string().optional(),
  code: z.string().optional(),
  issues: z.array(z.looseObject({ path: z.string(), message: z.string() })).optional(),
});

/** What an answer with an error status means. `what` is the request, as `GET http://...`. */
export function refusal(what: string, status: number, body: string): CommandFailure {
  const exitCode = status >= 500 ? exitCodes.unavailable : exitCodes.refused;
  const problem = problemSchema.safeParse(parsed(body));
  if (!problem.success) {
    return new CommandFailure(
      `http-${status}`,
      `${what} was answered with status ${status} and no problem document; is this the cloud's URL?`,
      exitCode,
    );
  }
  const { title, detail, code = `http-${status}`, issues = [] } = problem.data;
  const listed = issues
    .slice(0, listedMax)
    .map(({ path, message }) => `\n  ${path === "" ? "" : `${path}: `}${message}`);
  const words = listed.length > 0 ? "the cloud refused the request:" : (detail ?? title ?? what);
  return new CommandFailure(code, `${words}${listed.join("")} [${code}]`, exitCode);
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}
