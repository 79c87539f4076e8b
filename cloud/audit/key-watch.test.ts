import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { systemRandom } from "@tributary/proto/host/random.js";
import { changeAuthority, rotate } from "../authority/keys.js";
import { nowMs, type SecuredApi, securedApi } from "../testing/secured-api.js";
import { watchKeyChanges } from "./key-watch.js";
import { auditLimits } from "./limits.js";

describe("the authority's keys on the audit log", () => {
  let secured: SecuredApi;
  before(async () => {
    secured = await securedApi();
  });
  after(() => secured?.close());

  test("keys that are made, and rotated, beside the cloud are a line each, and but one", async () => {
    const { store, clock, authority, dir } = secured;
    const failures: unknown[] = [];
    const failed = (error: unknown) => failures.push(error);
    const lines = async () =>
      (await store.audit.list({ actor: "keys" }, { limit: 100 })).items.map(({ detail }) => detail);
    const start = () => watchKeyChanges({ authority, store: store.audit, clock, failed });
    const first = await start();
    assert.equal((await lines()).length, 1);
    clock.advance(auditLimits.keyLookMs);
    first.close();
    (await start()).close();
    assert.equal((await lines()).length, 1, "a restart sees the same keys");
    const overlapMs = 86_400_000;
    await changeAuthority(dir, (keys) =>
      rotate(keys, "signing", { nowMs, overlapMs, random: systemRandom() }),
    );
    const second = await start();
    const [before, after] = await lines();
    assert.equal(after?.signing?.split(" ").length, 2);
    assert.ok(after?.signing?.includes(before?.signing ?? "none"));
    assert.equal(after?.authorities, before?.authorities);
    await changeAuthority(dir, (keys) =>
      rotate(keys, "roots", { nowMs, overlapMs, random: systemRandom() }),
    );
    clock.advance(auditLimits.keyLookMs);
    while ((await lines()).length < 3) await new Promise((resolve) => setImmediate(resolve));
    assert.equal((await lines())[2]?.authorities?.split(" ").length, 2);
    second.close();
    assert.deepEqual(failures, []);
  });
});
