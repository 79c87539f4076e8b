import {
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerReadableStream,
  type sendUnaryData,
  status,
} from "@grpc/grpc-js";
import { decodePartial } from "@tributary/proto/algebra/frame.js";
import type { Partial } from "@tributary/proto/algebra/partial.js";
import {
  type AttachRequest,
  type AttachResponse,
  type PartialState,
  type ReducerServiceServer,
  ReducerServiceService,
  type RoundProgress,
  type SendPartialRequest,
  type SendPartialResponse,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import type { Plan } from "@tributary/proto/wire/plan.js";

type Up = NonNullable<AttachRequest["message"]>;
type UpOf<C extends Up["$case"]> = Extract<Up, { $case: C }>["value"];
type Down = NonNullable<AttachResponse["message"]>;
type Spool = {
  readonly digest: string;
  readonly total: number;
  bytes: Buffer;
  done?: PartialState;
};

/** How the upstream answers a whole Partial. */
export type Answer = (partial: Partial) => Pick<PartialState, "receipt" | "refusal">;

/** An upstream that keeps the protocol and notes everything, on a real gRPC server. */
export type TestReducer = {
  readonly address: string;
  readonly port: number;
  readonly attached: boolean;
  /** Every message up, of one kind, since the start. */
  heard<C extends Up["$case"]>(kind: C): UpOf<C>[];
  lastProgress(round: string): RoundProgress | undefined;
  readonly partials: readonly Partial[];
  /** Sends to the newest attached gateway. */
  tell(message: Down): void;
  openRound(plan: Plan, roster: string[], remainingMs?: number): void;
  models: Map<string, Uint8Array>;
  /** From which offsets models were fetched. */
  readonly fetches: number[];
  /** From which offsets Partials were sent. */
  readonly sends: number[];
  answer: Answer;
  /** Breaks a model stream, or a Partial's, after so many bytes, once. */
  breakFetchAfter: number | undefined;
  breakSendAfter: number | undefined;
  /** What it tells of the way to the root: itself first. */
  path: string[];
  /** Echo heartbeats, or go silent. */
  echo: boolean;
  close(): Promise<void>;
};

const merged: Answer = () => ({
  receipt: { digest: "", outcome: "merged", rule: "" },
  refusal: undefined,
});

export async function openTestReducer(port = 0): Promise<TestReducer> {
  const heard: Up[] = [];
  const partials: Partial[] = [];
  const spools = new Map<string, Spool>();
  let stream: ServerDuplexStream<AttachRequest, AttachResponse> | undefined;
  const server = new Server({ "grpc.max_receive_message_length": 8 * 1024 * 1024 });

  const stateOf = (spool: Spool): PartialState =>
    spool.done ?? {
      receivedBytes: BigInt(spool.bytes.length),
      receipt: undefined,
      refusal: undefined,
    };
  const keyOf = (id: SendPartialRequest["id"]) =>
    `${id?.gateway} ${id?.incarnation} ${id?.sequence}`;

  function finish(spool: Spool): PartialState {
    if (spool.done !== undefined || spool.bytes.length < spool.total) return stateOf(spool);
    const decoded = decodePartial(spool.bytes);
    if (!decoded.ok || sha256(spool.bytes) !== spool.digest) throw new Error("a broken Partial");
    const { receipt, refusal } = reducer.answer(decoded.partial);
    if (receipt !== undefined) partials.push(decoded.partial);
    spool.done = {
      receivedBytes: BigInt(spool.total),
      receipt: receipt && { ...receipt, digest: spool.digest },
      refusal,
    };
    return spool.done;
  }

  async function receivePartial(
    call: ServerReadableStream<SendPartialRequest, SendPartialResponse>,
    done: sendUnaryData<SendPartialResponse>,
  ): Promise<void> {
    let spool: Spool | undefined;
    let taken = 0;
    for await (const message of call as AsyncIterable<SendPartialRequest>) {
      if (message.id !== undefined) {
        spool = spools.get(keyOf(message.id));
        reducer.sends.push(Number(message.offset));
      }
      if (spool === undefined || Number(message.offset) !== spool.bytes.length) {
        return done({ code: status.FAILED_PRECONDITION, message: "at another offset" });
      }
      spool.bytes = Buffer.concat([spool.bytes, message.data]);
      taken += message.data.length;
      if (reducer.breakSendAfter !== undefined && taken >= reducer.breakSendAfter) {
        reducer.breakSendAfter = undefined;
        return done({ code: status.UNAVAILABLE, message: "cut by the test" });
      }
    }
    if (spool === undefined) return done({ code: status.INVALID_ARGUMENT, message: "nothing" });
    done(null, { state: finish(spool) });
  }

  const service: ReducerServiceServer = {
    attach(call: ServerDuplexStream<AttachRequest, AttachResponse>) {
      call.on("data", ({ message }: AttachRequest) => {
        if (message === undefined) return;
        heard.push(message);
        if (message.$case === "hello") {
          stream = call;
          const value = {
            protocolVersion: 1,
            upstream: "test",
            heartbeatIntervalMs: 250,
            path: [...reducer.path],
            nowMs: 0n,
          };
          call.write({ message: { $case: "welcome", value } });
        }
        if (message.$case === "heartbeat" && reducer.echo) {
          const { sequence } = message.value;
          call.write({ message: { $case: "heartbeatEcho", value: { sequence } } });
        }
      });
      call.on("error", () => {});
      call.on("end", () => call.end());
      call.on("close", () => {
        if (stream === call) stream = undefined;
      });
      call.on("cancelled", () => {
        if (stream === call) stream = undefined;
      });
    },
    fetchModel(call) {
      const bytes = reducer.models.get(call.request.model);
      if (bytes === undefined) {
        call.emit("error", { code: status.NOT_FOUND, message: "no such model" });
        return;
      }
      const start = Number(call.request.offset);
      reducer.fetches.push(start);
      // Pieces that do not fall on the manifest's chunks.
      for (let at = start; at < bytes.length; at += 700) {
        if (reducer.breakFetchAfter !== undefined && at - start >= reducer.breakFetchAfter) {
          reducer.breakFetchAfter = undefined;
          call.emit("error", { code: status.UNAVAILABLE, message: "cut by the test" });
          return;
        }
        call.write({ offset: BigInt(at), data: Buffer.from(bytes.subarray(at, at + 700)) });
      }
      call.end();
    },
    enrol(_call, done) {
      done({ code: status.UNIMPLEMENTED, message: "no authority here" });
    },
    answerChallenge(_call, done) {
      done(null, { taken: 0 });
    },
    openPartial({ request }, done) {
      const key = keyOf(request.id);
      const { digest } = request;
      const total = Number(request.totalBytes);
      const spool = spools.get(key) ?? { digest, total, bytes: Buffer.alloc(0) };
      spools.set(key, spool);
      done(null, { state: finish(spool) });
    },
    sendPartial(call, done) {
      receivePartial(call, done).catch(() => {});
    },
  };
  server.addService(ReducerServiceService, service);
  const bound = await new Promise<number>((resolve, reject) => {
    server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error, at) =>
      error ? reject(error) : resolve(at),
    );
  });

  const reducer: TestReducer = {
    address: `127.0.0.1:${bound}`,
    port: bound,
    get attached() {
      return stream !== undefined;
    },
    heard: <C extends Up["$case"]>(kind: C) =>
      heard.filter((m) => m.$case === kind).map((m) => m.value as UpOf<C>),
    lastProgress: (round) =>
      reducer
        .heard("roundProgress")
        .filter((p) => p.round === round)
        .at(-1),
    partials,
    tell(message) {
      if (stream === undefined) throw new Error("no gateway is attached");
      stream.write({ message });
    },
    openRound(plan, roster, remainingMs = plan.siteDeadlineMs) {
      const value = { plan: Buffer.from(encodeCbor(plan)), remainingMs, roster };
      reducer.tell({ $case: "roundOpened", value });
    },
    models: new Map(),
    fetches: [],
    sends: [],
    answer: merged,
    breakFetchAfter: undefined,
    breakSendAfter: undefined,
    path: ["cloud"],
    echo: true,
    close: async () => server.forceShutdown(),
  };
  return reducer;
}
