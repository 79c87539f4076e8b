import assert from "node:assert/strict";
import { afterEach, it } from "node:test";
import { type Clock, systemClock } from "@tributary/proto/host/clock.js";
import { sha256 } from "@tributary/proto/host/digest.js";
import type { AppendFile, Disk, ReadFile } from "@tributary/proto/host/disk.js";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { TributaryError } from "@tributary/proto/wire/errors.js";
import { makeManifest } from "@tributary/proto/wire/manifest.js";
import { encodeSafetensors } from "@tributary/proto/wire/safetensors.js";
import type { Database } from "./store.js";
import { memoryIndex } from "./testing/memory-store.js";
import { samplePlan, sampleUpdate } from "./testing/sample.js";
import { createStage, reported } from "./testing/stage.js";
import { until } from "./testing/wait.js";

const stage = createStage();
afterEach(() => stage.close());

const layout = [{ name: "w", shape: [4] }];
const model = encodeSafetensors(layout, new Float32Array(4));
const base = makeManifest("mnist.0", model, sha256, 1024);

/** The computer's clock, and how many of its timers would keep a process alive. */
function countedClock(): Clock & { readonly timers: number } {
  const clock = systemClock();
  const live = new Set<object>();
  return {
    ...clock,
    get timers() {
      return live.size;
    },
    setTimer(delayMs, fn) {
      const key = {};
      live.add(key);
      const timer = clock.setTimer(delayMs, () => {
        live.delete(key);
        fn();
      });
      return {
        cancel() {
          live.delete(key);
          timer.cancel();
        },
      };
    },
  };
}

/** Fails a call and every one after it, and counts what is open. */
function faults(at: number) {
  let calls = 0;
  let open = 0;
  let failed: string | undefined;
  function strike(what: string): void {
    if (calls++ < at) return;
    failed ??= what;
    throw new TributaryError("journal-corrupt", `${what} fails`);
  }
  function counted<F extends AppendFile | ReadFile>(file: F): F {
    open++;
    const close = file.close.bind(file);
    return Object.assign(Object.create(file) as F, {
      close: () => {
        open--;
        return close();
      },
    });
  }
  const disk = (inner: Disk): Disk => ({
    ...inner,
    async openAppend(path) {
      strike(`openAppend ${path}`);
      return counted(await inner.openAppend(path));
    },
    async openRead(path) {
      strike(`openRead ${path}`);
      return counted(await inner.openRead(path));
    },
    async list(dir) {
      strike(`list ${dir}`);
      return inner.list(dir);
    },
    async readFile(path) {
      strike(`readFile ${path}`);
      return inner.readFile(path);
    },
  });
  const database = (inner: Database): Database => ({
    ...inner,
    async get(key) {
      strike(`get ${key}`);
      return inner.get(key);
    },
    iterator: (range) => ({
      async all() {
        strike(`iterate ${range.gte}`);
        return inner.iterator(range).all();
      },
    }),
  });
  return {
    disk,
    database,
    get failed() {
      return failed;
    },
    get open() {
      return open;
    },
  };
}

it("leaves no timer and no open file behind when a start fails, wherever it does", async () => {
  const reducer = await stage.reducer();
  reducer.models.set("mnist.0", model);
  const disk = memoryDisk();
  const index = memoryIndex();
  const dir = await stage.dataDir();
  const settings = { downstream: { listen: { port: 0 } } };
  const parts = { disk, database: index.database };
  const gateway = await stage.gateway(dir, reducer.address, settings, parts);
  const a = await stage.device(gateway, "dev-a");
  await stage.device(gateway, "dev-b");
  await reported(reducer, 2);
  // A flat round, and one in site rounds with its second running: one contribution in each.
  const flat = { layout, base, round: "flat.1", session: "flat" };
  reducer.openRound(samplePlan(flat), ["dev-a", "dev-b"]);
  reducer.openRound(samplePlan({ layout, base, siteRounds: 3 }), ["dev-a"]);
  for (const round of ["flat.1", "mnist.1.1"]) {
    const find = () => a.got("offer").find((offer) => offer.plan.round === round);
    await until(`${round} is offered`, find);
    const { plan } = find() as NonNullable<ReturnType<typeof find>>;
    await a.upload(sampleUpdate(plan, "dev-a", 3, { samples: 10 }));
    await until("it is receipted", () => a.got("receipt").some((r) => r.round === round));
  }
  await until("the second site round runs", () =>
    a.got("offer").some(({ plan }) => plan.round === "mnist.1.2"),
  );
  await gateway.close();

  let rejected = 0;
  for (let at = 0; ; at++) {
    const fault = faults(at);
    const clock = countedClock();
    const started = await stage
      .gateway(dir, "127.0.0.1:9", settings, {
        disk: fault.disk(disk),
        database: (path) => fault.database(index.database(path)),
        clock,
      })
      .catch((error: unknown) => error as TributaryError);
    if (started instanceof Error) {
      assert.match(started.code, /^(journal-corrupt|store-failed)$/, fault.failed);
      rejected++;
    } else await started.close();
    const left = { timers: clock.timers, open: fault.open };
    assert.deepEqual(left, { timers: 0, open: 0 }, fault.failed);
    if (fault.failed === undefined) break;
  }
  assert.ok(rejected > 10, `only ${rejected} starts failed`);
});
