import {
  type ChannelCredentials,
  type ClientOptions,
  type ClientWritableStream,
  credentials,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import type {
  AnswerChallengeRequest,
  AttachRequest,
  AttachResponse,
  FetchModelRequest,
  FetchModelResponse,
  OpenPartialRequest,
  PartialId,
  PartialState,
  SendPartialRequest,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import { ReducerServiceClient } from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import { type Grant, readGrant } from "@tributary/proto/identity/grant.js";
import { CODE_KEY } from "@tributary/proto/tier/grpc-status.js";
import { isCode, isRetryable } from "@tributary/proto/wire/codes.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { limits as wire } from "@tributary/proto/wire/limits.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import { limits } from "./limits.js";
import { linkReason } from "./link-reason.js";

/** The control stream as far as the uplink drives it. */
export type AttachCall = {
  /** False when the stream wants `drain` first. */
  write(message: AttachRequest): boolean;
  on(event: "data", listener: (message: AttachResponse) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end" | "drain", listener: () => void): unknown;
  cancel(): void;
};

/** The calls to what is above this gateway. Each has a deadline; a failed one rejects, retryable. */
export type Upstream = {
  attach(): AttachCall;
  openPartial(request: OpenPartialRequest): Promise<PartialState>;
  /** Sends bytes from `offset`; `chunks` is read no faster than the link takes them. */
  sendPartial(
    id: PartialId,
    offset: number,
    chunks: AsyncIterable<Uint8Array>,
  ): Promise<PartialState>;
  fetchModel(request: FetchModelRequest): AsyncIterable<FetchModelResponse>;
  /** Hands in signed updates; how many were taken. Left out where nobody is asked for any. */
  answerChallenge?(messages: AsyncIterable<AnswerChallengeRequest>): Promise<number>;
  /**
   * Takes a signing request to the fleet's authority, with a claim or, to renew, with an empty one. Left
   * out where there is no way to one.
   */
  enrol?(claim: string, request: string): Promise<Verdict<{ readonly grant: Grant }>>;
  close(): void;
};

const channelOptions: ClientOptions = {
  "grpc.keepalive_time_ms": wire.keepaliveIntervalMs,
  "grpc.keepalive_timeout_ms": wire.keepaliveTimeoutMs,
  "grpc.keepalive_permit_without_calls": 1,
  "grpc.max_receive_message_length": wire.grpcMessageBytes,
  "grpc.max_send_message_length": wire.grpcMessageBytes,
  // The uplink has its own backoff; the channel's must not outlast it.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
  "grpc.enable_http_proxy": 0,
  "grpc.use_local_subchannel_pool": 1,
};

const unset: PartialState = { receivedBytes: 0n, receipt: undefined, refusal: undefined };

export type UpstreamWay = {
  /** Opens TLS; in the clear without it. */
  readonly credentials?: ChannelCredentials | undefined;
  /** host:port of an HTTP proxy. */
  readonly proxy?: string | undefined;
};

/** @param address host:port. Nothing is connected before the first call. */
export function createUpstream(address: string, clock: Clock, way: UpstreamWay = {}): Upstream {
  const client = new ReducerServiceClient(
    way.proxy ?? address,
    way.credentials ?? credentials.createInsecure(),
    {
      ...channelOptions,
      ...(way.proxy !== undefined && { "grpc.http_connect_target": `dns:${address}` }),
    },
  );
  const within = (ms: number) => ({ deadline: new Date(clock.nowMs() + ms) });

  /** Cancels a call on which nothing has moved for the stall time. */
  function watchStall(call: { cancel(): void }) {
    const start = () => clock.setTimer(limits.stallTimeoutMs, () => call.cancel());
    let timer = start();
    return {
      moved() {
        timer.cancel();
        timer = start();
      },
      end: () => timer.cancel(),
    };
  }

  /** Sends messages, read no faster than the link takes them, and resolves with the answer. */
  async function sendAll<Message, Answer>(
    name: string,
    open: (
      answer: (error: ServiceError | null, value: Answer) => void,
    ) => ClientWritableStream<Message>,
    messages: () => AsyncIterable<Message>,
  ): Promise<Answer> {
    let settle: (outcome: { readonly value: Answer } | Error) => void = () => {};
    const answered = new Promise<{ readonly value: Answer } | Error>((resolve) => {
      settle = resolve;
    });
    const call = open((error, value) => settle(error ? linkError(name, error) : { value }));
    // The callback carries the failure; without a listener the stream would throw it again.
    call.on("error", () => {});
    const stall = watchStall(call);
    let over = false;
    void answered.then(() => {
      over = true;
    });
    try {
      for await (const message of messages()) {
        if (!call.write(message) && !over) {
          const drained = new Promise<void>((resolve) => call.once("drain", () => resolve()));
          await Promise.race([drained, answered]);
        }
        if (over) break;
        stall.moved();
      }
      call.end();
      const outcome = await answered;
      if (outcome instanceof Error) throw outcome;
      return outcome.value;
    } finally {
      stall.end();
      if (!over) call.cancel();
    }
  }

  return {
    attach() {
      const call = client.attach();
      return {
        write: (message) => call.write(message),
        on(event: string, listener: (...values: never[]) => void) {
          const hear = listener as (...values: unknown[]) => void;
          if (event !== "error") return call.on(event, hear);
          return call.on(event, (error) => hear(refusedWith(error)));
        },
        cancel: () => call.cancel(),
      };
    },
    openPartial(request) {
      return new Promise((resolve, reject) => {
        const options = within(limits.callTimeoutMs);
        client.openPartial(request, new Metadata(), options, (error, response) => {
          if (error) reject(linkError("OpenPartial", error));
          else resolve(response.state ?? unset);
        });
      });
    },
    sendPartial(id, offset, chunks) {
      return sendAll<SendPartialRequest, PartialState>(
        "SendPartial",
        (answer) =>
          client.sendPartial(within(limits.transferTimeoutMs), (error, response) =>
            answer(error, response?.state ?? unset),
          ),
        async function* () {
          let at = offset;
          for await (const data of chunks) {
            const first = at === offset;
            yield { id: first ? id : undefined, offset: BigInt(at), data: asBuffer(data) };
            at += data.length;
          }
        },
      );
    },
    answerChallenge(messages) {
      return sendAll<AnswerChallengeRequest, number>(
        "AnswerChallenge",
        (answer) =>
          client.answerChallenge(within(limits.transferTimeoutMs), (error, response) =>
            answer(error, response?.taken ?? 0),
          ),
        () => messages,
      );
    },
    async *fetchModel(request) {
      const call = client.fetchModel(request, within(limits.transferTimeoutMs));
      const stall = watchStall(call);
      try {
        for await (const message of call) {
          stall.moved();
          yield message as FetchModelResponse;
        }
      } catch (error) {
        throw linkError("FetchModel", error);
      } finally {
        stall.end();
        call.cancel();
      }
    },
    enrol(claim, request) {
      return new Promise((resolve, reject) => {
        client.enrol(
          { claim, request },
          new Metadata(),
          within(limits.callTimeoutMs),
          (error, response) => {
            if (error) return reject(linkError("Enrol", error));
            const { refusal } = response;
            if (refusal !== undefined)
              return resolve(
                isCode(refusal.code)
                  ? refuse(refusal.code, refusal.message)
                  : refuse("uplink-away", `${refusal.code}: ${refusal.message}`),
              );
            const grant = readGrant(response.grant.toString("utf8"));
            if (grant !== undefined) return resolve({ ok: true, grant });
            reject(
              new TributaryError("grant-malformed", "the answer to Enrol is none that is known"),
            );
          },
        );
      });
    },
    close: () => client.close(),
  };
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The error that ends a control stream, with the code that the upstream refused it with. */
function refusedWith(error: Error): Error {
  const { metadata, details = error.message } = error as Partial<ServiceError>;
  const [code] = metadata?.get(CODE_KEY) ?? [];
  if (!isCode(code))
    return new Error(linkReason({ message: error.message, details }), { cause: error });
  const message = details.replace(`${code}: `, "");
  return new TributaryError(code, message, { retryable: isRetryable(code), cause: error });
}

function linkError(call: string, cause: unknown): TributaryError {
  const code = (cause as { code?: number }).code;
  const message = cause instanceof Error ? linkReason(cause) : String(cause);
  return new TributaryError("link-failed", `${call}: ${message}`, {
    retryable: code !== status.UNIMPLEMENTED,
    cause,
  });
}
