import { type ClientDuplexStream, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import { roundsOf, type Partial as Sum } from "@tributary/proto/algebra/partial.js";
import {
  type AttachRequest,
  type AttachResponse,
  type OpenPartialRequest,
  type PartialId,
  type PartialState,
  ReducerServiceClient,
  type RoundOpened,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import { cloudRound } from "@tributary/proto/wire/ids.js";
import type { Plan } from "@tributary/proto/wire/plan.js";
import { readPlan } from "../round-plan.js";
import { encodedSum, sumOf } from "./rounds.js";

type Message = NonNullable<AttachResponse["message"]>;
type Kind = Message["$case"];
type ValueOf<K extends Kind> = Extract<Message, { $case: K }>["value"];

/** A gateway for tests: the real client, with the tier behind it played by the test. */
export type TestGateway = {
  readonly id: string;
  readonly client: ReducerServiceClient;
  /** Resolves with the first message of a kind that `matches` and was not taken before. */
  next<K extends Kind>(kind: K, matches?: (value: ValueOf<K>) => boolean): Promise<ValueOf<K>>;
  send(message: NonNullable<AttachRequest["message"]>): void;
  /** Reports exactly these devices as connected. */
  devices(...devices: readonly string[]): void;
  /** Takes the next round that is offered. */
  round(): Promise<{ readonly plan: Plan; readonly opened: RoundOpened }>;
  /** Delivers a Partial as the sequence's; resolves with what the cloud says of it in the end. */
  deliver(sum: Sum, sequence: number): Promise<PartialState>;
  /** Every device of the roster contributes `samples`, a quarter in every coordinate. */
  contribute(
    round: { readonly plan: Plan; readonly opened: RoundOpened },
    sequence: number,
    how?: { readonly samples?: number; readonly metrics?: Readonly<Record<string, number>> },
  ): Promise<PartialState>;
  /** Resolves with the status that ends the stream. */
  readonly ended: Promise<ServiceError | undefined>;
  detach(): void;
  close(): void;
};

export type TestGatewayOptions = {
  readonly id: string;
  readonly site?: string;
  readonly incarnation?: string;
  readonly rounds?: string[];
  readonly protocolVersion?: number;
};

export async function attachGateway(
  port: number,
  options: TestGatewayOptions,
): Promise<TestGateway> {
  const { id, site = id, incarnation = "one", rounds = [], protocolVersion = 1 } = options;
  const client = new ReducerServiceClient(`127.0.0.1:${port}`, credentials.createInsecure());
  const stream: ClientDuplexStream<AttachRequest, AttachResponse> = client.attach();
  const queue: Message[] = [];
  const waiting: (() => void)[] = [];
  const wake = () => {
    for (const resolve of waiting.splice(0)) resolve();
  };
  let over: ServiceError | "ended" | undefined;
  stream.on("data", ({ message }: AttachResponse) => {
    if (message !== undefined) queue.push(message);
    wake();
  });
  const ended = new Promise<ServiceError | undefined>((resolve) => {
    stream.on("error", (error: ServiceError) => {
      over = error;
      wake();
      resolve(error);
    });
    stream.on("end", () => {
      over ??= "ended";
      wake();
      resolve(undefined);
    });
  });
  const send: TestGateway["send"] = (message) => {
    stream.write({ message });
  };
  const next = async <K extends Kind>(
    kind: K,
    matches: (value: ValueOf<K>) => boolean = () => true,
  ): Promise<ValueOf<K>> => {
    for (;;) {
      const at = queue.findIndex(
        (message) => message.$case === kind && matches(message.value as ValueOf<K>),
      );
      if (at >= 0) return queue.splice(at, 1)[0]?.value as ValueOf<K>;
      if (over !== undefined) throw new Error(`${id}: the stream ended before ${kind}`);
      await new Promise<void>((resolve) => waiting.push(resolve));
    }
  };
  send({
    $case: "hello",
    value: {
      protocolVersion,
      gateway: id,
      site,
      incarnation,
      softwareVersion: "test",
      rounds,
      below: [],
      nowMs: 0n,
    },
  });
  const deliver: TestGateway["deliver"] = (sum, sequence) => {
    const { bytes, digest } = encodedSum(sum);
    const partialId = { gateway: id, incarnation, sequence: BigInt(sequence) };
    return deliverBytes(client, partialId, cloudRound(roundsOf(sum).at(-1) ?? ""), bytes, digest);
  };
  return {
    id,
    client,
    next,
    send,
    devices(...devices) {
      const joined = devices.map((device) => ({
        device,
        sdk: "test",
        attributes: Buffer.alloc(0),
        site: "",
        gateway: "",
      }));
      send({ $case: "devicesChanged", value: { all: true, joined, left: [] } });
    },
    async round() {
      const opened = await next("roundOpened");
      return { plan: readPlan(opened.plan), opened };
    },
    deliver,
    contribute({ plan, opened }, sequence, { samples = 2, metrics = {} } = {}) {
      const counts = Object.fromEntries(opened.roster.map((device) => [device, samples]));
      return deliver(sumOf(plan, counts, { metrics, site }), sequence);
    },
    ended,
    detach: () => stream.cancel(),
    close() {
      stream.cancel();
      client.close();
    },
  };
}

export function openPartial(
  client: ReducerServiceClient,
  request: OpenPartialRequest,
): Promise<PartialState> {
  return new Promise((resolve, reject) => {
    client.openPartial(request, new Metadata(), (error, response) => {
      if (error) reject(error);
      else if (response.state === undefined) reject(new Error("an answer without a state"));
      else resolve(response.state);
    });
  });
}

/** Sends the bytes of chunks from `offset` in one stream; resolves with the answer. */
export function sendPartial(
  client: ReducerServiceClient,
  id: PartialId,
  offset: number,
  chunks: readonly Uint8Array[],
): Promise<PartialState> {
  return new Promise((resolve, reject) => {
    const call = client.sendPartial((error, response) => {
      if (error) reject(error);
      else if (response.state === undefined) reject(new Error("an answer without a state"));
      else resolve(response.state);
    });
    call.on("error", () => undefined); // the callback has it
    let at = offset;
    for (const [i, chunk] of chunks.entries()) {
      call.write({ id: i === 0 ? id : undefined, offset: BigInt(at), data: Buffer.from(chunk) });
      at += chunk.length;
    }
    call.end();
  });
}

export async function deliverBytes(
  client: ReducerServiceClient,
  id: PartialId,
  round: string,
  bytes: Uint8Array,
  digest: string,
): Promise<PartialState> {
  const totalBytes = BigInt(bytes.length);
  const opened = await openPartial(client, { id, round, digest, totalBytes });
  if (opened.receipt !== undefined || opened.refusal !== undefined) return opened;
  const offset = Number(opened.receivedBytes);
  return sendPartial(client, id, offset, [bytes.subarray(offset)]);
}
