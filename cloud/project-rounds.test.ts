import assert from "node:assert/strict";
import { test } from "node:test";
import type { AuditLine } from "./audit/chain.js";
import { paramsOf } from "./testing/cloud.js";
import { gatewayWith, sharedCloud } from "./testing/shared-cloud.js";

const cloud = await sharedCloud();
const api = `http://127.0.0.1:${cloud.httpPort}/api/v1`;

async function post(path: string, body: object): Promise<Response> {
  const headers = { "content-type": "application/json" };
  return fetch(`${api}${path}`, { method: "POST", headers, body: JSON.stringify(body) });
}

test("a project's session trains at the project's own sites, and hands its models to no others", async () => {
  assert.equal((await post("/projects", { id: "red" })).status, 201);
  assert.equal((await post("/projects/red/sites", { site: "red-site" })).status, 200);
  assert.equal((await post("/projects/none/sites", { site: "x" })).status, 404);
  // A test's gateway is at a site of its own name.
  const red = await gatewayWith(cloud, "red-site", "red-1", "red-2");
  const other = await gatewayWith(cloud, "other-site", "other-1");
  try {
    const model = await fetch(`${api}/models/s.0/file`);
    const imported = await fetch(`${api}/models?name=r&project=red`, {
      method: "POST",
      headers: { "content-type": "application/octet-stream" },
      body: await model.arrayBuffer(),
    });
    assert.equal(imported.status, 201);
    const foreign = await post("/sessions", paramsOf({ name: "wrong", project: "red" }));
    assert.equal(foreign.status, 400);
    const params = paramsOf({ name: "red-run", project: "red", initialModel: "r.0", rounds: 1 });
    assert.equal((await post("/sessions", params)).status, 201);
    const round = await red.round();
    assert.deepEqual(round.opened.roster, ["red-1", "red-2"]);
    const open = cloud.sessions.status("red-run")?.round;
    assert.deepEqual(
      open?.gateways.map(({ gateway, roster }) => [gateway, roster]),
      [["red-site", 2]],
    );
    await red.contribute(round, 1);
    await red.next("modelPublished", ({ session }) => session === "red-run");
    // What was in nobody's project is in the default one, as before.
    const plain = paramsOf({ name: "plain-run", rounds: 1 });
    assert.equal((await post("/sessions", plain)).status, 201);
    const theirs = await other.round();
    assert.deepEqual(theirs.opened.roster, ["other-1"]);
    await other.contribute(theirs, 1);
    // The first model that it is told of is this one: it was told of none of the other project's.
    assert.equal((await other.next("modelPublished")).session, "plain-run");
    await cloud.event((e) => e.name === "session-finished" && e.session === "plain-run");
    // Of all that the sessions wrote since, what was asked for is on the audit log, once each.
    const log = (await (await fetch(`${api}/audit`)).json()) as { items: readonly AuditLine[] };
    assert.deepEqual(
      log.items.map(({ action, outcome, project }) => [action, outcome, project]),
      [
        ["POST /projects", "done", null],
        ["POST /projects/:id/sites", "done", null],
        ["POST /projects/:id/sites", "unknown-project", null],
        ["POST /models", "done", "red"],
        ["POST /sessions", "invalid-request", "red"],
        ["POST /sessions", "done", "red"],
        ["POST /sessions", "done", "default"],
      ],
    );
  } finally {
    red.close();
    other.close();
  }
});
