import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { connect, constants } from "node:http2";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import { FetchModelRequest, type FetchModelResponse } from "../gen/tributary/v1/reducer.js";
import { createManualClock } from "../host/clock.js";
import { limits as wireLimits } from "../wire/limits.js";
import { listenGrpc } from "./grpc-server.js";
import { grpcService } from "./grpc-service.js";
import { limits } from "./limits.js";
import { createService, type ServiceWorld } from "./service.js";

const CHUNKS = 40;
const size = CHUNKS * wireLimits.tierChunkBytes;

/** A reader that takes nothing until it is told to. */
class SlowCall extends EventEmitter {
  readonly request = { model: "s.0", digest: "0".repeat(64), offset: 0n };
  readonly written: FetchModelResponse[] = [];
  cancelled = false;
  destroyed = false;
  ended = false;

  take: () => void = () => {};

  write(part: FetchModelResponse, taken: () => void): boolean {
    this.written.push(part);
    this.take = taken;
    return true;
  }

  end(): void {
    this.ended = true;
    this.emit("close");
  }

  destroy(): void {
    this.destroyed = true;
    this.emit("close");
  }

  cancel(): void {
    this.cancelled = true;
    this.emit("cancelled");
    this.destroy();
  }
}

function setup() {
  let reads = 0;
  let open = 0;
  const clock = createManualClock();
  const world: Partial<ServiceWorld> = {
    clock,
    async openModel() {
      open++;
      return {
        size,
        async read(_offset, length) {
          reads++;
          return new Uint8Array(length);
        },
        async close() {
          open--;
        },
      };
    },
    events: () => {},
  };
  const core = createService(world as ServiceWorld);
  const service = grpcService(core, clock, () => {});
  const fetch = (call: SlowCall) => {
    // The real call has more; the service uses this much of it.
    service.fetchModel(call as unknown as Parameters<typeof service.fetchModel>[0]);
  };
  return { core, clock, fetch, reads: () => reads, open: () => open };
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise<void>((resolve) => setImmediate(resolve));
}

async function turns(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}

test("a model is read no faster than its reader takes it", async () => {
  const { fetch, reads, open } = setup();
  const call = new SlowCall();
  fetch(call);
  for (let taken = 1; taken <= CHUNKS; taken++) {
    await until(() => call.written.length === taken);
    await turns();
    assert.equal(reads(), taken, "one chunk is on its way, none is read ahead");
    call.take();
  }
  await until(() => call.ended);
  assert.equal(open(), 0);
});

test("a reader that goes away in mid-file leaves no file open and no listener", async () => {
  const { fetch, reads, open } = setup();
  const call = new SlowCall();
  fetch(call);
  await until(() => call.written.length === 1);
  call.cancel();
  await until(() => open() === 0);
  assert.equal(reads(), 1);
  assert.equal(call.listenerCount("cancelled"), 0);
});

test("a reader that stalls holds one chunk and is cut off in time", async () => {
  const { core, clock, reads, open } = setup();
  const grpc = await listenGrpc(core, { host: "127.0.0.1", port: 0 }, clock, () => {});
  const connection = connect(`http://127.0.0.1:${grpc.port}`);
  const request = FetchModelRequest.encode({ model: "s.0", digest: "0".repeat(64), offset: 0n });
  const message = request.finish();
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  const stalled = connection.request({
    ":method": "POST",
    ":path": "/tributary.v1.ReducerService/FetchModel",
    "content-type": "application/grpc",
    te: "trailers",
  });
  const reset = new Promise<number>((resolve) => {
    stalled.on("close", () => resolve(stalled.rstCode));
  });
  stalled.on("error", () => {});
  stalled.end(Buffer.concat([prefix, message]));
  await until(() => reads() > 0);
  await turns();
  assert.equal(reads(), 1);
  clock.advance(limits.fetchStallMs);
  await until(() => open() === 0);
  stalled.resume();
  assert.equal(await reset, constants.NGHTTP2_ENHANCE_YOUR_CALM);
  connection.destroy();
  await grpc.close();
});

test("a sender that stalls is told to come back, in time", async () => {
  const clock = createManualClock();
  const core = createService({ clock, events: () => {} } as unknown as ServiceWorld);
  const service = grpcService(core, clock, () => {});
  const silent = new PassThrough({ objectMode: true });
  const answered = new Promise<{ details?: string } | null | undefined>((resolve) => {
    const call = silent as unknown as Parameters<typeof service.sendPartial>[0];
    service.sendPartial(call, (error) => resolve(error as { details?: string } | null));
  });
  clock.advance(limits.sendTimeoutMs);
  assert.match((await answered)?.details ?? "", /^busy/);
  silent.destroy();
});

test("reads at a time are bounded; one more is told to come back", async () => {
  const { fetch } = setup();
  const calls = Array.from({ length: limits.modelReads }, () => new SlowCall());
  for (const call of calls) fetch(call);
  const refused = new SlowCall();
  const error = new Promise<{ details: string }>((resolve) => refused.on("error", resolve));
  fetch(refused);
  assert.match((await error).details, /^busy/);
  const [first] = calls;
  await until(() => calls.every((call) => call.written.length === 1));
  first?.cancel();
  await turns();
  const next = new SlowCall();
  fetch(next);
  await until(() => next.written.length === 1);
  for (const call of [...calls, next]) call.cancel();
});
