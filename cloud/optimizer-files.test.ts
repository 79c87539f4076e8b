import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryDisk } from "@tributary/proto/host/memory-disk.js";
import { limits } from "./limits.js";
import type { OptimizerState } from "./optimizer.js";
import { createOptimizerFiles } from "./optimizer-files.js";

const state = (step: number): OptimizerState => ({
  kind: "fedavgm",
  step,
  weights: Float64Array.of(step, 1),
  m: Float64Array.of(0.1, step),
});

test("a state is read back to the bit by a later process", async () => {
  const disk = memoryDisk();
  await createOptimizerFiles(disk, "s").save("s.1", state(1));
  const { state: read } = await createOptimizerFiles(disk, "s").load("s.1");
  assert.deepEqual(read, state(1));
});

test("sessions do not see one another's states", async () => {
  const disk = memoryDisk();
  await createOptimizerFiles(disk, "s").save("s.1", state(1));
  assert.deepEqual(await createOptimizerFiles(disk, "t").load("s.1"), {});
});

test("a damaged file counts as not kept, and says why", async () => {
  const disk = memoryDisk();
  await createOptimizerFiles(disk, "s").save("s.1", state(1));
  disk.flip("optimizers/s/s.1.topt", 300);
  const { state: read, reason } = await createOptimizerFiles(disk, "s").load("s.1");
  assert.equal(read, undefined);
  assert.match(reason ?? "", /digest/);
});

test("the newest stay, and those still needed, whatever their age", async () => {
  const disk = memoryDisk();
  const files = createOptimizerFiles(disk, "s");
  const last = 12;
  for (let n = 1; n <= last; n++) await files.save(`s.${n}`, state(n));
  await files.prune(["s.2"]);
  const left = await disk.list("optimizers/s");
  const newest = Array.from({ length: limits.optimizerStates }, (_, i) => `s.${last - i}.topt`);
  assert.deepEqual([...left].sort(), [...newest, "s.2.topt"].sort());
});
