import assert from "node:assert/strict";
import { after, test } from "node:test";
import { createManualClock } from "@tributary/proto/host/clock.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { openAccess } from "../access/access.js";
import { createModels } from "../models.js";
import { fakeSessions } from "../testing/fake-sessions.js";
import { memoryStore } from "../testing/memory-store.js";
import { createApi } from "./server.js";

const store = memoryStore();
const api = await createApi({
  access: openAccess(),
  store,
  models: createModels(memoryDisk(), store, seededRandom(1)),
  sessions: fakeSessions([]),
  clock: createManualClock(1_700_000_000_000),
  events: () => undefined,
  version: "0.1.0",
});
after(() => api.close());

test("the OpenAPI document names every route, with its parameters and problems", async () => {
  const answer = await api.inject({ method: "GET", url: "/api/v1/openapi.json" });
  const document = answer.json();
  assert.equal(document.openapi, "3.1.0");
  const routes = api.guarded.filter(({ url }) => url !== "/api/v1/openapi.json");
  assert.deepEqual(
    Object.keys(document.paths).sort(),
    [...new Set(routes.map(({ url }) => url.replace(/:(\w+)/g, "{$1}")))].sort(),
  );
  for (const { method, url, permission } of routes) {
    const operation = document.paths[url.replace(/:(\w+)/g, "{$1}")][method.toLowerCase()];
    if (method === "HEAD") continue;
    assert.equal(operation["x-permission"], permission, url);
    assert.deepEqual(operation.security, permission === "public" ? [] : [{ token: [] }]);
  }
  type Operation = { summary?: string; parameters?: { in: string; name: string }[] } & {
    responses: Record<string, { description: string; content?: Record<string, unknown> }>;
  };
  for (const [path, operations] of Object.entries<Record<string, Operation>>(document.paths))
    for (const [method, operation] of Object.entries(operations)) {
      const name = `${method} ${path}`;
      assert.ok(operation.summary, name);
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, own]) => own);
      const declared = (operation.parameters ?? []).filter((one) => one.in === "path");
      assert.deepEqual(
        declared.map((one) => one.name),
        inPath,
        name,
      );
      for (const answer of Object.values(operation.responses)) assert.ok(answer.description, name);
      assert.ok(operation.responses["4XX"]?.content?.["application/problem+json"], name);
    }
  const body = document.paths["/api/v1/models"].post.requestBody;
  assert.deepEqual(Object.keys(body.content), ["application/octet-stream"]);
  const start = document.paths["/api/v1/sessions"].post.requestBody;
  const schema = start.content["application/json"].schema;
  assert.deepEqual(schema.required, ["name", "initialModel"]);
});
