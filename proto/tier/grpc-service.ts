import { constants } from "node:http2";
import {
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
} from "@grpc/grpc-js";
import type {
  AnswerChallengeRequest,
  AnswerChallengeResponse,
  EnrolRequest,
  EnrolResponse,
  FetchModelRequest,
  FetchModelResponse,
  OpenPartialRequest,
  OpenPartialResponse,
  ReducerServiceServer,
  SendPartialRequest,
  SendPartialResponse,
} from "../gen/tributary/v1/reducer.js";
import type { Clock } from "../host/clock.js";
import type { LinkEvents } from "./events.js";
import { statusError } from "./grpc-status.js";
import { limits } from "./limits.js";
import type { Peer } from "./peer.js";
import type { ModelParts, PartialAnswer, Service } from "./service.js";

type ModelCall = ServerWritableStream<FetchModelRequest, FetchModelResponse>;

/**
 * The service on gRPC: a refusal ends the call with a status, and its code as metadata.
 * @param peerOf who calls, over TLS; undefined in the clear
 */
export function grpcService(
  service: Service,
  clock: Clock,
  events: LinkEvents,
  peerOf: (call: { getPeer(): string }) => Peer | undefined = () => undefined,
): ReducerServiceServer {
  const failed = (call: string, error: unknown) => {
    const message = error instanceof Error ? error.message : String(error);
    events({ level: "error", name: "call-failed", call, message });
    const details = "this side failed; its log says more";
    return Object.assign(new Error(details), { code: status.INTERNAL, details });
  };
  const answer = <R extends { state: object | undefined }>(
    call: string,
    answered: Promise<PartialAnswer>,
    callback: sendUnaryData<R>,
  ) => {
    answered.then(
      (verdict) =>
        verdict.ok
          ? callback(null, { state: verdict.state } as unknown as R)
          : callback(statusError(verdict)),
      (error: unknown) => callback(failed(call, error)),
    );
  };

  return {
    attach(call) {
      const peer = peerOf(call);
      service.attach({
        shownBy: peer,
        write: (message) => call.write(message),
        end: () => call.end(),
        fail: (refusal) => call.emit("error", statusError(refusal)),
        on: (event: string, listener: (...values: never[]) => void) =>
          call.on(event, listener as (...values: unknown[]) => void),
      });
    },
    fetchModel(call: ModelCall) {
      const sent = service.fetchModel(call.request).then(async (opened) => {
        if (opened.ok) await sendParts(clock, call, opened.parts);
        return opened;
      });
      sent.then(
        (opened) => (opened.ok ? call.end() : call.emit("error", statusError(opened))),
        (error: unknown) => call.emit("error", failed("FetchModel", error)),
      );
    },
    openPartial(
      call: ServerUnaryCall<OpenPartialRequest, OpenPartialResponse>,
      callback: sendUnaryData<OpenPartialResponse>,
    ) {
      const peer = peerOf(call);
      answer("OpenPartial", service.openPartial(call.request, peer), callback);
    },
    sendPartial(
      call: ServerReadableStream<SendPartialRequest, SendPartialResponse>,
      callback: sendUnaryData<SendPartialResponse>,
    ) {
      const messages = call as AsyncIterable<SendPartialRequest>;
      const peer = peerOf(call);
      answer("SendPartial", service.sendPartial(messages, peer), callback);
    },
    answerChallenge(
      call: ServerReadableStream<AnswerChallengeRequest, AnswerChallengeResponse>,
      callback: sendUnaryData<AnswerChallengeResponse>,
    ) {
      service.answerChallenge(call as AsyncIterable<AnswerChallengeRequest>).then(
        (verdict) =>
          verdict.ok ? callback(null, { taken: verdict.taken }) : callback(statusError(verdict)),
        (error: unknown) => callback(failed("AnswerChallenge", error)),
      );
    },
    enrol(
      call: ServerUnaryCall<EnrolRequest, EnrolResponse>,
      callback: sendUnaryData<EnrolResponse>,
    ) {
      service.enrol(call.request).then(
        (response) => callback(null, response),
        (error: unknown) => callback(failed("Enrol", error)),
      );
    },
  };
}

async function sendParts(clock: Clock, call: ModelCall, parts: ModelParts): Promise<void> {
  const over = () => call.cancelled || call.destroyed;
  for await (const part of parts) {
    if (!over()) await written(clock, call, part);
    if (over()) return;
  }
}

/**
 * Resolves when the reader's flow control has let the whole part pass, or the call is over. The
 * stream's own mark counts parts, not bytes, and would let sixteen of them pile up.
 */
function written(clock: Clock, call: ModelCall, part: FetchModelResponse): Promise<void> {
  return new Promise((resolve) => {
    const events = ["cancelled", "close", "error"] as const;
    const settle = () => {
      timer.cancel();
      for (const event of events) call.off(event, settle);
      resolve();
    };
    const timer = clock.setTimer(limits.fetchStallMs, () => {
      abandon(call);
      settle();
    });
    for (const event of events) call.on(event, settle);
    call.write(part, settle);
  });
}

/**
 * Resets a call whose reader stalls. A status would wait behind the bytes that the reader does not
 * take, and grpc-js gives a handler no other way to end a call: so this resets the HTTP/2 stream
 * below it.
 */
function abandon(call: ModelCall): void {
  type Below = {
    readonly nextCall?: Below;
    readonly stream?: { close(code: number): void };
  };
  // Each interceptor wraps what is below it.
  let below = (call as unknown as { readonly call?: Below }).call;
  while (below?.nextCall !== undefined) below = below.nextCall;
  below?.stream?.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
  call.destroy();
}
