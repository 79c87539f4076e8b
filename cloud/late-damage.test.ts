import assert from "node:assert/strict";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { importInitialModel, paramsOf, startCloud, temporaryDir } from "./testing/cloud.js";
import { attachGateway } from "./testing/gateway.js";
import { memoryStore } from "./testing/memory-store.js";
import { sumOf } from "./testing/rounds.js";

const aggregation = { kind: "sync", staleness: { kind: "constant" }, maxStaleness: 20 } as const;

/** A session `s` that keeps two late Partials of one gateway, one beside it that keeps none; a cloud that closed. */
async function keptTwo(dataDir: string) {
  const store = memoryStore();
  const cloud = await startCloud(dataDir, { store });
  await importInitialModel(cloud);
  const one = await attachGateway(cloud.grpcPort, { id: "g1" });
  const two = await attachGateway(cloud.grpcPort, { id: "g2" });
  one.devices("a");
  two.devices("b", "c", "d");
  const params = { rounds: 5, devicesMin: 4, sitesQuorum: 1, aggregation };
  assert.ok((await cloud.sessions.start(paramsOf(params))).ok);
  const [first, missed] = [await one.round(), await two.round()];
  two.detach();
  await one.contribute(first, 1);
  await cloud.event((e) => e.name === "round-closed" && e.round === "s.1");
  const back = await attachGateway(cloud.grpcPort, { id: "g2", rounds: ["s.1"] });
  const parts: Record<string, number>[] = [{ b: 2 }, { c: 2, d: 2 }];
  for (const [at, samples] of parts.entries()) {
    const { receipt } = await back.deliver(sumOf(missed.plan, samples, { site: "g2" }), at + 1);
    assert.equal(receipt?.outcome, "kept");
  }
  assert.ok((await cloud.sessions.start(paramsOf({ name: "other", devicesMin: 9 }))).ok);
  for (const gateway of [one, two, back]) gateway.close();
  await cloud.close();
  return { store, path: join(dataDir, "late/s.g2.one.2.partial") };
}

for (const how of ["resume", "stop"] as const)
  for (const missing of [false, true])
    test(`a cloud starts beside a ${missing ? "missing" : "damaged"} kept file; ${how} gives it up by name`, async (t) => {
      const { dir, remove } = await temporaryDir();
      t.after(remove);
      const dataDir = join(dir, "data");
      await mkdir(dataDir);
      const { store, path } = await keptTwo(dataDir);
      const bytes = await readFile(path);
      bytes.writeUInt8(bytes.readUInt8(bytes.length - 3) ^ 1, bytes.length - 3);
      await (missing ? rm(path) : writeFile(path, bytes));

      const cloud = await startCloud(dataDir, { store });
      assert.equal(cloud.sessions.status("other")?.state, "running");
      const failed = cloud.sessions.status("s");
      assert.equal(failed?.state, "failed");
      assert.match(failed?.reason ?? "", /late\/s\.g2\.one\.2\.partial/);
      const answer = await cloud.sessions[how]("s");
      assert.ok(answer.ok, JSON.stringify(answer));
      assert.equal(answer.session.state, how === "resume" ? "running" : "stopped");

      const lost = missing
        ? "late/s.g2.one.2.partial was missing"
        : "late/s.g2.one.2.partial was damaged: see damaged/s.g2.one.2.partial.damaged";
      const { items } = await cloud.store.listContributions({ session: "s" }, { limit: 9 });
      const fates = items.map(({ device, outcome, rule }) => `${device} ${rule ?? outcome}`);
      const whole = how === "resume" ? "b kept" : "b session-ended";
      assert.deepEqual(fates, ["a model", whole, `c ${lost}`, `d ${lost}`]);
      const identity = { gateway: "g2", incarnation: "one", sequence: 2 };
      assert.equal((await cloud.store.partial(identity))?.rule, lost);
      const told = cloud.events.find((e) => e.name === "kept-partial-damaged");
      assert.deepEqual(told?.name === "kept-partial-damaged" && [told.partial, told.rule], [
        "g2.one.2",
        lost,
      ]);
      if (!missing)
        assert.deepEqual(
          await readFile(join(dataDir, "damaged/s.g2.one.2.partial.damaged")),
          bytes,
        );
      const left = how === "resume" ? ["s.g2.one.1.partial"] : [];
      assert.deepEqual(await readdir(join(dataDir, "late")), left);
      assert.equal((await cloud.store.model("s.1"))?.state, "published");
      await cloud.close();
    });

test("a kept file that is put back is taken up again: nothing is given up", async () => {
  const { dir, remove } = await temporaryDir();
  const { store, path } = await keptTwo(dir);
  const bytes = await readFile(path);
  await writeFile(path, "rot");
  const cloud = await startCloud(dir, { store });
  assert.equal(cloud.sessions.status("s")?.state, "failed");
  await writeFile(path, bytes);
  const answer = await cloud.sessions.resume("s");
  assert.ok(answer.ok && answer.session.state === "running");
  assert.deepEqual([answer.session.kept.partials, answer.session.kept.contributions], [2, 3]);
  assert.deepEqual(
    cloud.events.filter((e) => e.name === "kept-partial-damaged"),
    [],
  );
  await cloud.close();
  await remove();
});
