import assert from "node:assert/strict";
import { test } from "node:test";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { importInitialModel, paramsOf, startCloud, temporaryDir } from "./testing/cloud.js";
import { memoryStore } from "./testing/memory-store.js";

test("whichever call of the store fails, a session that was not started can be", async (t) => {
  const { dir, remove } = await temporaryDir();
  const inner = memoryStore();
  let callsLeft = Number.POSITIVE_INFINITY;
  const store = new Proxy(inner, {
    get(target, name, receiver) {
      const part: unknown = Reflect.get(target, name, receiver);
      if (typeof part !== "function") return part;
      return async (...given: unknown[]) => {
        if (callsLeft-- === 0) throw new TributaryError("store-unreachable", "it is away");
        return part.apply(target, given);
      };
    },
  });
  const cloud = await startCloud(dir, { store });
  await importInitialModel(cloud);
  t.after(() => cloud.close().then(remove));
  let failed = 0;
  for (let calls = 0; calls < 8; calls++) {
    const of = paramsOf({ name: `try-${calls}` });
    callsLeft = calls;
    const started = await cloud.sessions.start(of).catch(() => undefined);
    callsLeft = Number.POSITIVE_INFINITY;
    if (started === undefined) failed++;
    if (cloud.sessions.status(of.name) !== undefined) continue;
    const again = await cloud.sessions.start(of);
    assert.ok(again.ok, `after ${calls} calls: ${JSON.stringify(again)}`);
  }
  assert.ok(failed > 2);
});

test("a session whose row is on record, though the answer of that was lost, is no orphan", async (t) => {
  const { dir, remove } = await temporaryDir();
  let callsLost = 0;
  const away = new TributaryError("store-unreachable", "it is away");
  const inner = memoryStore();
  const store = {
    ...inner,
    async addSession(row: Parameters<typeof inner.addSession>[0]) {
      const added = await inner.addSession(row);
      if (callsLost > 0) throw away;
      return added;
    },
    async session(id: string) {
      if (callsLost > 1) throw away;
      return inner.session(id);
    },
  };
  const cloud = await startCloud(dir, { store });
  await importInitialModel(cloud);
  t.after(() => cloud.close().then(remove));
  const lose = async (name: string) => {
    callsLost = 2;
    await assert.rejects(cloud.sessions.start(paramsOf({ name })), { code: "store-unreachable" });
    callsLost = 0;
    assert.equal((await inner.session(name))?.state, "running");
    assert.equal(cloud.sessions.status(name), undefined);
  };
  const running = (name: string) => cloud.sessions.status(name)?.state;

  callsLost = 1;
  const looked = await cloud.sessions.start(paramsOf({ name: "looked" }));
  callsLost = 0;
  assert.ok(looked.ok && running("looked") === "running", "it is looked for at once");

  await lose("again");
  const again = await cloud.sessions.start(paramsOf({ name: "again" }));
  assert.ok(again.ok && running("again") === "running", JSON.stringify(again));
  await lose("other");
  const other = await cloud.sessions.start(paramsOf({ name: "other", rounds: 7 }));
  assert.ok(!other.ok && other.code === "session-exists");
  assert.deepEqual(
    [running("other"), cloud.sessions.status("other")?.params.rounds],
    ["running", 2],
  );
  await lose("halted");
  const halted = await cloud.sessions.stop("halted");
  assert.ok(halted.ok && running("halted") === "stopped", JSON.stringify(halted));
  assert.equal((await inner.session("halted"))?.state, "stopped");
  await lose("resumed");
  const resumed = await Promise.all([1, 2].map(() => cloud.sessions.resume("resumed")));
  assert.ok(resumed.some(({ ok }) => ok) && running("resumed") === "running");
  await lose("moved");
  const moved = await cloud.sessions.activate("s.0", "moved");
  assert.ok(moved.ok, JSON.stringify(moved));
  const none = await cloud.sessions.stop("none");
  assert.ok(!none.ok && none.code === "unknown-session");
});
