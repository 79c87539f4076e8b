import { type IncomingMessage, request } from "node:http";
import { type Grant, readGrant } from "@tributary/proto/identity/grant.js";
import { isCode } from "@tributary/proto/wire/codes.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { z } from "zod";
import { limits } from "./limits.js";
import { open, type Place, type ServerCheck, secure } from "./secure-connection.js";

/** Where the fleet's authority answers, over HTTPS. */
export type AuthorityPlace = Place & { readonly proxy?: Place | undefined };

type Answer = Verdict<{ readonly grant: Grant }>;

const problemSchema = z.object({ code: z.string(), detail: z.string().optional() });

/**
 * Asks the authority by its REST API: for a first certificate with a claim, for the next one without.
 * A refusal is its verdict. Failures: `link-failed` (retryable); the code of a server that is not the
 * one that is meant.
 */
export async function askOverHttps(
  place: AuthorityPlace,
  check: ServerCheck,
  claim: string | undefined,
  signed: string,
): Promise<Answer> {
  const path = claim === undefined ? "/api/v1/renewals" : "/api/v1/enrolments";
  const body = JSON.stringify(
    claim === undefined ? { request: signed } : { claim, request: signed },
  );
  const bare = await open(place, place.proxy);
  const socket = await secure(bare, place.host, { check }).catch((cause: unknown) => {
    bare.destroy();
    throw cause;
  });
  try {
    const { status, text } = await post(place, path, body, () => socket);
    return readAnswer(status, text);
  } finally {
    socket.destroy();
  }
}

function readAnswer(status: number, text: string): Answer {
  if (status === 201) {
    const grant = readGrant(text);
    if (grant !== undefined) return { ok: true, grant };
    throw new TributaryError("grant-malformed", "the authority's answer is not one that is known");
  }
  const problem = problemOf(text);
  if (problem !== undefined && isCode(problem.code))
    return refuse(problem.code, problem.detail ?? problem.code);
  const why = problem === undefined ? "" : `: ${problem.code}`;
  throw new TributaryError("link-failed", `the cloud answers ${status}${why}`, { retryable: true });
}

function problemOf(text: string) {
  try {
    return problemSchema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

function post(
  { host, port }: Place,
  path: string,
  body: string,
  createConnection: () => Awaited<ReturnType<typeof secure>>,
): Promise<{ readonly status: number; readonly text: string }> {
  return new Promise((resolve, reject) => {
    const failed = (cause: Error) =>
      reject(new TributaryError("link-failed", cause.message, { retryable: true, cause }));
    const headers = {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(body),
    };
    const options = { host, port, path, method: "POST", headers, timeout: limits.callTimeoutMs };
    const call = request({ ...options, createConnection });
    call.once("timeout", () => call.destroy(new Error("the cloud does not answer")));
    call.once("error", failed);
    call.once("response", (response) => {
      textOf(response).then(
        (text) => resolve({ status: response.statusCode ?? 0, text }),
        (cause: unknown) => failed(cause as Error),
      );
    });
    call.end(body);
  });
}

async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > limits.grantBytes) throw new Error("the cloud's answer is too long");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}
