import assert from "node:assert/strict";
import { after, test } from "node:test";
import { credentials, status } from "@grpc/grpc-js";
import { ReducerServiceClient } from "@tributary/proto/gen/tributary/v1/reducer.js";
import { CODE_KEY } from "@tributary/proto/tier/grpc-status.js";
import { limits } from "@tributary/proto/tier/limits.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import { attachGateway, type TestGateway, type TestGatewayOptions } from "./testing/gateway.js";
import { sharedCloud } from "./testing/shared-cloud.js";

const cloud = await sharedCloud();
const gateways: TestGateway[] = [];
after(() => {
  for (const gateway of gateways) gateway.close();
});

async function attach(options: TestGatewayOptions): Promise<TestGateway> {
  const gateway = await attachGateway(cloud.grpcPort, options);
  gateways.push(gateway);
  return gateway;
}

test("Hello is answered by Welcome, a heartbeat by its echo", async () => {
  const gateway = await attach({ id: "greeted" });
  const welcome = await gateway.next("welcome");
  assert.equal(welcome.protocolVersion, 1);
  assert.ok(welcome.heartbeatIntervalMs > 0);
  gateway.send({
    $case: "heartbeat",
    value: {
      sequence: 7n,
      connectedDevices: 1,
      outboxPartials: 0,
      outboxBytes: 2n ** 60n,
      oldestAgeMs: 0n,
      freeDiskBytes: 0n,
      refusals: { busy: 3n, "made-up": 1n },
      duplicatesDropped: 4n,
      budgetBytes: 0n,
      classes: [],
      roundTripMs: 0,
      clockOffsetMs: 0n,
    },
  });
  assert.equal((await gateway.next("heartbeatEcho")).sequence, 7n);
});

const badHellos: Record<string, [Partial<TestGatewayOptions>, number, string]> = {
  "an unknown protocol version": [
    { protocolVersion: 99 },
    status.FAILED_PRECONDITION,
    "protocol-version",
  ],
  "a gateway id that is none": [{ id: "no id" }, status.INVALID_ARGUMENT, "malformed"],
  "a site that is none": [{ site: "../x" }, status.INVALID_ARGUMENT, "malformed"],
  "rounds that are none": [{ rounds: ["nonsense"] }, status.INVALID_ARGUMENT, "malformed"],
  "too many rounds": [
    { rounds: new Array<string>(limits.helloRounds + 1).fill("s.1") },
    status.INVALID_ARGUMENT,
    "malformed",
  ],
};
for (const [what, [options, code, name]] of Object.entries(badHellos))
  test(`a Hello with ${what} ends the stream with ${name}`, async () => {
    const gateway = await attach({ id: "bad", ...options });
    const ended = await gateway.ended;
    assert.equal(ended?.code, code);
    assert.equal(ended?.metadata.get(CODE_KEY)[0], name);
    assert.ok((await rowsOf("bad")).length === 0, "it leaves no trace");
  });

async function rowsOf(id: string) {
  const { items } = await cloud.store.listGateways({ limit: 100 });
  return items.filter((row) => row.id === id);
}

test("a stream that does not begin with Hello, or says it twice, is ended", async () => {
  const client = new ReducerServiceClient(
    `127.0.0.1:${cloud.grpcPort}`,
    credentials.createInsecure(),
  );
  const silent = client.attach();
  const error = new Promise<{ code: number }>((resolve) => silent.on("error", resolve));
  silent.write({ message: { $case: "heartbeatEcho", value: { sequence: 1n } } as never });
  silent.write({
    message: {
      $case: "roundProgress",
      value: { round: "s.1", offered: 0, folded: 0, declined: 0, sealed: false },
    },
  });
  assert.equal((await error).code, status.INVALID_ARGUMENT);
  client.close();

  const gateway = await attach({ id: "twice" });
  await gateway.next("welcome");
  const hello = {
    protocolVersion: 1,
    gateway: "twice",
    site: "x",
    incarnation: "i",
    softwareVersion: "",
    rounds: [],
    below: [],
    nowMs: 0n,
  };
  gateway.send({ $case: "hello", value: hello });
  assert.equal((await gateway.ended)?.code, status.INVALID_ARGUMENT);
});

const badReports: Record<string, Parameters<TestGateway["send"]>[0]> = {
  "too many devices": {
    $case: "devicesChanged",
    value: {
      all: true,
      joined: [],
      left: Array.from({ length: limits.devicesPerMessage + 1 }, (_, i) => `d${i}`),
    },
  },
  "a device id that is none": {
    $case: "devicesChanged",
    value: {
      all: true,
      joined: [{ device: "a/b", sdk: "", attributes: Buffer.alloc(0), site: "", gateway: "" }],
      left: [],
    },
  },
  "attributes that are no CBOR": {
    $case: "devicesChanged",
    value: {
      all: true,
      joined: [{ device: "a", sdk: "", attributes: Buffer.of(0xff), site: "", gateway: "" }],
      left: [],
    },
  },
  "attributes of a wrong type": {
    $case: "devicesChanged",
    value: {
      all: true,
      joined: [
        {
          device: "a",
          sdk: "",
          attributes: Buffer.from(encodeCbor({ a: [1] })),
          site: "",
          gateway: "",
        },
      ],
      left: [],
    },
  },
};
for (const [what, message] of Object.entries(badReports))
  test(`a report with ${what} ends the stream and changes nothing`, async () => {
    const gateway = await attach({ id: "reporter" });
    await gateway.next("welcome");
    gateway.send(message);
    assert.equal((await gateway.ended)?.metadata.get(CODE_KEY)[0], "malformed");
  });

test("of two streams of one gateway the newest lives", async () => {
  const older = await attach({ id: "double" });
  await older.next("welcome");
  const newer = await attach({ id: "double" });
  await newer.next("welcome");
  const ended = await older.ended;
  assert.equal(ended?.code, status.ABORTED);
  assert.equal(ended?.metadata.get(CODE_KEY)[0], "id-in-use");
  const detached = cloud.events.filter(
    (e) => e.name === "gateway-detached" && e.gateway === "double",
  );
  assert.equal(detached.length, 0, "the older stream's end does not detach the gateway");
});
