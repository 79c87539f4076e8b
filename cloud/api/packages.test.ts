import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { PACKAGE_FILE_BYTES_MAX } from "@tributary/proto/wire/package.js";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import { packageFile } from "../testing/package.js";
import { type SecuredApi, securedApi } from "../testing/secured-api.js";

describe("packages over REST", () => {
  let secured: SecuredApi;
  let trainer: string;
  let viewer: string;
  let stranger: string;
  before(async () => {
    secured = await securedApi();
    await secured.ask("POST", "/projects", await secured.token([{ project: "*", role: "owner" }]), {
      id: "presses",
      name: "presses",
    });
    trainer = await secured.token([{ project: "presses", role: "trainer" }]);
    viewer = await secured.token([{ project: "presses", role: "viewer" }]);
    stranger = await secured.token([{ project: "default", role: "trainer" }]);
  });
  after(() => secured?.close());

  test("a trainer uploads one into his project, and who is in another does not see it", async () => {
    const { file } = await packageFile("steps.1");
    const path = "/packages?project=presses";
    assert.equal((await secured.ask("POST", path, viewer, file)).code, "forbidden");
    assert.equal((await secured.ask("POST", path, stranger, file)).code, "forbidden");
    const uploaded = await secured.ask("POST", path, trainer, file);
    assert.deepEqual([uploaded.status, uploaded.body.id], [201, "steps.1"]);
    const ids = async (token: string) =>
      (await secured.ask("GET", "/packages", token)).body.items.map(({ id }: { id: string }) => id);
    assert.deepEqual([await ids(trainer), await ids(stranger)], [["steps.1"], []]);
    assert.equal((await secured.ask("GET", "/packages/steps.1", trainer)).status, 200);
    for (const [method, where] of [
      ["GET", "/packages/steps.1"],
      ["POST", "/packages/steps.1/remove"],
    ] as const)
      assert.equal((await secured.ask(method, where, stranger)).code, "unknown-package");
  });

  test("what is no package, or past the bound, is refused with its code", async () => {
    const path = "/packages?project=presses";
    const bad = await secured.ask("POST", path, trainer, Buffer.from("no package"));
    assert.deepEqual([bad.status, bad.code], [422, "package-malformed"]);
    const declared = await secured.api.inject({
      method: "POST",
      url: `/api/v1${path}`,
      headers: {
        authorization: `Bearer ${trainer}`,
        "content-type": "application/octet-stream",
        "content-length": String(PACKAGE_FILE_BYTES_MAX + 1),
      },
      payload: Buffer.from("x"),
    });
    assert.equal(declared.json().code, "too-large");
  });

  test("one that an unfinished session runs stays; removing one is on the audit log", async () => {
    const path = "/packages?project=presses";
    await secured.ask("POST", path, trainer, (await packageFile("used.1")).file);
    await secured.ask("POST", path, trainer, (await packageFile("free.1")).file);
    const session = { name: "s", initialModel: "m.0", project: "presses", package: "used.1" };
    const model = encodeSafetensors([{ name: "w", shape: [1] }], Float32Array.of(1));
    await secured.ask("POST", "/models?name=m&project=presses", trainer, Buffer.from(model));
    const started = await secured.ask("POST", "/sessions", trainer, session);
    assert.equal(started.status, 201, JSON.stringify(started.body));
    const used = await secured.ask("POST", "/packages/used.1/remove", trainer);
    assert.deepEqual([used.status, used.code], [409, "package-in-use"]);
    assert.equal((await secured.ask("POST", "/packages/free.1/remove", trainer)).status, 200);
    const { items } = await secured.store.audit.list({}, { limit: 100 });
    const removed = items.filter(({ action }) => action === "POST /packages/:id/remove");
    assert.deepEqual(removed.map(({ outcome, target }) => [outcome, target]).slice(-2), [
      ["package-in-use", "/packages/used.1/remove"],
      ["done", "/packages/free.1/remove"],
    ]);
  });
});
