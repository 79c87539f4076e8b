import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { systemClock } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import { type MemoryDisk, memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { seededRandom } from "@tributary/proto/host/random.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import type { Manifest } from "@tributary/proto/wire/plan.js";
import type { GatewayEvent } from "./events.js";
import { type Models, openModels } from "./models.js";
import { createTemporary } from "./testing/temporary.js";
import { until } from "./testing/wait.js";

const temporary = createTemporary();
const open: Models[] = [];
afterEach(async () => {
  for (const models of open.splice(0)) await models.close();
  await temporary.close();
});

const fileOf = (seed: number, bytes = 5_000) =>
  Uint8Array.from({ length: bytes }, (_, i) => (i * 31 + seed) & 255);
const manifestOf = (name: string, bytes: Uint8Array) => makeManifest(name, bytes, sha256, 1024);

type Tamper = (data: Uint8Array, offset: number) => Uint8Array | Error;

async function bench(settings: { dir?: string; disk?: MemoryDisk; cacheBytes?: number } = {}) {
  const files = new Map<string, Uint8Array>();
  const fetches: number[] = [];
  const events: GatewayEvent[] = [];
  const link: { attached: boolean; tamper: Tamper | undefined } = {
    attached: true,
    tamper: undefined,
  };
  const dir = settings.dir ?? (await temporary.dir());
  const disk = settings.disk ?? memoryDisk();
  const store = await temporary.store(dir);
  const models = await openModels({
    disk,
    store,
    upstream: {
      async *fetchModel({ model, offset }) {
        fetches.push(Number(offset));
        const bytes = files.get(model);
        if (bytes === undefined) throw new Error("no such model");
        for (let at = Number(offset); at < bytes.length; at += 700) {
          const data = bytes.subarray(at, at + 700);
          const sent = link.tamper?.(data, at) ?? data;
          if (sent instanceof Error) throw sent;
          yield { offset: BigInt(at), data: Buffer.from(sent) };
        }
      },
    },
    attached: () => link.attached,
    cacheBytes: settings.cacheBytes ?? 1_000_000,
    onProgress: () => {},
    events: (event) => events.push(event),
    clock: systemClock(),
    time: { logicalMs: () => performance.now() },
    random: seededRandom(1),
    backoff: { baseMs: 1, capMs: 5 },
  });
  open.push(models);
  const whole = (manifest: Manifest) =>
    until("it is whole", () => models.available(manifest.digest)?.bytes === manifest.bytes);
  return { files, fetches, events, link, dir, disk, store, models, whole };
}

describe("the model cache", () => {
  it("downloads what is wanted, once, and reads it", async () => {
    const { files, fetches, models, whole } = await bench();
    const bytes = fileOf(1);
    files.set("s.0", bytes);
    const manifest = manifestOf("s.0", bytes);
    models.want(manifest);
    models.want(manifest);
    await whole(manifest);
    assert.deepEqual(fetches, [0]);
    const read = await models.read(manifest.digest, 1024, 1024);
    assert.deepEqual(Buffer.from(read), Buffer.from(bytes.subarray(1024, 2048)));
    assert.equal(models.available("0".repeat(64)), undefined);
  });

  it("goes on from the last good chunk after a break", async () => {
    const { files, fetches, link, models, whole } = await bench();
    const bytes = fileOf(1);
    files.set("s.0", bytes);
    link.tamper = (data, at) => {
      if (at < 2_800) return data;
      link.tamper = undefined;
      return new Error("cut");
    };
    const manifest = manifestOf("s.0", bytes);
    models.want(manifest);
    await whole(manifest);
    assert.deepEqual(fetches, [0, 2048]);
    const read = await models.read(manifest.digest, 0, bytes.length);
    assert.deepEqual(Buffer.from(read), Buffer.from(bytes));
  });

  it("serves no chunk of a file that was damaged on disk, and fetches it anew", async () => {
    const { files, fetches, disk, models, whole } = await bench();
    const bytes = fileOf(1);
    files.set("s.0", bytes);
    const manifest = manifestOf("s.0", bytes);
    models.want(manifest);
    await whole(manifest);
    disk.flip(`models/${manifest.digest}`, 8 * 2_100);
    const first = await models.read(manifest.digest, 0, 1024);
    assert.deepEqual(Buffer.from(first), Buffer.from(bytes.subarray(0, 1024)));
    await assert.rejects(models.read(manifest.digest, 2048, 1024), /damaged/);
    await whole(manifest);
    assert.deepEqual(fetches, [0, 2048]);
    const read = await models.read(manifest.digest, 0, bytes.length);
    assert.deepEqual(Buffer.from(read), Buffer.from(bytes));
  });

  it("takes no chunk with a wrong digest, and asks again", async () => {
    const { files, fetches, link, models, whole, events } = await bench();
    const bytes = fileOf(1);
    files.set("s.0", bytes);
    link.tamper = (data, at) => {
      if (at < 2_800) return data;
      link.tamper = undefined;
      return Uint8Array.from(data).fill(0);
    };
    const manifest = manifestOf("s.0", bytes);
    models.want(manifest);
    await whole(manifest);
    assert.deepEqual(fetches, [0, 2048]);
    assert.ok(events.some((e) => e.name === "model-failed"));
    const read = await models.read(manifest.digest, 0, bytes.length);
    assert.deepEqual(Buffer.from(read), Buffer.from(bytes));
  });

  it("lets a model go whose manifest contradicts itself", async () => {
    const { files, models, events } = await bench();
    const bytes = fileOf(1);
    files.set("s.0", bytes);
    const manifest = { ...manifestOf("s.0", bytes), digest: "e".repeat(64) };
    models.want(manifest);
    await until("it fails", () => events.some((e) => e.name === "model-failed"));
    await until("it is gone", () => models.available(manifest.digest) === undefined);
  });

  it("waits for the link", async () => {
    const { files, fetches, link, models, whole } = await bench();
    const bytes = fileOf(1);
    files.set("s.0", bytes);
    link.attached = false;
    const manifest = manifestOf("s.0", bytes);
    models.want(manifest);
    await until("it is noted", () => models.available(manifest.digest) !== undefined);
    assert.deepEqual(fetches, []);
    link.attached = true;
    models.kick();
    await whole(manifest);
  });

  it("keeps its files over a restart, and a half one from its good chunks on", async () => {
    const first = await bench();
    const [done, half] = [fileOf(1), fileOf(2)];
    first.files.set("s.0", done).set("s.1", half);
    const manifests = [manifestOf("s.0", done), manifestOf("s.1", half)] as const;
    first.models.want(manifests[0]);
    await first.whole(manifests[0]);
    first.link.tamper = (data, at) => (at < 2_800 ? data : new Error("cut"));
    first.models.want(manifests[1]);
    await until("it breaks", () => first.fetches.length >= 2);
    await first.models.close();
    await first.store.close();
    await first.disk.writeFileAtomic("models/stray", [new Uint8Array(3)]);

    const second = await bench({ dir: first.dir, disk: first.disk });
    assert.equal(second.models.available(manifests[0].digest)?.bytes, done.length);
    assert.ok(!(await first.disk.exists("models/stray")));
    second.files.set("s.1", half);
    second.models.kick();
    await second.whole(manifests[1]);
    assert.ok((second.fetches[0] ?? 0) > 0);
  });

  it("does not build on a half file that is damaged", async () => {
    const first = await bench();
    const bytes = fileOf(1);
    first.files.set("s.0", bytes);
    const manifest = manifestOf("s.0", bytes);
    first.link.tamper = (data, at) => (at < 2_800 ? data : new Error("cut"));
    first.models.want(manifest);
    await until("some is here", () => {
      return (first.models.available(manifest.digest)?.bytes ?? 0) >= 2_048;
    });
    await first.models.close();
    await first.store.close();
    first.disk.flip(`models/${manifest.digest}`, 8 * 1_100);
    const second = await bench({ dir: first.dir, disk: first.disk });
    second.files.set("s.0", bytes);
    second.models.kick();
    await second.whole(manifest);
    assert.deepEqual(second.fetches, [1024]);
    const read = await second.models.read(manifest.digest, 0, bytes.length);
    assert.deepEqual(Buffer.from(read), Buffer.from(bytes));
  });

  it("evicts what was used longest ago, never the base of an open round", async () => {
    const { files, models, whole, disk, events } = await bench({ cacheBytes: 12_000 });
    const sizes = [1, 2, 3].map((seed) => fileOf(seed));
    const manifests = sizes.map((bytes, i) => {
      files.set(`s.${i}`, bytes);
      return manifestOf(`s.${i}`, bytes);
    });
    const [base, second, third] = manifests as [Manifest, Manifest, Manifest];
    models.pin(base.digest);
    for (const manifest of [base, second, third]) {
      models.want(manifest);
      await whole(manifest);
    }
    assert.equal(models.available(second.digest), undefined);
    assert.equal(models.available(base.digest)?.bytes, 5_000);
    assert.deepEqual(await disk.list("models"), [base.digest, third.digest].sort());
    assert.ok(events.some((e) => e.name === "model-evicted" && e.digest === second.digest));
    models.pin(third.digest);
    models.want(second);
    await until("it does not fit", () => models.available(second.digest) === undefined);
    models.unpin(base.digest);
    models.want(second);
    await whole(second);
    assert.equal(models.available(base.digest), undefined);
  });
});
