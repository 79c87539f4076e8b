import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { afterEach, describe, it } from "node:test";
import { type Clock, createManualClock, systemClock } from "@tributary/proto/host/clock.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { refuse } from "@tributary/proto/wire/verdict.js";
import type { DeviceRecord } from "./devices.js";
import type { GatewayEvent } from "./events.js";
import { openTestReducer } from "./testing/reducer.js";
import { samplePlan } from "./testing/sample.js";
import { until } from "./testing/wait.js";
import { createUplink, type UplinkHandlers } from "./uplink.js";
import { type AttachCall, createUpstream, type Upstream } from "./upstream.js";

const open: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

const record: DeviceRecord = { sdk: "test/1", attributes: { cores: 2 } };

function uplinkTo(address: string, devices: Map<string, DeviceRecord>, handlers = {}) {
  const clock = systemClock();
  return uplinkOn(createUpstream(address, clock), clock, devices, handlers);
}

function uplinkOn(
  upstream: Upstream,
  clock: Clock,
  devices: Map<string, DeviceRecord>,
  handlers = {},
) {
  const events: GatewayEvent[] = [];
  const defaults: UplinkHandlers = {
    onAttached() {},
    onTime() {},
    onPath() {},
    onDetached() {},
    onLoop() {},
    onRoundOpened() {},
    onRoundClosed() {},
    onSessionOver() {},
    onPublished() {},
    onTelemetryReceipt() {},
  };
  const uplink = createUplink({
    upstream,
    facts: {
      hello: () => ({
        gateway: "gw-1",
        site: "plant",
        incarnation: "inc",
        softwareVersion: "0",
        rounds: ["s.1"],
        below: ["gw-2"],
        nowMs: 1n,
      }),
      devices: () => devices,
      progress: () => [{ round: "s.1", offered: 3, folded: 2, declined: 1, sealed: true }],
      heartbeat: () => ({
        connectedDevices: devices.size,
        outboxPartials: 0,
        outboxBytes: 0n,
        oldestAgeMs: 0n,
        freeDiskBytes: 1n,
        refusals: { busy: 2n },
        duplicatesDropped: 3n,
        budgetBytes: 4n,
        classes: [],
        roundTripMs: 5,
        clockOffsetMs: 6n,
      }),
    },
    handlers: { ...defaults, ...handlers },
    events: (event) => events.push(event),
    clock,
    random: seededRandom(2),
    backoff: { baseMs: 10, capMs: 50 },
  });
  open.push(() => {
    uplink.close();
    upstream.close();
  });
  uplink.start();
  return { uplink, events };
}

async function reducerAt(port = 0) {
  const reducer = await openTestReducer(port);
  open.push(() => reducer.close());
  return reducer;
}

