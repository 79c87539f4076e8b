import assert from "node:assert/strict";
import { after, test } from "node:test";
import { type Client, credentials, makeGenericClientConstructor, status } from "@grpc/grpc-js";
import type { Partial as Sum } from "@tributary/proto/algebra/partial.js";
import {
  type FetchModelRequest,
  type FetchModelResponse,
  ReducerServiceClient,
  ReducerServiceService,
} from "@tributary/proto/gen/tributary/v1/reducer.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { CODE_KEY } from "@tributary/proto/tier/grpc-status.js";
import { limits as wireLimits } from "@tributary/proto/wire/limits.js";
import { paramsOf } from "./testing/cloud.js";
import {
  attachGateway,
  deliverBytes,
  openPartial,
  sendPartial,
  type TestGateway,
  type TestGatewayOptions,
} from "./testing/gateway.js";
import { encodedSum, modelBytes, sumOf } from "./testing/rounds.js";
import { sharedCloud } from "./testing/shared-cloud.js";

const cloud = await sharedCloud();
const client = new ReducerServiceClient(
  `127.0.0.1:${cloud.grpcPort}`,
  credentials.createInsecure(),
);
const gateways: TestGateway[] = [];
after(() => {
  client.close();
  for (const gateway of gateways) gateway.close();
});

async function attach(options: TestGatewayOptions): Promise<TestGateway> {
  const gateway = await attachGateway(cloud.grpcPort, options);
  gateways.push(gateway);
  return gateway;
}

/** A session of its own with one open round at one gateway. */
async function openSession(name: string, over: Parameters<typeof paramsOf>[0] = {}) {
  const gateway = await attach({ id: `gw-${name}` });
  await gateway.next("welcome");
  gateway.devices(`${name}-a`, `${name}-b`);
  await cloud.event((e) => e.name === "devices-changed" && e.gateway === gateway.id);
  const started = await cloud.sessions.start(paramsOf({ name, rounds: 5, ...over }));
  assert.ok(started.ok, JSON.stringify(started));
  const round = await nextRound(gateway, name);
  const stop = async () => {
    await cloud.sessions.stop(name);
    gateway.detach();
  };
  return { gateway, round, stop };
}

/** Other sessions of this file open rounds at the gateway too. */
async function nextRound(gateway: TestGateway, session: string) {
  for (;;) {
    const round = await gateway.round();
    if (round.plan.session === session) return round;
  }
}

async function fails(call: Promise<unknown>): Promise<{ status: number; code: unknown }> {
  try {
    await call;
  } catch (error) {
    const failed = error as { code: number; metadata: { get(key: string): unknown[] } };
    return { status: failed.code, code: failed.metadata.get(CODE_KEY)[0] };
  }
  throw new Error("the call succeeded");
}

function fetchModel(request: FetchModelRequest): Promise<FetchModelResponse[]> {
  return new Promise((resolve, reject) => {
    const parts: FetchModelResponse[] = [];
    const call = client.fetchModel(request);
    call.on("data", (part: FetchModelResponse) => parts.push(part));
    call.on("error", reject);
    call.on("end", () => resolve(parts));
  });
}

const joined = (parts: readonly FetchModelResponse[]) => Buffer.concat(parts.map((p) => p.data));

// --- FetchModel -----------------------------------------------------------------------------

test("a model is fetched whole, and from an offset", async () => {
  const request = { model: "s.0", digest: sha256(modelBytes), offset: 0n };
  assert.deepEqual(new Uint8Array(joined(await fetchModel(request))), modelBytes);
  const rest = await fetchModel({ ...request, offset: 50n });
  assert.equal(rest[0]?.offset, 50n);
  assert.deepEqual(new Uint8Array(joined(rest)), modelBytes.subarray(50));
  assert.deepEqual(await fetchModel({ ...request, offset: BigInt(modelBytes.length) }), []);
});

