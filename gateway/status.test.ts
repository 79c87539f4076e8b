import assert from "node:assert/strict";
import { once } from "node:events";
import { request } from "node:http";
import { type AddressInfo, connect, createServer } from "node:net";
import { afterEach, describe, it } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { configSchema } from "./config.js";
import type { GatewayEvent } from "./events.js";
import { limits } from "./limits.js";
import { renderPage } from "./page.js";
import { viewStatus } from "./status.js";
import { openFillRate } from "./status-rate.js";
import { createStatusRecord } from "./status-record.js";
import { openStatusPage } from "./status-server.js";
import { type StatusView, statusSchema } from "./status-view.js";
import { bytesOf, spanOf } from "./status-words.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";
import { createStage, reported } from "./testing/stage.js";
import { sampleStatus } from "./testing/status-sample.js";
import { until } from "./testing/wait.js";

const HOUR = 3_600_000;
const stage = createStage();
const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const one of opened.splice(0)) await one.close();
  await stage.close();
});

async function server(view: () => StatusView = () => sampleStatus) {
  const events: GatewayEvent[] = [];
  const page = await openStatusPage({ enabled: true, host: "127.0.0.1", port: 0 }, view, (event) =>
    events.push(event),
  );
  assert.ok(page !== undefined);
  opened.push(page);
  return { port: page.port, events };
}

type Asked = { method?: string; path?: string; headers?: Record<string, string>; body?: string };

async function ask(port: number, { method = "GET", path = "/", headers, body }: Asked = {}) {
  const sent = request({ host: "127.0.0.1", port, method, path, ...(headers && { headers }) });
  sent.end(body);
  const [response] = await once(sent, "response");
  let text = "";
  for await (const part of response) text += part;
  return { status: response.statusCode as number, headers: response.headers, text };
}

describe("the status page's listener", () => {
  it("serves the page and the JSON, to GET and HEAD, and says how they may be used", async () => {
    const { port, events } = await server();
    assert.deepEqual(events, [
      { level: "info", name: "status-started", url: `http://127.0.0.1:${port}/` },
    ]);
    const page = await ask(port);
    assert.equal(page.status, 200);
    assert.match(page.headers["content-type"] ?? "", /^text\/html/);
    assert.match(page.headers["content-security-policy"] ?? "", /default-src 'none'/);
    assert.equal(page.headers["cache-control"], "no-store");
    assert.equal(page.text, renderPage(sampleStatus));
    const json = await ask(port, { path: "/status.json?now" });
    assert.deepEqual(statusSchema.parse(JSON.parse(json.text)), sampleStatus);
    const head = await ask(port, { method: "HEAD", path: "/status.json" });
    assert.deepEqual([head.status, head.text], [200, ""]);
    assert.equal(head.headers["content-length"], json.headers["content-length"]);
  });

  it("refuses everything else", async () => {
    const { port } = await server();
    for (const method of ["POST", "PUT", "DELETE", "OPTIONS"]) {
      assert.equal((await ask(port, { method })).status, 405, method);
    }
    for (const path of [
      "/index.html",
      "/../config",
      "/%2e%2e/config",
      "//status.json",
      "/status.json/",
    ]) {
      assert.equal((await ask(port, { path })).status, 404, path);
    }
    const body = { headers: { "content-length": "3" }, body: "abc" };
    assert.equal((await ask(port, body)).status, 413);
    const long = { headers: { "x-long": "x".repeat(2 * limits.statusHeaderBytes) } };
    assert.equal((await ask(port, long)).status, 431);
  });

  it("answers no page of another origin whose name resolves to it", async () => {
    const { port } = await server();
    for (const host of ["evil.example", `rebound.example.com:${port}`, "127.0.0.1.example.com"]) {
      assert.equal((await ask(port, { headers: { host } })).status, 421, host);
    }
    const own = [
      "localhost",
      `127.0.0.1:${port}`,
      "[::1]:80",
      "192.168.1.5",
      "gateway",
      "gw.local",
    ];
    for (const host of own) {
      assert.equal((await ask(port, { headers: { host } })).status, 200, host);
    }
  });

  it("closes a connection that asks for nothing, and takes no more than it has room for", async () => {
    const { port } = await server();
    const silent = connect(port, "127.0.0.1");
    silent.on("error", () => {}).resume();
    let given = false;
    silent.on("close", () => {
      given = true;
    });
    await once(silent, "connect");
    silent.write("GET / HTTP/1.1\r\n");
    const sockets = Array.from({ length: limits.statusConnections + 8 }, () => {
      const socket = connect(port, "127.0.0.1");
      return socket.on("error", () => {}).resume();
    });
    let closed = 0;
    for (const socket of sockets) socket.on("close", () => closed++);
    await until("those beyond the bound are closed", () => closed >= 9);
    await until("the silent one is closed", () => given);
    for (const socket of sockets) socket.destroy();
    await until("there is room again", () => closed === sockets.length);
    assert.equal((await ask(port)).status, 200);
  });

  it("stays away where it is not wanted, and where its port is taken, and says so", async () => {
    const off = configSchema.shape.status.parse({ enabled: false });
    assert.equal(
      await openStatusPage(
        off,
        () => sampleStatus,
        () => assert.fail(),
      ),
      undefined,
    );
    const other = createServer().listen(0, "127.0.0.1");
    await once(other, "listening");
    const { port } = other.address() as AddressInfo;
    const events: GatewayEvent[] = [];
    const config = { enabled: true, host: "127.0.0.1", port };
    const page = await openStatusPage(
      config,
      () => sampleStatus,
      (event) => events.push(event),
    );
    assert.equal(page, undefined);
    assert.deepEqual(
      events.map(({ name }) => name),
      ["status-unavailable"],
    );
    other.close();
  });
});

