import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { sha256 } from "@tributary/proto/host/digest.js";
import { encodeCbor } from "@tributary/proto/wire/cbor.js";
import { makeManifest, verifyChunk } from "@tributary/proto/wire/manifest.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";
import { createStage, reported } from "./testing/stage.js";
import { until } from "./testing/wait.js";

const stage = createStage();
afterEach(() => stage.close());

const CHUNK = 128 * 1024;
/** Two of them do not fit the smallest cache. */
const archive = Uint8Array.from({ length: 600_000 }, (_, i) => (i * 31) & 255);
const manifest = makeManifest("steps.3", archive, sha256, CHUNK);
const plan = samplePlan({ package: { statement: "signed.by.somebody", manifest } });

describe("a plan's package", () => {
  it("is fetched once for the site, and given to its devices in chunks", async () => {
    const reducer = await stage.reducer();
    reducer.models.set("steps.3", archive);
    const gateway = await stage.gateway(await stage.dataDir(), reducer.address);
    const devices = [await stage.device(gateway, "dev-a"), await stage.device(gateway, "dev-b")];
    await reported(reducer, 2);
    const before = reducer.fetches.length;
    reducer.openRound(plan, ["dev-a", "dev-b"]);
    for (const device of devices) {
      const offer = await device.next("offer");
      assert.deepEqual(encodeCbor(offer.plan.package), encodeCbor(plan.package));
      for (let at = 0; at * CHUNK < archive.length; at++) {
        const offset = at * CHUNK;
        const length = Math.min(CHUNK, archive.length - offset);
        await device.say("fetch", { model: "steps.3", digest: manifest.digest, offset, length });
        await device.next("part", at + 1);
      }
      const parts = device.messages.filter(({ kind }) => kind === "part");
      for (const [at, { payload }] of parts.entries())
        assert.ok(verifyChunk(manifest, at * CHUNK, payload, sha256).ok);
    }
    // The base and the package, each once.
    assert.equal(reducer.fetches.length, before + 2);
  });

  it("goes when there is no room for it and no round needs it, and comes again for the next", async () => {
    const reducer = await stage.reducer();
    reducer.models.set("steps.3", archive);
    const other = archive.map((byte) => byte ^ 1);
    reducer.models.set("steps.4", other);
    const settings = { modelCacheBytes: 1024 * 1024 };
    const gateway = await stage.gateway(await stage.dataDir(), reducer.address, settings);
    const device = await stage.device(gateway, "dev-a");
    await reported(reducer, 1);
    const cached = (name: string, times: number) =>
      until(
        `${name} is cached ${times} times`,
        () =>
          gateway.events.filter((event) => event.name === "model-cached" && event.model === name)
            .length === times,
      );
    const packages = [
      plan.package,
      { ...plan.package, manifest: makeManifest("steps.4", other, sha256, CHUNK) },
      plan.package,
    ];
    for (const [at, code] of packages.entries()) {
      const round = `s.${at + 1}`;
      const asked = { ...plan, round, package: code as typeof plan.package };
      reducer.openRound(asked, ["dev-a"]);
      await device.next("offer", at + 1);
      await cached(code?.manifest?.model ?? "", at === 2 ? 2 : 1);
      await device.upload(sampleUpdate(asked, "dev-a", 1));
      await device.next("receipt", at + 1);
      await until("it is sealed", () => reducer.lastProgress(round)?.sealed);
    }
    const evicted = gateway.events.filter(({ name }) => name === "model-evicted");
    assert.equal(evicted.length, 2);
  });
});