test("a fetch of what is not there, or past its end, has its own code", async () => {
  const good = { model: "s.0", digest: sha256(modelBytes), offset: 0n };
  const cases: [Partial<FetchModelRequest>, number, string][] = [
    [{ model: "s.77" }, status.NOT_FOUND, "unknown-model"],
    [{ digest: "0".repeat(64) }, status.NOT_FOUND, "unknown-model"],
    [{ model: "../../etc" }, status.INVALID_ARGUMENT, "malformed"],
    [{ digest: "xyz" }, status.INVALID_ARGUMENT, "malformed"],
    [{ offset: BigInt(modelBytes.length) + 1n }, status.OUT_OF_RANGE, "bad-offset"],
    [{ offset: 2n ** 63n }, status.OUT_OF_RANGE, "bad-offset"],
  ];
  for (const [change, code, name] of cases)
    assert.deepEqual(await fails(fetchModel({ ...good, ...change })), { status: code, code: name });
});

// --- Partials -------------------------------------------------------------------------------

const id = (gateway: string, sequence: bigint) => ({ gateway, incarnation: "one", sequence });

test("a malformed announcement is refused", async () => {
  const good = { id: id("g", 1n), round: "s.1", digest: "0".repeat(64), totalBytes: 10n };
  for (const change of [
    { id: undefined },
    { id: id("not an id", 1n) },
    { id: id("g", 2n ** 60n) },
    { round: "nonsense" },
    { digest: "nonsense" },
    { totalBytes: 2n ** 60n },
  ])
    assert.deepEqual(await fails(openPartial(client, { ...good, ...change })), {
      status: status.INVALID_ARGUMENT,
      code: "malformed",
    });
  const unknown = await openPartial(client, { ...good, round: "nobody.1" });
  assert.equal(unknown.refusal?.code, "unknown-round");
});

test("bytes without an announcement, or without an identity, are refused", async () => {
  const unopened = sendPartial(client, id("g", 5n), 0, [Buffer.from("x")]);
  assert.deepEqual(await fails(unopened), { status: status.ABORTED, code: "not-granted" });
  const nameless = sendPartial(client, undefined as never, 0, [Buffer.from("x")]);
  assert.deepEqual(await fails(nameless), { status: status.INVALID_ARGUMENT, code: "malformed" });
});

test("a Partial cut off in mid-stream resumes; repeated, it gets its receipt again", async () => {
  const { gateway, round, stop } = await openSession("cut");
  const sum = sumOf(round.plan, { "cut-a": 2 });
  const { bytes, digest } = encodedSum(sum);
  const announcement = {
    id: id(gateway.id, 1n),
    round: round.plan.round,
    digest,
    totalBytes: BigInt(bytes.length),
  };
  await openPartial(client, announcement);
  const part = await sendPartial(client, announcement.id, 0, [
    bytes.subarray(0, 30),
    bytes.subarray(30, 60),
  ]);
  assert.equal(part.receivedBytes, 60n);
  assert.equal((await openPartial(client, announcement)).receivedBytes, 60n);
  const whole = await sendPartial(client, announcement.id, 60, [bytes.subarray(60)]);
  assert.deepEqual(whole.receipt, { digest, outcome: "merged", rule: "" });
  const again = await openPartial(client, announcement);
  assert.deepEqual(again.receipt, whole.receipt);
  const other = await openPartial(client, { ...announcement, digest: "0".repeat(64) });
  assert.equal(other.refusal?.code, "partial-conflict");
  await stop();
});

test("a chunk at another offset than the next one is refused", async () => {
  const { gateway, round, stop } = await openSession("order");
  const { bytes, digest } = encodedSum(sumOf(round.plan, { "order-a": 2 }));
  const partial = id(gateway.id, 1n);
  await openPartial(client, {
    id: partial,
    round: round.plan.round,
    digest,
    totalBytes: BigInt(bytes.length),
  });
  assert.deepEqual(await fails(sendPartial(client, partial, 8, [bytes.subarray(8)])), {
    status: status.OUT_OF_RANGE,
    code: "chunk-out-of-order",
  });
  await stop();
});

