import { exitCodes } from "@tributary/proto/host/process.js";
import { type Answered, type Credentials, exchange } from "./exchange.js";
import { CommandFailure, reasonOf, usageFailure } from "./failure.js";
import { cliLimits } from "./limits.js";
import { refusal } from "./problem.js";

export type Request = {
  readonly method: "GET" | "POST";
  /** Below `/api/v1`, with its query. */
  readonly path: string;
  /** Sent as JSON. */
  readonly json?: unknown;
  /** Sent as it is. */
  readonly bytes?: Uint8Array<ArrayBuffer>;
};

export type Http = {
  /** The answer's JSON. Throws a `CommandFailure` for a refusal, a broken answer and no answer. */
  call(request: Request): Promise<unknown>;
  /** The answer's bytes as they come; the same failures, also while they come. */
  download(path: string): AsyncGenerator<Uint8Array>;
};

export type HttpOptions = {
  /** Where the cloud is, such as `http://127.0.0.1:7480`. */
  readonly url: string;
  readonly answerMs?: number;
  readonly transferIdleMs?: number;
  /** Asked before each request. */
  readonly credentials?: () => Promise<Credentials>;
};

/** The cloud's REST API as requests and answers. */
export function createHttp(options: HttpOptions): Http {
  const { answerMs = cliLimits.answerMs, transferIdleMs = cliLimits.transferIdleMs } = options;
  const base = baseOf(options.url);

  /** Sends, and fails on anything but success. Aborting `signal` ends the answer's body too. */
  const send = async (request: Request, accept: string, signal: AbortSignal) => {
    const { method, path, json, bytes } = request;
    const target = `${base}/api/v1${path}`;
    const { token, anchors } = (await options.credentials?.()) ?? {};
    if (token !== undefined) refuseInTheClear(base);
    const body = json === undefined ? bytes : Buffer.from(JSON.stringify(json));
    const answer = await exchange(new URL(target), {
      method,
      signal,
      anchors,
      body,
      headers: {
        accept,
        ...(json === undefined ? {} : { "content-type": "application/json" }),
        ...(bytes === undefined ? {} : { "content-type": "application/octet-stream" }),
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
    });
    if (answer.status < 200 || answer.status > 299)
      throw refusal(`${method} ${target}`, answer.status, await bodyText(answer, target));
    return { ...answer, target };
  };

  return {
    async call(request) {
      const waitMs = request.bytes === undefined ? answerMs : uploadMs(request.bytes, answerMs);
      const signal = AbortSignal.timeout(Math.ceil(waitMs));
      try {
        const answer = await send(request, "application/json", signal);
        const text = await bodyText(answer, answer.target);
        return text === "" ? undefined : JSON.parse(text);
      } catch (error) {
        throw explained(signal.aborted ? signal.reason : error, base, waitMs);
      }
    },
    async *download(path) {
      const stop = new AbortController();
      const idle = setTimeout(() => stop.abort(timedOut()), transferIdleMs);
      try {
        const { body } = await send({ method: "GET", path }, "*/*", stop.signal);
        for await (const chunk of body) {
          idle.refresh();
          yield chunk;
        }
      } catch (error) {
        throw explained(stop.signal.aborted ? stop.signal.reason : error, base, transferIdleMs);
      } finally {
        clearTimeout(idle);
        stop.abort();
      }
    },
  };
}

const LOOPBACK = /^(127(\.\d{1,3}){3}|\[::1\]|localhost)$/;

/** A token that travels in the clear is everybody's. */
function refuseInTheClear(base: string): void {
  const { protocol, hostname } = new URL(base);
  if (protocol === "https:" || LOOPBACK.test(hostname)) return;
  throw usageFailure(
    `${base} is in the clear; a token is shown over https:// or on loopback alone`,
  );
}

function timedOut(): DOMException {
  return new DOMException("nothing came in time", "TimeoutError");
}

/** 100 kB/s is the slowest link on which an upload is waited for. */
function uploadMs(bytes: Uint8Array, answerMs: number): number {
  return answerMs + bytes.length / 100;
}

function baseOf(url: string): string {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (parsed === undefined || !/^https?:$/.test(parsed.protocol)) {
    throw usageFailure(`"${url}" is not an http:// or https:// URL; see --url and TRIBUTARY_URL`);
  }
  return `${parsed.origin}${parsed.pathname.replace(/\/+$/, "")}`;
}

async function bodyText({ body }: Answered, target: string): Promise<string> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of body) {
    length += part.length;
    if (length > cliLimits.answerBytesMax) {
      throw new CommandFailure(
        "answer-too-large",
        `${target} sent more than ${cliLimits.answerBytesMax} bytes`,
        exitCodes.unavailable,
      );
    }
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

const UNTRUSTED = /^(UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|CERT_|ERR_TLS_CERT)/;

/** What a failed request means to the user. */
function explained(error: unknown, base: string, waitMs: number): CommandFailure {
  if (error instanceof CommandFailure) return error;
  const unavailable = (code: string, message: string): CommandFailure =>
    new CommandFailure(code, message, exitCodes.unavailable, error);
  if (error instanceof SyntaxError) {
    return unavailable("not-json", `${base} did not answer with JSON; is this the cloud's URL?`);
  }
  if (error instanceof DOMException && error.name === "TimeoutError") {
    return unavailable("no-answer", `the cloud at ${base} gave no answer for ${waitMs / 1000} s`);
  }
  const cause = error instanceof Error ? (error.cause ?? error) : error;
  const code = typeof cause === "object" && cause !== null && "code" in cause ? cause.code : "";
  const why =
    code === "ECONNREFUSED"
      ? "nothing listens there"
      : UNTRUSTED.test(String(code))
        ? `its certificate is not trusted (${code}); give the fleet's authority: tributary login --anchors`
        : reasonOf(cause);
  return unavailable(
    "cloud-unreachable",
    `cannot reach the cloud at ${base}: ${why}.\n` +
      "Start it with `tributary cloud start`, or name another with --url or TRIBUTARY_URL.",
  );
}
