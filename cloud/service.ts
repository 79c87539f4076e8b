import { constants } from "node:http2";
import {
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
} from "@grpc/grpc-js";
import type {
  FetchModelRequest,
  FetchModelResponse,
  OpenPartialRequest,
  OpenPartialResponse,
  PartialState,
  ReducerServiceServer,
  SendPartialRequest,
  SendPartialResponse,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock } from "@tributary/proto/host/clock.js";
import type { ReadFile } from "@tributary/proto/host/disk.js";
import { digestSchema, modelIdSchema, roundIdSchema } from "@tributary/proto/wire/ids.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import { refuse, type Verdict } from "@tributary/proto/wire/verdict.js";
import type { Attachments } from "./attach.js";
import type { CloudEvents } from "./events.js";
import { statusError } from "./grpc-status.js";
import { readIdentity } from "./identity.js";
import type { Announcement, Inbox, InboxAnswer, UploadState } from "./inbox.js";
import { limits } from "./limits.js";
import type { Members } from "./sessions.js";

export type ServiceWorld = {
  readonly clock: Clock;
  readonly attachments: Attachments;
  readonly members: Members;
  readonly inbox: Inbox;
  /** The file of a model; undefined when the trail has none of that id and digest. */
  openModel(model: string, digest: string): Promise<ReadFile | undefined>;
  readonly events: CloudEvents;
};

/**
 * ReducerService for gateways. A refusal that can be tried again, and a malformed request, end the
 * call with a status and the code as metadata; a final answer about a Partial is in its state.
 */
export function createService(world: ServiceWorld): ReducerServiceServer {
  const { attachments, members, inbox, events } = world;
  let reads = 0;

  const failed = (call: string, error: unknown) => {
    const message = error instanceof Error ? error.message : String(error);
    events({ level: "error", name: "call-failed", call, message });
    return Object.assign(new Error("the cloud failed"), {
      code: status.INTERNAL,
      details: "the cloud failed; its log says more",
    });
  };

  return {
    attach: (call) => attachments.accept(call, members),
    fetchModel(call: ServerWritableStream<FetchModelRequest, FetchModelResponse>) {
      if (reads >= limits.modelReads) {
        call.emit("error", statusError(refuse("busy", `${reads} models are being read`)));
        return;
      }
      reads++;
      call.once("close", () => reads--);
      sendModel(world, call).then(
        (sent) => (sent.ok ? call.end() : call.emit("error", statusError(sent))),
        (error: unknown) => call.emit("error", failed("FetchModel", error)),
      );
    },
    openPartial(
      call: ServerUnaryCall<OpenPartialRequest, OpenPartialResponse>,
      callback: sendUnaryData<OpenPartialResponse>,
    ) {
      const announcement = readAnnouncement(call.request);
      if (!announcement.ok) {
        callback(statusError(announcement));
        return;
      }
      const { round, identity } = announcement.announcement;
      inbox.open(announcement.announcement).then(
        (answer) => {
          if (!answer.ok) return callback(statusError(answer));
          // It was taken before, and its receipt did not reach the gateway.
          if (answer.state.receipt !== undefined)
            events({ level: "info", name: "partial-repeated", round, gateway: identity.gateway });
          callback(null, { state: wireState(answer.state) });
        },
        (error: unknown) => callback(failed("OpenPartial", error)),
      );
    },
    sendPartial(
      call: ServerReadableStream<SendPartialRequest, SendPartialResponse>,
      callback: sendUnaryData<SendPartialResponse>,
    ) {
      withinTime(world.clock, receivePartial(inbox, call)).then(
        (answer) =>
          answer.ok
            ? callback(null, { state: wireState(answer.state) })
            : callback(statusError(answer)),
        (error: unknown) => callback(failed("SendPartial", error)),
      );
    },
  };
}