test("Partials that may not count are refused for good and change nothing", async () => {
  const { gateway, round, stop } = await openSession("strict");
  const good = sumOf(round.plan, { "strict-a": 2 });
  const by = { round: round.plan.round, updates: 1 };
  const cases: [Partial<Sum>, string][] = [
    [{ contributors: [{ ...by, device: "stranger", samples: 2 }] }, "not-in-roster"],
    [{ base: "s.9" }, "base-mismatch"],
    [{ grid: { fractionBits: [9, 9], range: 1 } }, "grid-mismatch"],
    [{ weight: 3n }, "partial-malformed"],
    [{ sum: new BigInt64Array(3).fill(2n ** 62n) }, "partial-malformed"],
    [
      { contributors: [{ ...by, device: "strict-a", samples: 101 }], weight: 101n },
      "bad-sample-count",
    ],
  ];
  let sequence = 10;
  for (const [change, code] of cases) {
    const state = await gateway.deliver({ ...good, ...change }, sequence);
    assert.equal(state.refusal?.code, code);
    assert.equal((await gateway.deliver({ ...good, ...change }, sequence)).refusal?.code, code);
    sequence++;
  }
  const stranger = await attach({ id: "gw-stranger" });
  await stranger.next("welcome");
  assert.equal((await stranger.deliver(good, 1)).refusal?.code, "not-in-roster");
  const view = cloud.sessions.status("strict");
  assert.equal(view?.round?.arrived, 0);
  const accepted = await gateway.deliver(good, 1);
  assert.equal(accepted.receipt?.outcome, "merged");
  await stop();
});

test("junk of every length is refused as no Partial", async () => {
  const { gateway, round, stop } = await openSession("junk");
  const { bytes } = encodedSum(sumOf(round.plan, { "junk-a": 2 }));
  for (const [sequence, of] of [
    Buffer.from([0]),
    Buffer.alloc(64, 0xff),
    bytes.subarray(0, bytes.length - 1),
    Buffer.concat([bytes, Buffer.alloc(8)]),
  ].entries()) {
    const partial = id(gateway.id, BigInt(sequence));
    const state = await deliverBytes(client, partial, round.plan.round, of, sha256(of));
    assert.equal(state.refusal?.code, "partial-malformed");
  }
  await stop();
});

test("a message past the bound ends its call, and no other", async () => {
  const { gateway, stop } = await openSession("huge");
  const huge = [Buffer.alloc(wireLimits.grpcMessageBytes + 1)];
  const failed = await fails(sendPartial(client, id(gateway.id, 1n), 0, huge));
  assert.equal(failed.status, status.RESOURCE_EXHAUSTED);
  gateway.send({ $case: "heartbeat", value: heartbeat(1n) });
  assert.equal((await gateway.next("heartbeatEcho")).sequence, 1n);
  await stop();
});

function heartbeat(sequence: bigint) {
  return {
    sequence,
    connectedDevices: 0,
    outboxPartials: 0,
    outboxBytes: 0n,
    oldestAgeMs: 0n,
    freeDiskBytes: 0n,
    refusals: {},
    duplicatesDropped: 0n,
    budgetBytes: 0n,
    classes: [],
    roundTripMs: 0,
    clockOffsetMs: 0n,
  };
}

test("bytes that are no protobuf end their call with a status; the cloud goes on", async () => {
  const raw = (value: Buffer) => value;
  const method = { ...ReducerServiceService.openPartial, requestSerialize: raw };
  const Raw = makeGenericClientConstructor({ openPartial: method } as never, "raw");
  const opened: Client = new Raw(`127.0.0.1:${cloud.grpcPort}`, credentials.createInsecure());
  const junk = opened as Client & {
    openPartial(bytes: Buffer, callback: (error: { code: number } | null) => void): void;
  };
  for (const bytes of [Buffer.from([0xff, 0xff, 0xff]), Buffer.alloc(1000, 0x0a)]) {
    const error = await new Promise<{ code: number } | null>((resolve) =>
      junk.openPartial(bytes, resolve),
    );
    assert.ok(error !== null && error.code !== status.OK);
  }
  junk.close();
  const alive = await openPartial(client, {
    id: id("g", 1n),
    round: "nobody.1",
    digest: "0".repeat(64),
    totalBytes: 1n,
  });
  assert.equal(alive.refusal?.code, "unknown-round");
});
