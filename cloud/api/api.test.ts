import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import fc from "fast-check";
import { openAccess } from "../access/access.js";
import type { CloudEvent } from "../events.js";
import { createModels } from "../models.js";
import { sessionParamsSchema } from "../params.js";
import { openStore } from "../store/open.js";
import type { Store } from "../store/store.js";
import { seed } from "../testing/api-rows.js";
import { fakeSessions } from "../testing/fake-sessions.js";
import { apiLimits } from "./limits.js";
import type { Api, ApiPorts } from "./ports.js";
import { createApi } from "./server.js";

const values = Float32Array.from({ length: 5_000 }, (_, i) => i / 7);
const file = Buffer.from(encodeSafetensors([{ name: "w", shape: [5_000] }], values));
const digest = sha256(file);

describe("REST API", () => {
  let dir: string;
  let store: Store;
  let api: Api;
  let ports: ApiPorts;
  const events: CloudEvent[] = [];

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "tributary-api-"));
    store = await openStore({ dataDir: dir });
    ports = {
      access: openAccess(),
      store,
      models: createModels(memoryDisk(), store, seededRandom(1)),
      sessions: fakeSessions(["alpha", "beta", "gamma"]),
      clock: createManualClock(1_700_000_000_000),
      events: (event) => events.push(event),
      version: "0.1.0",
    };
    api = await createApi(ports);
    await seed(store);
    const posted = await upload("digits", file);
    assert.equal(posted.statusCode, 201, posted.body);
  });
  after(async () => {
    await api?.close();
    await store?.close();
    await rm(dir, { recursive: true, force: true });
  });

  const get = (url: string, headers: Record<string, string> = {}) =>
    api.inject({ method: "GET", url: `/api/v1${url}`, headers });
  const post = (url: string, payload?: object | string, headers: Record<string, string> = {}) =>
    api.inject({
      method: "POST",
      url: `/api/v1${url}`,
      headers,
      ...(payload !== undefined && { payload }),
    });
  const upload = (name: string, payload: Buffer, type = "application/octet-stream") =>
    api.inject({
      method: "POST",
      url: `/api/v1/models?name=${name}`,
      headers: { "content-type": type },
      payload,
    });
  type Answer = Awaited<ReturnType<typeof get>>;
  const isProblem = (answer: Answer, status: number, code: string) => {
    assert.equal(answer.statusCode, status, answer.body);
    assert.match(String(answer.headers["content-type"]), /^application\/problem\+json/);
    const body = answer.json();
    assert.deepEqual(
      [body.code, body.status, body.type],
      [code, status, `urn:tributary:problem:${code}`],
    );
    assert.ok(body.detail.length > 0);
    return body;
  };

  test("health says that the store answers, and a problem when it does not", async () => {
    const answer = await get("/health");
    assert.deepEqual(answer.json(), {
      status: "ok",
      version: "0.1.0",
      uptimeMs: 0,
      access: "open",
    });
    const down = {
      ...store,
      ping: async () => {
        throw new TributaryError("store-unreachable", "postgres://u:secret@h", { retryable: true });
      },
    };
    const sick = await createApi({ ...ports, store: down });
    const refused = await sick.inject("/api/v1/health");
    isProblem(refused, 503, "unavailable");
    assert.equal(refused.headers["retry-after"], "1");
    assert.doesNotMatch(refused.body, /secret/);
    assert.equal(events.at(-1)?.name, "call-failed");
    await sick.close();
  });

  test("a session starts with defaults, and is found, stopped and resumed", async () => {
    const started = await post("/sessions", { name: "new", initialModel: "digits.0" });
    assert.equal(started.statusCode, 201, started.body);
    assert.equal(started.headers.location, "/api/v1/sessions/new");
    const view = started.json();
    assert.deepEqual(
      view.params,
      sessionParamsSchema.parse({ name: "new", initialModel: "digits.0" }),
    );
    assert.deepEqual((await get("/sessions/new")).json(), view);
    assert.equal((await post("/sessions/new/stop")).json().state, "stopped");
    assert.equal((await post("/sessions/new/resume")).json().state, "running");
    isProblem(await post("/sessions/new/resume"), 409, "wrong-state");
    isProblem(
      await post("/sessions", { name: "new", initialModel: "digits.0" }),
      409,
      "session-exists",
    );
    for (const action of ["stop", "resume"])
      isProblem(await post(`/sessions/none/${action}`), 404, "unknown-session");
    isProblem(await get("/sessions/none"), 404, "unknown-session");
  });

  test("what is wrong with a session's parameters is named field by field", async () => {
    const wrong = { name: "a/b", initialModel: "digits.0", rounds: 0, round: 3 };
    const body = isProblem(await post("/sessions", wrong), 400, "invalid-request");
    assert.deepEqual(
      new Set(body.issues.map(({ path }: { path: string }) => path)),
      new Set(["name", "rounds", ""]),
    );
    const late = { name: "s", initialModel: "digits.0", deadlineMs: 10, uploadWindowMs: 10 };
    assert.match(isProblem(await post("/sessions", late), 400, "invalid-request").detail, /longer/);
    const grid = { name: "s", initialModel: "digits.0", grid: { fractionBits: 40, range: 1 } };
    isProblem(await post("/sessions", grid), 422, "plan-headroom");
    const alien = { name: "s", initialModel: "nobody.0" };
    const unknown = isProblem(await post("/sessions", alien), 400, "invalid-request");
    assert.equal(unknown.issues[0].path, "initialModel");
  });

  test("lists come in pages that lead to the end", async () => {
    const all = async (url: string, key: string) => {
      const seen: string[] = [];
      for (let cursor: string | null = ""; cursor !== null; ) {
        const from: string = cursor && `&cursor=${cursor}`;
        const page = (await get(`${url}${url.includes("?") ? "&" : "?"}limit=2${from}`)).json();
        assert.ok(page.items.length <= 2);
        seen.push(...page.items.map((item: Record<string, unknown>) => String(item[key])));
        cursor = page.next;
      }
      return seen.join(" ");
    };
    assert.match(await all("/sessions", "id"), /^alpha beta gamma/);
    assert.equal(await all("/sessions/alpha/rounds", "number"), "3 2 1");
    assert.equal(
      await all("/sessions/alpha/contributions", "device"),
      "d1 d2 d3 d1 d2 d3 d1 d2 d3",
    );
    assert.equal(
      await all("/sessions/alpha/contributions?round=2&outcome=model", "device"),
      "d1 d2 d3",
    );
    assert.equal(await all("/sessions/alpha/contributions?outcome=expired", "device"), "");
    assert.equal(await all("/models?session=alpha", "id"), "alpha.3 alpha.2 alpha.1 alpha.0");
    assert.equal(
      await all("/models?session=alpha&state=candidate", "id"),
      "alpha.3 alpha.2 alpha.1",
    );
    assert.equal(await all("/models/alpha.3/trail", "id"), "alpha.3 alpha.2 alpha.1 alpha.0");
    assert.equal(await all("/models/alpha.2/contributions", "device"), "d1 d2 d3");
    assert.equal(await all("/models/alpha.0/contributions", "device"), "");
    assert.equal(await all("/sessions/alpha/evaluations", "model"), "alpha.1");
    assert.equal(await all("/gateways", "id"), "g1 g2 g3");
    assert.equal(await all("/devices", "id"), "d1 d2 d3");
    assert.equal(await all("/devices?site=s1&gateway=g1", "id"), "d1 d2");
    for (const url of ["rounds", "contributions", "evaluations"])
      isProblem(await get(`/sessions/none/${url}`), 404, "unknown-session");
  });

  test("events are followed by their sequence", async () => {
    const newest = (await get("/events?limit=1")).json();
    assert.equal(newest.items[0].fields.at, 5);
    const older = (await get(`/events?after=${newest.after - 3}`)).json();
    assert.deepEqual(
      older.items.map((event: { fields: { at: number } }) => event.fields.at),
      [3, 4, 5],
    );
    assert.deepEqual((await get(`/events?after=${newest.after}`)).json(), {
      items: [],
      after: newest.after,
    });
  });

  test("a gateway's samples come newest first, in pages, and what is kept is found", async () => {
    const entries = [1, 2, 3].map((n) => ({
      sequence: n,
      atMs: n,
      fields: { bufferBytes: 100 * n },
    }));
    const batch = { gateway: "g1", incarnation: "i1", class: "metrics", last: 3, atMs: 9 } as const;
    await store.takeTelemetry({ ...batch, entries });
    const first = (await get("/gateways/g1/samples?limit=2")).json();
    const bytesOf = (page: { items: { fields: { bufferBytes: number } }[] }) =>
      page.items.map(({ fields }) => fields.bufferBytes);
    assert.deepEqual(bytesOf(first), [300, 200]);
    const rest = (await get(`/gateways/g1/samples?limit=2&cursor=${first.next}`)).json();
    assert.deepEqual([bytesOf(rest), rest.next], [[100], null]);
    assert.deepEqual((await get("/gateways/nobody/samples")).json(), { items: [], next: null });
    const kept = (await get("/sessions/alpha/contributions?outcome=kept")).json();
    assert.deepEqual(kept.items, []);
    const inModel = (await get("/models/alpha.2/contributions")).json();
    assert.deepEqual(
      inModel.items.map(({ round, model }: { round: number; model: string }) => [round, model]),
      [1, 2, 3].map(() => [2, "alpha.2"]),
    );
  });

  test("a model is shown, and activated where its session is here", async () => {
    const model = (await get("/models/digits.0")).json();
    assert.deepEqual(await store.model("digits.0"), model);
    assert.equal(model.digest, digest);
    isProblem(await get("/models/digits.1"), 404, "unknown-model");
    isProblem(await get("/models/digits.1/trail"), 404, "unknown-model");
    isProblem(await get("/models/digits.1/file"), 404, "unknown-model");
    isProblem(await get("/models/digits.1/contributions"), 404, "unknown-model");
    assert.equal((await post("/models/alpha.2/activate")).json().head, "alpha.2");
    isProblem(await post("/models/other.2/activate"), 404, "unknown-model");
    isProblem(await post("/models/digits.0/activate"), 409, "foreign-model");
  });

  test("a model's file comes to the byte, whole or from where a download broke", async () => {
    const whole = await get("/models/digits.0/file");
    assert.equal(whole.statusCode, 200);
    assert.deepEqual(whole.rawPayload, file);
    const { headers } = whole;
    assert.equal(headers["content-length"], String(file.length));
    assert.equal(headers.etag, `"${digest}"`);
    assert.match(String(headers["content-disposition"]), /filename="digits.0.safetensors"/);
    const ranges: [string, number, number][] = [
      ["bytes=0-0", 0, 0],
      ["bytes=100-199", 100, 199],
      [`bytes=${file.length - 3}-`, file.length - 3, file.length - 1],
      ["bytes=-5", file.length - 5, file.length - 1],
      ["bytes=5-99999999", 5, file.length - 1],
    ];
    for (const [range, first, last] of ranges) {
      const part = await get("/models/digits.0/file", { range });
      assert.equal(part.statusCode, 206, range);
      assert.deepEqual(part.rawPayload, file.subarray(first, last + 1), range);
      assert.equal(part.headers["content-range"], `bytes ${first}-${last}/${file.length}`);
    }
    for (const range of ["bytes=1-0", "lines=1-2", "bytes=0-1,3-4", "bytes=-", "bytes=x-"])
      assert.equal((await get("/models/digits.0/file", { range })).statusCode, 200, range);
    for (const range of [`bytes=${file.length}-`, "bytes=-0"]) {
      const refused = await get("/models/digits.0/file", { range });
      isProblem(refused, 416, "range-not-satisfiable");
      assert.equal(refused.headers["content-range"], `bytes */${file.length}`);
    }
    const same = { range: "bytes=0-9", "if-range": `"${digest}"` };
    assert.equal((await get("/models/digits.0/file", same)).statusCode, 206);
    const changed = { range: "bytes=0-9", "if-range": '"other"' };
    assert.equal((await get("/models/digits.0/file", changed)).statusCode, 200);
    const cached = await get("/models/digits.0/file", { "if-none-match": `"x", "${digest}"` });
    assert.deepEqual([cached.statusCode, cached.body], [304, ""]);
    const head = await api.inject({ method: "HEAD", url: "/api/v1/models/digits.0/file" });
    assert.deepEqual([head.statusCode, head.headers["content-length"]], [200, `${file.length}`]);
  });

  test("an upload that is no model, has a taken name or another type is refused", async () => {
    isProblem(await upload("digits", file), 409, "model-exists");
    isProblem(await upload("bad", Buffer.from("not a model")), 422, "model-malformed");
    isProblem(await upload("bad", Buffer.alloc(0)), 422, "model-malformed");
    isProblem(await upload("..%2F..%2Fx", file), 400, "invalid-request");
    isProblem(await upload("", file), 400, "invalid-request");
    isProblem(
      await upload("bad", Buffer.from("{}"), "application/json"),
      415,
      "unsupported-media-type",
    );
    isProblem(await post("/models?name=bad"), 415, "unsupported-media-type");
    const huge = { "content-type": "application/octet-stream", "content-length": "999999999999" };
    isProblem(await post("/models?name=huge", "x", huge), 413, "too-large");
  });

  test("ids, cursors and limits from outside are judged before anything is asked", async () => {
    const long = "a".repeat(65);
    for (const url of [
      `/sessions/${long}`,
      "/sessions/a%2Fb",
      "/sessions/%00",
      "/sessions/__proto__",
      "/models/digits",
      "/models/digits.01",
      "/models/..%2Fsecret.0/file",
      "/devices?site=..",
      "/devices?sites=s1",
      "/gateways?limit=0",
      `/gateways?limit=${apiLimits.pageItems + 1}`,
      "/gateways?limit=1e999",
      "/gateways?limit=x",
      "/gateways?limit=1&limit=2",
      "/gateways?cursor=x",
      `/gateways?cursor=${"A".repeat(600)}`,
      `/gateways?cursor=${Buffer.from("[1]").toString("base64url")}`,
      `/models?cursor=${Buffer.from('"1"').toString("base64url")}`,
      `/models?cursor=${Buffer.from("1e300").toString("base64url")}`,
      `/sessions/alpha/rounds?cursor=${Buffer.from("-1").toString("base64url")}`,
      `/sessions/alpha/contributions?cursor=${Buffer.from('[1,"a",2]').toString("base64url")}`,
      "/sessions/alpha/contributions?round=99999999999",
      "/sessions/alpha/contributions?outcome=lost",
      "/models?state=gone",
      "/events?after=-1",
      "/events?after=9999999999999999999",
    ])
      isProblem(await get(url), 400, "invalid-request");
    isProblem(await get("/nothing"), 404, "unknown-route");
    const endless = await get(`/sessions/${"a".repeat(5_000)}`);
    assert.ok(isProblem(endless, 400, "invalid-request").detail.length <= apiLimits.detailChars);
    isProblem(await api.inject("/api/v1/sessions/%zz"), 400, "invalid-request");
  });

  test("a body that is broken, poisoned, huge or of another type is refused", async () => {
    const json = { "content-type": "application/json" };
    const poisoned = '{"name":"x","initialModel":"digits.0","__proto__":{"admin":true}}';
    for (const body of ["", "{", "null", "[]", '"x"', "1", poisoned])
      isProblem(await post("/sessions", body, json), 400, "invalid-request");
    const deep = `{"training":${"[".repeat(50_000)}${"]".repeat(50_000)}}`;
    isProblem(await post("/sessions", deep, json), 400, "invalid-request");
    const huge = JSON.stringify({ name: "x".repeat(apiLimits.jsonBytes) });
    isProblem(await post("/sessions", huge, json), 413, "too-large");
    isProblem(
      await post("/sessions", "<x/>", { "content-type": "text/xml" }),
      415,
      "unsupported-media-type",
    );
    isProblem(await post("/sessions"), 400, "invalid-request");
  });

  test("a page of another origin, or under another name, does not get in", async () => {
    isProblem(await get("/health", { host: "evil.example" }), 421, "foreign-host");
    isProblem(await get("/health", { host: "localhost.evil.example:80" }), 421, "foreign-host");
    isProblem(
      await post("/sessions/alpha/stop", undefined, {
        host: "127.0.0.1:7480",
        origin: "http://evil.example",
      }),
      403,
      "foreign-origin",
    );
    const own = { host: "127.0.0.1:7480", origin: "http://127.0.0.1:7480" };
    assert.equal((await get("/health", own)).statusCode, 200);
  });

  test("no query or id makes the server fail", async () => {
    const failed = events.filter(({ name }) => name === "call-failed").length;
    const part = fc.oneof(
      fc.string(),
      fc.constantFrom("__proto__", "constructor", "-1", "\0", "'"),
    );
    const routes = ["sessions", "models", "gateways", "devices", "events", "sessions/alpha/rounds"];
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...routes),
        fc.constantFrom("cursor", "limit", "site", "session", "after", "x"),
        part,
        part,
        async (route, key, value, id) => {
          const query = `${key}=${encodeURIComponent(value)}`;
          for (const url of [`/${route}?${query}`, `/${route}/${encodeURIComponent(id)}`])
            assert.ok((await get(url)).statusCode < 500, url);
        },
      ),
      { numRuns: 100 },
    );
    assert.equal(events.filter(({ name }) => name === "call-failed").length, failed);
  });
});