async function sendModel(
  { openModel, clock }: ServiceWorld,
  call: ServerWritableStream<FetchModelRequest, FetchModelResponse>,
): Promise<Verdict<object>> {
  const { model, digest, offset } = call.request;
  if (!modelIdSchema.safeParse(model).success || !digestSchema.safeParse(digest).success)
    return refuse("malformed", "model must be a model id and digest a SHA-256");
  const file = await openModel(model, digest);
  if (file === undefined) return refuse("unknown-model", `no model ${model} with that digest`);
  try {
    if (offset > BigInt(file.size))
      return refuse("bad-offset", `${model} has ${file.size} bytes, fewer than ${offset}`);
    for (let at = Number(offset); at < file.size && !call.cancelled && !call.destroyed; ) {
      const bytes = await file.read(at, wireLimits.tierChunkBytes);
      if (bytes.length === 0) throw new Error(`${model} ends at byte ${at} of ${file.size}`);
      const data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      await written(clock, call, { offset: BigInt(at), data });
      at += bytes.length;
    }
    return { ok: true };
  } finally {
    await file.close();
  }
}

/**
 * Resolves when the reader's flow control has let the whole part pass, or the call is over. The
 * stream's own mark counts parts, not bytes, and would let sixteen of them pile up.
 */
function written(
  clock: Clock,
  call: ServerWritableStream<FetchModelRequest, FetchModelResponse>,
  part: FetchModelResponse,
): Promise<void> {
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
function abandon(call: ServerWritableStream<FetchModelRequest, FetchModelResponse>): void {
  const below = call as unknown as {
    readonly call?: { readonly stream?: { close(code: number): void } };
  };
  below.call?.stream?.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
  call.destroy();
}

/** Takes chunks one at a time, so that the stream's own flow control holds the sender back. */
async function receivePartial(
  inbox: Inbox,
  call: ServerReadableStream<SendPartialRequest, SendPartialResponse>,
): Promise<InboxAnswer> {
  let sender: ReturnType<Inbox["sender"]>;
  let answer: InboxAnswer = refuse("malformed", "a stream without a message");
  for await (const message of call) {
    const { id, offset, data } = message as SendPartialRequest;
    if (sender === undefined) {
      const identity = readIdentity(id);
      if (identity === undefined)
        return refuse("malformed", "the first message must name a Partial");
      sender = inbox.sender(identity);
      if (sender === undefined) return refuse("not-granted", "open the Partial first");
    } else if (id !== undefined) return refuse("malformed", "id belongs on the first message only");
    if (offset > BigInt(Number.MAX_SAFE_INTEGER)) return refuse("malformed", "offset is too large");
    answer = await sender.write(Number(offset), data);
    if (!answer.ok) return answer;
    if (answer.state.receipt !== undefined || answer.state.refusal !== undefined) return answer;
  }
  return answer;
}

/** A sender that neither goes on nor goes away is told to come back; what it sent so far is kept. */
function withinTime(clock: Clock, receiving: Promise<InboxAnswer>): Promise<InboxAnswer> {
  return new Promise((resolve, reject) => {
    const timer = clock.setTimer(limits.sendTimeoutMs, () =>
      resolve(
        refuse("busy", `not sent within ${limits.sendTimeoutMs} ms; open it again and go on`),
      ),
    );
    receiving.then(resolve, reject).finally(() => timer.cancel());
  });
}

function readAnnouncement(
  request: OpenPartialRequest,
): Verdict<{ readonly announcement: Announcement }, "malformed"> {
  const identity = readIdentity(request.id);
  const { round, digest, totalBytes } = request;
  if (identity === undefined)
    return refuse("malformed", "id must be a gateway, an incarnation and a sequence");
  if (!roundIdSchema.safeParse(round).success)
    return refuse("malformed", "round must be a round id");
  if (!digestSchema.safeParse(digest).success)
    return refuse("malformed", "digest must be a SHA-256");
  if (totalBytes > BigInt(Number.MAX_SAFE_INTEGER))
    return refuse("malformed", "total_bytes is too large");
  return { ok: true, announcement: { identity, round, digest, totalBytes: Number(totalBytes) } };
}

function wireState({ receivedBytes, receipt, refusal }: UploadState): PartialState {
  return {
    receivedBytes: BigInt(receivedBytes),
    receipt,
    refusal: refusal && { code: refusal.code, message: refusal.message },
  };
}