describe("the uplink", () => {
  it("says hello, lists its devices, its rounds and beats", async () => {
    const reducer = await reducerAt();
    const { uplink } = uplinkTo(reducer.address, new Map([["dev-a", record]]));
    await until("two beats", () => reducer.heard("heartbeat").length >= 2);
    assert.ok(uplink.attached);
    assert.deepEqual(reducer.heard("hello"), [
      {
        protocolVersion: 1,
        gateway: "gw-1",
        site: "plant",
        incarnation: "inc",
        softwareVersion: "0",
        rounds: ["s.1"],
        below: ["gw-2"],
        nowMs: 1n,
      },
    ]);
    assert.equal(reducer.heard("devicesChanged")[0]?.all, true);
    assert.equal(reducer.lastProgress("s.1")?.folded, 2);
    const [first, second] = reducer.heard("heartbeat");
    assert.equal((second?.sequence ?? 0n) - (first?.sequence ?? 0n), 1n);
    assert.deepEqual(first?.refusals, { busy: 2n });
    assert.equal(first?.duplicatesDropped, 3n);
  });

  it("takes no upstream that is itself, or below itself, and tries again", async () => {
    for (const path of [["gw-1"], ["region", "gw-1", "cloud"], ["region", "gw-2"]]) {
      const reducer = await reducerAt();
      reducer.path = path;
      const loops: string[] = [];
      const onLoop = (message: string) => loops.push(message);
      const { uplink } = uplinkTo(reducer.address, new Map(), { onLoop });
      await until("it tries again", () => reducer.heard("hello").length > 1);
      assert.equal(uplink.attached, false);
      assert.equal(loops[0], `the path to the cloud is a loop: gw-1 < ${path.join(" < ")}`);
    }
  });

  it("hears of the path at each attachment and when it changes, and of the end of it", async () => {
    const reducer = await reducerAt();
    const heard: (readonly string[])[] = [];
    const times: number[] = [];
    uplinkTo(reducer.address, new Map(), {
      onPath: (path: readonly string[]) => heard.push(path),
      onTime: (nowMs: number) => times.push(nowMs),
      onDetached: () => heard.push([]),
    });
    await until("it is attached", () => heard.length === 1);
    const value = { protocolVersion: 1, upstream: "region", heartbeatIntervalMs: 250, nowMs: 7n };
    reducer.tell({ $case: "welcome", value: { ...value, path: ["region", "cloud"] } });
    await until("it hears of the change", () => heard.length === 2);
    assert.deepEqual(times, [0, 7], "an upstream that learns the time says so");
    await reducer.close();
    await until("it is detached", () => heard.length === 3);
    assert.deepEqual(heard, [["cloud"], ["region", "cloud"], []]);
  });

  it("is let go and not tried outside its windows, and tried again inside", async () => {
    const reducer = await reducerAt();
    const { uplink, events } = uplinkTo(reducer.address, new Map([["dev-a", record]]));
    await until("it is attached", () => uplink.attached);
    uplink.allow(false);
    assert.equal(uplink.attached, false);
    assert.equal(uplink.telemetry({ class: "logs", sequence: 1n, entries: [] }), false);
    await until("the upstream sees it go", () => !reducer.attached);
    uplink.allow(true);
    await until("it is attached again", () => uplink.attached && reducer.attached);
    assert.equal(reducer.heard("hello").length, 2);
    assert.equal(events.filter(({ name }) => name === "uplink-lost").length, 0);
    assert.equal(uplink.telemetry({ class: "logs", sequence: 1n, entries: [] }), true);
    await until("telemetry arrives", () => reducer.heard("telemetry").length === 1);
  });

  it("measures the round trip of its beats", async () => {
    const reducer = await reducerAt();
    const { uplink } = uplinkTo(reducer.address, new Map());
    assert.equal(uplink.roundTripMs, undefined);
    await until("one is measured", () => uplink.roundTripMs !== undefined);
    assert.ok((uplink.roundTripMs ?? -1) >= 0);
    uplink.allow(false);
    assert.equal(uplink.roundTripMs, undefined);
  });

  it("cuts a long list, and starts it with an empty one where nobody is", async () => {
    const reducer = await reducerAt();
    const many = new Map(Array.from({ length: 1_201 }, (_, i) => [`d${i}`, record]));
    uplinkTo(reducer.address, many);
    const lists = () => reducer.heard("devicesChanged");
    await until("the list arrives", () => lists().length === 3);
    assert.deepEqual(
      lists().map((list) => [list.all, list.joined.length]),
      [
        [true, 500],
        [false, 500],
        [false, 201],
      ],
    );
    const other = await reducerAt();
    uplinkTo(other.address, new Map());
    await until("the empty list arrives", () => other.heard("devicesChanged").length === 1);
    assert.deepEqual(other.heard("devicesChanged"), [{ all: true, joined: [], left: [] }]);
  });

  it("sends the newest state of what changed, together", async () => {
    const reducer = await reducerAt();
    const { uplink } = uplinkTo(reducer.address, new Map());
    await until("it attaches", () => uplink.attached);
    uplink.deviceChanged({ type: "joined", device: "dev-a", record });
    uplink.deviceChanged({ type: "joined", device: "dev-b", record });
    uplink.deviceChanged({ type: "left", device: "dev-a" });
    uplink.planRefused("s.2", refuse("plan-headroom", "no"));
    for (let folded = 0; folded < 50; folded++) {
      uplink.progress({ round: "s.3", offered: 50, folded, declined: 0, sealed: false });
    }
    await until("it arrives", () => reducer.lastProgress("s.3") !== undefined);
    const change = reducer.heard("devicesChanged").at(-1);
    assert.deepEqual(
      change?.joined.map((d) => d.device),
      ["dev-b"],
    );
    assert.deepEqual(change?.left, ["dev-a"]);
    assert.deepEqual(reducer.heard("planRefused"), [
      { round: "s.2", code: "plan-headroom", message: "no" },
    ]);
    const sent = reducer.heard("roundProgress").filter((p) => p.round === "s.3");
    assert.deepEqual(
      sent.map((p) => p.folded),
      [49],
    );
  });

  it("hands on what comes down", async () => {
    const reducer = await reducerAt();
    const seen: string[] = [];
    uplinkTo(reducer.address, new Map(), {
      onRoundOpened: ({ roster }: { roster: string[] }) => seen.push(`opened ${roster}`),
      onRoundClosed: (round: string, outcome: string) => seen.push(`closed ${round} ${outcome}`),
      onPublished: (session: string) => seen.push(`published ${session}`),
    });
    await until("it attaches", () => reducer.attached);
    reducer.openRound(samplePlan(), ["dev-a"]);
    reducer.tell({ $case: "roundClosed", value: { round: "s.1", outcome: "failed" } });
    const empty = Buffer.alloc(0);
    const value = { session: "s", manifest: empty, layout: empty };
    reducer.tell({ $case: "modelPublished", value });
    await until("all arrive", () => seen.length === 3);
    assert.deepEqual(seen, ["opened dev-a", "closed s.1 failed", "published s"]);
  });

  it("comes back after the upstream was away, with a full list", async () => {
    const reducer = await reducerAt();
    const devices = new Map([["dev-a", record]]);
    const { uplink, events } = uplinkTo(reducer.address, devices);
    await until("it attaches", () => uplink.attached);
    await reducer.close();
    await until("it is lost", () => !uplink.attached);
    devices.set("dev-b", record);
    uplink.deviceChanged({ type: "joined", device: "dev-b", record });
    const back = await reducerAt(reducer.port);
    await until("it is back", () => back.heard("devicesChanged").length === 1);
    const [list] = back.heard("devicesChanged");
    assert.equal(list?.all, true);
    assert.equal(list?.joined.length, 2);
    assert.ok(events.some((e) => e.name === "uplink-lost"));
  });

  it("tries less and less often a link that attaches and breaks at once, until one lasts", () => {
    const clock = createManualClock();
    const calls: EventEmitter[] = [];
    const attach = () => {
      const call = Object.assign(new EventEmitter(), { write: () => true, cancel() {} });
      calls.push(call);
      return call as unknown as AttachCall;
    };
    const upstream = { attach, close() {} } as unknown as Upstream;
    const { events } = uplinkOn(upstream, clock, new Map());
    const welcome = {
      protocolVersion: 1,
      upstream: "cloud",
      heartbeatIntervalMs: 250,
      path: ["cloud"],
      nowMs: 0n,
    };
    const live = (ms: number) => {
      const call = calls.at(-1);
      call?.emit("data", { message: { $case: "welcome", value: welcome } });
      clock.advance(ms);
      call?.emit("error", new Error("reset"));
      const lost = events.filter((event) => event.name === "uplink-lost").at(-1);
      clock.advance(lost?.retryMs ?? 0);
      return lost?.retryMs ?? -1;
    };
    const waits = Array.from({ length: 200 }, () => live(1));
    assert.ok(Math.max(...waits.slice(3)) > 40, "waits grow to the cap of 50 ms");
    live(300);
    const steady = Array.from({ length: 200 }, () => live(300));
    assert.ok(Math.max(...steady) <= 10, "a link that lasted starts at the base of 10 ms");
  });

  it("notices a half-open link", async () => {
    const reducer = await reducerAt();
    const sockets: Socket[] = [];
    let frozen = false;
    // Stands between; frozen, it takes bytes and passes none on, and no end of connection either.
    const proxy = createServer((near) => {
      const far = connect(reducer.port, "127.0.0.1");
      for (const socket of [near, far]) {
        sockets.push(socket);
        socket.on("error", () => {});
      }
      near.on("data", (bytes) => frozen || far.write(bytes));
      far.on("data", (bytes) => frozen || near.write(bytes));
      near.on("close", () => frozen || far.destroy());
    });
    proxy.listen(0, "127.0.0.1");
    await once(proxy, "listening");
    open.push(() => {
      for (const socket of sockets) socket.destroy();
      proxy.close();
    });
    const address = proxy.address();
    const port = typeof address === "object" ? address?.port : 0;
    const { uplink } = uplinkTo(`127.0.0.1:${port}`, new Map());
    await until("it attaches", () => uplink.attached);
    frozen = true;
    await until("it is noticed", () => !uplink.attached, 15_000);
    frozen = false;
    await until("it is back", () => uplink.attached, 15_000);
  });
});