describe("the config of the status page", () => {
  const parse = (host: string) => configSchema.shape.status.safeParse({ host }).success;
  it("takes addresses of this machine and of private networks", () => {
    for (const host of [
      "127.0.0.1",
      "localhost",
      "::1",
      "::",
      "0.0.0.0",
      "10.0.0.7",
      "172.16.3.4",
      "192.168.1.20",
      "fd12:3456::1",
      "fe80::1%eth0",
    ]) {
      assert.ok(parse(host), host);
    }
    for (const host of ["8.8.8.8", "172.32.0.1", "example.com", "2001:db8::1", "192.168.1", ""]) {
      assert.ok(!parse(host), host);
    }
  });
});

describe("the page", () => {
  it("says all of the status, and escapes what others chose", () => {
    const page = renderPage(sampleStatus);
    for (const text of [
      "gw-north",
      "denylist 1900000000 with 2 shut out",
      "IN THE CLEAR OVER A NETWORK",
      "No link to cloud for 2 h 5 min",
      "nothing was heard for 15000 ms",
      "next window in 1 h 30 min",
      "24.4 MB",
      "3 results, the oldest 2 h old",
      "77 %",
      "full in 7 h 36 min without a link",
      "at 125 kB/s, as configured",
      "fit.12",
      "storage-full",
      "at least 5 h behind",
      "1 gateway below",
    ]) {
      assert.ok(page.includes(text), text);
    }
    const hostile = '<img src=x onerror="alert(1)">';
    const shown = renderPage({
      ...sampleStatus,
      gateway: hostile,
      link: { ...sampleStatus.link, reason: hostile, upstream: hostile },
      rounds: [{ ...(sampleStatus.rounds[0] as StatusView["rounds"][0]), round: hostile }],
      refusals: { [hostile]: 1 },
      ends: [{ agoMs: 1, outcome: hostile, rule: hostile, round: hostile, bytes: null }],
    });
    assert.ok(!shown.includes("<img"));
  });

  it("says plainly what is not known, and that nothing waits", () => {
    const page = renderPage({
      ...sampleStatus,
      link: { ...sampleStatus.link, attached: true, roundTripMs: 12 },
      waiting: { partials: 0, bytes: 0, oldestAgeMs: 0, classes: [] },
      rate: { measuredMs: 5, bytesPerHour: null, hoursUntilFull: null },
      clock: { ...sampleStatus.clock, offsetMs: 0 },
    });
    assert.match(page, /not known before an hour/);
    assert.match(page, /Link to cloud up/);
    assert.match(page, /round trip 12 ms/);
    assert.match(page, /unconfirmed/);
    assert.match(page, /cannot reach the gateway/);
  });

  it("says why nobody is asked, and where the way to the cloud is cut", () => {
    const above = { gateway: "<region>", sinceMs: 2 * HOUR };
    const link = { ...sampleStatus.link, attached: true, brokenAbove: above };
    const page = renderPage({ ...sampleStatus, link, idle: { why: "allowance", round: "s.3" } });
    assert.match(page, /"warn">Link to cloud up, but no way on to the cloud</);
    assert.match(page, /&#60;region&#62; has had no link to the cloud for 2 h/);
    assert.match(page, /<title>gw-north: cut off further up</);
    assert.doesNotMatch(page, /class="(mark )?good"/);
    assert.match(page, /Idle: has run all site rounds of s\.3 that its plan allows/);
    const earlier = JSON.parse(JSON.stringify(sampleStatus));
    delete earlier.idle;
    delete earlier.link.brokenAbove;
    assert.deepEqual(statusSchema.parse(earlier), sampleStatus);
  });

  it("loads nothing from anywhere else", () => {
    assert.doesNotMatch(renderPage(sampleStatus), /(src|href)="(?!data:)|url\(|@import|https?:/);
  });

  it("puts figures in words", () => {
    assert.deepEqual([0, 59_999, 61_000, HOUR, 25 * HOUR, 24 * HOUR].map(spanOf), [
      "0 s",
      "59 s",
      "1 min",
      "1 h",
      "1 d 1 h",
      "1 d",
    ]);
    assert.deepEqual([0, 999, 1_000, 999_600, 8_123_456, 4e9].map(bytesOf), [
      "0 B",
      "999 B",
      "1 kB",
      "1 MB",
      "8.12 MB",
      "4 GB",
    ]);
  });
});

describe("how fast the buffer fills", () => {
  async function bench() {
    const notes = new Map<string, unknown>();
    const clock = createManualClock(10 * HOUR);
    let used = 1_000;
    const open = () =>
      openFillRate({
        store: {
          readNote: async (name, schema) => {
            const value = notes.get(name);
            return value === undefined ? undefined : schema.parse(value);
          },
          putNote: async (name, value) => void notes.set(name, structuredClone(value)),
        },
        time: { logicalMs: clock.monotonicMs },
        clock,
        usedBytes: () => used,
        events: (event) => assert.fail(event.name),
      });
    return {
      clock,
      open,
      use(bytes: number) {
        used += bytes;
      },
    };
  }

  it("is not known before an hour, and then counts what came and what left", async () => {
    const { clock, open, use } = await bench();
    const rate = await open();
    use(600);
    assert.equal(rate.view().bytesPerHour, undefined);
    clock.advance(HOUR / 2);
    assert.equal(rate.view().bytesPerHour, undefined);
    use(-600);
    rate.left(600);
    clock.advance(HOUR / 2);
    assert.deepEqual(rate.view(), { measuredMs: HOUR, bytesPerHour: 600 });
    use(600);
    clock.advance(HOUR);
    assert.equal(rate.view().bytesPerHour, 600);
    // Three merged into one.
    use(-1_000);
    assert.equal(rate.view().bytesPerHour, 100);
    await rate.close();
  });

  it("is of the last 24 hours, and outlives the process", async () => {
    const { clock, open, use } = await bench();
    const first = await open();
    for (let hour = 0; hour < 10; hour++) {
      use(1_000);
      first.view();
      clock.advance(HOUR);
    }
    assert.equal(first.view().bytesPerHour, 1_000);
    await first.close();
    const second = await open();
    assert.equal(second.view().bytesPerHour, 1_000);
    clock.advance(13 * HOUR);
    assert.equal(second.view().bytesPerHour, 10_000 / 23);
    clock.advance(12 * HOUR);
    assert.equal(second.view().bytesPerHour, 0);
    await second.close();
  });
});

describe("the time to send what waits", () => {
  it("leaves out what of it is upstream already", () => {
    const clock = createManualClock(0);
    const nowMs = () => 0;
    const drainOf = (sent: number) =>
      viewStatus(
        {
          config: {
            gateway: "gw-1",
            site: "plant",
            upstream: "cloud:1",
            budgetBytes: 1_000,
            reserveDiskBytes: 0,
          },
          incarnation: "inc",
          softwareVersion: "0.0.0",
          clock,
          time: {
            logicalMs: nowMs,
            nowMs,
            floorMs: nowMs,
            upstreamMs: () => undefined,
            hear() {},
            close: async () => {},
            trusted: true,
            offsetMs: 0,
          },
          record: createStatusRecord(clock),
          rate: { view: () => ({ measuredMs: 0, bytesPerHour: undefined }) },
          outbox: { count: 1, bytes: 800, oldestAgeMs: () => 0 },
          sentBytes: () => sent,
          used: () => ({ usedBytes: 800, promisedBytes: 0 }),
          roundTripMs: () => undefined,
          bytesPerSecondMax: 100,
          rounds: () => [],
          devices: () => 0,
          gatewaysBelow: () => [],
          replies: () => ({ refusals: new Map(), duplicates: 0 }),
          freeBytes: () => 0,
        },
        0,
      );
    assert.deepEqual([drainOf(0).drain.ms, drainOf(0).waiting.bytes], [8_000, 800]);
    assert.deepEqual([drainOf(600).drain.ms, drainOf(600).waiting.bytes], [2_000, 800]);
    assert.equal(drainOf(900).drain.ms, 0);
  });
});

describe("what is noted of events", () => {
  it("tells the link's state, the last ends and how fast results went", () => {
    const clock = createManualClock(0);
    const record = createStatusRecord(clock);
    assert.deepEqual(record.link(), { attached: false, sinceMs: 0, upstream: null, reason: null });
    clock.advance(1_000);
    record.note({ level: "info", name: "uplink-attached", upstream: "cloud" });
    assert.equal(record.deliveryRate(), undefined);
    const delivered = (round: string) =>
      record.note({
        level: "info",
        name: "partial-delivered",
        round,
        sequence: 1,
        bytes: 500,
        outcome: "merged",
        rule: "",
      });
    clock.advance(500);
    delivered("s.1");
    clock.advance(500);
    delivered("s.2");
    assert.equal(record.deliveryRate(), 1_000);
    for (let i = 3; i < 30; i++) delivered(`s.${i}`);
    assert.equal(record.ends().length, limits.statusEnds);
    assert.equal(record.ends()[0]?.round, "s.29");
    record.note({ level: "warn", name: "uplink-lost", reason: "cut", retryMs: 1 });
    clock.advance(2_000);
    record.note({ level: "warn", name: "uplink-lost", reason: "cut again", retryMs: 1 });
    const { attached, sinceMs, reason } = record.link();
    assert.deepEqual([attached, sinceMs, reason], [false, 2_000, "cut again"]);
  });
});

describe("a gateway's status", () => {
  it("is that of the gateway, over HTTP", async () => {
    const reducer = await stage.reducer();
    const gateway = await stage.gateway(await stage.dataDir(), reducer.address);
    const device = await stage.device(gateway, "dev-a");
    await reported(reducer, 1);
    const look = async () => {
      const { text } = await ask(gateway.statusPort ?? 0, { path: "/status.json" });
      return statusSchema.parse(JSON.parse(text));
    };
    const idle = await look();
    assert.deepEqual([idle.gateway, idle.site, idle.devices], ["gw-1", "plant", 1]);
    assert.deepEqual([idle.link.attached, idle.link.upstream], [true, "test"]);
    await until("a heartbeat is answered", () => gateway.status().link.roundTripMs !== null);

    const plan = samplePlan();
    reducer.openRound(plan, ["dev-a"]);
    await device.next("offer");
    assert.deepEqual(
      (await look()).rounds.map(({ round, offered, folded }) => [round, offered, folded]),
      [[plan.round, 1, 0]],
    );
    await reducer.close();
    await until("it is away", () => !gateway.status().link.attached);
    await device.upload(sampleUpdate(plan, "dev-a", 3));
    await device.next("receipt");
    await until("it waits", () => gateway.status().waiting.partials === 1);
    const away = await look();
    assert.ok(away.waiting.bytes > 800 && away.budget.usedBytes >= away.waiting.bytes);
    assert.equal(away.drain.basis, "unknown");

    const back = await stage.reducer(reducer.port);
    await until("it arrives", () => gateway.status().ends.length === 1);
    assert.equal(back.partials.length, 1);
    const after = await look();
    assert.deepEqual([after.waiting.partials, after.ends[0]?.outcome], [0, "merged"]);
    assert.equal(after.drain.basis, "measured");
  });
});
