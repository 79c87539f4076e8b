import { limits as gatewayLimits } from "@tributary/gateway/limits.js";
import type { AttachCall, Upstream } from "@tributary/gateway/upstream.js";
import {
  AttachRequest,
  AttachResponse,
  FetchModelRequest,
  FetchModelResponse,
  OpenPartialRequest,
  OpenPartialResponse,
  type PartialState,
  SendPartialRequest,
  SendPartialResponse,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import type { Clock, Timer } from "@tributary/proto/host/clock.js";
import type { Random } from "@tributary/proto/host/random.js";
import type { ControlStream } from "@tributary/proto/tier/attach.js";
import type { GrpcServer } from "@tributary/proto/tier/grpc-server.js";
import type { Service } from "@tributary/proto/tier/service.js";
import { isCode, isRetryable } from "@tributary/proto/wire/codes.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import type { Refusal } from "@tributary/proto/wire/verdict.js";
import { type Credit, createCredit } from "./credit.js";
import { createInflow, type Inflow } from "./inflow.js";
import type { Network, Wire } from "./network.js";
import type { Life } from "./node.js";

/**
 * The tier link as gRPC gives it: each call is a stream of its own, in order in itself and in no
 * order with the others; a broken connection fails its calls, and nothing says what of them arrived.
 * Messages travel encoded. Bytes travel in pieces of any size, as a slow link cuts them, and no faster
 * than whoever reads them takes them.
 */

const PORT = "tier";
/** Which call a stream is, as its first byte says; then how a stream goes on. */
const calls = { attach: 1, open: 2, send: 3, fetch: 4 } as const;
const marks = { message: 1, end: 2, failed: 3, taken: 4 } as const;
/** gRPC notices a silent link within its keepalive's interval and timeout. */
const keepaliveMs = (wireLimits.keepaliveIntervalMs + wireLimits.keepaliveTimeoutMs) / 1.5;
/** Messages under way above which a stream wants `drain`, and bytes are held back. */
const HIGH_WATER = 16;

const none = new Uint8Array(0);
const text = new TextEncoder();
const words = new TextDecoder();

function marked(mark: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(1 + body.length);
  bytes[0] = mark;
  bytes.set(body, 1);
  return bytes;
}

/** Whether a message passes a link's bound. */
function fits(message: Uint8Array): boolean {
  return message.length <= wireLimits.grpcMessageBytes;
}

const TOO_LARGE = "a message is past its bound";

function linkFailed(call: string, why: string): TributaryError {
  return new TributaryError("link-failed", `${call}: ${why}`, { retryable: true });
}

/** Serves the tier link at a machine, in place of a gRPC server. */
export function serveTier(
  network: Network,
  life: Life,
  random: Random,
): (service: Service) => Promise<GrpcServer> {
  return async (service) => {
    const live = new Set<Wire>();
    const stop = network.listen(life, PORT, (wire) => {
      live.add(wire);
      let inflow: Inflow<Uint8Array> | undefined;
      let stream: ServerStream | undefined;
      let credit: Credit | undefined;
      return {
        onMessage(bytes) {
          const body = bytes.slice(1);
          if (credit !== undefined) return credit.taken();
          if (stream !== undefined) return stream.take(bytes[0] as number, body);
          if (inflow !== undefined) {
            if (bytes[0] === marks.end) inflow.end();
            else inflow.push(body);
            return;
          }
          if (bytes[0] === calls.attach) {
            stream = serverStream(wire);
            service.attach(stream.control);
          } else if (bytes[0] === calls.open) answerOpen(service, wire, body);
          else if (bytes[0] === calls.fetch) {
            credit = createCredit(HIGH_WATER);
            answerFetch(service, wire, credit, body, random);
          } else {
            inflow = createInflow();
            inflow.push(body);
            answerSend(service, wire, inflow);
          }
        },
        onClose() {
          live.delete(wire);
          // What came is whole so far; who reads it cannot tell a break from an end.
          inflow?.end();
          stream?.over();
          credit?.over();
        },
      };
    });
    return {
      port: 1,
      async close() {
        stop();
        for (const wire of live) wire.close();
      },
    };
  };
}

type ServerStream = {
  readonly control: ControlStream;
  take(mark: number, body: Uint8Array): void;
  over(): void;
};

function serverStream(wire: Wire): ServerStream {
  const listeners = newListeners();
  let draining = false;
  const sent = () => {
    if (!draining || wire.unsent > 0) return;
    draining = false;
    listeners.emit("drain");
  };
  return {
    control: {
      write(message) {
        wire.send(marked(marks.message, AttachResponse.encode(message).finish()), sent);
        draining ||= wire.unsent > HIGH_WATER;
        return !draining;
      },
      end() {
        wire.send(marked(marks.end, none));
      },
      fail(refusal) {
        wire.send(marked(marks.failed, text.encode(textOf(refusal))));
        wire.close();
      },
      on: listeners.on,
    },
    take(mark, body) {
      if (mark === marks.message) listeners.emit("data", AttachRequest.decode(body));
    },
    over() {
      listeners.emit("cancelled");
      listeners.emit("close");
    },
  };
}

function newListeners() {
  const listeners = new Map<string, ((value: never) => void)[]>();
  return {
    on(event: string, listener: (value: never) => void) {
      listeners.set(event, [...(listeners.get(event) ?? []), listener]);
    },
    emit(event: string, value?: unknown) {
      for (const listener of listeners.get(event) ?? []) listener(value as never);
    },
  };
}

function finish(wire: Wire, body: Uint8Array): void {
  wire.send(marked(marks.message, body));
  wire.send(marked(marks.end, none));
}

/** A refusal as it travels, with its code in front. */
function textOf({ code, message }: Refusal): string {
  return `${code}: ${message}`;
}

function refuse(wire: Wire, why: Refusal | undefined): void {
  const message = why === undefined ? "this side failed; its log says more" : textOf(why);
  wire.send(marked(marks.failed, text.encode(message)));
}

/** The error that ends a control stream, with the code that it was refused with. */
function refusedWith(reason: string): Error {
  const [code = "", ...rest] = reason.split(": ");
  if (!isCode(code)) return new Error(reason);
  return new TributaryError(code, rest.join(": "), { retryable: isRetryable(code) });
}

function answerOpen(service: Service, wire: Wire, body: Uint8Array): void {
  service.openPartial(OpenPartialRequest.decode(body)).then(
    (answer) =>
      answer.ok
        ? finish(wire, OpenPartialResponse.encode({ state: answer.state }).finish())
        : refuse(wire, answer),
    () => refuse(wire, undefined),
  );
}

function answerSend(service: Service, wire: Wire, inflow: Inflow<Uint8Array>): void {
  async function* messages() {
    for await (const bytes of inflow) {
      yield SendPartialRequest.decode(bytes);
      wire.send(marked(marks.taken, none));
    }
  }
  service.sendPartial(messages()).then(
    (answer) =>
      answer.ok
        ? finish(wire, SendPartialResponse.encode({ state: answer.state }).finish())
        : refuse(wire, answer),
    () => refuse(wire, undefined),
  );
}

function answerFetch(
  service: Service,
  wire: Wire,
  credit: Credit,
  body: Uint8Array,
  random: Random,
): void {
  const run = async () => {
    const opened = await service.fetchModel(FetchModelRequest.decode(body));
    if (!opened.ok) return refuse(wire, opened);
    for await (const { offset, data } of opened.parts) {
      for (const piece of pieces(data, random)) {
        await credit.room();
        if (!wire.open) return;
        const part = { offset: offset + BigInt(piece.at), data: Buffer.from(piece.bytes) };
        const message = FetchModelResponse.encode(part).finish();
        if (!fits(message)) throw new Error(TOO_LARGE);
        credit.sent();
        await passed(wire, marked(marks.message, message));
      }
    }
    wire.send(marked(marks.end, none));
  };
  run().catch(() => refuse(wire, undefined));
}

/** Resolves when the message has left the wire, or the wire is over. */
function passed(wire: Wire, message: Uint8Array): Promise<void> {
  return new Promise((resolve) => wire.send(message, resolve));
}

/** Cuts bytes in up to four pieces. */
function pieces(bytes: Uint8Array, random: Random): { at: number; bytes: Uint8Array }[] {
  const cuts = new Set([0]);
  for (let i = Math.floor(random.next() * 4); i > 0; i--)
    cuts.add(Math.floor(random.next() * bytes.length));
  const starts = [...cuts].sort((a, b) => a - b);
  return starts.map((at, i) => ({ at, bytes: bytes.subarray(at, starts[i + 1]) }));
}

/** A gateway's calls to what is above it, in place of the gRPC client. */
export function simulatedUpstream(
  network: Network,
  life: Life,
  to: string,
  clock: Clock,
  random: Random,
): Upstream {
  const dial = (ends: Parameters<Network["dial"]>[4]) =>
    network.dial(life, to, PORT, keepaliveMs, ends);
  return {
    attach: () => attachCall(dial),
    async openPartial(request) {
      const call = clientCall(dial, "OpenPartial", clock, gatewayLimits.callTimeoutMs);
      call.wire.send(marked(calls.open, OpenPartialRequest.encode(request).finish()));
      return stateOf(OpenPartialResponse.decode(await call.only()).state);
    },
    async sendPartial(id, offset, chunks) {
      const call = clientCall(dial, "SendPartial", clock, gatewayLimits.stallTimeoutMs);
      let at = offset;
      let first = true;
      try {
        for await (const data of chunks) {
          for (const piece of pieces(data, random)) {
            await call.credit.room();
            if (!call.wire.open || call.answered()) break;
            const request = {
              id: first ? id : undefined,
              offset: BigInt(at),
              data: Buffer.from(piece.bytes),
            };
            const body = SendPartialRequest.encode(request).finish();
            at += piece.bytes.length;
            if (!fits(body)) throw linkFailed("SendPartial", TOO_LARGE);
            call.credit.sent();
            await passed(call.wire, marked(first ? calls.send : marks.message, body));
            first = false;
            call.moved();
          }
          if (call.answered()) break;
        }
        call.wire.send(marked(marks.end, none));
        return stateOf(SendPartialResponse.decode(await call.only()).state);
      } finally {
        call.over();
      }
    },
    async *fetchModel(request) {
      const call = clientCall(dial, "FetchModel", clock, gatewayLimits.stallTimeoutMs);
      call.wire.send(marked(calls.fetch, FetchModelRequest.encode(request).finish()));
      try {
        for await (const body of call.inflow) {
          call.moved();
          yield FetchModelResponse.decode(body);
          call.wire.send(marked(marks.taken, none));
        }
      } finally {
        call.over();
      }
    },
    close() {},
  };
}

function stateOf(state: PartialState | undefined): PartialState {
  return state ?? { receivedBytes: 0n, receipt: undefined, refusal: undefined };
}

type Dial = (ends: Parameters<Network["dial"]>[4]) => Wire;

/** A call with an answer, given up when nothing moves for `patienceMs`. */
function clientCall(dial: Dial, name: string, clock: Clock, patienceMs: number) {
  const inflow = createInflow<Uint8Array>();
  const credit = createCredit(HIGH_WATER);
  let answered = false;
  const end = (error?: Error) => {
    answered = true;
    credit.over();
    timer?.cancel();
    wire.close();
    if (error === undefined) inflow.end();
    else inflow.fail(error);
  };
  const wire = dial({
    onMessage(bytes) {
      const body = bytes.slice(1);
      if (bytes[0] === marks.message) inflow.push(body);
      else if (bytes[0] === marks.taken) credit.taken();
      else if (bytes[0] === marks.end) end();
      else end(linkFailed(name, words.decode(body)));
    },
    onClose: (reason) => end(linkFailed(name, reason)),
  });
  let timer: Timer | undefined;
  const moved = () => {
    timer?.cancel();
    if (!answered) timer = clock.setTimer(patienceMs, () => end(linkFailed(name, "nothing moved")));
  };
  moved();
  return {
    wire,
    inflow,
    credit,
    moved,
    answered: () => answered,
    over: () => end(),
    async only(): Promise<Uint8Array> {
      for await (const body of inflow) return body;
      throw linkFailed(name, "no answer");
    },
  };
}

function attachCall(dial: Dial): AttachCall {
  const listeners = newListeners();
  let draining = false;
  const wire = dial({
    onMessage(bytes) {
      const body = bytes.slice(1);
      if (bytes[0] === marks.message) listeners.emit("data", AttachResponse.decode(body));
      else if (bytes[0] === marks.end) listeners.emit("end");
      else listeners.emit("error", refusedWith(words.decode(body)));
    },
    onClose: (reason) => listeners.emit("error", new Error(reason)),
  });
  let begun = false;
  return {
    write(message) {
      const sent = () => {
        if (!draining || wire.unsent > 0) return;
        draining = false;
        listeners.emit("drain");
      };
      if (!begun) wire.send(marked(calls.attach, none));
      begun = true;
      const bytes = AttachRequest.encode(message).finish();
      if (!fits(bytes)) {
        wire.close();
        listeners.emit("error", new Error(TOO_LARGE));
        return false;
      }
      wire.send(marked(marks.message, bytes), sent);
      draining ||= wire.unsent > HIGH_WATER;
      return !draining;
    },
    on: listeners.on,
    cancel: () => wire.close(),
  };
}
